"""Runs one attempt of a task for a test: Flux's own code for attempts, in a process of its own as under `flux up`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flux import attempt, in_process, results
from flux.attempt import AttemptEnd, AttemptSpec
from flux.connection import Connection
from flux.context import RETURN_VALUE, Context, MacroSource, running
from flux.dag import DAG
from flux.errors import AuthoringError
from flux.operator import BaseOperator
from flux.schedule import DataInterval
from flux.secret import mask
from flux.sensor import BaseSensor
from flux.states import Outcome, RunKind, State
from flux.templating import shown
from flux.testing import given
from flux.testing.children import Child
from flux.testing.worlds import FakeWorld
from flux.times import DateLike, iso, moment, seconds, utc_now

__all__ = ["RunningTask", "TaskOutcome", "run_task", "start_task"]

#: The logical date of a test that names none.
LOGICAL_DATE = "2026-01-05"
_LOG_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """What became of one attempt."""

    #: "success", "failed" or "skipped"; of a sensor whose condition did not hold, "deferred".
    state: str
    #: What `execute` returned, as a downstream task would get it; None when it left nothing.
    result: Any
    #: All that the attempt and the processes it started have written, secrets masked.
    log: str
    #: Template field to text, as people are shown it.
    rendered: Mapping[str, str]
    #: One line that says why; None when there is nothing to say.
    error: str | None
    #: Every result by key, `context.results.set` included.
    results: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: Pids of processes that were left behind; they have been ended.
    strays: tuple[int, ...] = ()


def run_task(
    task: BaseOperator,
    *,
    logical_date: DateLike = LOGICAL_DATE,
    params: Mapping[str, Any] | None = None,
    connections: Mapping[str, str | Connection] | None = None,
    variables: Mapping[str, str] | None = None,
    results: Mapping[str, Any] | None = None,
    isolated: bool = True,
) -> TaskOutcome:
    """Run one attempt of `task` to its end, or poke a sensor once, and return what became of it. Blocks.

    The attempt runs in a process of its own, with its own session and log and an empty folder as its working folder;
    its `execution_timeout` or `poke_timeout` ends it. It sees the connections and variables given here and no others.

    Args:
        task: of a DAG, or of none: then its data interval is the day that begins at `logical_date`.
        logical_date: with a DAG that has a schedule, the start of one of its intervals.
        params: values of declared params; without a DAG any names.
        connections: conn_id to URI or Connection; checked and completed by their types as when Flux runs.
        variables: name to text.
        results: what other tasks of the DAG have left, by task_id.
        isolated: False: in this thread, for a debugger; nothing ends it then, and a kill is yours.

    Raises:
        FluxError: what is given is wrong. A task that fails raises nothing.
    """
    order = _Order.of(task, logical_date, params, connections, variables, results)
    if isolated:
        return RunningTask(order).wait()
    return _here(order)


def start_task(
    task: BaseOperator,
    *,
    logical_date: DateLike = LOGICAL_DATE,
    params: Mapping[str, Any] | None = None,
    connections: Mapping[str, str | Connection] | None = None,
    variables: Mapping[str, str] | None = None,
    results: Mapping[str, Any] | None = None,
) -> RunningTask:
    """Start one attempt as `run_task` does, and return it while it runs: to be killed, or waited for."""
    return RunningTask(_Order.of(task, logical_date, params, connections, variables, results))


@dataclass(frozen=True, slots=True)
class _Order:
    """An attempt that is to run."""

    task: BaseOperator
    dag: DAG
    interval: DataInterval
    conf: dict[str, Any]
    world: FakeWorld

    @classmethod
    def of(
        cls,
        task: BaseOperator,
        logical_date: DateLike,
        params: Mapping[str, Any] | None,
        connections: Mapping[str, str | Connection] | None,
        variables: Mapping[str, str] | None,
        left: Mapping[str, Any] | None,
    ) -> _Order:
        dag = task.dag
        if dag is None:
            dag = DAG("testing", params=params, template_searchpath=[os.getcwd()])  # noqa: PTH109
            dag.add_task(task)
            start = moment(logical_date, dag.zone)
            interval = DataInterval(start, start + timedelta(days=1))
        else:
            interval = in_process.data_interval(dag, in_process.bound_schedule(dag), logical_date)
        texts = {(task_id, RETURN_VALUE): _text(task_id, value) for task_id, value in (left or {}).items()}
        world = FakeWorld(given.connections(connections or {}), dict(variables or {}), texts)
        return cls(task, dag, interval, in_process.checked_conf(dag, None, params, own=task.params), world)

    def spec(self, folder: Path, claim: int) -> AttemptSpec:
        """Return what the attempt knows at its start; its files are in `folder`."""
        task, start, end = self.task, iso(self.interval.start) or "", iso(self.interval.end) or ""
        now = iso(utc_now())
        return AttemptSpec(
            claim=claim, dag_id=self.dag.dag_id, run_id=f"{RunKind.SCHEDULED}__{start}", task_id=task.task_id,
            map_index=-1, attempt=1, max_attempts=task.retries + 1, kind=RunKind.SCHEDULED, logical_date=start,
            interval_start=start, interval_end=end, conf=self.conf, run_started_at=now, first_seen_at=now,
            log=str(folder / "log"), result_file=str(folder / "result"), rendered_file=str(folder / "rendered"),
            endpoint="", log_max_bytes=_LOG_BYTES, kill_grace=seconds(task.kill_grace, "kill_grace"), run_as_user=None,
            sensor=isinstance(task, BaseSensor), pool=task.pool, queue=task.queue,
        )  # fmt: skip

    def ended(self, spec: AttemptSpec, macro_source: MacroSource | None = None) -> AttemptEnd:
        """Run the attempt in this process and return how it ended; a sensor that is to wait ends as "deferred"."""
        if not isinstance(self.task, BaseSensor):
            return attempt.execute(self.task, spec, self.world, macro_source=macro_source)
        started = iso(utc_now()) or ""
        outcome: str = State.DEFERRED
        reason: str | None = None
        try:
            if attempt.poke(self.task, spec, self.world, macro_source=macro_source):
                outcome = Outcome.SUCCESS
        except (Exception, SystemExit) as error:
            attempt.print_error(error)
            outcome, reason, _ = attempt.end_of(error)
            if outcome == Outcome.SUCCESS:  # sys.exit(0) in a poke: nothing was found out
                outcome = State.DEFERRED
        return AttemptEnd(outcome, reason, True, {}, {}, None, started, iso(utc_now()) or "")

    def outcome(self, end: AttemptEnd, folder: Path, log: str, strays: Collection[int] = ()) -> TaskOutcome:
        left = end.results | {
            key: (folder / name).read_text(encoding="utf-8") for key, name in end.result_files.items()
        }
        values = {key: results.decode(text) for key, text in left.items()}
        return TaskOutcome(
            state=str(end.outcome),
            result=values.get(RETURN_VALUE),
            log=mask(log),
            rendered=self.rendered(end, folder),
            error=end.reason,
            results=values,
            strays=tuple(sorted(strays)),
        )

    def rendered(self, end: AttemptEnd, folder: Path) -> dict[str, str]:
        """The template fields as text; as they were given where nothing was rendered."""
        try:
            shown_fields: dict[str, str] = json.loads((folder / "rendered").read_text(encoding="utf-8"))
        except FileNotFoundError:
            own = {name: mask(shown(getattr(self.task, name))) for name in self.task.template_fields}
            return own if end.rendered is None else dict(end.rendered)
        return shown_fields


class RunningTask:
    """One attempt that runs in a process of its own. Wait for it or kill it: either gives its outcome.

    Args:
        order: the attempt.
        macro_source: finds the macros of providers; None: there are none.
        prepare: called in the process before the attempt begins.
        instead: called in place of the attempt with the rendered task and its context.
    """

    def __init__(
        self,
        order: _Order,
        *,
        macro_source: MacroSource | None = None,
        prepare: Callable[[], object] | None = None,
        instead: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self._order = order
        self._macro_source = macro_source
        self._prepare = prepare
        self._instead = instead
        self._raw_log: str | None = None
        self._ended: TaskOutcome | None = None
        self._child = Child(self._body)

    @property
    def pid(self) -> int:
        """Of the attempt's first process."""
        return self._child.pid

    @property
    def log(self) -> str:
        """What it has written so far, secrets masked."""
        return mask(self.raw_log)

    @property
    def raw_log(self) -> str:
        """What it has written so far as it was written, for a look at whether secrets are in it."""
        return self._child.raw_log() if self._raw_log is None else self._raw_log

    def has_ended(self) -> bool:
        """Return whether its first process has ended."""
        return self._child.has_ended()

    def wait(self, limit_seconds: float | None = None) -> TaskOutcome:
        """Block until the attempt has ended, or its own time limit or `limit_seconds` ends it; return its outcome."""
        task = self._order.task
        own = task.poke_timeout if isinstance(task, BaseSensor) else task.execution_timeout
        limit = None if own is None else seconds(own, "execution_timeout")
        if limit is not None and (limit_seconds is None or limit <= limit_seconds):
            if isinstance(task, BaseSensor):
                return self._within(limit, 0, State.DEFERRED, f"the poke did not end within {limit:g} s")
            return self._within(limit, self._grace, Outcome.FAILED, f"timed out: execution_timeout is {limit:g} s")
        return self._within(limit_seconds, self._grace, Outcome.FAILED, f"did not end within {limit_seconds} s")

    def kill(self) -> TaskOutcome:
        """Kill it as Flux does: SIGTERM, `on_kill`, and after `kill_grace` SIGKILL. Blocks until it is gone."""
        return self._killed(self._grace, Outcome.FAILED, "killed")

    @property
    def _grace(self) -> float:
        return seconds(self._order.task.kill_grace, "kill_grace")

    def _within(self, limit: float | None, grace: float, state: str, error: str) -> TaskOutcome:
        if self._ended is not None:
            return self._ended
        try:
            if not self._child.await_end(limit):
                return self._killed(grace, state, error)
            strays = self._child.strays()
            ended = self._child.reap()
            return self._outcome(f"the process ended without a result: {ended}", Outcome.FAILED, strays)
        finally:
            self._child.close()

    def _killed(self, grace: float, state: str, error: str) -> TaskOutcome:
        if self._ended is not None:
            return self._ended
        try:
            self._child.kill(grace)
            return self._outcome(error, state, ())
        finally:
            self._child.close()

    def _outcome(self, error: str, state: str, strays: Collection[int]) -> TaskOutcome:
        """What the result file says; without one, `state` and `error`."""
        folder = self._child.folder
        try:
            end = AttemptEnd(**json.loads((folder / "result").read_text(encoding="utf-8")))
        except FileNotFoundError:
            end = AttemptEnd(state, error, True, {}, {}, None, "", "")
        self._raw_log = self._child.raw_log()
        self._ended = self._order.outcome(end, folder, self._raw_log, strays)
        return self._ended

    def _body(self, child: Child) -> int:
        """The process of the attempt."""
        attempt.install_kill_handler()
        if self._prepare is not None:
            self._prepare()
        spec = self._order.spec(child.folder, child.claim)
        end = (
            self._order.ended(spec, self._macro_source)
            if self._instead is None
            else self._end_of_other(spec, self._instead)
        )
        attempt.write_end(end, spec.result_file)
        return int(end.outcome == Outcome.FAILED)

    def _end_of_other(self, spec: AttemptSpec, work: Callable[[Any, Any], Any]) -> AttemptEnd:
        outcome: str = Outcome.SUCCESS
        reason: str | None = None
        context = Context(self._order.task, spec, self._order.world)
        with running(context):
            try:
                attempt.render(self._order.task, context)
                work(self._order.task, context)
            except (Exception, SystemExit) as error:
                attempt.print_error(error)
                outcome, reason, _ = attempt.end_of(error)
        return AttemptEnd(outcome, reason, True, {}, {}, None, "", "")


def order(task: BaseOperator, **arguments: Any) -> _Order:
    """Return the attempt that `run_task` of these arguments would run."""
    values = {
        "logical_date": LOGICAL_DATE,
        "params": None,
        "connections": None,
        "variables": None,
        "results": None,
        **arguments,
    }
    return _Order.of(task, *(values[name] for name in values))


def _here(order: _Order) -> TaskOutcome:
    """Run the attempt in this thread."""
    output = io.StringIO()
    with TemporaryDirectory(prefix="flux-testing-") as name:
        folder = Path(name)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            end = order.ended(order.spec(folder, 1))
        return order.outcome(end, folder, output.getvalue())


def _text(task_id: str, value: Any) -> str:
    try:
        return results.encode(value, limit_bytes=results.RESULT_LIMIT)
    except Exception as error:
        raise AuthoringError(f"results[{task_id!r}] cannot be the result of a task: {error}") from error

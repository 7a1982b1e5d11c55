"""One DAG run in the calling process: no store, no server, tasks one after another in topological order.

It is the same attempt code as anywhere else, without isolation. Connections and variables come from `FLUX_CONN_*` and
`FLUX_VAR_*`, results stay in memory. A retry does not wait for its delay; a sensor is poked here at its interval.
execution_timeout, dagrun_timeout, pools and callbacks need processes and a store, and do not apply.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux import attempt, connection_fields, graph, providers_here, retries
from flux.attempt import AttemptEnd, AttemptSpec
from flux.connection import environment_ids, from_environment, variable_name
from flux.context import RETURN_VALUE, environment_name
from flux.errors import NotFound, Refused
from flux.run_report import RunReport, TaskReport
from flux.schedule import BoundSchedule, DataInterval
from flux.states import RunKind, RunState, State
from flux.times import from_iso, iso, utc_now
from flux.trigger_rules import Verdict, verdict

if TYPE_CHECKING:
    from flux.dag import DAG
    from flux.operator import BaseOperator
    from flux.sensor import BaseSensor
    from flux.structure import DagStructure, TaskStructure

_BAD = (State.FAILED, State.UPSTREAM_FAILED)
#: What a run's own past may be: no row, or ended well.
_PAST_ALLOWS = (None, State.SUCCESS, State.SKIPPED)
#: Doubling a poke interval ends here.
_MOST_DOUBLINGS = 30


class _World:
    """What the tasks of one run reach: the environment, and what this call has kept in memory."""

    def __init__(self, dag_id: str, run_id: str, past: Sequence[RunReport], by_rule: DataInterval | None) -> None:
        self.left: dict[tuple[str, str], str] = {}
        self.states: dict[str, State] = {}
        self._dag_id = dag_id
        self._run_id = run_id
        self._past = past
        self._by_rule = by_rule

    def result(self, task_id: str, key: str = RETURN_VALUE, map_index: int = -1) -> str | None:
        return self.left.get((task_id, key))

    def connection(self, conn_id: str) -> dict[str, Any]:
        found = from_environment(conn_id, os.environ)
        if found is None:
            hint = f"Here connections come from the environment: set {variable_name(conn_id)} to a URI."
            raise NotFound.named("Connection", conn_id, environment_ids(os.environ), hint=hint)
        kind = connection_fields.type_of(providers_here.catalogue(), found.type)
        return (found if kind is None else connection_fields.complete(found, kind)).to_message()

    def variable(self, name: str) -> str | None:
        return os.environ.get(environment_name(name))

    def task_state(self, dag_id: str, run_id: str, task_id: str) -> str | None:
        if dag_id != self._dag_id:
            return None
        if run_id == self._run_id:
            return self.states.get(task_id)
        return next((run.states.get(task_id) for run in self._past if run.run_id == run_id), None)

    def previous_run(self, successful: bool) -> dict[str, Any] | None:
        """The run before in this call; without one the interval before, as if its run had ended well."""
        found = next((run.data_interval for run in reversed(self._past) if run.ok or not successful), self._by_rule)
        if found is None:
            return None
        return {
            "logical_date": iso(found.start),
            "interval_start": iso(found.start),
            "interval_end": iso(found.end),
        }

    def trigger(self, dag_id: str, conf: dict[str, Any] | None, logical_date: str | None) -> str:
        raise Refused(f"DAG {dag_id!r} is not triggered from a run outside Flux: there is nothing that would run it.")

    def progress(self, text: str) -> None:
        _say(text)


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a task's attempts ended."""

    end: AttemptEnd
    attempts: int
    seconds: float


class Run:
    """One run of a DAG in this process."""

    def __init__(
        self,
        dag: DAG,
        structure: DagStructure,
        bound: BoundSchedule,
        interval: DataInterval,
        conf: dict[str, Any],
        past: Sequence[RunReport],
    ) -> None:
        self._dag = dag
        self._structure = structure
        self._interval = interval
        self._conf = conf
        self._past = past
        self._started_at = utc_now()
        self._run_id = f"{RunKind.MANUAL}__{iso(interval.start)}"
        self.world = _World(dag.dag_id, self._run_id, past, bound.previous(interval))
        self._reports: list[TaskReport] = []
        #: Tasks that a gate has closed.
        self._closed: set[int] = set()

    def spec(self, task: TaskStructure, number: int, folder: Path) -> AttemptSpec:
        """Return what attempt `number` of a task knows at its start; large results go to `folder`."""
        logical = iso(self._interval.start) or ""
        return AttemptSpec(
            claim=0, dag_id=self._dag.dag_id, run_id=self._run_id, task_id=task.task_id, map_index=-1, attempt=number,
            max_attempts=task.retries + 1, kind=RunKind.MANUAL, logical_date=logical, interval_start=logical,
            interval_end=iso(self._interval.end) or "", conf=self._conf, run_started_at=iso(self._started_at),
            first_seen_at=iso(self._started_at), log=str(folder / f"{number}.log"), result_file="", rendered_file="",
            endpoint="", log_max_bytes=0, kill_grace=task.kill_grace, run_as_user=None, sensor=task.sensor is not None,
            pool=task.pool, queue=task.queue,
        )  # fmt: skip

    def to_the_end(self, chosen: Collection[int]) -> RunReport:
        """Run the tasks `chosen` (by index) and return what became of them."""
        present = [task for task in self._structure.tasks if task.index in chosen and self._is_in_its_dates(task)]
        indices = {task.index for task in present}
        _say(f"DAG {self._dag.dag_id} for {self._interval.start.astimezone(self._dag.zone).isoformat()}")
        try:
            for task in present:
                self._reports.append(self._resolved(task, indices))
                self.world.states[task.task_id] = self._reports[-1].state
        except BaseException:
            _say(f"interrupted; {self._report(RunState.FAILED)}")
            raise
        leaves = [task.task_id for task in present if not indices.intersection(task.downstream)]
        failed = any(self.world.states[task_id] in _BAD for task_id in leaves)
        return self._report(RunState.FAILED if failed else RunState.SUCCESS)

    def _report(self, state: RunState) -> RunReport:
        zone = self._dag.zone
        interval = DataInterval(self._interval.start.astimezone(zone), self._interval.end.astimezone(zone))
        return RunReport(self._dag.dag_id, self._run_id, interval, state, tuple(self._reports), dict(self.world.left))

    def _is_in_its_dates(self, task: TaskStructure) -> bool:
        start = self._interval.start
        after = task.start_date is None or from_iso(task.start_date) <= start
        return after and (task.end_date is None or start <= from_iso(task.end_date))

    def _resolved(self, task: TaskStructure, present: set[int]) -> TaskReport:
        """Run a task if its trigger rule says so. All that is above it has ended, so the verdict is never to wait."""
        states = [self.world.states[self._structure.tasks[up].task_id] for up in task.upstream if up in present]
        found = verdict(
            task.trigger_rule,
            total=len(states),
            ok=states.count(State.SUCCESS),
            bad=sum(state in _BAD for state in states),
            skipped=states.count(State.SKIPPED),
            gates_closed=int(task.index in self._closed),
        )
        report = TaskReport(task.task_id, task.operator, State.SUCCESS)
        if found is Verdict.SKIP:
            return self._told(replace(report, state=State.SKIPPED))
        if found is Verdict.FAIL:
            return self._told(replace(report, state=State.UPSTREAM_FAILED))
        before = self._past_in_the_way(task)
        if before is not None:
            return self._told(replace(report, state=State.UPSTREAM_FAILED, reason=before))
        if task.inline:
            return self._told(report)
        ended = self._attempts(task, self._dag.tasks[task.task_id])
        if ended.end.outcome == State.SUCCESS:
            self._closed |= _closed(self._structure, task, ended.end.chosen)
        state = State(ended.end.outcome)
        return self._told(
            replace(report, state=state, attempts=ended.attempts, reason=ended.end.reason, seconds=ended.seconds)
        )

    def _told(self, report: TaskReport) -> TaskReport:
        _say(f"{report.task_id}: {report.state}{f', {report.reason}' if report.reason else ''}")
        return report

    def _past_in_the_way(self, task: TaskStructure) -> str | None:
        """Why the previous run of this call keeps the task from running; elsewhere it would wait for a person."""
        if not self._past or not task.depends_on_past:
            return None
        below = task.downstream if task.wait_for_downstream else ()
        states = self._past[-1].states
        for task_id in (task.task_id, *(self._structure.tasks[index].task_id for index in below)):
            if states.get(task_id) not in _PAST_ALLOWS:
                return f"depends on the past: {task_id!r} of the run before is {states[task_id]}"
        return None

    def _attempts(self, row: TaskStructure, task: BaseOperator) -> _Ended:
        began = time.monotonic()
        number = 0
        while True:
            number += 1
            _say(f"{row.task_id}: attempt {number} of {row.retries + 1}" if row.retries else f"{row.task_id}: started")
            with tempfile.TemporaryDirectory(prefix="flux-") as folder:
                end = self._attempt(row, task, self.spec(row, number, Path(folder)))
                results = end.results | {
                    key: (Path(folder) / name).read_text(encoding="utf-8") for key, name in end.result_files.items()
                }
            if end.outcome == State.FAILED:
                again = retries.decide(row, number, row.retries + 1, 0, utc_now(), allowed=end.retry)
                if again is not None:
                    delay = retries.delay_seconds(row, number, 0)
                    _say(f"{row.task_id}: {end.reason}; tries again at once (under `flux up` after {delay:g} s)")
                    continue
            elif end.outcome == State.SUCCESS:
                self.world.left.update({(row.task_id, key): text for key, text in results.items()})
            return _Ended(end, number, time.monotonic() - began)

    def _attempt(self, row: TaskStructure, task: BaseOperator, spec: AttemptSpec) -> AttemptEnd:
        if row.sensor is None:
            return attempt.execute(task, spec, self.world, macro_source=providers_here.macro)
        started = utc_now()
        outcome, reason, retry = self._poked(row, task, spec)  # type: ignore[arg-type]
        return AttemptEnd(outcome, reason, retry, {}, {}, None, iso(started) or "", iso(utc_now()) or "")

    def _poked(self, row: TaskStructure, task: BaseSensor, spec: AttemptSpec) -> tuple[str, str | None, bool]:
        """Poke until the condition holds or the timeout is over; return outcome, reason and whether to retry."""
        sensor = row.sensor
        assert sensor is not None
        deadline = time.monotonic() + sensor.timeout
        interval = sensor.poke_interval
        for number in range(sys.maxsize):
            try:
                if attempt.poke(task, spec, self.world, macro_source=providers_here.macro):
                    return State.SUCCESS, None, True
            except (Exception, SystemExit) as error:
                attempt.print_error(error)
                return attempt.end_of(error)
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if number == 0:
                _say(f"{row.task_id}: waits, poked every {interval:g} s for at most {sensor.timeout:g} s")
            time.sleep(min(interval, left))
            if sensor.exponential_backoff:
                doubled = sensor.poke_interval * 2.0 ** min(number + 1, _MOST_DOUBLINGS)
                interval = min(doubled, sensor.max_poke_interval)
        reason = f"SensorTimeout: the condition did not come true within {sensor.timeout:g} s"
        return State.SKIPPED if sensor.soft_fail else State.FAILED, reason, False


def _closed(structure: DagStructure, gate: TaskStructure, chosen: Sequence[str] | None) -> set[int]:
    """The tasks that a gate's result closes; see `AttemptEnd.chosen`."""
    if gate.gate is None or chosen is None:
        return set()
    kept = {structure.index_of[task_id] for task_id in chosen}
    return set(gate.gates) - kept - graph.reach(kept, [task.downstream for task in structure.tasks])


def _say(text: str) -> None:
    """Tell people; stdout is left to the tasks."""
    print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)  # noqa: DTZ005 - for people, here and now

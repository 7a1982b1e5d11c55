"""The attempts that have a process, as the supervisor knows them: launching, time limits, and what their end means.

An attempt is launched only after the commit that opened it. Its result file decides how it ended; the exit status only
explains why there is none. The launcher keeps an exit until the end is committed and acknowledged.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux import process
from flux.attempt import AttemptEnd, AttemptSpec
from flux.config import Config
from flux.executor import Assignment, BaseExecutor
from flux.loop import Loop, Timer
from flux.running import attempt_processes, faults
from flux.running.refusals import Refusals
from flux.states import Outcome
from flux.store.attempts import Claimed, End, log_path
from flux.times import Clock, from_iso, iso

if TYPE_CHECKING:
    from flux.running.launcher_client import LauncherClient
    from flux.running.writer import Writer

#: How long the leftovers of a lost attempt may take to end.
_LOST_GRACE = 2.0
_LOST_DEADLINE = 20.0


@dataclass(slots=True)
class _Open:
    """An attempt whose end is not known yet."""

    claimed: Claimed
    #: Hash of its DAG version.
    version: str
    spec: AttemptSpec
    #: The launcher was asked to start it.
    is_sent: bool = False
    pid: int | None = None
    timeout: Timer | None = None
    #: Why it is to be killed; said again to a launcher that may not have heard it.
    kill: Outcome | None = None


def make_spec(config: Config, claimed: Claimed, host: str) -> AttemptSpec:
    """Say everything an attempt knows at its start."""
    run, task = claimed.run, claimed.task
    log = config.logs_folder / log_path(run, task.task_id, claimed.map_index, claimed.attempt)
    return AttemptSpec(
        claim=claimed.claim,
        dag_id=run.dag_id,
        run_id=run.run_id,
        task_id=task.task_id,
        map_index=claimed.map_index,
        attempt=claimed.attempt,
        max_attempts=claimed.max_attempts,
        kind=run.kind,
        logical_date=iso(run.logical_date) or "",
        interval_start=iso(run.interval_start) or "",
        interval_end=iso(run.interval_end) or "",
        conf=None if run.conf is None else json.loads(run.conf),
        run_started_at=iso(run.started_at),
        first_seen_at=iso(run.created_at),
        log=str(log),
        result_file=str(result_file(config, claimed.claim)),
        rendered_file=str(rendered_file(log)),
        endpoint=str(config.run_folder / "endpoint"),
        log_max_bytes=config.log_max_bytes,
        kill_grace=task.kill_grace,
        run_as_user=task.run_as_user,
        sensor=task.sensor is not None,
        started_at=iso(claimed.started_at),
        deadline_at=iso(claimed.deadline_at),
        pool=task.pool,
        queue=task.queue,
        host=host,
    )


def make_assignment(
    claimed: Claimed, *, argv: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> Assignment:
    """Say what an executor is told of an attempt."""
    run, task = claimed.run, claimed.task
    return Assignment(
        claim=claimed.claim,
        dag_id=run.dag_id,
        run_id=run.run_id,
        task_id=task.task_id,
        map_index=claimed.map_index,
        attempt=claimed.attempt,
        queue=task.queue,
        resources=task.resources,
        argv=argv,
        env=env or {},
    )


def result_file(config: Config, claim: int) -> Path:
    """Return the path of an attempt's result file."""
    return config.run_folder / "results" / f"{claim}.json"


def rendered_file(log: Path) -> Path:
    """Return the path of the rendered fields beside an attempt's log."""
    return log.with_name(f"{log.stem}.rendered.json")


def read_text(path: Path) -> str | None:
    """Return a small file's text, whatever bytes are in it; None when it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


class Attempts:
    """What has a process, or is about to get one."""

    def __init__(
        self,
        config: Config,
        loop: Loop,
        clock: Clock,
        writer: Writer,
        executor: BaseExecutor,
        launcher: Callable[[], LauncherClient | None],
    ) -> None:
        self._config = config
        self._loop = loop
        self._clock = clock
        self._writer = writer
        self._executor = executor
        self._launcher = launcher
        self._open: dict[int, _Open] = {}
        #: Ended, not committed yet.
        self._ending: set[int] = set()
        self._refusals = Refusals(clock, config.queued_timeout_seconds)
        executor.bind(launch=self._launch, kill=lambda claim: self.kill(claim, Outcome.KILLED))

    @property
    def claims(self) -> list[int]:
        """The claims that are open."""
        return list(self._open)

    # --- beginning -------------------------------------------------------------------------------------------------

    def begin(self, claimed: Claimed, version: str, host: str) -> None:
        """Launch an attempt whose opening is committed."""
        item = _Open(claimed, version, make_spec(self._config, claimed, host))
        self._open[claimed.claim] = item
        try:
            self._executor.start(make_assignment(claimed))
        except Exception as error:
            if item.is_sent:
                raise  # it may run: its exit will be heard of
            end = self._refusals.end(claimed, f"the executor refused it: {type(error).__name__}: {error}")
            self._loop.call_later(self._refusals.pause(), lambda: self._give_back(item, end))
        else:
            self._refusals.began(claimed)

    def _give_back(self, item: _Open, end: End) -> None:
        if end.claim not in self._ending and end.claim in self._open:
            self._push(item, end)

    def adopt(self, claimed: Claimed, version: str, host: str, pid: int | None) -> None:
        """Take over an attempt that runs already."""
        item = _Open(claimed, version, make_spec(self._config, claimed, host), is_sent=True)
        self._open[claimed.claim] = item
        self._began(item, pid, claimed.started_at)

    def launcher_came(self, known: Container[int]) -> None:
        """Send what the launcher does not know; `known` are the claims it has told of."""
        for claim, item in self._open.items():
            if claim in self._ending:
                continue
            if claim not in known:
                self._send(item)
            elif item.kill is not None:
                self.kill(claim, item.kill)

    def _launch(self, assignment: Assignment) -> None:
        self._send(self._open[assignment.claim])

    def _send(self, item: _Open) -> None:
        launcher = self._launcher()
        if launcher is None:
            return
        faults.point("after_claim_commit")
        item.is_sent = True
        launcher.run(item.version, item.spec)
        if item.kill is not None:
            self.kill(item.claimed.claim, item.kill)
        faults.point("after_launch")

    def started(self, message: Mapping[str, Any]) -> None:
        """Take the launcher's word that a process has begun."""
        item = self._open.get(message["claim"])
        if item is not None:
            self._began(item, message["pid"], self._clock.now())

    def _began(self, item: _Open, pid: int | None, at: datetime) -> None:
        item.pid = pid
        limit = item.claimed.task.execution_timeout
        if limit is not None and item.timeout is None:
            left = limit - (self._clock.now() - at).total_seconds()
            claim = item.claimed.claim
            item.timeout = self._loop.call_later(max(left, 0.0), lambda: self.kill(claim, Outcome.TIMED_OUT))

    # --- ending ----------------------------------------------------------------------------------------------------

    def kill(self, claim: int, reason: Outcome) -> None:
        """Have an attempt's processes ended, as soon as there is a launcher; `exited` follows."""
        item, launcher = self._open.get(claim), self._launcher()
        if item is None:
            return
        item.kill = item.kill or reason
        if launcher is not None and item.is_sent:
            launcher.kill(claim, item.claimed.task.kill_grace, item.kill)

    def exited(self, message: Mapping[str, Any]) -> bool:
        """Take the launcher's word that an attempt and all its processes are gone; False: it is not one of ours."""
        item = self._open.get(message["claim"])
        if item is None or item.claimed.claim in self._ending:
            return item is not None
        faults.point("before_end_commit")
        log, pid = item.spec.log, message.get("pid") or item.pid
        told = read_result(self._config, item.claimed.claim)
        if told is not None:
            self._push(item, end_told(item.claimed, log, told, pid, message))
        else:
            self._push(item, end_exit(item.claimed, log, pid, message))
        return True

    def interrupt(self, reason: str) -> list[int]:
        """Record every open attempt as interrupted, before any is signalled; return their claims."""
        ends = []
        now = self._clock.now()
        for item in self._open.values():
            if item.claimed.claim not in self._ending:
                self._forget_timer(item)
                self._ending.add(item.claimed.claim)
                ends.append(self._interrupted(item, reason, now))
        self._writer.end(*ends)
        return [end.claim for end in ends]

    def _interrupted(self, item: _Open, reason: str, now: datetime) -> End:
        again = item.claimed.on_interrupt == "retry"
        return End(
            item.claimed.claim, Outcome.INTERRUPTED, reason, now, may_retry=again, must_retry=again, pid=item.pid,
            rendered=read_text(Path(item.spec.rendered_file)),
        )  # fmt: skip

    def launcher_lost(self) -> None:
        """The launcher died, and its hosts and attempts with it: end what they left behind, then record the losses."""
        lost = [item for item in self._open.values() if item.is_sent and item.claimed.claim not in self._ending]
        if not lost:
            return
        self._ending.update(item.claimed.claim for item in lost)
        owners = [process.Owner(item.claimed.claim, item.pid, item.spec.log) for item in lost]

        def clean() -> None:
            process.end_now(owners, grace=_LOST_GRACE, deadline=_LOST_DEADLINE)
            self._loop.call_soon_threadsafe(lambda: self._record_lost(lost))

        threading.Thread(target=clean, name="leftovers", daemon=True).start()

    def _record_lost(self, lost: Iterable[_Open]) -> None:
        for item in lost:
            self._push(item, end_of_lost(self._config, item.claimed, item.spec.log, item.pid, self._clock.now()))

    def committed(self, ends: Sequence[End]) -> None:
        """The ends are in the store: the launcher and the disk may forget them."""
        claims = [end.claim for end in ends]
        for claim in claims:
            self._open.pop(claim, None)
            self._ending.discard(claim)
            with contextlib.suppress(OSError):
                result_file(self._config, claim).unlink()
        launcher = self._launcher()
        if launcher is not None and claims:
            launcher.ack(claims)

    def _push(self, item: _Open, end: End) -> None:
        self._forget_timer(item)
        self._ending.add(end.claim)
        self._writer.end(end)

    def _forget_timer(self, item: _Open) -> None:
        if item.timeout is not None:
            item.timeout.cancel()


def read_result(config: Config, claim: int) -> AttemptEnd | None:
    """Return what an attempt wrote at its end; None when it wrote nothing, or nothing that can be read."""
    text = read_text(result_file(config, claim))
    if text is None:
        return None
    try:
        return parse_result(text)
    except (ValueError, TypeError, AttributeError) as error:
        print(f"supervisor: the result file of claim {claim} is broken: {error}", file=sys.stderr, flush=True)
        return None


def parse_result(text: str) -> AttemptEnd:
    """Read what an attempt wrote at its end. Raises ValueError, TypeError or AttributeError when that cannot be."""
    told = AttemptEnd(**json.loads(text))
    _check(told)
    return told


def _check(told: AttemptEnd) -> None:
    """Raise unless the fields are what `attempt` writes: author code can reach the file."""
    if told.outcome not in (Outcome.SUCCESS, Outcome.FAILED, Outcome.SKIPPED):
        raise ValueError(f"outcome {told.outcome!r}")
    for moment in (told.started_at, told.ended_at):
        from_iso(moment)
    texts = [*told.results.values(), *told.result_files.values(), told.reason or ""]
    if not all(isinstance(text, str) for text in texts) or not isinstance(told.chosen, list | None):
        raise ValueError("a field of the wrong kind")


def end_of_lost(config: Config, claimed: Claimed, log: str, pid: int | None, now: datetime) -> End:
    """Return the end of an attempt whose launcher is gone, and all its processes: its own word if it left one.

    Without one its log says whether it had begun: that is opened before its process.
    """
    told = read_result(config, claimed.claim)
    if told is not None:
        return end_told(claimed, log, told, pid, {})
    if pid is None and not Path(log).exists():
        reason = "never launched: the launcher did not get to it"
        return End(claimed.claim, Outcome.NEVER_LAUNCHED, reason, now)
    rendered = read_text(rendered_file(Path(log)))
    return End(claimed.claim, Outcome.LOST, "lost: its launcher died", now, pid=pid, rendered=rendered)


def explain_exit(message: Mapping[str, Any], limit: float | None) -> tuple[Outcome, str, bool]:
    """Return outcome, reason and whether a retry makes sense, of an attempt that ended without a result."""
    killed, signum, status = message.get("killed"), message.get("signal"), message.get("exit_status")
    if killed == Outcome.TIMED_OUT:
        return Outcome.TIMED_OUT, f"timed out: execution_timeout is {limit:g} s", True
    if killed == Outcome.KILLED:
        return Outcome.KILLED, "killed", False
    if killed and killed.startswith(attempt_processes.FAILED):
        return Outcome.FAILED, killed.removeprefix(attempt_processes.FAILED), False
    if killed:
        return Outcome.INTERRUPTED, str(killed), False
    if message.get("lost"):
        return Outcome.LOST, f"lost: {message.get('error')}", True
    if message.get("error"):
        return Outcome.FAILED, str(message["error"]), True
    if signum is not None:
        name = process.signal_name(signum)
        peak = message.get("max_rss_bytes") or 0
        memory = f", probably out of memory (peak {peak / 1e6:.0f} MB)" if signum == 9 else ""
        return Outcome.FAILED, f"killed by signal {signum} ({name}){memory}", True
    return Outcome.FAILED, f"process ended without a result (exit status {status})", True


def _facts(log: str, pid: int | None, message: Mapping[str, Any], rendered: str | None = None) -> dict[str, Any]:
    """What the launcher saw of an attempt's process, and its rendered fields, as fields of `End`."""
    return {
        "pid": pid,
        "exit_status": message.get("exit_status"),
        "signal": message.get("signal"),
        "max_rss_bytes": message.get("max_rss_bytes"),
        "rendered": rendered or read_text(rendered_file(Path(log))),
    }


def end_told(claimed: Claimed, log: str, told: AttemptEnd, pid: int | None, message: Mapping[str, Any]) -> End:
    """The end that the attempt's own result file tells."""
    folder = Path(log_path(claimed.run, claimed.task.task_id, claimed.map_index, claimed.attempt)).parent
    rendered = None if told.rendered is None else json.dumps(told.rendered)
    return End(
        claimed.claim,
        Outcome(told.outcome),
        told.reason,
        from_iso(told.ended_at),
        started_at=from_iso(told.started_at),
        may_retry=told.retry,
        results=told.results,
        result_files={key: str(folder / name) for key, name in told.result_files.items()},
        chosen=told.chosen,
        **_facts(log, pid, message, rendered),
    )


def end_exit(claimed: Claimed, log: str, pid: int | None, message: Mapping[str, Any]) -> End:
    """The end of an attempt that wrote no result."""
    outcome, reason, may_retry = explain_exit(message, claimed.task.execution_timeout)
    return End(
        claimed.claim,
        outcome,
        reason,
        from_iso(message["ended_at"]),
        started_at=from_iso(message["started_at"]) if message.get("started_at") else None,
        may_retry=may_retry,
        **_facts(log, pid, message),
    )

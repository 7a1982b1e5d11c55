"""The processes of the attempts that one DAG host has started: their ends, what is left of them, and their logs.

An attempt ends when its first process and everything that this left behind are gone; only then its exit is reported.
Leftovers get `LINGER` seconds to end by themselves, then SIGTERM, then SIGKILL. The host is their subreaper: "a child
that I did not start" is enough to see that there are some; only then /proc is searched for their owners.
"""

# ruff: noqa: PTH103, PTH116, PTH120

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from flux import linux, process, wire
from flux.loop import Loop, Timer
from flux.times import iso, utc_now
from flux.wire import Message

if TYPE_CHECKING:
    from flux.attempt import AttemptSpec

#: What leftovers get before SIGTERM, and between that and SIGKILL.
LINGER = 0.5
LEFTOVER_GRACE = 2.0
#: Between two rounds of SIGKILL.
_AGAIN = 0.1
#: Begins the reason of a kill that the launcher decided because the attempt itself has failed.
FAILED = "failed: "
#: Linux gives no process a larger number than the one before.
_NOBODY = 2**22 + 1
#: How often logs are measured; of one that is too long, this much of its beginning is kept.
_MEASURE_SECONDS = 1.0
_HEAD_BYTES = 20 * 1024 * 1024


@dataclass
class _Attempt:
    spec: AttemptSpec
    pid: int
    started_at: str
    #: Why it was told to end; None: it was not.
    killed: str | None = None
    exit: process.Exit | None = None
    ended_at: str | None = None
    #: Processes it left behind.
    strays: set[int] = field(default_factory=set)
    #: The next signal to what is there of it.
    timer: Timer | None = None

    @property
    def owner(self) -> process.Owner:
        return process.Owner(self.spec.claim, self.pid, self.spec.log)


class AttemptProcesses:
    """Starts, ends and reports attempts.

    Args:
        report: takes the messages "started" and "exit" for the launcher.
        own_children: gives the pids of children that belong to no attempt.
    """

    def __init__(self, loop: Loop, report: Callable[[Message], object], own_children: Callable[[], set[int]]) -> None:
        self._loop = loop
        self._report = report
        self._own_children = own_children
        self._by_pid: dict[int, _Attempt] = {}
        self._by_claim: dict[int, _Attempt] = {}
        self._measure: Timer | None = None

    def __len__(self) -> int:
        return len(self._by_pid)

    def start(self, spec: AttemptSpec, launch: Callable[[int], int]) -> None:
        """Start an attempt. `launch` gets the descriptor of its log and returns the pid of its first process."""
        started_at = now()
        try:
            log = open_log(spec.log)
        except OSError as error:
            self._report(exit_message(spec.claim, error=f"its log cannot be opened: {error}"))
            return
        try:
            pid = launch(log)
        except OSError as error:
            self._report(exit_message(spec.claim, error=f"its process cannot be started: {error}"))
            return
        finally:
            os.close(log)
        self._by_pid[pid] = self._by_claim[spec.claim] = _Attempt(spec, pid, started_at)
        self._report({"op": "started", "claim": spec.claim, "pid": pid, "at": started_at})
        if self._measure is None:
            self._measure = self._loop.call_later(_MEASURE_SECONDS, self._measure_logs)

    def reaped(self, ended: process.Exit) -> bool:
        """Note that a child has ended; False: it was no attempt's first process. Call `settle` after the last."""
        attempt = self._by_pid.get(ended.pid)
        if attempt is None or attempt.exit is not None:
            return False
        attempt.exit, attempt.ended_at = ended, now()
        return True

    def settle(self) -> bool:
        """Report the attempts of which nothing is left. Returns False if it has seen that nobody left anything."""
        over = [attempt for attempt in self._by_pid.values() if attempt.exit is not None]
        if not over:
            return True
        foreign = set(process.children()) - self._by_pid.keys() - self._own_children()
        for attempt in over:
            if not foreign and not process.send_group(attempt.pid, 0):
                self._finish(attempt)
            elif attempt.timer is None:
                attempt.strays |= self._processes(attempt)
                if attempt.strays:
                    self._later(attempt, LINGER, self._end_leftovers)
                else:
                    self._finish(attempt)
        return bool(foreign)

    def kill(self, claim: int, grace: float, reason: str) -> bool:
        """End an attempt: SIGTERM to everything it consists of, SIGKILL after `grace` seconds. False: unknown."""
        attempt = self._by_claim.get(claim)
        if attempt is None:
            return False
        if attempt.killed is None:
            attempt.killed = reason
        if grace > 0:
            self._signal(attempt, signal.SIGTERM)
            self._later(attempt, grace, self._kill_now)
        else:
            self._kill_now(attempt)
        return True

    def kill_all(self, grace: float, reason: str) -> None:
        """End every attempt, as `kill` does."""
        for claim in list(self._by_claim):
            self.kill(claim, grace, reason)

    def _later(self, attempt: _Attempt, seconds: float, step: Callable[[_Attempt], None]) -> None:
        """Make `step` what happens to the attempt next."""
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.timer = self._loop.call_later(seconds, lambda: step(attempt))

    def _end_leftovers(self, attempt: _Attempt) -> None:
        self._signal(attempt, signal.SIGTERM)
        self._later(attempt, LEFTOVER_GRACE, self._kill_now)

    def _kill_now(self, attempt: _Attempt) -> None:
        """Send SIGKILL, again and again, until nothing is left."""
        left = self._signal(attempt, signal.SIGKILL)
        if attempt.exit is not None and not left:
            self._finish(attempt)
        else:
            self._later(attempt, _AGAIN, self._kill_now)

    def _signal(self, attempt: _Attempt, signum: int) -> set[int]:
        """Send a signal to the group and to what has left it; return what was there."""
        over = attempt.exit is not None
        if not over and not process.send_group(attempt.pid, signum):
            process.send(attempt.pid, signum)  # so new that it has no group of its own yet
        there = self._processes(attempt)
        for pid in there:
            if over or process.group(pid) != attempt.pid:
                process.send(pid, signum)
        if over:
            attempt.strays |= there
        return there

    def _processes(self, attempt: _Attempt) -> set[int]:
        """What there is of an attempt. The last one also answers for orphans that carry nobody's mark."""
        found = process.find([attempt.owner])[attempt.spec.claim]
        if len(self._by_pid) == 1:
            found |= process.descendants(os.getpid(), without=self._own_children() | {attempt.pid})
        return found

    def _finish(self, attempt: _Attempt) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        del self._by_pid[attempt.pid]
        del self._by_claim[attempt.spec.claim]
        if not self._by_pid and self._measure is not None:
            self._measure.cancel()
            self._measure = None
        ended = attempt.exit
        assert ended is not None
        bound_log(attempt.spec.log, attempt.spec.log_max_bytes)
        _write_footer(attempt, ended)
        self._report(
            exit_message(
                attempt.spec.claim,
                pid=attempt.pid,
                exit_status=ended.exit_status,
                signal=ended.signal,
                killed=attempt.killed,
                started_at=attempt.started_at,
                ended_at=attempt.ended_at,
                max_rss_bytes=ended.max_rss_bytes,
                strays=len(attempt.strays),
            )
        )

    def _measure_logs(self) -> None:
        self._measure = self._loop.call_later(_MEASURE_SECONDS, self._measure_logs)
        for attempt in list(self._by_pid.values()):
            if attempt.killed is None and not bound_log(attempt.spec.log, attempt.spec.log_max_bytes):
                limit = attempt.spec.log_max_bytes
                reason = f"{FAILED}its log is over {limit} bytes, and this file system cannot free the middle of a file"
                self.kill(attempt.spec.claim, attempt.spec.kill_grace, reason)


def dry_walk(loop: Loop, order: bytes, report: Callable[[Message], object] = wire.encode) -> None:
    """Go once through what a host does for an attempt, for `order`, of which nothing is started and nobody is told.

    What a fork has left shared is copied as the host next writes to it: here, where it would only wait, and not between
    the end of an attempt and the start of the next. That takes 0.1 to 0.2 ms off their distance.
    """
    from flux.attempt import AttemptSpec

    spec = AttemptSpec(**json.loads(order)["spec"])
    processes = AttemptProcesses(loop, report, lambda: set(process.children()))
    processes.start(spec, lambda log: _NOBODY)
    processes.reaped(process.Exit(_NOBODY, exit_status=0, signal=None, max_rss_bytes=0))
    processes.settle()


def now() -> str:
    """Return the present instant as messages have it."""
    return iso(utc_now()) or ""


def exit_message(
    claim: int,
    *,
    pid: int | None = None,
    exit_status: int | None = None,
    signal: int | None = None,
    killed: str | None = None,
    started_at: str | None = None,
    ended_at: str | None = None,
    max_rss_bytes: int | None = None,
    strays: int = 0,
    error: str | None = None,
    lost: bool = False,
) -> Message:
    """Return the message "exit": how an attempt ended, or with `error` why it did not run or, if `lost`, was lost."""
    return {
        "op": "exit",
        "claim": claim,
        "pid": pid,
        "exit_status": exit_status,
        "signal": signal,
        "killed": killed,
        "started_at": started_at,
        "ended_at": ended_at or now(),
        "max_rss_bytes": max_rss_bytes,
        "strays": strays,
        "error": error,
        "lost": lost,
    }


def open_log(path: str) -> int:
    """Open a log to append to it, making its folders; only our user may read them."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, flags, 0o600)


def write_header(spec: AttemptSpec) -> None:
    """Write the first line of an attempt's log; in its own process, before anything else can print."""
    os.write(1, header(spec))


def header(spec: AttemptSpec) -> bytes:
    """Return the first line of the log of the attempt that this process is."""
    where = f" on {spec.host}" if spec.host else ""
    name = f"{spec.dag_id}.{spec.task_id}" + (f"[{spec.map_index}]" if spec.map_index >= 0 else "")
    text = (
        f"--- flux: {name}, run {spec.run_id}, attempt {spec.attempt} of {spec.max_attempts}, "
        f"claim {spec.claim}, pid {os.getpid()}{where}, began {now()}\n"
    )
    return text.encode(errors="replace")


def _write_footer(attempt: _Attempt, ended: process.Exit) -> None:
    killed = f", killed: {attempt.killed}" if attempt.killed else ""
    strays = f", left {len(attempt.strays)} processes behind" if attempt.strays else ""
    peak = f"peak memory {ended.max_rss_bytes / 1e6:.0f} MB"
    text = f"--- flux: attempt {attempt.spec.attempt} ended {attempt.ended_at}: {ended}, {peak}{killed}{strays}\n"
    try:
        log = open_log(attempt.spec.log)
        try:
            os.write(log, text.encode(errors="replace"))
        finally:
            os.close(log)
    except OSError:  # a full disk; the exit is reported all the same
        pass


def bound_log(path: str, limit: int) -> bool:
    """Free the middle of a log that takes more than `limit` bytes of the disk: its beginning and its end stay.

    False: it is too long and the file system cannot do it.
    """
    try:
        status = os.stat(path)
        if status.st_blocks * 512 <= limit:
            return True
        log = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        head = min(_HEAD_BYTES, limit // 10)
        length = status.st_size - head - limit // 2
        return length <= 0 or linux.punch_hole(log, head, length)
    finally:
        os.close(log)


def never_return(body: Callable[[], NoReturn]) -> NoReturn:
    """In a forked process: never return into the parent's loop, whatever `body` does."""
    try:
        body()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(70)

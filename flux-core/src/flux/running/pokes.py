"""Pokes of many sensors in one process: its body, with a few threads, and the DAG host's view of it.

The process tells over its report socket when a poke begins and how it ended. Whether one hangs is judged from outside,
by the time since it began: the process is killed, the hanging poke is named, what had not ended goes into a new one.
"""

# ruff: noqa: PTH108, PTH116, PTH123

from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TextIO

from flux import masking
from flux.loop import Timer
from flux.wire import Message, encode

if TYPE_CHECKING:
    from flux.attempt import AttemptSpec
    from flux.dag_file import DagFile

#: Most pokes of one process, and how many it does beside each other.
MOST_POKES = 64
THREADS = 8


def failure(claim: int, error: str | None, *, hung: bool = False, cancelled: bool = False) -> Message:
    """Return the message for a poke that came to no result."""
    outcome = None if hung or cancelled or error is None else "failed"
    return {
        "op": "poked",
        "claim": claim,
        "result": None,
        "error": error,
        "outcome": outcome,
        "retry": True,
        "hung": hung,
        "cancelled": cancelled,
    }


def tell(report_fd: int, message: Message) -> None:
    """Send a message whole; the reader keeps up, so this may block only for a moment."""
    data = memoryview(encode(message))
    while data:
        data = data[os.write(report_fd, data) :]


def run(file: DagFile, specs: list[AttemptSpec], report_fd: int) -> NoReturn:
    """Poke every sensor once and end the process. One alone is poked in the main thread, into its log by fd 1 and 2.

    Logging is set up.
    """
    if len(specs) == 1:
        _poke(file, specs[0], report_fd)
    else:
        out, err = _PerThread(sys.stdout), _PerThread(sys.stderr)
        sys.stdout, sys.stderr = out, err
        waiting = deque(specs)
        threads = [
            threading.Thread(target=_poke_all, args=(file, waiting, report_fd, (out, err)), name=f"poke-{number}")
            for number in range(min(THREADS, len(specs)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sys.stdout, sys.stderr = out.other, err.other
    for stream in (sys.stdout, sys.stderr):
        masking.finish(stream)
    os._exit(0)


def _poke_all(
    file: DagFile, waiting: deque[AttemptSpec], report_fd: int, streams: tuple[_PerThread, _PerThread]
) -> None:
    while True:
        try:
            spec = waiting.popleft()
        except IndexError:
            return
        with open(spec.log, "a", buffering=1, encoding="utf-8", errors="backslashreplace") as log:
            masking.cover(log)
            for stream in streams:
                stream.lead_to(log)
            _poke(file, spec, report_fd)
            for stream in streams:
                stream.lead_to(None)
            masking.finish(log)


def _poke(file: DagFile, spec: AttemptSpec, report_fd: int) -> None:
    from flux import attempt
    from flux.running.channel import ChannelWorld

    tell(report_fd, {"op": "begun", "claim": spec.claim})
    world = ChannelWorld(spec.endpoint, spec.claim)
    message = failure(spec.claim, None)
    try:
        task = file.task(spec.dag_id, spec.task_id)
        message["result"] = attempt.poke(
            task,  # type: ignore[arg-type]
            spec,
            world,
            macro_source=file.providers.macro,
            read_file=file.read_file,
        )
    except BaseException as error:
        attempt.print_error(error)
        outcome, reason, retry = attempt.end_of(error)
        message |= {"outcome": outcome, "error": reason, "retry": retry}
        if outcome == "success":  # sys.exit(0) in a poke: nothing was found out
            message |= {"outcome": None, "result": False}
    finally:
        world.close()
    tell(report_fd, message)


class _PerThread(io.TextIOBase):
    """A text stream that leads each thread's output to a file of its own, that of other threads to `other`."""

    def __init__(self, other: TextIO) -> None:
        self.other = other
        self._own = threading.local()

    def lead_to(self, log: TextIO | None) -> None:
        """From now on write to `log` what this thread prints; None: to `other`."""
        self._own.log = log

    @property
    def _log(self) -> TextIO:
        return getattr(self._own, "log", None) or self.other

    def write(self, text: str) -> int:
        return self._log.write(text)

    def flush(self) -> None:
        self._log.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.other.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"


@dataclass
class Batch:
    """What a DAG host knows of one process of pokes.

    Args:
        number: of the supervisor's message; goes into every answer.
        version: the DAG version.
    """

    number: int | None
    version: str
    poke_timeout: float
    specs: dict[int, AttemptSpec]
    #: Where an answer goes.
    report: Callable[[Message], None]
    pid: int = 0
    log: str = ""
    socket: socket.socket | None = None
    begun: dict[int, float] = field(default_factory=dict)
    #: Claims that are to be given up when their time is over: by `time.monotonic`.
    cancelled: dict[int, float] = field(default_factory=dict)
    #: A poke's time was over and its process is killed for it.
    killed: bool = False
    timer: Timer | None = None
    _received: bytes = b""

    def __post_init__(self) -> None:
        self._logs = {spec.log for spec in self.specs.values()}

    def hear(self) -> bool:
        """Take what the process has told; False when it has ended."""
        assert self.socket is not None
        while True:
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            *lines, self._received = (self._received + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, message: Message) -> None:
        claim = message["claim"]
        if message["op"] == "begun":
            self.begun[claim] = time.monotonic()
        elif self.specs.pop(claim, None) is not None:
            self.begun.pop(claim, None)
            self.cancelled.pop(claim, None)
            self.answer(message)

    def answer(self, message: Message) -> None:
        self.report({**message, "batch": self.number})

    def give_up(self) -> bool:
        """Answer for pokes whose time is over. False: there were some.

        Then the process is to be killed, and what is left in `specs` is to be poked by another.
        """
        now = time.monotonic()
        for claim in [claim for claim, begun in self.begun.items() if now - begun >= self.poke_timeout]:
            self._forget(claim)
            self.answer(failure(claim, f"the poke did not end within {self.poke_timeout:g} s", hung=True))
        for claim in [claim for claim, at in self.cancelled.items() if now >= at]:
            self._forget(claim)
            self.answer(failure(claim, "the poke was cancelled", cancelled=True))
        return not self.killed

    def seconds_left(self) -> float | None:
        """Return the seconds until the next poke's time is over; None: no poke has begun."""
        ends = [begun + self.poke_timeout for begun in self.begun.values()] + list(self.cancelled.values())
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def cancel(self, claim: int, seconds: float) -> None:
        """Give a poke up when it has not ended `seconds` from now."""
        self.cancelled[claim] = time.monotonic() + seconds

    def tell_output(self) -> None:
        """Name the batch's log in each sensor's, if child processes or C code have written there; remove it if not."""
        if len(self._logs) == 1:
            return
        try:
            if os.stat(self.log).st_size == 0:
                os.unlink(self.log)
                return
            for path in self._logs:
                with open(path, "a", encoding="utf-8") as log:
                    log.write(f"--- flux: output of child processes and C code of these pokes: {self.log}\n")
        except OSError:  # a full disk
            pass

    def _forget(self, claim: int) -> None:
        self.killed = True
        self.specs.pop(claim, None)
        self.begun.pop(claim, None)
        self.cancelled.pop(claim, None)

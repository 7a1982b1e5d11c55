"""A child process of a test's: an attempt, or a call that must not touch the process of the tests."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from flux import attempt, process
from flux.errors import FluxError, TaskKilled
from flux.running import runner

__all__ = ["Answer", "Child", "call_in_child"]

#: Seconds between two looks at a child.
_PAUSE = 0.003
#: Seconds that what a child leaves behind has to end by itself, as under a launcher.
_LINGER = 0.5
#: Seconds within which killed processes must be gone.
_GONE = 10.0
#: Characters at the end of a log that a message shows.
_TAIL = 2_000


class Child:
    """A process forked from this one, with a session, a claim, a log and a folder of its own.

    `body` gets the Child, runs in it and writes what it has to tell into the folder; what it returns is its exit
    status. The folder is removed by `close`.
    """

    def __init__(self, body: Callable[[Child], int]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="flux-testing-"))
        self.claim = secrets.randbits(62) + 1
        self.log = self.folder / "log"
        self._exit: process.Exit | None = None
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        parent = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        pid = process.fork()
        if pid == 0:
            self._live(body, descriptor, parent)
        self.pid = pid
        os.close(descriptor)

    def _live(self, body: Callable[[Child], int], log: int, parent: int) -> NoReturn:
        """Be the child; never returns."""
        status = 70
        try:
            runner.enter(parent, str(self.folder))
            runner.begin(log, self.claim)
            # pytest replaces the streams, and what it keeps of them belongs to the parent
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - the log, to the process's end
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            attempt.setup_logging()
            status = body(self)
        except TaskKilled:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            process.send(os.getpid(), signal.SIGTERM)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # closed by the task
                pass
        os._exit(status)

    @property
    def owner(self) -> process.Owner:
        return process.Owner(self.claim, self.pid, str(self.log))

    def has_ended(self) -> bool:
        """Return whether the child itself has ended; it is not reaped by this."""
        if self._exit is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def await_end(self, seconds: float | None) -> bool:
        """Block until the child has ended, or for so long; return whether it has. None: for ever."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self.has_ended():
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def kill(self, grace: float) -> None:
        """End the child as a launcher does: SIGTERM to all that belongs to it, SIGKILL to what is there after `grace`.

        Blocks until nothing of it is left.
        """
        process.send_group(self.pid, signal.SIGTERM)
        for pid in process.find([self.owner])[self.claim]:
            if process.group(pid) != self.pid:
                process.send(pid, signal.SIGTERM)
        if not self.await_end(grace):
            process.send_group(self.pid, signal.SIGKILL)
            self.await_end(_GONE)
        process.end_now([self.owner], grace=0, deadline=_GONE)
        self.reap()

    def strays(self) -> set[int]:
        """Return what a child that has ended left behind and is there after half a second. Ends them."""
        deadline = time.monotonic() + _LINGER
        while found := process.find([self.owner])[self.claim] - {self.pid}:
            if time.monotonic() > deadline:
                process.end_now([self.owner], grace=0, deadline=_GONE)
                break
            time.sleep(_PAUSE)
        return found

    def reap(self) -> process.Exit:
        """Return how the child ended; blocks until it has."""
        if self._exit is None:
            self._exit = process.wait(self.pid)
        return self._exit

    def raw_log(self) -> str:
        """Return what the child and all it started have written so far, secrets as they were written."""
        return self.log.read_text(encoding="utf-8", errors="backslashreplace")

    def close(self) -> None:
        """End what is left and remove the folder. Safe to repeat."""
        if self._exit is None:
            self.kill(0)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call in a child ended."""

    #: What the function returned; None when it raised or died.
    value: Any
    #: "Class: text" of what it raised, or how it died; None when it returned.
    error: str | None
    #: Whether what it raised is an error of Flux, or one that derives from it.
    is_flux_error: bool
    #: All that it printed.
    log: str

    @property
    def tail(self) -> str:
        """The end of the log, for a message."""
        return tail(self.log)


def call_in_child(function: Callable[[], Any], *, limit_seconds: float) -> Answer:
    """Call `function` in a child process and return its JSON-ready value; one that takes too long is killed."""

    def body(child: Child) -> int:
        told: dict[str, Any] = {"value": None, "error": None, "is_flux_error": False}
        try:
            told["value"] = function()
        except BaseException as error:
            attempt.print_error(error)
            told |= {"error": f"{type(error).__name__}: {error}", "is_flux_error": isinstance(error, FluxError)}
        (child.folder / "told").write_text(json.dumps(told), encoding="utf-8")
        return 0

    child = Child(body)
    try:
        if not child.await_end(limit_seconds):
            return Answer(None, f"did not end within {limit_seconds:g} s", False, child.raw_log())
        ended = child.reap()
        try:
            told = json.loads((child.folder / "told").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Answer(None, f"the process ended by itself: {ended}", False, child.raw_log())
        return Answer(told["value"], told["error"], told["is_flux_error"], child.raw_log())
    finally:
        child.close()


def tail(log: str) -> str:
    """Return the end of a log as lines of a message; empty when there is none."""
    text = log.strip()[-_TAIL:]
    return "\n--- the end of its log\n" + text if text else ""

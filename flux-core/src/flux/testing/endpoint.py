"""Where programs that an executor starts report: what a test has in place of attempts and a supervisor."""

from __future__ import annotations

import json
import secrets
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux import process, wire
from flux.executor import Assignment

__all__ = ["FakeEndpoint", "Report"]

_CHUNK = 65_536
#: Seconds that one look at the sockets may wait.
_PAUSE = 0.02
#: Stands where the attempt runner will: says what it was started with, then stays until it is told to end.
_PROGRAM = """import json, os, socket, stat, sys
place = os.environ["FLUX_ENDPOINT"]
if stat.S_ISREG(os.stat(place).st_mode):
    place = open(place).read().strip()
line = socket.socket(socket.AF_UNIX)
line.connect(place)
said = {"claim": os.environ["FLUX_CLAIM"], "pid": os.getpid(), "argv": sys.argv[1:], "cwd": os.getcwd(),
        "env": {name: value for name, value in os.environ.items()}}
line.sendall(json.dumps(said).encode() + b"\\n")
line.recv(1)  # 'the end' comes as a byte, or as the end of the line "itself"
"""
#: What a program writes last on its standard error that ends before it has reported.
LAST_WORDS = "No module named 'flux' (says the kit)"


@dataclass(frozen=True, slots=True)
class Report:
    """What a program that an executor started has said of itself."""

    claim: int
    #: On the machine where it runs.
    pid: int
    #: The arguments after the program.
    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]


class FakeEndpoint:
    """Makes assignments whose program reports here, and knows which of them run. For one thread; close it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="flux-"))
        self._listener, path = wire.listen(self._folder / "supervisor.sock")
        #: The file that names the socket, as a supervisor's does.
        self.address = str(self._folder / "endpoint")
        wire.write_file(self.address, path.encode())
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._received: dict[socket.socket, bytes] = {}
        #: What each program has said, in the order of their coming. One claim may be there twice.
        self.reports: list[Report] = []
        self._lines: dict[socket.socket, Report] = {}

    def assignment(self, *arguments: str, resources: Mapping[str, Any] | None = None) -> Assignment:
        """Return a new assignment, with its own claim; its program is given `arguments`."""
        return self._assignment((sys.executable, "-I", "-c", _PROGRAM, *arguments), resources)

    def broken(self) -> Assignment:
        """Return a new assignment whose program ends without a report, with exit status 1 and `LAST_WORDS`."""
        return self._assignment((sys.executable, "-I", "-c", f"import sys; sys.exit({LAST_WORDS!r})"), None)

    def _assignment(self, argv: tuple[str, ...], resources: Mapping[str, Any] | None) -> Assignment:
        claim = secrets.randbits(62) + 1
        return Assignment(
            claim=claim,
            dag_id="conformance",
            run_id="manual__1",
            task_id="subject",
            map_index=-1,
            attempt=1,
            resources=resources,
            argv=argv,
            env={"FLUX_CLAIM": process.claim_text(claim), "FLUX_ENDPOINT": self.address},
        )

    def running(self, claim: int) -> list[Report]:
        """Return the programs of a claim that run now."""
        self._look(0)
        return [report for report in self._lines.values() if report.claim == claim]

    def await_running(self, claim: int, seconds: float) -> Report | None:
        """Wait for a program of a claim to report; None: none has within so many seconds."""
        deadline = time.monotonic() + seconds
        while not (found := self.running(claim)):
            if time.monotonic() > deadline:
                return None
            self._look(_PAUSE)
        return found[0]

    def await_gone(self, claim: int, seconds: float) -> bool:
        """Wait until no program of a claim runs; False: one still does after so many seconds."""
        deadline = time.monotonic() + seconds
        while self.running(claim):
            if time.monotonic() > deadline:
                return False
            self._look(_PAUSE)
        return True

    def await_silence(self, seconds: float) -> None:
        """Take what comes for so many seconds."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._look(min(left, _PAUSE))

    def release(self, claim: int) -> None:
        """Let the programs of a claim end by themselves, with exit status 0."""
        for line, report in list(self._lines.items()):
            if report.claim == claim:
                line.sendall(b"e")

    def close(self) -> None:
        """End every program that still runs, on this machine by force, and take the socket away. Safe to repeat."""
        if not self._folder.exists():
            return
        self._look(0)
        for line, report in list(self._lines.items()):
            process.send(report.pid, signal.SIGKILL)
            line.close()
        for line in self._received:
            line.close()
        self._selector.close()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _look(self, seconds: float) -> None:
        """Take what there is; wait for the first at most so long."""
        while events := self._selector.select(seconds):
            seconds = 0
            for key, _ in events:
                if key.fileobj is self._listener:
                    line, _address = self._listener.accept()
                    line.setblocking(False)
                    self._received[line] = b""
                    self._selector.register(line, selectors.EVENT_READ)
                else:
                    self._hear(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered

    def _hear(self, line: socket.socket) -> None:
        try:
            data = line.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(line)
            self._received.pop(line, None)
            self._lines.pop(line, None)
            line.close()
            return
        self._received[line] += data
        if self._received[line].endswith(b"\n"):
            said = json.loads(self._received[line])
            report = Report(int(said["claim"]), said["pid"], tuple(said["argv"]), said["cwd"], said["env"])
            self.reports.append(report)
            self._lines[line] = report

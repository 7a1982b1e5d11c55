"""Who runs in one FLUX_HOME: the lock that admits one system, and the list of its components.

Standard library only. `run/up.pid` is locked by the hypervisor and holds its pid; `run/components.json` lists the
processes, for `flux status`, and for the next hypervisor when this one was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from flux import process
from flux.errors import AlreadyRunning


@dataclass(frozen=True, slots=True)
class Running:
    """One component's process."""

    kind: str
    pid: int
    #: When it started, in ticks since boot: with the pid this names one process.
    ticks: int | None
    #: starting, running or stopping.
    state: str
    #: ISO 8601, UTC.
    started_at: str

    @classmethod
    def now(cls, kind: str, pid: int, state: str, started_at: float) -> Running:
        """Describe a living process; `started_at` by `time.time()`."""
        started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(started_at))
        return cls(kind, pid, started_ticks(pid), state, started)

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return self.ticks is not None and started_ticks(self.pid) == self.ticks and process.is_alive(self.pid)


def lock(run_folder: Path) -> int:
    """Make this process the one system of its home until it ends; return the locked file.

    Raises:
        AlreadyRunning: another process is; names its pid.
    """
    handle = os.open(run_folder / "up.pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(handle, 32).decode().strip() or "unknown"
        os.close(handle)
        raise AlreadyRunning(f"Flux runs in {run_folder.parent} already (pid {pid}). Stop that one first.") from None
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    return handle


def publish(run_folder: Path, components: Iterable[Running]) -> None:
    """Write the list anew, whole.

    Raises:
        OSError: the disk is full or the folder gone.
    """
    part = run_folder / "components.part"
    part.write_text(json.dumps([asdict(component) for component in components], indent=1))
    part.replace(run_folder / "components.json")


def withdraw(run_folder: Path) -> None:
    """Remove the list: nothing runs any more."""
    (run_folder / "components.json").unlink(missing_ok=True)


def running(run_folder: Path) -> list[Running]:
    """Return the components whose processes are there, also those whose hypervisor is not."""
    try:
        rows = json.loads((run_folder / "components.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    return [component for component in (Running(**row) for row in rows) if component.is_alive]


def end_leftovers(run_folder: Path, patience: float) -> list[Running]:
    """End what a killed hypervisor left behind, the supervisor and with it the tasks first; return what there was.

    Args:
        patience: seconds each has to end by itself before it is killed with all below it. Blocks.
    """
    found = sorted(running(run_folder), key=lambda component: component.kind != "supervisor")
    for component in found:
        _end(component, patience)
    return found


def _end(component: Running, patience: float) -> None:
    try:
        handle = os.pidfd_open(component.pid)
    except ProcessLookupError:
        return
    try:
        if component.is_alive:
            process.send(component.pid, signal.SIGTERM)
            if not select.select([handle], [], [], patience)[0]:
                for pid in (*process.descendants(component.pid), component.pid):
                    process.send(pid, signal.SIGKILL)
                select.select([handle], [], [], patience)
    finally:
        os.close(handle)


def started_ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since boot (proc(5), field 22). None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[19])

"""What the processes of a Flux home, or of one command, have cost."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_TIMES = 10


def below(root: int) -> list[int]:
    """Return `root` and every process that descends from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU seconds that these processes and the children they have reaped have used, in kernel and user mode."""
    total = 0
    for pid in pids:
        fields = _stat(pid)
        total += sum(int(text) for text in fields[11:15])
    return total / _TICK


def split_seconds(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and those of the children that it has reaped. In ticks of 10 ms."""
    fields = _stat(pid)
    return sum(map(int, fields[11:13])) / _TICK, sum(map(int, fields[13:15])) / _TICK


def cpu_of(command: Sequence[str], environ: Mapping[str, str] | None = None) -> list[float]:
    """CPU milliseconds of each of several runs and the processes below; the first, which compiles, is left out.

    Args:
        environ: None: ours.
    """
    found = []
    for _ in range(_TIMES + 1):
        child = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise RuntimeError(f"{command} ended with {child.returncode}")
        found.append((used.ru_utime + used.ru_stime) * 1e3)
    return found[1:]


def own_seconds(pids: Iterable[int]) -> float:
    """CPU seconds of the threads that these processes have now: not in ticks of 10 ms, but without what has ended."""
    total = 0
    for pid in pids:
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(file.read_text().split()[0])
    return total / 1e9


def wake_ups(pids: Iterable[int]) -> int:
    """How often the threads that these processes have now have slept so far, which is how often they were woken."""
    total = 0
    for pid in pids:
        for file in Path(f"/proc/{pid}/task").glob("*/status"):
            lines = file.read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return total


def proportional_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes, each page counted in parts by those who share it (PSS)."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def machine_seconds() -> float:
    """CPU seconds that this machine has spent on anything since it started, all CPUs together."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICK  # idle, iowait


def own_tree_seconds() -> float:
    """CPU seconds of this process and of what it has started and waited for."""
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in used)


def is_there(pid: int) -> bool:
    """Say whether a process exists and is not a zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5), field 3); none when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    return text.rpartition(b")")[2].decode().split()

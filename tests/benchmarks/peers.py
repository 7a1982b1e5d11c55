"""Others on the same chain and the same fan, in their own environment: Luigi, and Huey with a fork for each task."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.benchmarks.dag_sources import Stamp, hops, rate, take
from tests.benchmarks.measure import Row

_HERE = Path(__file__).parent
_LENGTH = 100
_WIDTH = 400
_RUNS = 3


def rows(python: str) -> list[Row]:
    """Measure both by the interpreter that has them installed."""
    return _peer(python, "Luigi", "peer_luigi.py") + _peer(python, "Huey on SQLite + fork", "peer_huey.py")


def _peer(python: str, name: str, script: str) -> list[Row]:
    chain = [_once(python, script, "chain", _LENGTH) for _ in range(_RUNS)]
    fan = [_once(python, script, "fan", _WIDTH) for _ in range(_RUNS)]
    found = [seconds * 1e3 for stamps, _, _ in chain for seconds in hops(stamps)]
    rates = [rate(stamps, asked) for stamps, _, asked in fan]
    cpu = sum(spent for _, spent, _ in fan)
    tasks = sum(len(stamps) for stamps, _, _ in fan)
    return [
        Row(f"{name}: hop", "ms", found, sum(spent for _, spent, _ in chain)),
        Row(f"{name}: no-op tasks, 1 to {_WIDTH} to 1", "/s", rates, cpu),
        Row(f"{name}:   CPU a task", "ms", [cpu / tasks * 1e3], cpu),
    ]


def _once(python: str, script: str, shape: str, size: int) -> tuple[list[Stamp], float, int]:
    """What the tasks wrote, the CPU seconds of everything, and when the tasks were asked for."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-peer-") as folder:
        done = subprocess.run(
            [python, _HERE / script, shape, str(size), folder],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=180,
            cwd=folder,
        )
        stamps = take(Path(folder) / "stamps")
    expected = size if shape == "chain" else size + 2
    if len(stamps) != expected:
        raise RuntimeError(f"{script}: {len(stamps)} of {expected} tasks ran")
    cpu, asked = done.stdout.split()[-2:]
    return stamps, float(cpu), int(asked)

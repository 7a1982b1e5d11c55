"""How soon deaths are noticed and mended, and how soon Ctrl-C is over."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import dag_sources, processes
from tests.benchmarks.measure import Row
from tests.benchmarks.system import System
from tests.waiting import until

if TYPE_CHECKING:
    from flux.store.runs import DagRun

_DEATHS = 5
_STOPS = 3


def rows() -> list[Row]:
    """Measure them all."""
    noticed: list[float] = []
    adopted: list[float] = []
    durable: list[float] = []
    gone: list[float] = []
    for number in range(_STOPS):
        with System() as system:
            pids = system.home / "pids"
            system.up()
            system.dag("sleeper.py", dag_sources.sleeper("sleeper", pids))
            if number == 0:
                noticed += [_task_death(system, pids) for _ in range(_DEATHS)]
            run = _start(system, pids)[0]
            adopted.append(_supervisor_death(system, run))
            at_once, later = _stop(system, run)
            durable.append(at_once)
            gone.append(later)
    return [
        Row("task death noticed", "ms", noticed, None, 50),
        Row("supervisor restarted, tasks adopted", "ms", adopted, None, 1000),
        Row("Ctrl-C: failure of what ran is durable", "ms", durable, None, 100),
        Row("Ctrl-C: all processes gone", "ms", gone, None, 6000),
    ]


def _start(system: System, pids: Path) -> tuple[DagRun, int]:
    """Start the task that waits; return its run and its process."""
    pids.unlink(missing_ok=True)
    run = system.trigger("sleeper")
    until(lambda: pids.exists() and pids.read_text().endswith("\n"), 10, "the task's pid")
    return run, int(pids.read_text())


def _state(system: System, run: DagRun) -> str:
    from flux.store import listing

    return system.flux.store.read(lambda connection: listing.task_instances(connection, run.id)[0].state)


def _until_state(system: System, run: DagRun, state: str) -> float:
    """Milliseconds until the store says so."""
    began = time.monotonic()
    while _state(system, run) != state:
        if time.monotonic() - began > 20:
            raise RuntimeError(f"the task of {run.run_id} is {_state(system, run)}, not {state}")
        time.sleep(0.001)
    return (time.monotonic() - began) * 1e3


def _task_death(system: System, pids: Path) -> float:
    run, pid = _start(system, pids)
    _until_state(system, run, "started")
    os.kill(pid, signal.SIGKILL)
    return _until_state(system, run, "failed")


def _supervisor_death(system: System, run: DagRun) -> float:
    """From the kill to the moment the next supervisor has taken over; the task goes on."""
    from flux.store import jobs

    def next_one() -> bool:
        found = system.flux.store.read(lambda connection: jobs.running(connection, ["supervisor"]))
        return any(job.pid != killed and job.state == "running" for job in found)

    killed = system.pid_of("supervisor")
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    until(next_one, 20, "the next supervisor")
    took = (time.monotonic() - began) * 1e3
    if _state(system, run) != "started":
        raise RuntimeError("the task was not adopted")
    return took


def _stop(system: System, run: DagRun) -> tuple[float, float]:
    """From Ctrl-C to the failure in the store, and to the end of the last process."""
    pids = system.pids()
    began = time.monotonic()
    os.kill(system.pid, signal.SIGINT)
    durable = _until_state(system, run, "failed")
    until(lambda: not any(map(processes.is_there, pids)), 20, "the end of every process")
    return durable, (time.monotonic() - began) * 1e3

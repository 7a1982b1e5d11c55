"""What a folder of DAG files costs: read in, lying there, new and changed."""

from __future__ import annotations

import time

from tests.benchmarks import dag_sources, processes
from tests.benchmarks.measure import Row
from tests.benchmarks.system import System
from tests.waiting import until

_IDLE_SECONDS = 20.0
#: A DAG host ends after this time without work; the default is 300, which nobody wants to wait for here.
_HOSTS_STAY = 10.0
#: Hypervisor, supervisor, launcher.
_COMPONENTS = 3
_EDITS = 10


def rows(files: int) -> list[Row]:
    """Measure a system with `files` DAG files that has nothing to do."""
    with System({"FLUX_DAG_HOST_IDLE_SECONDS": str(_HOSTS_STAY)}) as system:
        for number in range(files):
            system.write(f"d{number:03}.py", dag_sources.noop(f"d{number:03}", number, schedule="0 3 * * *"))
        began = time.monotonic()
        system.up()
        read_in = time.monotonic() - began
        start = Row(f"start with {files} new DAG files, all read", "s", [read_in], system.cpu())
        held = processes.proportional_bytes(system.pids()) / 1e6
        until(lambda: len(system.pids()) <= _COMPONENTS, 60, "the end of the DAG hosts that the reading left")
        system.settle(2.0)
        pids = system.pids()
        before, woken, began = processes.own_seconds(pids), processes.wake_ups(pids), time.monotonic()
        system.settle(_IDLE_SECONDS)
        cpu, took = processes.own_seconds(pids) - before, time.monotonic() - began
        woken = processes.wake_ups(pids) - woken
        memory = processes.proportional_bytes(pids) / 1e6
        return [
            start,
            Row("  memory of all processes right after that (PSS)", "MB", [held]),
            Row(f"idle, {files} DAG files: CPU", "%", [cpu / took * 100], cpu, 0.5, 0.1),
            Row("  wake-ups of all threads", "1/s", [woken / took]),
            Row(f"idle, {files} DAG files: memory of all processes (PSS)", "MB", [memory], None, 150, 80),
            *_edits(system),
        ]


def _edits(system: System) -> list[Row]:
    """From the rename that puts a file there to the store's having its version."""
    from flux.errors import NotFound
    from flux.store import dags

    def version() -> int | None:
        try:
            return system.flux.store.read(lambda connection: dags.by_id(connection, "edited").dag_version_id)
        except NotFound:
            return None

    found: dict[str, list[float]] = {"new": [], "changed": []}
    before = system.cpu()
    for number in range(_EDITS):
        for what in ("new", "changed"):
            known = version()
            began = time.monotonic()
            system.write("edited.py", dag_sources.noop("edited", number * 2 + (what == "changed")))
            until(lambda known=known: version() not in (None, known), 30, "the new version")  # type: ignore[misc]
            found[what].append(time.monotonic() - began)
    cpu = system.cpu() - before
    return [Row("changed DAG file can be triggered", "s", found["new"][1:] + found["changed"], cpu, 2, 1)]

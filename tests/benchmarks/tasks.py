"""What it takes to run tasks: from one to the next, many at once, the first, and beside ten thousand others."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tests.benchmarks import dag_sources
from tests.benchmarks.dag_sources import Stamp, hops, rate, take
from tests.benchmarks.measure import Row, percentile
from tests.benchmarks.system import System

_LENGTH = 100
_RUNS = 3
_CHAINS, _CHAIN_LENGTH = 40, 10
_WIDTH = 400
_TRIGGERS = 30
_LARGE = 1000
#: The part of the hops that whatever else the machine does leaves alone, by which two sets are compared.
_UNDISTURBED = 0.1


class Bench:
    """A system with the DAGs of these benchmarks, warmed up.

    Args:
        store: what the rows' names say of the database.
        environ: the variables that choose it.
    """

    def __init__(self, store: str, environ: Mapping[str, str]) -> None:
        self.store = store
        self.system = System(environ)

    def __enter__(self) -> Bench:
        self.system.__enter__()
        stamps = self.stamps = self.system.home / "stamps"
        try:
            self.system.up()
            self.system.write("chain.py", dag_sources.chains("chain", stamps, 1, _LENGTH))
            self.system.write("chains.py", dag_sources.chains("chains", stamps, _CHAINS, _CHAIN_LENGTH))
            self.system.dag("fan.py", dag_sources.fan("fan", stamps, _WIDTH))
            self.run("chain")
        except BaseException as error:
            self.system.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, *details: object) -> None:
        self.system.__exit__(*details)  # type: ignore[arg-type]

    def run(self, dag_id: str) -> list[Stamp]:
        """Run a DAG once and return what its tasks wrote."""
        self.system.run(dag_id)
        return take(self.stamps)

    def chain_hops(self) -> tuple[list[float], float]:
        """Milliseconds of the hops of several runs of a chain, and the CPU seconds they took."""
        before = self.system.cpu()
        found = [seconds * 1e3 for _ in range(_RUNS) for seconds in hops(self.run("chain"))]
        self.system.settle()
        return found, self.system.cpu() - before

    def hop(self, *, must: float | None, aim: float | None, durable: bool = True) -> list[Row]:
        """From the end of a task to the first line of the one below it."""
        found, cpu = self.chain_hops()
        p99 = (40.0, 15.0) if durable and "SQLite" in self.store else (None, None)
        return [
            Row(f"hop, forked, {self.store}", "ms", found, cpu, must, aim, *p99),
            Row(f"  CPU a task of the chain, {self.store}", "ms", [cpu / _RUNS / _LENGTH * 1e3], cpu, 15, 4),
        ]

    def throughput(self, dag_id: str, what: str) -> list[Row]:
        """Tasks that do nothing, a second, from the call that makes their run to the last one's end."""
        self.run(dag_id)
        before = self.system.cpu()
        rates, tasks = [], 0
        for _ in range(_RUNS):
            asked = time.monotonic_ns()
            found = self.run(dag_id)
            rates.append(rate(found, asked))
            tasks += len(found)
        self.system.settle()
        cpu = self.system.cpu() - before
        return [
            Row(f"no-op tasks, {what}, {self.store}", "/s", rates, cpu, 150, 450),
            Row(f"  CPU a task, {what}, {self.store}", "ms", [cpu / tasks * 1e3], cpu, 15, 4),
        ]

    def many(self) -> list[Row]:
        """Both shapes of many tasks."""
        chains = self.throughput("chains", f"{_CHAINS} chains of {_CHAIN_LENGTH}")
        return chains + self.throughput("fan", f"1 to {_WIDTH} to 1")

    def first_line(self) -> Row:
        """From the call that makes a run to the first line of its first task."""
        self.system.dag("one.py", dag_sources.chains("one", self.stamps, 1, 1))
        self.run("one")
        before = self.system.cpu()
        found = []
        for _ in range(_TRIGGERS):
            began = time.monotonic_ns()
            found.append((self.run("one")[0].began - began) / 1e6)
        return Row(f"trigger to first line, {self.store}", "ms", found, self.system.cpu() - before, 30, 10)

    def beside_many(self) -> list[Row]:
        """Make runs of 1,000 tasks that cannot start: how long that takes, and what the chain notices of them."""
        from flux.running import actions

        before, _ = self.chain_hops()
        self.system.write("roots.py", dag_sources.chains("roots", self.stamps, _LARGE, 1))
        self.system.dag("line.py", dag_sources.chains("line", self.stamps, 1, _LARGE))
        cpu = self.system.cpu()
        seconds = []
        for dag_id in ("roots", "line"):
            actions.pause(self.system.flux, dag_id, who="bench")
            for _ in range(5):
                began = time.perf_counter()
                self.system.trigger(dag_id)
                seconds.append((time.perf_counter() - began) * 1e3)
                self.system.settle(0.05)
        made = Row(f"create a run of 1,000 tasks, {self.store}", "ms", seconds, self.system.cpu() - cpu, 150, 60)
        self.system.settle(1.0)
        after, spent = self.chain_hops()
        change = (percentile(after, _UNDISTURBED) / percentile(before, _UNDISTURBED) - 1) * 100
        return [
            made,
            Row(
                f"  hop with 10,000 blocked and waiting rows added, {self.store}",
                "ms",
                after,
                spent,
            ),
            Row(f"  change of the hop (10th percentile), {self.store}", "%", [change], None, 10, 0),
        ]


def waiting_sensors(number: int, *, seconds: float = 12.0) -> list[Row]:
    """Sensors that wait, poked as often as 10,000 of them each 60 s are: CPU of one core, and slots in use."""
    import sqlalchemy as sa

    from flux.store.schema import task_instance

    interval = max(60.0 * number / 10_000, 1.0)
    with System() as system:
        system.up()
        system.dag("sensors.py", dag_sources.sensors("sensors", number, interval))
        system.trigger("sensors")
        system.settle(interval + 1.0)
        before, began = system.cpu(), time.monotonic()
        system.settle(max(seconds, interval))
        cpu, took = system.cpu() - before, time.monotonic() - began
        held = system.flux.store.read(
            lambda connection: connection.scalar(
                sa.select(sa.func.count()).where(task_instance.c.state == "started", task_instance.c.needs_slot)
            )
        )
        deferred = system.flux.store.read(
            lambda connection: connection.scalar(sa.select(sa.func.count()).where(task_instance.c.state == "deferred"))
        )
    if deferred != number:
        raise RuntimeError(f"{deferred} of {number} sensors wait")
    name = f"{number:,} sensors poked each {interval:g} s"
    return [
        Row(f"{name}: of one core", "%", [cpu / took * 100], cpu, 60, 10),
        Row(f"{name}: slots", "", [float(held or 0)], None, 0, 0),
    ]

"""The parts of a supervisor without the processes around them: a home, a loop, a launcher that the test plays."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from flux import config, wire
from flux.app import Flux
from flux.loop import Loop
from flux.running.launcher_client import LauncherClient
from flux.running.writer import Writer
from flux.schedule import DataInterval
from flux.states import RunKind
from flux.store import dags, runs
from flux.store.advance import Outcomes
from flux.store.attempts import Claimed, End, Holder
from flux.store.dags import Dag, DagVersion, Reading
from flux.store.runs import DagRun
from flux.store.schema import attempt, dag_run, task_instance
from flux.store.structures import StructureCache
from flux.structure import DagStructure, TaskStructure
from flux.wire import Wire

T = TypeVar("T")

NOW = datetime(2026, 1, 5, 2, tzinfo=UTC)


class HandClock:
    """A wall clock that a test sets."""

    def __init__(self, now: datetime = NOW) -> None:
        self.instant = now

    def now(self) -> datetime:
        return self.instant

    def monotonic(self) -> float:
        return time.monotonic()

    def pass_time(self, **duration: float) -> None:
        self.instant += timedelta(**duration)


class Parts:
    """A home on SQLite and the loop in which a test runs one part or another.

    What happens in the database thread or on a socket takes effect while `until` runs the loop.
    """

    def __init__(self, home: Path, clock: HandClock | None = None, **options: str) -> None:
        environ = {"FLUX_DURABILITY": "fast", **{f"FLUX_{name.upper()}": value for name, value in options.items()}}
        self.flux = Flux.open(config.load(environ, home=home), create=True)
        self.config = self.flux.config
        self.loop = Loop()
        self.clock = clock or HandClock()
        self.structures = StructureCache()
        #: What each advance of `writer` did, and the ends that were in it.
        self.outcomes: list[tuple[Outcomes, Sequence[End]]] = []
        self.has_space = True
        self._closing: list[Callable[[], object]] = []

    def close(self) -> None:
        for close in reversed(self._closing):
            close()
        self.loop.close()
        self.flux.close()

    def at_close(self, close: Callable[[], object]) -> None:
        self._closing.append(close)

    def until(self, predicate: Callable[[], T], seconds: float = 10, what: str = "") -> T:
        """Run the loop until the predicate is true, and return what it gave."""
        deadline = time.monotonic() + seconds
        value: Any = predicate()

        def look() -> None:
            nonlocal value
            value = predicate()
            if value or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_later(0.003, look)

        if not value:
            self.loop.call_later(0.0, look)
            self.loop.run()
        assert value, f"Waited {seconds:g} s for {what or 'the condition'}; last value: {value!r}"
        return value  # type: ignore[no-any-return]

    def writer(
        self,
        parallelism: int = 4,
        on_outcomes: Callable[[Outcomes, Sequence[End]], object] | None = None,
        *,
        claims: bool = True,
        starts: bool = True,
    ) -> Writer:
        """Return a database thread that collects `outcomes`; it claims unless told not to."""

        def collect(outcomes: Outcomes, ends: Sequence[End]) -> None:
            self.outcomes.append((outcomes, ends))
            if on_outcomes is not None:
                on_outcomes(outcomes, ends)

        writer = Writer(
            self.flux.store,
            self.loop,
            self.clock,
            self.structures,
            parallelism=parallelism,
            has_space=lambda: self.has_space,
            on_outcomes=collect,
        )
        if starts:
            writer.start()
            self.at_close(lambda: writer.stop(10))
        if claims:
            writer.begin_claiming(Holder(self.job, "launcher-1", "here"), [])
        return writer

    def after(self, writer: Writer) -> None:
        """Wait until what was given to the writer so far is done and its callbacks were called."""
        done: list[object] = []
        for _ in range(2):  # a call of the same batch comes before the advance
            done.clear()
            writer.call(lambda _: None, done.append, reads_only=True)
            self.until(lambda: done, what="the database thread")

    @property
    def claimed(self) -> list[Claimed]:
        """Everything that was claimed so far, oldest first."""
        return [item for outcomes, _ in self.outcomes for item in outcomes.claimed]

    @property
    def ended(self) -> list[End]:
        """Every end that was committed so far."""
        return [end for _, ends in self.outcomes for end in ends]

    # --- the store -------------------------------------------------------------------------------------------------

    @property
    def job(self) -> int:
        from flux.store import jobs

        return self.write(lambda connection: jobs.register(connection, "supervisor", "here", None, 1, NOW))

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        return self.flux.store.read(work)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return self.flux.store.write(work)

    def define(self, dag_id: str = "sales", tasks: int | Sequence[Mapping[str, Any]] = 1, **fields: Any) -> DagVersion:
        """Register a DAG as if its file had been read: so many tasks side by side, or tasks with these fields."""
        given = [{} for _ in range(tasks)] if isinstance(tasks, int) else tasks
        records = tuple(
            TaskStructure(index, **{"task_id": f"t{index}", "operator": "PythonOperator", "module": "flux", **values})
            for index, values in enumerate(given)
        )
        structure = DagStructure(dag_id, f"{dag_id}.py", 1, records, **fields)
        source = structure.to_json().encode()
        sha = hashlib.sha256(source).hexdigest()
        reading = Reading(sha, [structure.to_json()], {structure.file: sha}, {sha: source})
        registered = self.write(lambda connection: dags.register(connection, structure.file, reading, NOW))
        return self.read(lambda connection: dags.version(connection, registered[0].version_id))

    def dag(self, dag_id: str = "sales") -> Dag:
        return self.read(lambda connection: dags.by_id(connection, dag_id))

    def trigger(self, version: DagVersion, at: datetime = NOW, **fields: Any) -> DagRun:
        """Make a run by hand."""

        def work(connection: sa.Connection) -> DagRun:
            dag = dags.by_row(connection, version.dag_row)
            interval = DataInterval(at, at)
            return runs.create(
                connection, dag=dag, version=version, kind=RunKind.MANUAL, interval=interval, now=at, **fields
            )

        return self.write(work)

    def runs(self, dag_id: str = "sales") -> list[sa.Row[Any]]:
        """The rows of a DAG's runs, by logical date."""
        row = self.dag(dag_id).id
        query = sa.select(dag_run).where(dag_run.c.dag_row == row).order_by(dag_run.c.logical_date, dag_run.c.id)
        return list(self.read(lambda connection: connection.execute(query).all()))

    def states(self) -> dict[str, str]:
        """State of each task instance, by task_id; of the newest run that has it."""
        query = sa.select(task_instance.c.task_id, task_instance.c.state).order_by(task_instance.c.id)
        return {row.task_id: row.state for row in self.read(lambda connection: connection.execute(query).all())}

    def attempts(self) -> list[sa.Row[Any]]:
        """The rows of all attempts, by task instance and number."""
        query = sa.select(attempt).order_by(attempt.c.task_instance_id, attempt.c.attempt)
        return list(self.read(lambda connection: connection.execute(query).all()))


class PlayedLauncher:
    """The launcher's side of its socket, played by the test: keeps the orders and sends what it is told to."""

    def __init__(self, parts: Parts, launcher: str = "launcher-1") -> None:
        self._parts = parts
        self.id = launcher
        self.orders: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self._wire: Wire | None = None
        self._socket, _ = wire.listen(parts.config.run_folder / "launcher.sock")
        parts.loop.add_reader(self._socket.fileno(), self._accept)
        self.client = LauncherClient(
            parts.loop, parts.config.run_folder / "launcher.sock", lambda _, message: self.told.append(message)
        )
        parts.until(lambda: self.orders)
        parts.at_close(self.close)

    def close(self) -> None:
        self.client.close()
        if self._wire is not None:
            self._wire.close()
        self._parts.loop.remove(self._socket.fileno())
        self._socket.close()

    def _accept(self) -> None:
        sock, _ = self._socket.accept()
        self._wire = Wire(sock, self._parts.loop, self.orders.append, lambda: None)

    def ordered(self, op: str) -> list[dict[str, Any]]:
        """The orders of one kind so far, oldest first."""
        return [order for order in self.orders if order["op"] == op]

    def await_order(self, op: str, count: int = 1) -> dict[str, Any]:
        """Wait until there are so many orders of a kind, and return the newest."""
        self._parts.until(lambda: len(self.ordered(op)) >= count, what=f"{count} orders to {op}")
        return self.ordered(op)[-1]

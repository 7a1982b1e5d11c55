"""The store engine in tests: names instead of row numbers, a clock by hand, and the invariants of engine.md 5."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from flux.schedule import DataInterval
from flux.states import Outcome, RunKind, RunState, State
from flux.store import dags, runs
from flux.store.advance import Advance, Outcomes
from flux.store.attempts import Claimed, End, Holder
from flux.store.dags import DagVersion
from flux.store.engine import Store
from flux.store.runs import DagRun
from flux.store.schema import attempt, dag, dag_run, pool, task_instance, task_limit
from flux.store.structures import StructureCache
from flux.structure import DagStructure
from flux.trigger_rules import Verdict, verdict
from tests.waiting import until

NOW = datetime(2026, 1, 5, 2, tzinfo=UTC)
#: Executor slots of a test that does not care.
MANY = 10_000
Key = tuple[str, str]


class Engine:
    """What a supervisor does with its store, one transaction at a time.

    Args:
        register: registers a structure and returns its version; `make_version` of the store's conftest.
    """

    def __init__(self, store: Store, register: Callable[..., DagVersion]) -> None:
        self.store = store
        self.now = NOW
        self.structures = StructureCache()
        self.holder = Holder(1, "a" * 32, "here")
        #: Open attempts by (run_id, task_id); the latest ones of a name.
        self.open: dict[Key, Claimed] = {}
        self._register = register

    # --- making things ---------------------------------------------------------------------------------------------

    def dag(self, tasks: Mapping[str, Mapping[str, Any]] | None = None, **fields: Any) -> DagVersion:
        """Register a DAG of these tasks; in a further call with the same dag_id, a new version of it."""
        return self.store.write(lambda connection: self._register(connection, tasks, **fields))

    def run(self, version: DagVersion, day: int = 1, *, kind: RunKind = RunKind.SCHEDULED, **fields: Any) -> DagRun:
        """Make the run of that day of January 2026."""
        start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day - 1)
        interval = DataInterval(start, start + timedelta(days=1))

        def work(connection: sa.Connection) -> DagRun:
            record = dags.by_row(connection, version.dag_row)
            return runs.create(
                connection, dag=record, version=version, kind=kind, interval=interval, now=self.now, **fields
            )

        return self.store.write(work)

    # --- moving them -----------------------------------------------------------------------------------------------

    def advance(self, work: Callable[[Advance], object] = lambda _: None, *, room: int | None = MANY) -> Outcomes:
        """Run one transaction: `work`, then claim `room` (None: claim nothing)."""

        def transaction(connection: sa.Connection) -> Outcomes:
            advance = Advance(connection, self.structures.through(connection), self.now, self.holder)
            work(advance)
            if room is not None:
                advance.look()
                advance.claim(room)
            advance.write()
            return advance.outcomes

        outcomes = self.store.write(transaction)
        self.open.update(((item.run.run_id, item.task.task_id), item) for item in outcomes.claimed)
        return outcomes

    def claim(self, room: int = MANY) -> list[str]:
        """Claim what may run, and return the task_ids in the order they were taken."""
        return [item.task.task_id for item in self.advance(room=room).claimed]

    def end(
        self, task_id: str, outcome: Outcome = Outcome.SUCCESS, *, run: DagRun | None = None, room: int | None = MANY,
        **fields: Any,
    ) -> Outcomes:  # fmt: skip
        """End the open attempt of a task, and claim what may run then."""
        key = next(key for key in self.open if key[1] == task_id and (run is None or key[0] == run.run_id))
        return self.finish([(key, outcome)], room=room, **fields)

    def finish(self, ends: Iterable[tuple[Key, Outcome]], *, room: int | None = MANY, **fields: Any) -> Outcomes:
        """End several open attempts in one transaction."""
        made = [self.end_of(self.open.pop(key), outcome, **fields) for key, outcome in ends]
        return self.advance(lambda advance: advance.finish(made), room=room)

    def end_of(self, claimed: Claimed, outcome: Outcome, **fields: Any) -> End:
        reason = None if outcome is Outcome.SUCCESS else f"{outcome} by the test"
        return End(claimed.claim, outcome, reason, self.now, **fields)

    def wake(self, room: int | None = MANY) -> Outcomes:
        """Let the time of every retrying task instance come."""
        due = self.select(sa.select(task_instance.c.id).where(task_instance.c.state == State.RETRYING))
        return self.advance(lambda advance: advance.wake([row.id for row in due]), room=room)

    def release(self, *keys: str, room: int | None = MANY) -> Outcomes:
        return self.advance(lambda advance: advance.release(keys), room=room)

    def drain(self, outcome: Callable[[Key], Outcome] = lambda _: Outcome.SUCCESS) -> None:
        """End whatever is open, again and again, until nothing is."""
        while True:
            self.wake()
            is_over = not self.advance().more and not self.open
            if is_over:
                return
            self.finish([(key, outcome(key)) for key in list(self.open)])

    # --- looking ---------------------------------------------------------------------------------------------------

    def select(self, statement: sa.Select[Any]) -> Sequence[Any]:
        return self.store.read(lambda connection: connection.execute(statement).all())

    def rows(self, run: DagRun) -> dict[str, Any]:
        """Return the task instances of a run by task_id."""
        found = self.select(sa.select(task_instance).where(task_instance.c.dag_run_id == run.id))
        return {row.task_id: row for row in found}

    def states(self, run: DagRun) -> dict[str, str]:
        return {task_id: row.state for task_id, row in self.rows(run).items()}

    def attempts(self, run: DagRun, task_id: str) -> Sequence[Any]:
        row = self.rows(run)[task_id]
        return self.select(sa.select(attempt).where(attempt.c.task_instance_id == row.id).order_by(attempt.c.attempt))

    def run_row(self, run: DagRun) -> Any:
        return self.select(sa.select(dag_run).where(dag_run.c.id == run.id))[0]

    def dag_row(self, version: DagVersion) -> Any:
        return self.select(sa.select(dag).where(dag.c.id == version.dag_row))[0]

    def pool(self, name: str) -> Any:
        return self.select(sa.select(pool).where(pool.c.name == name))[0]

    def sql(self, statement: sa.Update | sa.Insert | sa.Delete) -> None:
        """Change the database past the engine, to make a situation or damage."""
        self.store.write(lambda connection: connection.execute(statement))

    def broken(self) -> list[str]:
        """Return which invariants do not hold, in words."""
        return self.store.read(lambda connection: broken(connection, self.structures.through(connection)))

    def assert_sound(self) -> None:
        found = self.broken()
        assert not found, "\n".join(found)


def broken(connection: sa.Connection, structure_of: Callable[[int], DagStructure]) -> list[str]:
    """Compute from the rows alone what the counters should say, and return every difference."""
    all_runs = {row.id: row for row in connection.execute(sa.select(dag_run))}
    rows = connection.execute(sa.select(task_instance)).all()
    by_run: dict[int, dict[int, Any]] = {number: {} for number in all_runs}
    for row in rows:
        by_run[row.dag_run_id][row.task_index] = row
    found: list[str] = []
    for number, run in all_runs.items():
        found += _broken_run(run, by_run[number], structure_of(run.dag_version_id))
    found += _broken_attempts(rows, connection.execute(sa.select(attempt)).all())
    found += _broken_limits(connection, all_runs, rows)
    return found


def _broken_run(run: Any, rows: Mapping[int, Any], structure: DagStructure) -> list[str]:
    found = []
    still_open = sum(not State(row.state).is_terminal for row in rows.values())
    if run.open_tasks != still_open:
        found.append(f"run {run.run_id}: open_tasks {run.open_tasks}, {still_open} are open")
    if (run.state == RunState.RUNNING) != (still_open > 0):
        found.append(f"run {run.run_id} is {run.state} with {still_open} open task instances")
    if run.state == RunState.QUEUED and rows:
        found.append(f"run {run.run_id} is queued and has task instances")
    if RunState(run.state).is_terminal and run.reason is None:
        alive = {index: row for index, row in rows.items() if row.state != State.REMOVED}
        leaves = [row for index, row in alive.items() if not set(structure.tasks[index].downstream) & set(alive)]
        bad = any(row.state in (State.FAILED, State.UPSTREAM_FAILED) for row in leaves)
        if bad != (run.state == RunState.FAILED):
            found.append(f"run {run.run_id} is {run.state}, its leaves {[row.state for row in leaves]}")
    gates = {index: [task.index for task in structure.tasks if index in task.gates] for index in rows}
    for index, row in rows.items():
        task = structure.tasks[index]
        above = Counter(rows[up].state for up in task.upstream if up in rows and rows[up].state != State.REMOVED)
        ended = [rows[gate] for gate in gates[index] if gate in rows and State(rows[gate].state).is_terminal]
        expected = {
            "upstream_total": above.total(),
            "upstream_ok": above[State.SUCCESS],
            "upstream_bad": above[State.FAILED] + above[State.UPSTREAM_FAILED],
            "upstream_skipped": above[State.SKIPPED],
            "gates_open": sum(gate in rows for gate in gates[index]) - len(ended),
            "gates_closed": sum(index in json.loads(gate.closes or "[]") for gate in ended),
        }
        for name, value in expected.items():
            if getattr(row, name) != value:
                found.append(f"{run.run_id}.{row.task_id}: {name} is {getattr(row, name)}, must be {value}")
        if row.state == State.WAITING:
            said = verdict(
                task.trigger_rule, total=row.upstream_total, ok=row.upstream_ok, bad=row.upstream_bad,
                skipped=row.upstream_skipped, gates_open=row.gates_open, gates_closed=row.gates_closed,
            )  # fmt: skip
            if said is not Verdict.WAIT:
                found.append(f"{run.run_id}.{row.task_id} waits, its verdict is {said}")
    return found


def _broken_attempts(rows: Sequence[Any], attempts: Sequence[Any]) -> list[str]:
    found = []
    of_row: dict[int, list[Any]] = {}
    for one in attempts:
        of_row.setdefault(one.task_instance_id, []).append(one)
    for row in rows:
        own = sorted(of_row.get(row.id, ()), key=lambda one: one.attempt)
        is_open = [one.claim for one in own if one.outcome is None]
        held = State(row.state).is_held
        if held != (row.claim is not None) or held != (row.holds == 1) or is_open != ([row.claim] if held else []):
            found.append(f"{row.task_id} is {row.state}, claim {row.claim}, holds {row.holds}, open attempts {is_open}")
        if [one.attempt for one in own] != list(range(1, row.attempt + 1)):
            found.append(f"{row.task_id}: attempt {row.attempt}, its attempts {[one.attempt for one in own]}")
        won = sum(one.outcome == Outcome.SUCCESS for one in own)
        if own and row.state != State.REMOVED and won != (row.state == State.SUCCESS):
            found.append(f"{row.task_id} is {row.state}, {won} of its attempts won")
        if row.blocked_on and row.state != State.READY:
            found.append(f"{row.task_id} is {row.state} and blocked on {row.blocked_on}")
    return found


def _broken_limits(connection: sa.Connection, all_runs: Mapping[int, Any], rows: Sequence[Any]) -> list[str]:
    found = []
    keys = {row.id: _keys(row, all_runs[row.dag_run_id]) for row in rows}
    used: Counter[str] = Counter()
    for row in rows:
        if State(row.state).is_held:
            used.update(keys[row.id])
    dag_rows = {row.id: row for row in connection.execute(sa.select(dag))}
    limits = {f"dag:{row.id}": (row.max_active_tasks, row.active_tasks) for row in dag_rows.values()}
    limits |= {f"pool:{row.id}": (row.slots, row.used) for row in connection.execute(sa.select(pool))}
    limits |= {f"task:{row.id}": (row.slots, row.used) for row in connection.execute(sa.select(task_limit))}
    found += [f"{key}: used {use}, must be {used[key]}" for key, (_, use) in limits.items() if use != used[key]]
    for row in dag_rows.values():
        of_dag = Counter(run.state for run in all_runs.values() if run.dag_row == row.id)
        if row.active_runs != of_dag[RunState.RUNNING]:
            found.append(f"dag {row.dag_id}: active_runs {row.active_runs}, {of_dag[RunState.RUNNING]} are running")
        if of_dag[RunState.QUEUED] and row.active_runs < row.max_active_runs:
            found.append(f"dag {row.dag_id} has queued runs and {row.active_runs} of {row.max_active_runs} running")
    unasked = {key for row in rows if row.state == State.READY and not row.blocked_on for key in keys[row.id]}
    by_id = {row.id: row for row in rows}
    for row in rows:
        if not row.blocked_on:
            continue
        kind, _, text = row.blocked_on.partition(":")
        number = int(text)
        if kind == "paused":
            unmet = dag_rows[number].paused
        elif kind == "past":
            unmet = number in by_id and by_id[number].state not in (State.SUCCESS, State.SKIPPED, State.REMOVED)
        else:
            slots, use = limits[row.blocked_on]
            wants = use + keys[row.id].get(row.blocked_on, 0)
            has_room = kind == "dag" if slots is None else wants <= slots
            unmet = row.blocked_on in keys[row.id] and (not has_room or row.blocked_on in unasked)
        if not unmet:
            found.append(f"{row.task_id} is blocked on {row.blocked_on}, which holds nobody back")
    return found


def _keys(row: Any, run: Any) -> dict[str, int]:
    """The limits a task instance counts against, and how much of each it takes."""
    keys = {f"dag:{run.dag_row}": 1} if row.needs_slot else {}
    if row.task_limit_id is not None:
        keys[f"task:{row.task_limit_id}"] = 1
    if row.pool_id is not None:
        keys[f"pool:{row.pool_id}"] = row.pool_slots
    return keys


def interleave(store: Store, first: Callable[[sa.Connection], object], second: Callable[[], object]) -> None:
    """Run `second` in another thread after `first` has done its work and before it commits.

    `first` commits when `second` is done or waits for a lock that `first` holds; SQLite has one writer, so that there
    `second` begins after the commit. Both must end well.
    """
    with ThreadPoolExecutor(1) as pool:
        futures: list[Future[object]] = []

        def work(connection: sa.Connection) -> None:
            first(connection)
            if not futures:
                futures.append(pool.submit(second))
            if store.dialect != "sqlite":
                until(lambda: futures[0].done() or store.read(_somebody_waits), what="the other to end or to wait")

        store.write(work)
        futures[0].result(timeout=30)


def _somebody_waits(connection: sa.Connection) -> bool:
    if connection.dialect.name == "postgresql":
        of_database = "datname = current_database() AND wait_event_type = 'Lock'"
        waiting = connection.exec_driver_sql(f"SELECT count(*) FROM pg_stat_activity WHERE {of_database}").scalar_one()
    else:  # its list of transactions is not made anew while it is asked for all the time
        waiting = connection.exec_driver_sql("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'").one()[1]
    return int(waiting) > 0

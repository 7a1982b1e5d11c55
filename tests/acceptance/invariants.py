"""What must hold after every test of a whole system, whatever was done to it (engine.md 5)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa

from flux import process
from flux.states import HELD, TERMINAL, RunState, State
from flux.store.schema import attempt, dag, dag_run, pool, task_instance, task_limit
from tests.acceptance.system import NOISE, System
from tests.waiting import until


def check(system: System) -> None:
    """Assert every invariant: while the system is up those of a running one, afterwards those of one that has ended."""
    if system.is_up:
        until(lambda: not started_without_process(system), 5 * NOISE, "every started task instance to have a process")
    else:
        assert system.processes() == {}, "processes are left"
        left = system.opened.store.read(lambda connection: _states(connection, State.STARTED, State.QUEUED))
        assert not left, f"recorded as started, and nothing runs: {left}"
    system.opened.store.read(check_store)
    check_logs(system)


def started_without_process(system: System) -> list[tuple[str, str]]:
    """(state, task_id) of what the store takes for running, and no process carries its claim."""
    rows = system.opened.store.read(lambda connection: _states(connection, State.STARTED))
    carried = {process.carried_claim(pid) for pid in system.processes()}
    return [(row.state, row.task_id) for row in rows if row.claim not in carried]


def _states(connection: sa.Connection, *states: State) -> list[Any]:
    columns = (task_instance.c.state, task_instance.c.task_id, task_instance.c.claim)
    return list(connection.execute(sa.select(*columns).where(task_instance.c.state.in_(states))))


def check_store(connection: sa.Connection) -> None:
    """Counters say what the rows say, and each task instance agrees with its attempts. One read transaction."""
    instances = connection.execute(sa.select(task_instance)).all()
    attempts: dict[int, list[Any]] = {}
    for row in connection.execute(sa.select(attempt).order_by(attempt.c.attempt)):
        attempts.setdefault(row.task_instance_id, []).append(row)
    runs = {row.id: row for row in connection.execute(sa.select(dag_run))}
    _check_limits(connection, instances, runs)
    for row in instances:
        _check_attempts(row, attempts.get(row.id, []))
    open_tasks = Counter(row.dag_run_id for row in instances if State(row.state) not in TERMINAL)
    for run in runs.values():
        assert run.open_tasks == open_tasks[run.id], f"run {run.run_id} counts {run.open_tasks} open tasks"
        if RunState(run.state).is_terminal:
            assert run.open_tasks == 0, f"run {run.run_id} is {run.state} with open tasks"
        elif run.state == RunState.RUNNING:
            assert run.open_tasks > 0, f"run {run.run_id} is running with nothing left to do"


def _check_limits(connection: sa.Connection, instances: Any, runs: Any) -> None:
    """Slots in use are those of open attempts; no limit made by people is exceeded."""
    holding = [row for row in instances if row.holds == 1]
    assert all(State(row.state) in HELD for row in holding), "something that does not run holds slots"
    pools: Counter[int] = Counter()
    for row in holding:
        pools[row.pool_id] += row.pool_slots
    for row in connection.execute(sa.select(pool)):
        assert row.used == pools[row.id], f"pool {row.name} counts {row.used}, there are {pools[row.id]}"
    limits = Counter(row.task_limit_id for row in holding)
    for row in connection.execute(sa.select(task_limit)):
        assert row.used == limits[row.id], f"task {row.task_id} counts {row.used}, there are {limits[row.id]}"
        assert row.used <= row.slots
    tasks = Counter(runs[row.dag_run_id].dag_row for row in holding if row.needs_slot)
    running = Counter(run.dag_row for run in runs.values() if run.state == RunState.RUNNING)
    for row in connection.execute(sa.select(dag)):
        assert row.active_tasks == tasks[row.id], f"DAG {row.dag_id} counts {row.active_tasks}, there are {tasks}"
        assert row.active_runs == running[row.id], f"DAG {row.dag_id} counts {row.active_runs}, there are {running}"


def _check_attempts(row: Any, attempts: list[Any]) -> None:
    """Attempts are numbered without a gap; one is open exactly while the instance is held; a success has one winner."""
    name = f"{row.task_id} ({row.state})"
    assert [item.attempt for item in attempts] == list(range(1, len(attempts) + 1)), f"{name}: attempts {attempts}"
    if attempts:
        assert row.attempt == len(attempts), f"{name} counts {row.attempt} attempts, there are {len(attempts)}"
    is_open = [item.claim for item in attempts if item.outcome is None]
    assert is_open == ([row.claim] if State(row.state) in HELD else []), f"{name}: open attempts {is_open}"
    winners = [item.attempt for item in attempts if item.outcome == "success"]
    if attempts:
        assert winners == ([row.attempt] if row.state == State.SUCCESS else []), f"{name}: successes {winners}"
    assert all(item.ended_at is not None for item in attempts if item.outcome is not None), name


def check_logs(system: System) -> None:
    """No component died unless the test did it, none showed a traceback, and the sweep found nothing to repair."""
    deaths = [line for line in system.said().splitlines() if "is started again in" in line]
    assert len(deaths) <= system.expected_deaths, f"components died by themselves: {deaths}"
    assert "It is given up" not in system.said()
    assert system.unexpected_lines(r"^Traceback|^Fatal Python error|^sweep: ") == []

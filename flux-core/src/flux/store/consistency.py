"""Finds and repairs what should never be wrong: used slots, counters of runs, and runs that cannot go on.

Everything here is computed from the rows themselves. Returns what was repaired, in words.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.states import HELD, TERMINAL, RunState, State
from flux.store.advance import Advance
from flux.store.runs import Structures
from flux.store.schema import dag, dag_run, pool, task_instance, task_limit

_OPEN_STATES = sorted(set(State) - TERMINAL)
#: A run that began less than this ago is left alone: its transaction may be another's.
_YOUNG = timedelta(seconds=5)

_held = sa.and_(task_instance.c.holds == 1, task_instance.c.state.in_(sorted(HELD)))
_POOL_USE = (
    sa.select(
        pool.c.id, pool.c.name, pool.c.used, sa.func.coalesce(sa.func.sum(task_instance.c.pool_slots), 0).label("real")
    )
    .join_from(pool, task_instance, sa.and_(task_instance.c.pool_id == pool.c.id, _held), isouter=True)
    .group_by(pool.c.id, pool.c.name, pool.c.used)
    .having(sa.func.coalesce(sa.func.sum(task_instance.c.pool_slots), 0) != pool.c.used)
)
_LIMIT_USE = (
    sa.select(task_limit.c.id, task_limit.c.task_id, task_limit.c.used, sa.func.count(task_instance.c.id).label("real"))
    .join_from(
        task_limit, task_instance, sa.and_(task_instance.c.task_limit_id == task_limit.c.id, _held), isouter=True
    )
    .group_by(task_limit.c.id, task_limit.c.task_id, task_limit.c.used)
    .having(sa.func.count(task_instance.c.id) != task_limit.c.used)
)
_active = (
    sa.select(dag_run.c.dag_row, sa.func.count().label("real"))
    .join_from(task_instance, dag_run, task_instance.c.dag_run_id == dag_run.c.id)
    .where(_held, task_instance.c.needs_slot == sa.true())
    .group_by(dag_run.c.dag_row)
    .subquery()
)
_DAG_USE = (
    sa.select(
        dag.c.id, dag.c.dag_id, dag.c.active_tasks.label("used"), sa.func.coalesce(_active.c.real, 0).label("real")
    )
    .join_from(dag, _active, _active.c.dag_row == dag.c.id, isouter=True)
    .where(sa.func.coalesce(_active.c.real, 0) != dag.c.active_tasks)
)
_running = (
    sa.select(dag_run.c.dag_row, sa.func.count().label("real"))
    .where(dag_run.c.state == RunState.RUNNING)
    .group_by(dag_run.c.dag_row)
    .subquery()
)
_RUN_USE = (
    sa.select(
        dag.c.id, dag.c.dag_id, dag.c.active_runs.label("used"), sa.func.coalesce(_running.c.real, 0).label("real")
    )
    .join_from(dag, _running, _running.c.dag_row == dag.c.id, isouter=True)
    .where(sa.func.coalesce(_running.c.real, 0) != dag.c.active_runs)
)
_USES = (
    ("pool", _POOL_USE, pool, pool.c.used),
    ("task", _LIMIT_USE, task_limit, task_limit.c.used),
    ("dag", _DAG_USE, dag, dag.c.active_tasks),
    ("runs", _RUN_USE, dag, dag.c.active_runs),
)
_MOVING = (State.READY, State.QUEUED, State.STARTED, State.DEFERRED, State.RETRYING)
_moving = (
    sa.select(task_instance.c.id)
    .where(task_instance.c.dag_run_id == dag_run.c.id, task_instance.c.state.in_(sorted(_MOVING)))
    .exists()
)
_STUCK = sa.select(dag_run.c.id, dag_run.c.run_id, dag_run.c.dag_version_id).where(
    dag_run.c.state == RunState.RUNNING, dag_run.c.started_at < bindparam("before"), sa.not_(_moving)
)
_HELD_BACK = (
    sa.select(dag.c.id, dag.c.dag_id)
    .join_from(dag, dag_run, sa.and_(dag_run.c.dag_row == dag.c.id, dag_run.c.state == RunState.QUEUED))
    .where(dag.c.active_runs < dag.c.max_active_runs)
    .distinct()
)
_BLOCKED = (
    sa.select(task_instance.c.blocked_on)
    .where(task_instance.c.state == State.READY, task_instance.c.blocked_on != "")
    .distinct()
)


_ROWS = sa.select(task_instance.c.id, task_instance.c.task_index, task_instance.c.state, task_instance.c.closes).where(
    task_instance.c.dag_run_id == bindparam("run")
)
_VERSION = sa.select(dag_run.c.dag_version_id).where(dag_run.c.id == bindparam("run"))
_SET_COUNTERS = (
    sa.update(task_instance)
    .where(task_instance.c.id == bindparam("b_id"))
    .values(
        upstream_total=bindparam("b_total"),
        upstream_ok=bindparam("b_ok"),
        upstream_bad=bindparam("b_bad"),
        upstream_skipped=bindparam("b_skipped"),
        gates_open=bindparam("b_open"),
        gates_closed=bindparam("b_closed"),
    )
)
_SET_OPEN = sa.update(dag_run).where(dag_run.c.id == bindparam("b_id")).values(open_tasks=bindparam("b_n"))


def recount(connection: sa.Connection, structures: Structures, dag_run_row: int) -> None:
    """Compute the counters of a run and of its task instances anew from the states of its rows."""
    tasks = structures(connection.execute(_VERSION, {"run": dag_run_row}).scalar_one()).tasks
    # Removed ones belong to a version that the run was moved away from.
    found = connection.execute(_ROWS, {"run": dag_run_row})
    rows = {row.task_index: row for row in found if row.state != State.REMOVED}
    gates: dict[int, list[int]] = {}
    for task in tasks:
        for index in task.gates if task.index in rows else ():
            gates.setdefault(index, []).append(task.index)
    updates = []
    for index, row in rows.items():
        above = [rows[up].state for up in tasks[index].upstream if up in rows]
        ended = [rows[gate] for gate in gates.get(index, ()) if State(rows[gate].state).is_terminal]
        updates.append(
            {
                "b_id": row.id,
                "b_total": len(above),
                "b_ok": above.count(State.SUCCESS),
                "b_bad": above.count(State.FAILED) + above.count(State.UPSTREAM_FAILED),
                "b_skipped": above.count(State.SKIPPED),
                "b_open": len(gates.get(index, ())) - len(ended),
                "b_closed": sum(index in json.loads(gate.closes or "[]") for gate in ended),
            }
        )
    if updates:
        connection.execute(_SET_COUNTERS, updates)
    open_tasks = sum(not State(row.state).is_terminal for row in rows.values())
    connection.execute(_SET_OPEN, {"b_id": dag_run_row, "b_n": open_tasks})


def repair(connection: sa.Connection, structures: Structures, now: datetime) -> list[str]:
    """Make the counters say what the rows say, and ask again what waits. Returns what was wrong; usually nothing."""
    found = []
    for kind, query, table, column in _USES:
        for row in connection.execute(query).all():
            connection.execute(sa.update(table).where(table.c.id == row.id).values({column: row.real}))
            found.append(f"{kind} {row[1]!r} counted {row.used} in use, there are {row.real}")
    advance = Advance(connection, structures, now)
    for run in connection.execute(_STUCK, {"before": now - _YOUNG}).all():
        recount(connection, structures, run.id)
        advance.judge_again(run.id, range(len(structures(run.dag_version_id).tasks)))
        found.append(f"run {run.run_id!r} could not go on; its counters were computed anew")
    for dag_row, dag_id in connection.execute(_HELD_BACK).all():
        advance.release([f"runs:{dag_row}"])
        found.append(f"dag {dag_id!r} had room for runs that were queued")
    advance.release(connection.execute(_BLOCKED).scalars().all())
    advance.write()
    return found

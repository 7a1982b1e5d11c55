"""DAG runs: making, starting, finding and deleting them. States are written by `transitions` alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import Refused, StaleState
from flux.schedule import DataInterval
from flux.states import RunKind, RunState, State
from flux.store import transitions
from flux.store.dags import Dag, DagVersion
from flux.store.keyed import Keyed
from flux.store.schema import attempt, dag, dag_run, pool, rendered_fields, task_instance, task_limit, task_result
from flux.structure import DagStructure, TaskStructure
from flux.times import from_iso, iso
from flux.trigger_rules import Verdict, verdict

#: Gives the structure of a DAG version by its row number. The supervisor passes one that remembers.
Structures = Callable[[int], DagStructure]


@dataclass(frozen=True, slots=True)
class DagRun:
    """A row of `dag_run`, with the dag_id of its DAG."""

    id: int
    dag_row: int
    dag_id: str
    #: Nothing of this DAG starts now.
    dag_paused: bool
    dag_version_id: int
    run_id: str
    kind: RunKind
    state: RunState
    logical_date: datetime
    interval_start: datetime
    interval_end: datetime
    open_tasks: int
    #: JSON or None.
    conf: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    deadline_at: datetime | None
    reason: str | None

    @property
    def interval(self) -> DataInterval:
        return DataInterval(self.interval_start, self.interval_end)


_SELECT = sa.select(
    dag_run.c.id, dag_run.c.dag_row, dag.c.dag_id,
    dag.c.paused.label("dag_paused"), dag_run.c.dag_version_id, dag_run.c.run_id, dag_run.c.kind,
    dag_run.c.state, dag_run.c.logical_date, dag_run.c.interval_start, dag_run.c.interval_end, dag_run.c.open_tasks,
    dag_run.c.conf, dag_run.c.created_at, dag_run.c.started_at, dag_run.c.ended_at, dag_run.c.deadline_at,
    dag_run.c.reason,
).join_from(dag_run, dag, dag_run.c.dag_row == dag.c.id)  # fmt: skip
_BY_ROW = Keyed(_SELECT, dag_run.c.id)
_BY_RUN_ID = _SELECT.where(dag_run.c.dag_row == bindparam("dag_row"), dag_run.c.run_id == bindparam("run_id"))
_BY_INTERVAL = _SELECT.where(dag_run.c.dag_row == bindparam("dag_row"), dag_run.c.interval_key == bindparam("key"))
_PREVIOUS = (
    _SELECT.where(
        dag_run.c.dag_row == bindparam("dag_row"),
        dag_run.c.logical_date < bindparam("before"),
        dag_run.c.interval_key.is_not(None),
    )
    .order_by(dag_run.c.logical_date.desc())
    .limit(1)
)
_PREVIOUS_SUCCESS = _PREVIOUS.where(dag_run.c.state == RunState.SUCCESS)
_PREVIOUS_BEGUN = _PREVIOUS.where(dag_run.c.state != RunState.QUEUED)
_NEWEST_SCHEDULED = (
    _SELECT.where(dag_run.c.dag_row == bindparam("dag_row"), dag_run.c.kind == RunKind.SCHEDULED)
    .order_by(dag_run.c.logical_date.desc())
    .limit(1)
)
_OLDEST_QUEUED = (
    _SELECT.where(dag_run.c.dag_row == bindparam("dag_row"), dag_run.c.state == RunState.QUEUED)
    .order_by(dag_run.c.logical_date, dag_run.c.id)
    .limit(1)
)
_DEADLINES = _SELECT.where(dag_run.c.state == RunState.RUNNING, dag_run.c.deadline_at.is_not(None))
_ONE_MORE_ACTIVE = sa.update(dag).where(dag.c.id == bindparam("b_id")).values(active_runs=dag.c.active_runs + 1)
_ONE_LESS_ACTIVE = sa.update(dag).where(dag.c.id == bindparam("b_id")).values(active_runs=dag.c.active_runs - 1)
#: Read under a lock: a run that is made and one that ends must not miss each other.
_ACTIVE = (
    sa.select(dag.c.active_runs, dag.c.max_active_runs)
    .where(dag.c.id == bindparam("id"))
    .with_for_update(key_share=True)
)
_COUNT_MANUAL = sa.update(dag).where(dag.c.id == bindparam("b_id")).values(manual_runs=dag.c.manual_runs + 1)
_MANUAL = sa.select(dag.c.manual_runs).where(dag.c.id == bindparam("id"))
_POOLS = sa.select(pool.c.name, pool.c.id).where(pool.c.name.in_(bindparam("names", expanding=True)))
_TASK_LIMITS = sa.select(task_limit.c.task_id, task_limit.c.id).where(task_limit.c.dag_row == bindparam("dag_row"))


_TASK_STATE = (
    sa.select(task_instance.c.state)
    .join_from(task_instance, dag_run, task_instance.c.dag_run_id == dag_run.c.id)
    .join(dag, dag_run.c.dag_row == dag.c.id)
    .where(
        dag.c.dag_id == bindparam("dag_id"),
        dag_run.c.run_id == bindparam("run_id"),
        task_instance.c.task_id == bindparam("task_id"),
    )
    .limit(1)
)


def task_state(connection: sa.Connection, dag_id: str, run_id: str, task_id: str) -> str | None:
    """Return the state of a task instance by its names; None when there is none."""
    values = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id}
    return connection.execute(_TASK_STATE, values).scalar_one_or_none()


def _record(row: Sequence[Any]) -> DagRun:
    """The run that a row of `_SELECT` is: its columns have the order of the fields, kind and state are texts."""
    values = list(row)
    values[6:8] = RunKind(row[6]), RunState(row[7])
    return DagRun(*values)


def _first(connection: sa.Connection, statement: sa.Select[Any], **values: Any) -> DagRun | None:
    row = connection.execute(statement, values).first()
    return None if row is None else _record(row)


def by_rows(connection: sa.Connection, ids: Sequence[int]) -> list[DagRun]:
    """Return the runs of these row numbers, in no order."""
    return [_record(row) for row in _BY_ROW.rows(connection, ids)]


def by_run_id(connection: sa.Connection, dag_row: int, run_id: str) -> DagRun | None:
    """Return the run of that run_id, or None."""
    return _first(connection, _BY_RUN_ID, dag_row=dag_row, run_id=run_id)


def by_interval(connection: sa.Connection, dag_row: int, logical_date: datetime) -> DagRun | None:
    """Return the scheduled or backfilled run of that logical date, or None."""
    return _first(connection, _BY_INTERVAL, dag_row=dag_row, key=iso(logical_date))


def previous(
    connection: sa.Connection, dag_row: int, before: datetime, *, successful: bool = False, begun: bool = False
) -> DagRun | None:
    """Return the next-older scheduled or backfilled run by logical date, or None.

    Args:
        successful: look for one that succeeded.
        begun: look for one that max_active_runs does not hold back.
    """
    statement = _PREVIOUS_SUCCESS if successful else _PREVIOUS_BEGUN if begun else _PREVIOUS
    return _first(connection, statement, dag_row=dag_row, before=before)


def newest_scheduled(connection: sa.Connection, dag_row: int) -> DagRun | None:
    """Return the scheduled run of the latest logical date, or None."""
    return _first(connection, _NEWEST_SCHEDULED, dag_row=dag_row)


def with_deadline(connection: sa.Connection) -> list[DagRun]:
    """Return the running runs that have a dagrun_timeout."""
    return [_record(row) for row in connection.execute(_DEADLINES)]


_HAS_ENDED = (
    sa.select(dag_run.c.state)
    .join_from(dag_run, dag, dag_run.c.dag_row == dag.c.id)
    .where(dag.c.dag_id == bindparam("dag_id"), dag_run.c.run_id == bindparam("run_id"))
)


def has_ended(connection: sa.Connection, dag_id: str, run_id: str) -> bool:
    """Say whether a run is over; one that does not exist (any more) is."""
    state = connection.execute(_HAS_ENDED, {"dag_id": dag_id, "run_id": run_id}).scalar_one_or_none()
    return state is None or RunState(state).is_terminal


def create(
    connection: sa.Connection,
    *,
    dag: Dag,
    version: DagVersion,
    kind: RunKind,
    interval: DataInterval,
    now: datetime,
    run_id: str | None = None,
    conf: Mapping[str, Any] | None = None,
    backfill_id: int | None = None,
) -> DagRun:
    """Make a run, and start it unless max_active_runs holds it back.

    Args:
        run_id: of a manual run, chosen by a person; None makes `<kind>__<logical date>`, with a counter when manual.

    Raises:
        Refused: a run of this interval (scheduled, backfill) or of this run_id exists.
    """
    by_hand = kind is RunKind.MANUAL
    connection.execute(_ACTIVE, {"id": dag.id})
    if not by_hand and (existing := by_interval(connection, dag.id, interval.start)):
        raise Refused(
            f"DAG {dag.dag_id!r} has run {existing.run_id!r} for the interval that starts {iso(interval.start)}."
        )
    run_id = run_id or _make_run_id(connection, dag, kind, interval)
    if by_run_id(connection, dag.id, run_id):
        raise Refused(f"DAG {dag.dag_id!r} already has a run {run_id!r}. Give this one another --run-id.")
    row = transitions.insert_run(
        connection,
        {
            "dag_row": dag.id, "dag_version_id": version.id, "run_id": run_id, "kind": kind,
            "logical_date": interval.start, "interval_start": interval.start, "interval_end": interval.end,
            "interval_key": None if by_hand else iso(interval.start), "open_tasks": 0,
            "conf": None if conf is None else json.dumps(dict(conf)), "created_at": now, "backfill_id": backfill_id,
        },
    )  # fmt: skip
    start_queued(connection, dag.id, lambda _: version.structure, now, only=row)
    return by_rows(connection, [row])[0]


def _make_run_id(connection: sa.Connection, dag: Dag, kind: RunKind, interval: DataInterval) -> str:
    name = f"{kind}__{iso(interval.start)}"
    if kind is not RunKind.MANUAL:
        return name
    connection.execute(_COUNT_MANUAL, {"b_id": dag.id})
    return f"{name}__{connection.execute(_MANUAL, {'id': dag.id}).scalar_one()}"


def check_run_id(run_id: str) -> None:
    """Refuse a run_id that a person may not choose: the names of scheduled and backfilled runs, and odd characters.

    Raises:
        Refused: with the reason.
    """
    if run_id.startswith((f"{RunKind.SCHEDULED}__", f"{RunKind.BACKFILL}__")):
        raise Refused(f"Run id {run_id!r} looks like one the scheduler makes. Choose one that begins differently.")
    odd = {char for char in run_id if not (char.isascii() and (char.isalnum() or char in "_-.:+"))}
    if odd or not run_id or run_id.startswith(".") or len(run_id) > 200:
        raise Refused(
            f"Run id {run_id!r} cannot be used. Take ASCII letters, digits and _ - . : +, at most 200, no dot in front."
        )


def start_queued(
    connection: sa.Connection, dag_row: int, structures: Structures, now: datetime, *, only: int | None = None
) -> list[DagRun]:
    """Start queued runs of a DAG, oldest logical date first, while max_active_runs has room.

    `only` restricts it to that run. Their task instances are inserted, the first of them ready.
    """
    started: list[DagRun] = []
    while True:
        active, limit = connection.execute(_ACTIVE, {"id": dag_row}).one()
        if active >= limit:
            return started
        run = _first(connection, _OLDEST_QUEUED, dag_row=dag_row)
        if run is None or (only is not None and run.id != only):
            return started
        _start(connection, run, structures(run.dag_version_id), now)
        started += by_rows(connection, [run.id])


def _start(connection: sa.Connection, run: DagRun, structure: DagStructure, now: datetime) -> None:
    rows = task_instance_rows(connection, run, structure, now)
    timeout = structure.dagrun_timeout
    transitions.start_run(
        connection,
        run.id,
        open_tasks=len(rows),
        deadline_at=None if timeout is None else now + timedelta(seconds=timeout),
        now=now,
    )
    transitions.insert_task_instances(connection, rows)
    if rows:
        connection.execute(_ONE_MORE_ACTIVE, {"b_id": run.dag_row})
    else:
        transitions.close_run(connection, run.id, RunState.SUCCESS, now)


def ended(connection: sa.Connection, run: DagRun, state: RunState, now: datetime) -> None:
    """Record that a running run is over and give back its place under max_active_runs."""
    transitions.close_run(connection, run.id, state, now)
    connection.execute(_ONE_LESS_ACTIVE, {"b_id": run.dag_row})


def has_row(task: TaskStructure, logical_date: datetime) -> bool:
    """Say whether a task takes part in the run of that logical date: not adhoc, within its own dates."""
    return not (
        task.adhoc
        or (task.start_date is not None and logical_date < from_iso(task.start_date))
        or (task.end_date is not None and logical_date > from_iso(task.end_date))
    )


def task_instance_rows(
    connection: sa.Connection, run: DagRun, structure: DagStructure, now: datetime
) -> list[dict[str, Any]]:
    """Build the rows of a starting run. Those whose trigger rule holds at once are ready."""
    present = [has_row(task, run.logical_date) for task in structure.tasks]
    gates = [0] * len(structure.tasks)
    for task in structure.tasks:
        if present[task.index]:
            for index in task.gates:
                gates[index] += 1
    names = sorted({task.pool for task in structure.tasks if task.pool is not None})
    pools = dict(connection.execute(_POOLS, {"names": names}).all()) if names else {}
    limited = any(task.max_active_tis_per_dag is not None for task in structure.tasks)
    limits = dict(connection.execute(_TASK_LIMITS, {"dag_row": run.dag_row}).all()) if limited else {}
    return [
        _task_instance_row(
            task, run.id, sum(present[up] for up in task.upstream), gates[task.index], pools, limits, now
        )
        for task in structure.tasks
        if present[task.index]
    ]


def _task_instance_row(
    task: TaskStructure,
    dag_run_row: int,
    upstream: int,
    gates: int,
    pools: Mapping[str, int],
    limits: Mapping[str, int],
    now: datetime,
) -> dict[str, Any]:
    first = verdict(task.trigger_rule, total=upstream, ok=0, bad=0, skipped=0, gates_open=gates, gates_closed=0)
    is_ready = first is Verdict.RUN
    return {
        "dag_run_id": dag_run_row, "task_id": task.task_id, "task_index": task.index, "map_index": -1,
        "state": State.READY if is_ready else State.WAITING, "ready_at": now if is_ready else None,
        "attempt": 0, "max_attempts": task.retries + 1, "losses": 0,
        "upstream_total": upstream, "upstream_ok": 0, "upstream_bad": 0, "upstream_skipped": 0,
        "gates_open": gates, "gates_closed": 0, "priority_weight": task.priority_weight, "queue": task.queue,
        "needs_slot": task.sensor is None and not task.inline,
        "pool_id": pools[task.pool] if task.pool is not None else None, "pool_slots": task.pool_slots,
        "task_limit_id": limits[task.task_id] if task.max_active_tis_per_dag is not None else None,
        "holds": 0, "blocked_on": "",
    }  # fmt: skip


def delete(connection: sa.Connection, run: DagRun) -> None:
    """Delete an ended or queued run with all that belongs to it; what waited for it is asked again.

    Raises:
        Refused: it is running.
    """
    if run.state is RunState.RUNNING:
        raise Refused(f"Run {run.run_id!r} of DAG {run.dag_id!r} is running. Wait for its end before deleting it.")
    ids = sa.select(task_instance.c.id).where(task_instance.c.dag_run_id == run.id)
    keys = [f"past:{number}" for number in connection.scalars(ids)]
    for table in (task_result, rendered_fields, attempt):
        connection.execute(sa.delete(table).where(table.c.task_instance_id.in_(ids)))
    connection.execute(sa.delete(task_instance).where(task_instance.c.dag_run_id == run.id))
    deleted = connection.execute(sa.delete(dag_run).where(dag_run.c.id == run.id, dag_run.c.state == run.state))
    if deleted.rowcount != 1:
        raise StaleState(f"Run {run.run_id!r} changed while it was being deleted.")
    transitions.unblock(connection, keys)

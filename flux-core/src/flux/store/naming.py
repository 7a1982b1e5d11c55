"""What people call a run or a task instance, in any command: a run id, or a date that names one run."""

from __future__ import annotations

from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import BadDate, NotFound, Refused
from flux.store import dags, runs
from flux.store.dags import Dag
from flux.store.runs import DagRun
from flux.store.schema import dag_run, task_instance
from flux.times import moment, zone

_OF_DAG = sa.select(dag_run.c.id).where(dag_run.c.dag_row == bindparam("dag_row"))
_BETWEEN = _OF_DAG.where(dag_run.c.logical_date.between(bindparam("first"), bindparam("last")))
_NEWEST = (
    sa.select(dag_run.c.run_id)
    .where(dag_run.c.dag_row == bindparam("dag_row"))
    .order_by(dag_run.c.id.desc())
    .limit(1000)
)
_INSTANCES = sa.select(
    task_instance.c.id, task_instance.c.task_id, task_instance.c.map_index, task_instance.c.state
).where(task_instance.c.dag_run_id == bindparam("dag_run_id"))
_INSTANCE = _INSTANCES.where(
    task_instance.c.task_id == bindparam("task_id"), task_instance.c.map_index == bindparam("map_index")
)


def run(connection: sa.Connection, dag_id: str, name: str) -> DagRun:
    """Return the run that people call `name`: its run_id, its logical date, or the local day its interval starts on.

    Raises:
        NotFound: no such DAG or run.
        Refused: a date names several runs, which are listed.
    """
    dag = dags.by_id(connection, dag_id)
    found = runs.by_run_id(connection, dag.id, name)
    if found is not None:
        return found
    dated = _dated(connection, dag, name)
    if len(dated) == 1:
        return dated[0]
    if dated:
        raise Refused(
            f"{name} names {len(dated)} runs of DAG {dag_id!r}: {', '.join(each.run_id for each in dated)}. "
            "Take one of these run ids."
        )
    raise NotFound.named("Run", name, connection.scalars(_NEWEST, {"dag_row": dag.id}))


def task_instance_row(connection: sa.Connection, run: DagRun, task_id: str, map_index: int | None) -> tuple[int, str]:
    """Return the row number and the state of a task instance; `map_index` is None where it is not mapped.

    Raises:
        NotFound: the run has no such task, or it is mapped and has no such index.
    """
    values = {"dag_run_id": run.id, "task_id": task_id, "map_index": -1 if map_index is None else map_index}
    row = connection.execute(_INSTANCE, values).first()
    if row is not None:
        return row.id, row.state
    others = connection.execute(_INSTANCES, {"dag_run_id": run.id}).all()
    indices = [str(other.map_index) for other in others if other.task_id == task_id]
    if indices:
        raise NotFound.named(f"Map index of task {task_id!r}", str(map_index), indices)
    raise NotFound.named("Task", task_id, {other.task_id for other in others})


def bare_date(text: str) -> date | None:
    """Return the day that `text` is; None when it is anything else, such as a moment."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _dated(connection: sa.Connection, dag: Dag, name: str) -> list[DagRun]:
    """The runs whose logical date is, or is on the local day of, `name`; oldest first."""
    span = _span(connection, dag, name)
    if span is None:
        return []
    ids = connection.scalars(_BETWEEN, {"dag_row": dag.id, "first": span[0], "last": span[1]})
    return sorted(runs.by_rows(connection, list(ids)), key=lambda each: (each.logical_date, each.id))


def _span(connection: sa.Connection, dag: Dag, name: str) -> tuple[datetime, datetime] | None:
    """The first and last logical date that `name` means in the DAG's time zone; None: it is no date."""
    if dag.dag_version_id is None:
        return None
    place = zone(dags.version(connection, dag.dag_version_id).structure.timezone)
    try:
        first = moment(name, place)
        return first, moment(name, place, end_of_day=True) if bare_date(name) else first
    except BadDate:
        return None

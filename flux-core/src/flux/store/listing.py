"""What people look at: read-only records for the CLI and the UI, fields named as the JSON keys of the CLI's contract.

Nothing here is for the engine: statements are made per call, and each function may read several tables.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flux.errors import NotFound
from flux.schedule import DataInterval
from flux.states import Outcome
from flux.store import dags
from flux.store import jobs as all_jobs
from flux.store.schema import (
    attempt,
    dag,
    dag_file,
    dag_run,
    dag_version,
    pool,
    rendered_fields,
    task_instance,
    task_result,
)
from flux.structure import DagStructure


@dataclass(frozen=True, slots=True)
class RunRow:
    """A DAG run."""

    dag_id: str
    run_id: str
    kind: str
    logical_date: datetime
    data_interval: DataInterval
    state: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    #: Number of its DAG version.
    version: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class DagRow:
    """A DAG that a file defines, by its newest version."""

    dag_id: str
    description: str | None
    #: The author's cron expressions, or the duration, in words; None: by hand only.
    schedule: str | None
    timezone: str
    paused: bool
    #: Relative to the DAGs folder.
    file: str
    owner: str | None
    tags: list[str]
    #: When the next scheduled run is made; None: never.
    next_run_at: datetime | None
    #: The one with the newest logical date.
    latest_run: RunRow | None


@dataclass(frozen=True, slots=True)
class TaskInstanceRow:
    """A task instance and its latest attempt."""

    task_id: str
    #: None: not mapped.
    map_index: int | None
    state: str
    attempt: int
    max_attempts: int
    started_at: datetime | None
    ended_at: datetime | None
    reason: str | None
    operator: str
    pool: str | None
    queue: str
    host: str | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One try of a task instance."""

    attempt: int
    claim: int
    #: None while it runs.
    outcome: str | None
    reason: str | None
    exit_status: int | None
    signal: int | None
    host: str | None
    pid: int | None
    started_at: datetime | None
    ended_at: datetime | None
    max_rss_bytes: int | None
    #: Relative to the logs folder.
    log: str | None


@dataclass(frozen=True, slots=True)
class JobRow:
    """A long-lived process of Flux."""

    id: int
    kind: str
    host: str
    pid: int
    state: str
    started_at: datetime
    last_beat_at: datetime | None


_RUNS = (
    sa.select(
        dag.c.dag_id,
        dag_run.c.run_id,
        dag_run.c.kind,
        dag_run.c.logical_date,
        dag_run.c.interval_start,
        dag_run.c.interval_end,
        dag_run.c.state,
        dag_run.c.created_at,
        dag_run.c.started_at,
        dag_run.c.ended_at,
        dag_version.c.number,
        dag_run.c.reason,
        dag_run.c.id,
    )
    .join_from(dag_run, dag, dag_run.c.dag_row == dag.c.id)
    .join(dag_version, dag_run.c.dag_version_id == dag_version.c.id)
)


def dag_rows(connection: sa.Connection, *, dag_id: str | None = None) -> list[DagRow]:
    """Return the DAGs that a file defines, by dag_id; or the one of that dag_id, which NotFound denies."""
    if dag_id is not None:
        dags.by_id(connection, dag_id)
    latest = (
        sa.select(dag_run.c.id)
        .where(dag_run.c.dag_row == dag.c.id)
        .order_by(dag_run.c.logical_date.desc(), dag_run.c.id.desc())
        .limit(1)
        .correlate(dag)
        .scalar_subquery()
    )
    query = (
        sa.select(
            dag.c.dag_id,
            dag.c.paused,
            dag.c.next_due_at,
            dag_file.c.path,
            dag_version.c.structure,
            latest.label("latest"),
        )
        .join_from(dag, dag_version, dag.c.dag_version_id == dag_version.c.id)
        .join(dag_file, dag.c.dag_file_id == dag_file.c.id, isouter=dag_id is not None)
        .order_by(dag.c.dag_id)
    )
    rows = connection.execute(query if dag_id is None else query.where(dag.c.dag_id == dag_id)).all()
    wanted = [row.latest for row in rows if row.latest is not None]
    newest = {row.id: _run_row(row) for row in connection.execute(_RUNS.where(dag_run.c.id.in_(wanted)))}
    return [_dag_row(row, newest.get(row.latest)) for row in rows]


def runs(
    connection: sa.Connection,
    *,
    dag_id: str | None = None,
    state: str | None = None,
    kind: str | None = None,
    limit: int | None = None,
) -> list[RunRow]:
    """Return DAG runs, the newest made first."""
    query = _RUNS.order_by(dag_run.c.created_at.desc(), dag_run.c.id.desc()).limit(limit)
    for column, value in ((dag.c.dag_id, dag_id), (dag_run.c.state, state), (dag_run.c.kind, kind)):
        if value is not None:
            query = query.where(column == value)
    return [_run_row(row) for row in connection.execute(query)]


def run(connection: sa.Connection, dag_id: str, run_id: str) -> RunRow:
    """Return one DAG run; NotFound names the nearest ones of its DAG."""
    row = connection.execute(_RUNS.where(dag.c.dag_id == dag_id, dag_run.c.run_id == run_id)).first()
    if row is None:
        dags.by_id(connection, dag_id)
        known = sa.select(dag_run.c.run_id).join(dag, dag_run.c.dag_row == dag.c.id).where(dag.c.dag_id == dag_id)
        raise NotFound.named("Run", run_id, connection.scalars(known.order_by(dag_run.c.id.desc()).limit(1000)))
    return _run_row(row)


def task_instances(connection: sa.Connection, dag_run_row: int) -> list[TaskInstanceRow]:
    """Return the task instances of a run in topological order; none while the run is queued."""
    query = (
        sa.select(task_instance, pool.c.name.label("pool"), attempt.c.host, attempt.c.pid)
        .join_from(task_instance, pool, task_instance.c.pool_id == pool.c.id, isouter=True)
        .join(
            attempt,
            sa.and_(attempt.c.task_instance_id == task_instance.c.id, attempt.c.attempt == task_instance.c.attempt),
            isouter=True,
        )
        .where(task_instance.c.dag_run_id == dag_run_row)
        .order_by(task_instance.c.task_index, task_instance.c.map_index)
    )
    version = sa.select(dag_run.c.dag_version_id).where(dag_run.c.id == dag_run_row)
    structure = dags.version(connection, connection.execute(version).scalar_one()).structure
    return [_task_instance_row(row, structure) for row in connection.execute(query)]


def attempts(
    connection: sa.Connection, dag_id: str, run_id: str, task_id: str, *, map_index: int | None = None
) -> list[AttemptRow]:
    """Return the attempts of a task instance, oldest first."""
    instance = _task_instance(connection, dag_id, run_id, task_id, map_index)
    query = sa.select(*(attempt.c[field.name] for field in dataclasses.fields(AttemptRow)))
    rows = connection.execute(query.where(attempt.c.task_instance_id == instance).order_by(attempt.c.attempt))
    return [AttemptRow(*row) for row in rows]


def result(
    connection: sa.Connection,
    dag_id: str,
    run_id: str,
    task_id: str,
    key: str,
    logs_folder: Path,
    *,
    map_index: int | None = None,
) -> str:
    """Return a result of the newest successful attempt, as typed JSON; NotFound names the keys there are."""
    instance = _task_instance(connection, dag_id, run_id, task_id, map_index)
    winner = (
        sa.select(sa.func.max(attempt.c.attempt))
        .where(attempt.c.task_instance_id == instance, attempt.c.outcome == Outcome.SUCCESS.value)
        .scalar_subquery()
    )
    query = sa.select(task_result.c.key, task_result.c.value, task_result.c.path).where(
        task_result.c.task_instance_id == instance, task_result.c.attempt == winner
    )
    found = {row.key: row for row in connection.execute(query)}
    if key not in found:
        raise NotFound.named(f"Result of task {task_id!r}", key, found)
    if found[key].value is not None:
        return str(found[key].value)
    file = logs_folder / str(found[key].path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"Result {key!r} of task {task_id!r} was kept in {str(file)!r}: {error.strerror}.") from error
    return text


def rendered(
    connection: sa.Connection, dag_id: str, run_id: str, task_id: str, *, map_index: int | None = None
) -> dict[str, str]:
    """Return {field: text} as the newest attempt that got so far rendered them; NotFound when none did."""
    instance = _task_instance(connection, dag_id, run_id, task_id, map_index)
    query = (
        sa.select(rendered_fields.c.fields)
        .where(rendered_fields.c.task_instance_id == instance)
        .order_by(rendered_fields.c.attempt.desc())
        .limit(1)
    )
    text = connection.scalar(query)
    if text is None:
        raise NotFound(f"No attempt of task {task_id!r} in run {run_id!r} has rendered its fields.")
    fields: dict[str, str] = json.loads(text)
    return fields


def jobs(connection: sa.Connection) -> list[JobRow]:
    """Return the newest jobs, newest first."""
    return [
        JobRow(job.id, job.kind, job.host, job.pid, job.state, job.started_at, job.last_beat_at)
        for job in all_jobs.every(connection)
    ]


def _task_instance(connection: sa.Connection, dag_id: str, run_id: str, task_id: str, map_index: int | None) -> int:
    """Return the row number of a task instance; NotFound names the nearest DAGs, runs or tasks."""
    of_run = (
        sa.select(task_instance.c.id, task_instance.c.task_id)
        .join_from(task_instance, dag_run, task_instance.c.dag_run_id == dag_run.c.id)
        .join(dag, dag_run.c.dag_row == dag.c.id)
        .where(dag.c.dag_id == dag_id, dag_run.c.run_id == run_id)
    )
    of_task = of_run.where(task_instance.c.task_id == task_id)
    row: int | None = connection.scalar(
        of_task.where(task_instance.c.map_index == (-1 if map_index is None else map_index))
    )
    if row is not None:
        return row
    run(connection, dag_id, run_id)
    known = {found.task_id for found in connection.execute(of_run)}
    if task_id not in known:
        raise NotFound.named("Task", task_id, known)
    if map_index is None:
        raise NotFound(f"Task {task_id!r} is mapped in run {run_id!r}. Name one of its instances by its map index.")
    raise NotFound(f"Task {task_id!r} has no instance with map index {map_index} in run {run_id!r}.")


def _run_row(row: Any) -> RunRow:
    return RunRow(
        dag_id=row.dag_id,
        run_id=row.run_id,
        kind=row.kind,
        logical_date=row.logical_date,
        data_interval=DataInterval(row.interval_start, row.interval_end),
        state=row.state,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        version=row.number,
        reason=row.reason,
    )


def _dag_row(row: Any, latest: RunRow | None) -> DagRow:
    # Its tasks, which may be thousands, are of no interest here.
    structure = json.loads(row.structure)
    return DagRow(
        dag_id=row.dag_id,
        description=structure.get("description"),
        schedule=_schedule(structure.get("schedule")),
        timezone=structure.get("timezone", "UTC"),
        paused=row.paused,
        file=row.path or structure["file"],
        owner=structure.get("owner"),
        tags=list(structure.get("tags", ())),
        next_run_at=row.next_due_at,
        latest_run=latest,
    )


def _schedule(spec: dict[str, Any] | None) -> str | None:
    if spec is None:
        return None
    if spec["kind"] == "every":
        return f"every {timedelta(seconds=spec['seconds'])}"
    expressions: Sequence[str] = spec.get("expressions", ("@once",))
    return ", ".join(expressions)


def _task_instance_row(row: Any, structure: DagStructure) -> TaskInstanceRow:
    # A removed task instance keeps the index it had in an older version.
    task = structure.tasks[row.task_index] if row.task_index < len(structure.tasks) else None
    return TaskInstanceRow(
        task_id=row.task_id,
        map_index=None if row.map_index == -1 else row.map_index,
        state=row.state,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        started_at=row.started_at,
        ended_at=row.ended_at,
        reason=row.reason,
        operator=task.operator if task is not None and task.task_id == row.task_id else "",
        pool=row.pool,
        queue=row.queue,
        host=row.host,
        pid=row.pid,
    )

"""Open attempts: who holds them, for a supervisor that starts, and what a claim may ask for, for the channel."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.states import HELD, State
from flux.store import runs
from flux.store.attempts import Claimed
from flux.store.jobs import Job
from flux.store.runs import DagRun, Structures
from flux.store.schema import attempt, job, task_instance, task_result


@dataclass(frozen=True, slots=True)
class Held:
    """An open attempt as the store has it."""

    claimed: Claimed
    state: State
    #: Of the job that holds it, and of the launcher that was to start it.
    job_id: int | None
    launcher: str | None
    #: Of an agent: where it runs.
    host: str | None
    pid: int | None
    #: Relative to the logs folder.
    log: str


_HELD = (
    sa.select(
        task_instance.c.id, task_instance.c.dag_run_id, task_instance.c.task_index, task_instance.c.map_index,
        task_instance.c.state, task_instance.c.attempt, task_instance.c.max_attempts, task_instance.c.claim,
        task_instance.c.job_id, task_instance.c.deadline_at, attempt.c.launcher, attempt.c.host, attempt.c.pid,
        attempt.c.log, attempt.c.started_at,
    )
    .join_from(
        task_instance,
        attempt,
        sa.and_(attempt.c.task_instance_id == task_instance.c.id, attempt.c.attempt == task_instance.c.attempt),
    )
    .where(task_instance.c.state.in_(sorted(HELD)))
)  # fmt: skip
_HOLDERS = sa.select(*(job.c[field.name] for field in dataclasses.fields(Job))).where(
    job.c.id.in_(
        sa.select(task_instance.c.job_id).where(task_instance.c.state.in_(sorted(HELD - {State.DEFERRED}))).distinct()
    )
)
_BY_CLAIM = sa.select(task_instance.c.dag_run_id, task_instance.c.task_id).where(
    task_instance.c.claim == bindparam("claim")
)
_RETRYING = sa.select(task_instance.c.id, task_instance.c.wake_at).where(task_instance.c.state == State.RETRYING)
_RESULT = (
    sa.select(task_result.c.value, task_result.c.path)
    .join_from(
        task_instance,
        task_result,
        sa.and_(
            task_result.c.task_instance_id == task_instance.c.id,
            task_result.c.attempt == task_instance.c.attempt,
        ),
    )
    .where(
        task_instance.c.dag_run_id == bindparam("run"),
        task_instance.c.task_id == bindparam("task_id"),
        task_instance.c.map_index == bindparam("map_index"),
        task_instance.c.state == State.SUCCESS,
        task_result.c.key == bindparam("key"),
    )
)


def everything(connection: sa.Connection, structures: Structures) -> list[Held]:
    """Return every open attempt there is."""
    rows = connection.execute(_HELD).all()
    numbers = sorted({row.dag_run_id for row in rows})
    found = {run.id: run for run in runs.by_rows(connection, numbers)}
    return [_held(row, found[row.dag_run_id], structures) for row in rows]


def holders(connection: sa.Connection) -> list[Job]:
    """Return the jobs that hold an attempt which a process executes, or is about to."""
    return [Job(*row) for row in connection.execute(_HOLDERS)]


def _held(row: Any, run: DagRun, structures: Structures) -> Held:
    structure = structures(run.dag_version_id)
    claimed = Claimed(
        row.claim, row.id, run, run.dag_version_id, structure.tasks[row.task_index], row.map_index, row.attempt,
        row.max_attempts, row.started_at, row.deadline_at, structure.on_interrupt,
    )  # fmt: skip
    return Held(claimed, State(row.state), row.job_id, row.launcher, row.host, row.pid, row.log)


def run_of(connection: sa.Connection, claim: int) -> tuple[DagRun, str] | None:
    """Return the run and task_id of an open attempt; None when nobody holds that claim."""
    row = connection.execute(_BY_CLAIM, {"claim": claim}).first()
    return None if row is None else (runs.by_rows(connection, [row.dag_run_id])[0], row.task_id)


def retrying(connection: sa.Connection) -> list[tuple[int, datetime]]:
    """Return the task instances that wait for their next attempt, and when it is due."""
    return [(row.id, row.wake_at) for row in connection.execute(_RETRYING)]


def result(
    connection: sa.Connection, dag_run_row: int, task_id: str, key: str, map_index: int
) -> tuple[str | None, str | None] | None:
    """Return (typed JSON, None) or (None, path of its file) of the attempt that won; None when there is none."""
    row = connection.execute(
        _RESULT, {"run": dag_run_row, "task_id": task_id, "key": key, "map_index": map_index}
    ).first()
    return None if row is None else (row.value, row.path)


_PROGRESS = (
    sa.update(task_instance).where(task_instance.c.claim == bindparam("b_claim")).values(reason=bindparam("b_text"))
)


def set_progress(connection: sa.Connection, claim: int, text: str) -> None:
    """Keep what a running attempt says of how far it is, where people look for the reason of a state."""
    connection.execute(_PROGRESS, {"b_claim": claim, "b_text": text[:500]})

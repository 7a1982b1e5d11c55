"""Why a task instance is not running now: `flux why`. Asks the scheduler's own predicates, changes nothing."""

from __future__ import annotations

import json
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.dependencies import Reason, unmet
from flux.errors import DamagedVersion
from flux.states import Outcome, RunState, State
from flux.store.prepared import Prepared
from flux.store.resolving import verdict_of
from flux.store.runs import DagRun, Structures
from flux.store.schema import attempt, dag, dag_file, task_instance
from flux.store.scope import NEIGHBOURS, ROWS, Row, Scope
from flux.times import iso
from flux.trigger_rules import Verdict

_BY_ID = Prepared(ROWS.where(task_instance.c.id == bindparam("id")))
_MOMENTS = sa.select(task_instance.c.wake_at, task_instance.c.deadline_at).where(task_instance.c.id == bindparam("id"))
_ERROR = (
    sa.select(dag_file.c.path, dag_file.c.error)
    .join_from(dag, dag_file, dag.c.dag_file_id == dag_file.c.id)
    .where(dag.c.id == bindparam("dag_row"), dag_file.c.error.is_not(None))
)
_RUNNING = sa.select(sa.func.count()).where(
    task_instance.c.state.in_([State.QUEUED, State.STARTED]), task_instance.c.needs_slot == sa.true()
)
_QUEUED_AT = (
    sa.select(attempt.c.started_at)
    .join_from(task_instance, attempt, attempt.c.claim == task_instance.c.claim)
    .where(task_instance.c.id == bindparam("id"))
)
#: Why an attempt was never launched.
_NOT_LAUNCHED = sa.select(attempt.c.reason).where(
    attempt.c.task_instance_id == bindparam("id"),
    attempt.c.attempt == bindparam("number"),
    attempt.c.outcome == Outcome.NEVER_LAUNCHED,
)
#: Upstream tasks named one by one; of more, the number is told.
_NAMED = 10


def reasons(
    connection: sa.Connection,
    task_instance_row: int,
    structures: Structures,
    now: datetime,
    *,
    executor: str,
    parallelism: int,
) -> list[Reason]:
    """Return everything that keeps a task instance from running now, in the order in which it will be met.

    Empty when it is running or done.

    Args:
        executor: the configured executor's name.
        parallelism: how many attempts the executor takes at once.
    """
    scope = Scope(connection, structures, now)
    row = scope.rows(_BY_ID, id=task_instance_row)[0]
    state = State(row.state)
    if state.is_terminal or state is State.STARTED:
        return []
    if state is State.QUEUED:
        return [_queued(connection, row, executor)]
    if state is State.DEFERRED:
        return [_between_pokes(connection, row)]
    try:
        scope.task(row)
    except DamagedVersion as error:
        return [Reason("damaged_version", str(error), row.task_id)]
    found: list[Reason] = []
    if state is State.WAITING:
        found += _waiting(scope, row)
    if state is State.RETRYING:
        found.append(_retrying(connection, row))
    found += unmet(scope.facts(row))
    if not found and row.needs_slot:
        found += _executor(connection, parallelism)
    return found + _broken_file(connection, scope.runs[row.dag_run_id])


def run_reason(run: DagRun, max_active_runs: int) -> Reason | None:
    """Return why a run that has no task instances yet does not begin."""
    if run.state is not RunState.QUEUED:
        return None
    text = f"Run {run.run_id!r} waits: DAG {run.dag_id!r} runs its max_active_runs = {max_active_runs} runs already."
    return Reason("max_active_runs", text, run.dag_id)


def _between_pokes(connection: sa.Connection, row: Row) -> Reason:
    deadline = connection.execute(_MOMENTS, {"id": row.id}).one().deadline_at
    return Reason(
        "poke", f"The sensor's condition did not hold at its last poke; it gives up at {iso(deadline)}.", row.task_id
    )


def _retrying(connection: sa.Connection, row: Row) -> Reason:
    wake_at = connection.execute(_MOMENTS, {"id": row.id}).one().wake_at
    text = f"Attempt {row.attempt + 1} begins at {iso(wake_at)}.{_not_launched(connection, row, row.attempt)}"
    return Reason("retry", text, iso(wake_at) or "")


def _queued(connection: sa.Connection, row: Row, executor: str) -> Reason:
    since = connection.execute(_QUEUED_AT, {"id": row.id}).scalar_one()
    text = f"It is queued at executor {executor!r} since {iso(since)}; no agent has begun."
    return Reason("queued", text + _not_launched(connection, row, row.attempt - 1), executor)


def _not_launched(connection: sa.Connection, row: Row, number: int) -> str:
    """Why an attempt was never launched, as a sentence; empty when it was, or there is none."""
    why = connection.execute(_NOT_LAUNCHED, {"id": row.id, "number": number}).scalar_one_or_none()
    return "" if why is None else f" Attempt {number}: {why}."


def _waiting(scope: Scope, row: Row) -> list[Reason]:
    """Upstream tasks and gates that have not ended, or the rule that cannot decide yet."""
    task, structure = scope.task(row), scope.structure(row)
    above = [*task.upstream, *(other.index for other in structure.tasks if row.task_index in other.gates)]
    unfinished = [
        other
        for other in scope.rows_of(NEIGHBOURS, sorted(set(above)), run=row.dag_run_id)
        if not State(other.state).is_terminal
    ]
    if not unfinished:
        decided = verdict_of(row, task)
        late = "" if decided is Verdict.WAIT else " The sweep will mend it within 30 seconds."
        return [Reason("trigger_rule", f"Its trigger rule {task.trigger_rule} has not decided.{late}", row.task_id)]
    found = [
        Reason(
            "upstream" if other.task_index in task.upstream else "gate",
            f"Task {other.task_id!r} above it is {other.state}; trigger rule {task.trigger_rule} waits for it.",
            other.task_id,
        )
        for other in unfinished[:_NAMED]
    ]
    if len(unfinished) > _NAMED:
        found.append(Reason("upstream", f"{len(unfinished) - _NAMED} more tasks above it have not ended.", row.task_id))
    return found


def _executor(connection: sa.Connection, parallelism: int) -> list[Reason]:
    running = connection.execute(_RUNNING).scalar_one()
    if running < parallelism:
        return []
    text = f"The executor runs {running} attempts, parallelism is {parallelism}."
    return [Reason("parallelism", text, "parallelism")]


def _broken_file(connection: sa.Connection, run: DagRun) -> list[Reason]:
    row = connection.execute(_ERROR, {"dag_row": run.dag_row}).first()
    if row is None:
        return []
    message = json.loads(row.error)["message"]
    text = f"File {row.path!r} cannot be read: {message} Its last good version goes on running."
    return [Reason("broken_file", text, row.path)]

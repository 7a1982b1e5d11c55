"""Announces changes of state: rows of the outbox, in the transaction that makes the change, while anybody listens.

`transitions` calls it around each move, so nothing changes a state unannounced. What is made is not announced: a task
instance begins as waiting or ready, a DAG run as queued. Each announcement is the row as that move left it, and the
state before; the rows are read once for all that move together.

Order: a row is locked by its move before its announcement gets a number, so what one commit causes has a higher number
than the cause. Moves of different rows whose transactions overlap caused nothing in each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import StoreError
from flux.states import CLAIMED_EVENTS, TRANSITIONS, Event, RunState
from flux.store import outbox
from flux.store.schema import dag, dag_run, task_instance
from flux.structure import DagStructure
from flux.times import iso, utc_now

#: Kinds of messages in the outbox.
TASK_STATE, RUN_STATE = "task_state", "dag_run_state"
KINDS = (TASK_STATE, RUN_STATE)
_OF_HOOK = {"flux_task_state_changed": TASK_STATE, "flux_dag_run_state_changed": RUN_STATE}

_CHUNK = 500
_BY_CLAIM = (
    sa.select(task_instance.c.claim.label("key"), task_instance.c.id, task_instance.c.state)
    .where(task_instance.c.claim.in_(bindparam("keys", expanding=True)))
    .with_for_update()
)
_BY_ID = (
    sa.select(task_instance.c.id.label("key"), task_instance.c.id, task_instance.c.state)
    .where(task_instance.c.id.in_(bindparam("keys", expanding=True)))
    .with_for_update()
)
_TASKS = (
    sa.select(
        task_instance.c.id, task_instance.c.dag_run_id, dag.c.dag_id, dag_run.c.run_id, task_instance.c.task_id,
        task_instance.c.map_index, task_instance.c.state, task_instance.c.attempt, task_instance.c.max_attempts,
        task_instance.c.started_at, task_instance.c.ended_at, task_instance.c.reason, dag_run.c.dag_version_id,
    )
    .join_from(task_instance, dag_run, task_instance.c.dag_run_id == dag_run.c.id)
    .join(dag, dag_run.c.dag_row == dag.c.id)
    .where(task_instance.c.id.in_(bindparam("ids", expanding=True)))
)  # fmt: skip
_RUN = (
    sa.select(
        dag_run.c.id, dag.c.dag_id, dag_run.c.run_id, dag_run.c.kind, dag_run.c.state, dag_run.c.logical_date,
        dag_run.c.interval_start, dag_run.c.interval_end, dag_run.c.conf, dag_run.c.started_at, dag_run.c.ended_at,
    )
    .join_from(dag_run, dag, dag_run.c.dag_row == dag.c.id)
    .where(dag_run.c.id == bindparam("id"))
)  # fmt: skip


def kinds_of(hooks: Iterable[str]) -> frozenset[str]:
    """Return the kinds of messages that are for who implements these hooks."""
    return frozenset(_OF_HOOK[hook] for hook in hooks if hook in _OF_HOOK)


def is_wanted(connection: sa.Connection, kind: str) -> bool:
    """Say whether this transaction announces changes of this kind; see `Store.announce`."""
    return kind in connection.get_execution_options().get("flux_announces", ())


def before(connection: sa.Connection, event: Event, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Return (row number, state) of the task instances that `event` is about to move, locked, in order of `rows`.

    Args:
        rows: as the event's statement takes them, with b_claim or b_id.
    """
    by_claim = event in CLAIMED_EVENTS
    sources = TRANSITIONS[event].sources
    keys = [row["b_claim" if by_claim else "b_id"] for row in rows]
    if not by_claim and len(sources) == 1:  # the move itself sees to it that it was there
        return [(key, next(iter(sources))) for key in keys]
    statement = _BY_CLAIM if by_claim else _BY_ID
    found = {row.key: (row.id, row.state) for part in _parts(keys) for row in connection.execute(statement, part)}
    return [found[key] for key in keys if key in found]


def moved(connection: sa.Connection, task_instances: Sequence[tuple[int, str]]) -> None:
    """Announce task instances that have moved: (row number, state before)."""
    ids = [number for number, _ in task_instances]
    rows = {row.id: row for part in _parts(ids, "ids") for row in connection.execute(_TASKS, part)}
    messages = [(rows[number].dag_run_id, _task(rows[number], previous)) for number, previous in task_instances]
    outbox.add_all(connection, TASK_STATE, messages, utc_now())


def run_moved(connection: sa.Connection, dag_run_row: int, previous: RunState) -> None:
    """Announce a DAG run that has moved."""
    row = connection.execute(_RUN, {"id": dag_run_row}).one()
    outbox.add_all(connection, RUN_STATE, [(row.id, _run(row, previous))], utc_now())


def due(
    connection: sa.Connection,
    structures: Callable[[int], DagStructure],
    now: datetime,
    *,
    limit: int,
    told: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Return the oldest announcements that nobody was told, oldest first: {"id", "what", …} as listeners get them.

    Args:
        structures: gives the structure of a DAG version by its row number.
        told: ids of those that were told and are still in the outbox.
    """
    events = []
    for message in outbox.due(connection, KINDS, now, limit=limit + len(told), told=told):
        event = {"id": message.id, "what": message.kind, **message.payload}
        if message.kind == TASK_STATE:
            event["operator"] = _operator(structures, event.pop("version"), event["task_id"])
        events.append(event)
    return events


def _operator(structures: Callable[[int], DagStructure], version: int, task_id: str) -> str:
    """The name of a task's operator class; "" when its version is gone or cannot be read."""
    try:
        return structures(version).task(task_id).operator
    except (sa.exc.NoResultFound, KeyError, ValueError, TypeError, StoreError):
        return ""


def _parts(keys: Sequence[int], name: str = "keys") -> Iterator[dict[str, list[int]]]:
    return ({name: list(keys[start : start + _CHUNK])} for start in range(0, len(keys), _CHUNK))


def _task(row: Any, previous: str) -> dict[str, Any]:
    """What a listener is told of a task instance, but for its operator's name, which its version's structure has."""
    return {
        "previous": previous, "dag_id": row.dag_id, "run_id": row.run_id, "task_id": row.task_id,
        "map_index": None if row.map_index < 0 else row.map_index, "state": row.state, "attempt": row.attempt,
        "max_attempts": row.max_attempts, "started_at": iso(row.started_at), "ended_at": iso(row.ended_at),
        "reason": row.reason, "version": row.dag_version_id,
    }  # fmt: skip


def _run(row: Any, previous: str) -> dict[str, Any]:
    return {
        "previous": previous, "dag_id": row.dag_id, "run_id": row.run_id, "kind": row.kind, "state": row.state,
        "logical_date": iso(row.logical_date), "interval_start": iso(row.interval_start),
        "interval_end": iso(row.interval_end), "conf": None if row.conf is None else json.loads(row.conf),
        "started_at": iso(row.started_at), "ended_at": iso(row.ended_at),
    }  # fmt: skip

"""The outbox: what is to be told to others after the transaction that caused it. At least once, in order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.store import schema
from flux.store.engine import insert_missing


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to tell."""

    id: int
    kind: str
    dag_run_id: int | None
    payload: dict[str, Any]
    #: How often telling it has failed.
    tries: int
    created_at: datetime


_outbox = schema.outbox
#: Walks the table by its key: an expression keeps planners from the index on the state, which would sort the whole of a
#: backlog for each batch of it.
_DUE = (
    sa.select(*(_outbox.c[field.name] for field in dataclasses.fields(Message)))
    .where(sa.func.coalesce(_outbox.c.state, "") == "waiting", _outbox.c.kind.in_(bindparam("kinds", expanding=True)))
    .where(sa.or_(_outbox.c.wake_at.is_(None), _outbox.c.wake_at <= bindparam("now")))
    .order_by(_outbox.c.id)
    .limit(bindparam("limit", type_=sa.Integer()))
)
_COUNT = sa.select(sa.func.count()).where(
    _outbox.c.state == "waiting", _outbox.c.kind.in_(bindparam("kinds", expanding=True))
)
_ADD = sa.insert(_outbox)
_DROP = _outbox.delete().where(_outbox.c.kind.in_(bindparam("kinds", expanding=True)))
_DONE = _outbox.delete().where(_outbox.c.id.in_(bindparam("ids", expanding=True)))
_LATER = (
    _outbox.update()
    .where(_outbox.c.id == bindparam("message"))
    .values(tries=_outbox.c.tries + 1, wake_at=bindparam("at"))
)


def add(
    connection: sa.Connection,
    kind: str,
    payload: Mapping[str, Any],
    *,
    dag_run_id: int | None = None,
    dedupe_key: str | None = None,
    now: datetime,
) -> None:
    """Add a message. One whose `dedupe_key` waits already is not added again."""
    insert_missing(connection, _outbox, [{**_row(kind, payload, dag_run_id, now), "dedupe_key": dedupe_key}])


def add_all(
    connection: sa.Connection, kind: str, messages: Sequence[tuple[int, Mapping[str, Any]]], now: datetime
) -> None:
    """Add messages of one kind in their order, each (row number of its DAG run, payload)."""
    if messages:
        connection.execute(_ADD, [_row(kind, payload, dag_run_id, now) for dag_run_id, payload in messages])


def _row(kind: str, payload: Mapping[str, Any], dag_run_id: int | None, now: datetime) -> dict[str, Any]:
    return {
        "kind": kind,
        "dag_run_id": dag_run_id,
        "payload": json.dumps(payload, separators=(",", ":")),
        "state": "waiting",
        "tries": 0,
        "created_at": now,
    }


def due(
    connection: sa.Connection, kinds: Sequence[str], now: datetime, *, limit: int = 100, told: Container[int] = ()
) -> list[Message]:
    """Return the oldest messages of these kinds that wait to be told, oldest first.

    Args:
        limit: rows that are read at most.
        told: ids of those among them that have been told and are to be dropped later.
    """
    rows = connection.execute(_DUE, {"kinds": list(kinds), "now": now, "limit": limit})
    return [
        Message(row.id, row.kind, row.dag_run_id, json.loads(row.payload), row.tries, row.created_at)
        for row in rows
        if row.id not in told
    ]


def waiting(connection: sa.Connection, kinds: Sequence[str]) -> int:
    """Return how many messages of these kinds wait to be told."""
    return int(connection.execute(_COUNT, {"kinds": list(kinds)}).scalar_one())


def drop(connection: sa.Connection, kinds: Sequence[str]) -> int:
    """Drop every message of these kinds, which nobody is there to be told; return how many there were."""
    return connection.execute(_DROP, {"kinds": list(kinds)}).rowcount


def done(connection: sa.Connection, ids: Iterable[int]) -> None:
    """Drop messages that have been told."""
    connection.execute(_DONE, {"ids": list(ids)})


def later(connection: sa.Connection, message: int, at: datetime) -> None:
    """Keep a message that could not be told until `at`."""
    connection.execute(_LATER, {"message": message, "at": at})

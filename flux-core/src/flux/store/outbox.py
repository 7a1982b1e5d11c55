"""The outbox: what is to be told to others after the transaction that caused it. At least once, in order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
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
_DUE = (
    sa.select(*(_outbox.c[field.name] for field in dataclasses.fields(Message)))
    .where(_outbox.c.state == "waiting")
    .where(sa.or_(_outbox.c.wake_at.is_(None), _outbox.c.wake_at <= bindparam("now")))
    .order_by(_outbox.c.id)
    .limit(bindparam("limit", type_=sa.Integer()))
)
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
    row = {
        "kind": kind,
        "dedupe_key": dedupe_key,
        "dag_run_id": dag_run_id,
        "payload": json.dumps(payload, separators=(",", ":")),
        "state": "waiting",
        "tries": 0,
        "created_at": now,
    }
    insert_missing(connection, _outbox, [row])


def due(connection: sa.Connection, now: datetime, *, limit: int = 100) -> list[Message]:
    """Return the oldest messages that wait to be told, oldest first."""
    rows = connection.execute(_DUE, {"now": now, "limit": limit})
    return [
        Message(row.id, row.kind, row.dag_run_id, json.loads(row.payload), row.tries, row.created_at) for row in rows
    ]


def done(connection: sa.Connection, ids: Iterable[int]) -> None:
    """Drop messages that have been told."""
    connection.execute(_DONE, {"ids": list(ids)})


def later(connection: sa.Connection, message: int, at: datetime) -> None:
    """Keep a message that could not be told until `at`."""
    connection.execute(_LATER, {"message": message, "at": at})

"""The audit: who did what, written in the transaction that did it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.store import schema
from flux.store.engine import insert_row


@dataclass(frozen=True, slots=True)
class Entry:
    """One action of a person or a component."""

    at: datetime
    who: str
    #: As "dag.pause" or "run.trigger".
    action: str
    #: What it was done to, as people write it.
    object: str
    detail: dict[str, Any] | None


_log = schema.audit_log
_NEWEST = (
    sa.select(_log.c.at, _log.c.who, _log.c.action, _log.c.object, _log.c.detail)
    .order_by(_log.c.id.desc())
    .limit(bindparam("limit", type_=sa.Integer()))
)


def add(
    connection: sa.Connection,
    who: str,
    action: str,
    object: str,  # noqa: A002
    detail: Mapping[str, Any] | None,
    now: datetime,
) -> None:
    """Record an action."""
    text = None if detail is None else json.dumps(dict(detail), separators=(",", ":"))
    insert_row(connection, _log, {"at": now, "who": who, "action": action, "object": object, "detail": text})


def every(connection: sa.Connection, limit: int = 1000) -> list[Entry]:
    """Return the newest actions, newest first."""
    rows = connection.execute(_NEWEST, {"limit": limit})
    return [
        Entry(row.at, row.who, row.action, row.object, json.loads(row.detail) if row.detail else None) for row in rows
    ]

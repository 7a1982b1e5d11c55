"""Stored connections, as rows. What is secret in them is encrypted before it comes here, and stays so."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import NotFound
from flux.store import schema
from flux.store.engine import insert_missing


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """A row of table `connection`."""

    conn_id: str
    type: str
    host: str | None
    port: int | None
    login: str | None
    schema: str | None
    #: The type's own fields that are not secret.
    extra: Mapping[str, Any] = field(default_factory=dict)
    #: The password and the secret fields, encrypted; None: there are none.
    secrets: bytes | None = field(default=None, repr=False)


_connection = schema.connection
_COLUMNS = [_connection.c[each.name] for each in dataclasses.fields(StoredConnection)]
_GET = sa.select(*_COLUMNS).where(_connection.c.conn_id == bindparam("conn_id"))
_EVERY = sa.select(*_COLUMNS).order_by(_connection.c.conn_id)
_IDS = sa.select(_connection.c.conn_id).order_by(_connection.c.conn_id)
_DELETE = _connection.delete().where(_connection.c.conn_id == bindparam("conn_id"))
_SET_SECRETS = (
    _connection.update()
    .where(_connection.c.conn_id == bindparam("of"), _connection.c.secrets == bindparam("old"))
    .values(secrets=bindparam("new"))
)


def get(connection: sa.Connection, conn_id: str) -> StoredConnection | None:
    """Return a connection; None when none of that id is stored."""
    row = connection.execute(_GET, {"conn_id": conn_id}).one_or_none()
    return None if row is None else _record(row)


def every(connection: sa.Connection) -> list[StoredConnection]:
    """Return all connections by conn_id."""
    return [_record(row) for row in connection.execute(_EVERY)]


def ids(connection: sa.Connection) -> list[str]:
    """Return the conn_ids, sorted."""
    return list(connection.scalars(_IDS))


def put(connection: sa.Connection, stored: StoredConnection) -> bool:
    """Store a connection; return True when one of that id was replaced."""
    replaced = connection.execute(_DELETE, {"conn_id": stored.conn_id}).rowcount > 0
    row = {each.name: getattr(stored, each.name) for each in dataclasses.fields(stored)}
    insert_missing(connection, _connection, [{**row, "extra": json.dumps(dict(stored.extra))}])
    return replaced


def delete(connection: sa.Connection, conn_id: str) -> None:
    """Delete a connection; NotFound names the nearest ones."""
    if connection.execute(_DELETE, {"conn_id": conn_id}).rowcount == 0:
        raise NotFound.named("Stored connection", conn_id, ids(connection))


def set_secrets(connection: sa.Connection, conn_id: str, old: bytes, new: bytes) -> bool:
    """Replace what is encrypted in a connection; False when it is no longer `old`."""
    return connection.execute(_SET_SECRETS, {"of": conn_id, "old": old, "new": new}).rowcount > 0


def _record(row: sa.Row[Any]) -> StoredConnection:
    fields = row._asdict()
    return StoredConnection(**{**fields, "extra": json.loads(fields["extra"] or "{}")})

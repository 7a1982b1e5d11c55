"""Variables: short texts that people set and tasks read."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import NotFound
from flux.store import schema
from flux.store.engine import insert_missing


@dataclass(frozen=True, slots=True)
class Variable:
    """A row of table `variable`."""

    name: str
    value: str


_variable = schema.variable
_GET = sa.select(_variable.c.value).where(_variable.c.name == bindparam("name"))
_EVERY = sa.select(_variable.c.name, _variable.c.value).order_by(_variable.c.name)
_SET = _variable.update().where(_variable.c.name == bindparam("of")).values(value=bindparam("new"))
_DELETE = _variable.delete().where(_variable.c.name == bindparam("name"))


def get(connection: sa.Connection, name: str) -> str | None:
    """Return the value of a variable; None when it is not set."""
    return connection.scalar(_GET, {"name": name})


def set(connection: sa.Connection, name: str, value: str) -> None:  # noqa: A001
    """Set a variable, new or not."""
    if connection.execute(_SET, {"of": name, "new": value}).rowcount == 0:
        insert_missing(connection, _variable, [{"name": name, "value": value}])


def delete(connection: sa.Connection, name: str) -> None:
    """Delete a variable; NotFound names the nearest ones."""
    if connection.execute(_DELETE, {"name": name}).rowcount == 0:
        raise NotFound.named("Variable", name, (variable.name for variable in every(connection)))


def every(connection: sa.Connection) -> list[Variable]:
    """Return all variables by name."""
    return [Variable(*row) for row in connection.execute(_EVERY)]

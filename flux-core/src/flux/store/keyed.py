"""Statements for the rows of some keys, however many: `=` for one, which costs half of a list, else lists of 500."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.store.prepared import Prepared, Record, Values

T = TypeVar("T")

#: Most values in one IN list.
_CHUNK = 500


class Keyed:
    """`statement` for the rows whose `column` is one of some keys; its other parameters are given by name."""

    def __init__(self, statement: sa.Select[Any] | sa.Update, column: sa.Column[Any]) -> None:
        self._one = Prepared(statement.where(column == bindparam("b_key")))
        self._many = Prepared(statement.where(column.in_(bindparam("b_keys", expanding=True))))

    def rows(self, connection: sa.Connection, keys: Sequence[Any], **values: Any) -> list[Record]:
        """Return the rows of these keys; none for no keys."""
        return [row for part, given in self.over(keys, values) for row in part.rows(connection, given)]

    def run(self, connection: sa.Connection, keys: Sequence[Any], **values: Any) -> None:
        """Execute it so that every key comes once."""
        for part, given in self.over(keys, values):
            part.run(connection, given)

    def over(self, keys: Sequence[Any], values: Values) -> Iterator[tuple[Prepared, Values]]:
        """Yield the statements to execute, with their parameters, so that every key comes once; none for no keys."""
        if len(keys) == 1:
            yield self._one, {**values, "b_key": keys[0]}
            return
        for chunk in chunks(keys):
            yield self._many, {**values, "b_keys": list(chunk)}


def chunks(items: Sequence[T], size: int = _CHUNK) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts that fit an IN list."""
    return (items[start : start + size] for start in range(0, len(items), size))

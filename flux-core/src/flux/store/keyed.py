"""Statements for the rows of some keys, however many: `=` for one, which costs half of a list, else lists of 500."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam

T = TypeVar("T")
S = TypeVar("S", sa.Select[Any], sa.Update)

#: Most values in one IN list.
_CHUNK = 500


class Keyed(Generic[S]):
    """`statement` for the rows whose `column` is one of some keys."""

    def __init__(self, statement: S, column: sa.Column[Any]) -> None:
        self._one: S = statement.where(column == bindparam("b_key"))
        self._many: S = statement.where(column.in_(bindparam("b_keys", expanding=True)))

    def over(self, keys: Sequence[Any], **values: Any) -> Iterator[tuple[S, dict[str, Any]]]:
        """Yield the statements to execute, with their parameters, so that every key comes once; none for no keys."""
        if len(keys) == 1:
            yield self._one, {**values, "b_key": keys[0]}
            return
        for chunk in chunks(keys):
            yield self._many, {**values, "b_keys": list(chunk)}


def chunks(items: Sequence[T], size: int = _CHUNK) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts that fit an IN list."""
    return (items[start : start + size] for start in range(0, len(items), size))

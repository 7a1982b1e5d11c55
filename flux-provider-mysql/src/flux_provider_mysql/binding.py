"""Putting parameters into a statement: which values may be bound, and what fits which placeholder. Knows no server.

PyMySQL alone would take the text of any object, drop the time zone of a datetime, and paste a whole dict where a `%s`
without a name, or a `% s` in a text, meets parameters with names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NoReturn
from uuid import UUID

from flux import FluxError

__all__ = ["BindingError", "bound"]

#: What SQL has a literal for, with what makes the driver's own type of a subclass. A bool is an int, so it comes first.
_KINDS: tuple[tuple[type, Callable[[Any], Any] | None], ...] = (
    (bool, bool),
    (int, int),
    (float, float),
    (Decimal, None),
    (str, str),
    (bytes, bytes),
    (bytearray, bytes),
    (datetime, None),
    (date, None),
    (time, None),
    (timedelta, None),
    (UUID, str),
)


class BindingError(FluxError):
    """A parameter is missing, or is none that SQL has. The message names it."""


def bound(statement: str, parameters: Sequence[Any] | Mapping[str, Any], literal: Callable[[Any], str]) -> str:
    """Return the statement with its placeholders replaced.

    Args:
        literal: writes one value, or a tuple of them as `(1, 2)`, as the server reads it.

    Raises:
        BindingError: a parameter is missing, or is none that SQL has.
        ValueError, TypeError: the placeholders do not fit.
    """
    if isinstance(parameters, Mapping):
        return statement % _Named({name: literal(_plain(repr(name), value)) for name, value in parameters.items()})
    if not isinstance(parameters, (list, tuple)):
        raise BindingError(f"The parameters are of type {type(parameters).__name__}. Give a list or a dict.")
    return statement % tuple(literal(_plain(str(i), value)) for i, value in enumerate(parameters, 1))


class _Named(dict[str, str]):
    """Literals by name. A placeholder without a name asks for the text of the whole, which there is none of."""

    def __getitem__(self, name: str) -> str:
        if name not in self:
            raise BindingError(f"The statement names the parameter {name!r}, which is not among the parameters.")
        return super().__getitem__(name)

    def __repr__(self) -> NoReturn:
        raise TypeError("they have names, and a placeholder has none")


def _plain(which: str, value: Any) -> Any:
    """The value as one of the driver's own types; `which` names it in errors."""
    if isinstance(value, (list, tuple, set, frozenset)):
        if not value:
            raise BindingError(f"Parameter {which} is empty, and SQL has no empty list. Skip the task, or add a value.")
        return tuple(_plain(which, item) for item in value)
    if value is None:
        return None
    if isinstance(value, (datetime, time)) and value.tzinfo is not None:
        raise BindingError(
            f"Parameter {which} has a time zone, which MySQL would drop. "
            "Give value.astimezone(...).replace(tzinfo=None), in the zone that the column is in."
        )
    for kind, own in _KINDS:
        if isinstance(value, kind) and not isinstance(value, Enum):
            return value if own is None else own(value)
    raise BindingError(
        f"Parameter {which} is of type {type(value).__name__}, which SQL has not. "
        "Give a number, text, bytes, date, time or None, or a list of these."
    )

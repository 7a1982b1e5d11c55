"""What may be bound to which placeholder."""

from __future__ import annotations

from datetime import UTC, datetime, time
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flux_provider_mysql.binding import BindingError, bound


class Plain(Enum):
    A = 1


class Word(StrEnum):
    A = "a"


class Text(str):
    __slots__ = ()


class Number(float):
    __slots__ = ()


def put(statement: str, parameters: Any) -> str:
    return bound(statement, parameters, repr)


def test_values_stand_in_the_place_of_their_placeholders() -> None:
    assert put("a %s b %s 5%%", [1, "x"]) == "a 1 b 'x' 5%"
    assert put("a %(n)s b %(n)s %(x)s 5%%", {"n": 1, "x": None, "unused": 2}) == "a 1 b 1 None 5%"


def test_subclasses_are_bound_as_what_they_derive_from() -> None:
    assert put("%s %s %s", [Text("x"), Number(1.5), UUID(int=5)]) == f"'x' 1.5 {str(UUID(int=5))!r}"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Plain.A, "is of type Plain"),
        (Word.A, "is of type Word"),
        (Path("x"), "is of type PosixPath"),
        (object(), "is of type object"),
        ({"a": 1}, "is of type dict"),
        (range(3), "is of type range"),
        ([1, object()], "is of type object"),
        ([], "is empty"),
        (datetime(2026, 1, 5, tzinfo=UTC), "has a time zone"),
        (time(6, tzinfo=UTC), "has a time zone"),
    ],
)
def test_what_sql_has_not_is_refused_by_name(value: Any, words: str) -> None:
    with pytest.raises(BindingError, match=f"Parameter 2 {words}"):
        put("%s, %s", [1, value])
    with pytest.raises(BindingError, match=f"Parameter 'day' {words}"):
        put("%(day)s", {"day": value})


@pytest.mark.parametrize("parameters", ["a", 5, {1}, b"x"])
def test_parameters_are_a_list_or_a_dict(parameters: Any) -> None:
    with pytest.raises(BindingError, match="Give a list or a dict"):
        put("%s", parameters)


def test_parameters_with_names_are_never_pasted_as_a_whole() -> None:
    for statement in ("SELECT %s", "SELECT '100% sure'", "SELECT %r"):
        with pytest.raises(TypeError, match="a placeholder has none"):
            put(statement, {"day": "'; DROP TABLE t; --"})

"""Statements for the rows of some keys."""

from __future__ import annotations

import sqlalchemy as sa

from flux.store.keyed import Keyed, chunks
from flux.store.schema import pool

_NAMES = Keyed(sa.select(pool.c.name).where(pool.c.slots == sa.bindparam("slots")), pool.c.id)


def test_chunks_hold_everything_once() -> None:
    assert [list(chunk) for chunk in chunks(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([])) == []


def test_no_keys_make_no_statement() -> None:
    assert list(_NAMES.over([], {"slots": 3})) == []


def test_one_key_is_looked_up_without_a_list() -> None:
    [(statement, values)] = _NAMES.over([7], {"slots": 3})
    assert "IN" not in str(statement)
    assert values == {"slots": 3, "b_key": 7}


def test_many_keys_are_cut_into_lists() -> None:
    parts = list(_NAMES.over(range(1200), {"slots": 3}))
    assert [len(values["b_keys"]) for _, values in parts] == [500, 500, 200]
    assert {values["slots"] for _, values in parts} == {3}
    assert [key for _, values in parts for key in values["b_keys"]] == list(range(1200))

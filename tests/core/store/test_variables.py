"""Variables."""

from __future__ import annotations

import pytest

from flux.errors import NotFound
from flux.store import variables
from flux.store.engine import Store
from flux.store.variables import Variable


def test_a_variable_has_the_value_it_was_given_last(store: Store) -> None:
    for value in ("1", "", "🌊"):
        store.write(lambda connection, value=value: variables.set(connection, "a", value))
        assert store.read(lambda connection: variables.get(connection, "a")) == value


def test_setting_the_same_value_again_is_harmless(store: Store) -> None:
    for _ in range(2):
        store.write(lambda connection: variables.set(connection, "a", "1"))
    assert store.read(variables.every) == [Variable("a", "1")]


def test_one_that_is_not_set_is_none(store: Store) -> None:
    assert store.read(lambda connection: variables.get(connection, "a")) is None


def test_a_deleted_one_is_gone_and_an_unknown_one_not_found(store: Store) -> None:
    store.write(lambda connection: variables.set(connection, "bucket", "1"))
    with pytest.raises(NotFound, match=r"'buckt' .*bucket"):
        store.write(lambda connection: variables.delete(connection, "buckt"))
    store.write(lambda connection: variables.delete(connection, "bucket"))
    assert store.read(variables.every) == []

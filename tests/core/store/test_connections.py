"""Stored connections, as rows."""

from __future__ import annotations

import pytest

from flux.errors import NotFound
from flux.store import connections
from flux.store.connections import StoredConnection
from flux.store.engine import Store

SHOP = StoredConnection("shop", "mysql", "db.example", 3306, "ann", "sales", {"charset": "utf8mb4"}, b"\x00sealed\xff")
BARE = StoredConnection("Shop", "http", None, None, None, None)


def test_a_connection_is_read_as_it_was_put(store: Store) -> None:
    assert store.write(lambda c: connections.put(c, SHOP)) is False
    assert store.write(lambda c: connections.put(c, BARE)) is False
    assert store.read(lambda c: connections.get(c, "shop")) == SHOP
    assert store.read(lambda c: connections.get(c, "Shop")) == BARE
    assert store.read(lambda c: connections.get(c, "SHOP")) is None
    assert {each.conn_id for each in store.read(connections.every)} == {"Shop", "shop"}
    assert set(store.read(connections.ids)) == {"Shop", "shop"}


def test_one_that_is_put_again_is_replaced_whole(store: Store) -> None:
    store.write(lambda c: connections.put(c, SHOP))
    other = StoredConnection("shop", "acme", None, None, None, None)
    assert store.write(lambda c: connections.put(c, other)) is True
    assert store.read(connections.every) == [other]


def test_a_deleted_one_is_gone_and_an_unknown_one_not_found(store: Store) -> None:
    store.write(lambda c: connections.put(c, SHOP))
    with pytest.raises(NotFound, match=r"'shup' .*shop"):
        store.write(lambda c: connections.delete(c, "shup"))
    store.write(lambda c: connections.delete(c, "shop"))
    assert store.read(connections.every) == []


def test_secrets_are_replaced_only_as_long_as_nobody_else_did(store: Store) -> None:
    store.write(lambda c: connections.put(c, SHOP))
    assert store.write(lambda c: connections.set_secrets(c, "shop", b"\x00sealed\xff", b"new")) is True
    assert store.write(lambda c: connections.set_secrets(c, "shop", b"\x00sealed\xff", b"newer")) is False
    found = store.read(lambda c: connections.get(c, "shop"))
    assert found is not None
    assert (found.secrets, found.host) == (b"new", "db.example")


def test_what_is_sealed_is_not_in_its_repr() -> None:
    assert "sealed" not in repr(SHOP)

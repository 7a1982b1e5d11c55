"""Stored connections: sealed and opened, and the change of their key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flux import config, encryption
from flux.app import Flux
from flux.connection import Connection
from flux.encryption import Keys
from flux.errors import EncryptionError, NotFound
from flux.running import connections
from flux.secret import Secret
from flux.store import audit
from flux.store import connections as stored_connections
from flux.store.connections import StoredConnection

SHOP = Connection("shop", "mysql", "h", 1, "ann", Secret("geheim-4711"), "s", {"a": "b", "token": Secret("t0ken-4711")})
OPEN = Connection("open", "http", "h")


@pytest.fixture
def flux(tmp_path: Path) -> Iterator[Flux]:
    with Flux.open(config.load({"FLUX_DURABILITY": "fast"}, home=tmp_path / "home"), create=True) as flux:
        yield flux


@pytest.fixture
def keyed(flux: Flux) -> Flux:
    """With a key, and two stored connections."""
    encryption.make(flux.config.secret_key_file)
    for each in (SHOP, OPEN):
        connections.put(flux, each, who="ann")
    return flux


def stored(flux: Flux, conn_id: str) -> StoredConnection:
    found = flux.store.read(lambda c: stored_connections.get(c, conn_id))
    assert found is not None
    return found


def opened(flux: Flux, conn_id: str) -> Connection:
    return connections.open_sealed(stored(flux, conn_id), lambda: encryption.read(flux.config.secret_key_file))


def no_keys() -> Keys:
    raise AssertionError("asked for keys")


def test_a_sealed_connection_shows_nothing_and_opens_to_the_same(keyed: Flux) -> None:
    row = stored(keyed, "shop")
    assert row.secrets is not None
    assert not {"geheim-4711", "t0ken-4711", "password", "token"} & {*str(row.extra).split("'"), row.secrets.decode()}
    assert row.extra == {"a": "b"}
    assert opened(keyed, "shop") == SHOP


def test_nothing_of_a_secret_is_in_the_database_file(keyed: Flux) -> None:
    assert keyed.store_path is not None
    files = [path.read_bytes() for path in keyed.store_path.parent.glob("flux.db*")]
    assert any(b"mysql" in data for data in files)
    assert not any(b"geheim-4711" in data or b"t0ken-4711" in data for data in files)


def test_a_connection_without_secrets_needs_no_key() -> None:
    row = connections.seal(OPEN, no_keys)
    assert row.secrets is None
    assert connections.open_sealed(row, no_keys) == OPEN


def test_without_a_key_nothing_is_stored(flux: Flux) -> None:
    with pytest.raises(EncryptionError, match="`flux connection key`"):
        connections.put(flux, SHOP, who="ann")
    assert flux.store.read(stored_connections.every) == []


def test_what_was_done_is_on_record_without_secrets(keyed: Flux) -> None:
    connections.put(keyed, SHOP, who="bob")
    connections.delete(keyed, "shop", who="bob")
    with pytest.raises(NotFound):
        connections.delete(keyed, "shop", who="bob")
    entries = keyed.store.read(audit.every)
    told = [(entry.who, entry.action, entry.object) for entry in entries]
    assert told[:3] == [
        ("bob", "connection.delete", "connection shop"),
        ("bob", "connection.replace", "connection shop"),
        ("ann", "connection.add", "connection open"),
    ]
    assert "geheim" not in str(entries)


def test_another_key_is_told_with_the_connection_and_nothing_is_lost(keyed: Flux) -> None:
    path = keyed.config.secret_key_file
    right = path.read_text()
    path.unlink()
    encryption.make(path)
    with pytest.raises(EncryptionError, match=r"'shop'.*cannot be decrypted.*secret\.key"):
        opened(keyed, "shop")
    with pytest.raises(EncryptionError, match="'shop'"):
        connections.rotate_key(keyed, who="ann")
    assert len(encryption.read(path).lines) == 1
    path.write_text(path.read_text() + right)
    assert opened(keyed, "shop") == SHOP


def test_rotation_encrypts_everything_anew_and_keeps_the_old_key(keyed: Flux) -> None:
    before = stored(keyed, "shop").secrets
    old = encryption.read(keyed.config.secret_key_file)
    assert connections.rotate_key(keyed, who="ann").count == 1
    after = stored(keyed, "shop").secrets
    keys = encryption.read(keyed.config.secret_key_file)
    assert before is not None
    assert after is not None
    assert (keys.lines[1:], keys.is_newest(after), keys.is_newest(before)) == (old.lines, True, False)
    assert opened(keyed, "shop") == SHOP
    dropped = connections.drop_old_keys(keyed, who="ann")
    assert (dropped.count, dropped.dropped) == (0, 1)
    assert opened(keyed, "shop") == SHOP
    actions = [entry.action for entry in keyed.store.read(audit.every)][:2]
    assert actions == ["connection.drop_old_keys", "connection.rotate_key"]


def test_old_keys_are_dropped_only_when_nothing_needs_them(keyed: Flux) -> None:
    """A rotation that stopped after its new key was written is finished by it."""
    encryption.put_new_first(keyed.config.secret_key_file)
    dropped = connections.drop_old_keys(keyed, who="ann")
    assert (dropped.count, dropped.dropped) == (1, 1)
    assert opened(keyed, "shop") == SHOP


def test_changes_of_the_key_and_additions_at_the_same_time_lose_nothing(keyed: Flux) -> None:
    """Each in a Flux of its own, as commands have."""
    failures: list[Exception] = []

    def in_turn(*works: Callable[[Flux], object]) -> None:
        try:
            with Flux.open(keyed.config) as mine:
                for work in works:
                    work(mine)
        except Exception as error:
            failures.append(error)

    def add(name: str) -> Callable[[Flux], object]:
        return lambda flux: connections.put(flux, replace(SHOP, conn_id=name), who="ann")

    change = [
        lambda flux: connections.rotate_key(flux, who="ann"),
        lambda flux: connections.drop_old_keys(flux, who="b"),
    ]
    threads = [threading.Thread(target=in_turn, args=change * 5) for _ in range(2)]
    threads += [threading.Thread(target=in_turn, args=[add(f"{n}-{i}") for i in range(10)]) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    stored_ids = keyed.store.read(stored_connections.ids)
    assert len(stored_ids) == 22
    for conn_id in stored_ids:
        assert opened(keyed, conn_id).host == "h"

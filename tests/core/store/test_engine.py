"""Transactions: what is repeated, what is not, and what people are told."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from flux.errors import DatabaseUnavailable, StaleState, StoreError
from flux.store import engine, schema, variables
from flux.store.engine import Store

pool = schema.pool


def add_pool(store: Store, name: str = "p", used: int = 0) -> None:
    store.write(lambda connection: engine.insert_row(connection, pool, {"name": name, "used": used}))


def used(store: Store, name: str = "p") -> int:
    return store.read(lambda connection: connection.scalar(sa.select(pool.c.used).where(pool.c.name == name)))


def test_what_a_write_did_is_there_for_others(store: Store) -> None:
    store.write(lambda connection: variables.set(connection, "a", "1"))
    assert store.read(lambda connection: variables.get(connection, "a")) == "1"


def test_an_error_of_the_work_rolls_back_and_is_raised_as_it_is(store: Store) -> None:
    def work(connection: sa.Connection) -> None:
        variables.set(connection, "a", "1")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        store.write(work)
    assert store.read(lambda connection: variables.get(connection, "a")) is None


def test_a_violated_constraint_is_the_callers_and_not_repeated(store: Store) -> None:
    runs = []

    def work(connection: sa.Connection) -> None:
        runs.append(1)
        engine.insert_row(connection, pool, {"name": "p", "used": 0})

    store.write(work)
    with pytest.raises(sa.exc.IntegrityError):
        store.write(work)
    assert len(runs) == 2


def test_a_foreign_key_is_enforced(store: Store) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        store.write(
            lambda c: engine.insert_row(c, schema.task_limit, {"dag_row": 7, "task_id": "t", "slots": 1, "used": 0})
        )


def test_a_read_sees_one_moment(store: Store) -> None:
    add_pool(store)

    def twice(connection: sa.Connection) -> tuple[int | None, int | None]:
        query = sa.select(pool.c.used)
        first = connection.scalar(query)
        with ThreadPoolExecutor(1) as other:
            other.submit(store.write, lambda c: c.execute(pool.update().values(used=5))).result()
        return first, connection.scalar(query)

    assert store.read(twice) == (0, 0)
    assert used(store) == 5


def test_names_differ_by_case_and_trailing_space(store: Store) -> None:
    for name in ("a", "A", "a "):
        store.write(lambda connection, name=name: variables.set(connection, name, name))
    assert {item.value for item in store.read(variables.every)} == {"a", "A", "a "}


@pytest.mark.slow
def test_no_increment_is_lost_between_threads(store: Store) -> None:
    """Read, then write: the pattern in which a deferred transaction of SQLite fails."""
    add_pool(store)
    locked = sa.select(pool.c.used).with_for_update()

    def increment(connection: sa.Connection) -> None:
        connection.execute(pool.update().values(used=connection.scalar(locked) + 1))

    with ThreadPoolExecutor(6) as threads:
        for future in [threads.submit(store.write, increment) for _ in range(120)]:
            future.result()
    assert used(store) == 120


@pytest.mark.slow
def test_no_increment_is_lost_between_processes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flux.db"
    script = """
import sys, sqlalchemy as sa
from flux.store import Store, schema
pool = schema.pool
store = Store.open(sys.argv[1], durability="fast")
for _ in range(50):
    store.write(lambda c: c.execute(pool.update().values(used=c.scalar(sa.select(pool.c.used)) + 1)))
"""
    with Store.open(url, create=True) as store:
        add_pool(store)
        writers = [subprocess.Popen([sys.executable, "-c", script, url]) for _ in range(3)]
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
        assert used(store) == 150


@pytest.mark.slow
@pytest.mark.postgres
def test_a_deadlock_is_repeated_until_both_are_done(postgres_store: Store) -> None:
    store = postgres_store
    store.write(lambda connection: connection.execute(pool.delete()))
    add_pool(store, "a")
    add_pool(store, "b")
    both_hold_one = threading.Barrier(2)
    tries: list[str] = []

    def crosswise(first: str, second: str) -> Callable[[sa.Connection], None]:
        def work(connection: sa.Connection) -> None:
            tries.append(first)
            connection.execute(pool.update().where(pool.c.name == first).values(used=pool.c.used + 1))
            if tries.count(first) == 1:
                both_hold_one.wait(10)
            connection.execute(pool.update().where(pool.c.name == second).values(used=pool.c.used + 1))

        return work

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(store.write, crosswise(*names)) for names in (("a", "b"), ("b", "a"))]:
            future.result()
    assert len(tries) == 3
    assert (used(store, "a"), used(store, "b")) == (2, 2)


@pytest.mark.slow
@pytest.mark.postgres
def test_a_serialization_failure_is_repeated(postgres_store: Store) -> None:
    store = postgres_store
    store.write(lambda connection: connection.execute(pool.delete()))
    add_pool(store)
    tries = []

    def work(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        seen = connection.scalar(sa.select(pool.c.used))
        if not tries:
            with ThreadPoolExecutor(1) as other:
                other.submit(store.write, lambda c: c.execute(pool.update().values(used=10))).result()
        tries.append(seen)
        connection.execute(pool.update().values(used=seen + 1))

    store.write(work)
    assert tries == [0, 10]
    assert used(store) == 11


@pytest.mark.postgres
def test_a_connection_lost_in_the_middle_is_repeated_on_a_new_one(postgres_store: Store) -> None:
    store = postgres_store
    store.write(lambda connection: connection.execute(schema.variable.delete()))
    backends = []

    def work(connection: sa.Connection) -> None:
        backends.append(connection.scalar(sa.select(sa.func.pg_backend_pid())))
        variables.set(connection, "a", str(len(backends)))
        if len(backends) == 1:
            kill = sa.select(sa.func.pg_terminate_backend(backends[0], 5000))
            with ThreadPoolExecutor(1) as other:
                assert other.submit(store.write, lambda c: c.scalar(kill)).result()
        connection.scalar(sa.select(1))

    store.write(work)
    assert len(set(backends)) == 2
    assert store.read(lambda connection: variables.get(connection, "a")) == "2"


@pytest.mark.postgres
def test_a_connection_that_is_always_lost_is_an_unavailable_database(postgres_store: Store) -> None:
    tries = []

    def work(connection: sa.Connection) -> None:
        tries.append(1)
        connection.execute(sa.select(sa.func.pg_terminate_backend(sa.func.pg_backend_pid())))

    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        postgres_store.write(work)
    assert len(tries) == engine.TRIES


def test_a_read_cannot_write(store: Store) -> None:
    with pytest.raises((sa.exc.InternalError, DatabaseUnavailable), match=r"read-?only"):
        store.read(lambda connection: variables.set(connection, "a", "1"))
    store.write(lambda connection: variables.set(connection, "a", "2"))
    assert store.read(lambda connection: variables.get(connection, "a")) == "2"


def test_a_row_that_was_moved_meanwhile_is_tried_again_and_then_told(store: Store) -> None:
    tries = []

    def twice(_: sa.Connection) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise StaleState("moved")
        return "done"

    assert store.write(twice) == "done"

    def always(_: sa.Connection) -> None:
        tries.append(1)
        raise StaleState("moved")

    tries.clear()
    with pytest.raises(StaleState):
        store.write(always)
    assert len(tries) == engine.TRIES


def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "flux.db"
    with Store.open(f"sqlite:///{file}", create=True) as store:
        other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.1, lambda: other.execute("COMMIT"))
        release.start()
        store.write(lambda connection: variables.set(connection, "a", "1"))
        release.join()
        other.close()
        assert store.read(lambda connection: variables.get(connection, "a")) == "1"


@pytest.mark.slow
def test_a_file_that_stays_locked_is_an_unavailable_database(tmp_path: Path) -> None:
    file = tmp_path / "flux.db"
    with Store.open(f"sqlite:///{file}", create=True, busy_seconds=0.01) as store:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match=r"flux\.db.* stays busy"):
            store.write(lambda connection: variables.set(connection, "a", "1"))
        other.close()


def test_durability_is_the_one_asked_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flux.db"
    for durability, level in (("full", 2), ("fast", 1)):
        with Store.open(url, durability=durability, create=True) as store:
            pragma = store.read(
                lambda c: [c.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("synchronous", "journal_mode")]
            )
            assert pragma == [level, "wal"]


def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/flux.db", create=True) as store:
        add_pool(store)
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_a_server_that_is_not_there_is_unavailable_and_its_password_not_shown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DatabaseUnavailable, match="cannot be reached") as caught:
        Store.open(f"postgresql://flux:geheim@127.0.0.1:{port}/flux")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("nonsense", "cannot be read"),
        ("oracle://host/name", "sqlite, postgresql, mysql, mariadb"),
        ("postgresql+asyncpg://host/name", r"postgresql\+psycopg"),
        ("sqlite://", "is a file"),
        ("sqlite:///:memory:", "is a file"),
        ("sqlite:////proc/no/such/flux.db", "flux init"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_way_out(url: str, hint: str) -> None:
    with pytest.raises(StoreError, match=hint):
        Store.open(url)


def test_what_is_no_database_is_said_to_be_damaged(tmp_path: Path) -> None:
    file = tmp_path / "flux.db"
    file.write_bytes(b"no database at all, but long enough to be looked at " * 100)
    with pytest.raises(StoreError, match="damaged"):
        Store.open(f"sqlite:///{file}")


def test_rows_that_are_there_already_are_not_inserted_again(store: Store) -> None:
    rows = [{"name": "a", "used": 3}, {"name": "b", "used": 0}]
    add_pool(store, "a", used=1)
    store.write(lambda connection: engine.insert_missing(connection, pool, rows))
    assert (used(store, "a"), used(store, "b")) == (1, 0)

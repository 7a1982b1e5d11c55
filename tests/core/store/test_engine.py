"""Transactions: what is repeated, what is not, and what people are told."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import DatabaseUnavailable, StaleState, StoreError
from flux.store import engine, schema, variables
from flux.store.engine import Store
from flux.store.prepared import Prepared
from tests.databases import SESSION, end_session, parameters

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


@pytest.mark.parametrize(
    ("one", "other"), [("a", "A"), ("a", "a "), ("e", "é"), ("é", "e\u0301"), ("ss", "ß"), ("😀", "😁"), ("", " ")]
)
def test_texts_differ_that_differ_in_any_byte(store: Store, one: str, other: str) -> None:
    """Also those that nobody chooses, such as a kind: a comparison, a unique key and DISTINCT agree."""
    kind = schema.outbox.c.kind
    rows = [
        {"kind": text, "dedupe_key": text, "payload": "", "state": "", "tries": 0, "created_at": datetime.now(UTC)}
        for text in (one, other)
    ]
    store.write(lambda connection: connection.execute(sa.insert(schema.outbox), rows))
    assert store.read(lambda connection: connection.scalars(sa.select(kind).where(kind == one)).all()) == [one]
    made = sa.select(sa.literal(one).concat("").label("text"), sa.cast(kind, sa.String(9)) == one).where(kind == one)
    assert store.read(lambda connection: [tuple(row) for row in connection.execute(made)]) == [(one, True)]
    assert store.read(lambda connection: len(connection.scalars(sa.select(kind).distinct()).all())) == 2


def test_every_text_comes_back_as_it_was_given(store: Store) -> None:
    texts = ["%s %% %(name)s :name ?", "\\ \\n \" ' `", "😀 \u0301\u200b\ufeff", " a ", "\r\n\t\x1a", '{"a": "\\\\n"}']
    prepared = Prepared(sa.select(schema.variable.c.value).where(schema.variable.c.value == bindparam("value")))
    for text in [*texts, "", "x" * 3_000_000]:
        store.write(lambda connection, text=text: variables.set(connection, "a", text))
        assert store.read(lambda connection: variables.get(connection, "a")) == text
        assert store.read(lambda c, text=text: prepared.rows(c, {"value": text})) == [(text,)]


def test_a_change_that_sets_what_is_there_counts_the_row(store: Store) -> None:
    """Whether a row was still as it was read is told by how many the WHERE found."""
    add_pool(store, used=3)
    change = sa.update(pool).where(pool.c.name == "p").values(used=bindparam("new"))
    assert store.write(lambda connection: connection.execute(change, {"new": 3}).rowcount) == 1
    assert store.write(lambda connection: Prepared(change).run(connection, {"new": 3})) == 1
    assert store.write(lambda connection: Prepared(change).run(connection, {"new": 3}, {"new": 3})) == 2


def test_a_read_that_asks_nothing_leaves_nothing_behind(store: Store) -> None:
    for _ in range(5):
        assert store.read(lambda _: 7) == 7
        store.write(lambda connection: variables.set(connection, "a", "1"))
    assert store.read(lambda connection: variables.get(connection, "a")) == "1"


def test_a_text_that_is_too_long_for_the_server_is_the_callers_error_and_the_next_goes_on(remote_store: Store) -> None:
    if remote_store.dialect == "postgresql":
        pytest.skip("a gigabyte is more than a test should send")
    tries = []

    def too_long(connection: sa.Connection) -> None:
        tries.append(1)
        most = connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one()
        variables.set(connection, "a", "x" * most)

    with pytest.raises(sa.exc.DataError, match="max_allowed_packet"):
        remote_store.write(too_long)
    assert len(tries) == 1
    remote_store.write(lambda connection: variables.set(connection, "a", "x" * 10_000_000))


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
def test_a_deadlock_is_repeated_until_both_are_done(remote_store: Store) -> None:
    store = remote_store
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
def test_a_serialization_failure_is_repeated(empty_server_store: Callable[[str], Store]) -> None:
    store = empty_server_store("postgresql")
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


def test_a_connection_lost_in_the_middle_is_repeated_on_a_new_one(remote_store: Store) -> None:
    store = remote_store
    backends: list[int] = []

    def work(connection: sa.Connection) -> None:
        backends.append(connection.exec_driver_sql(SESSION[store.dialect]).scalar_one())
        variables.set(connection, "a", str(len(backends)))
        if len(backends) == 1:
            end_session(store._writer.url, backends[0])
        connection.scalar(sa.select(1))

    store.write(work)
    assert len(set(backends)) == 2
    assert store.read(lambda connection: variables.get(connection, "a")) == "2"


def test_a_connection_that_is_always_lost_is_an_unavailable_database(remote_store: Store) -> None:
    tries = []

    def work(connection: sa.Connection) -> None:
        tries.append(1)
        end_session(remote_store._writer.url, connection.exec_driver_sql(SESSION[remote_store.dialect]).scalar_one())
        connection.execute(sa.select(1))

    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        remote_store.write(work)
    assert len(tries) == engine.TRIES


@pytest.mark.slow
@pytest.mark.parametrize("mysql", parameters("mariadb", "mysql"))
def test_a_lock_that_is_held_for_too_long_is_waited_for_again(
    mysql: str, empty_server_store: Callable[[str], Store]
) -> None:
    store = empty_server_store(mysql)
    add_pool(store)
    add = pool.update().values(used=pool.c.used + 1)
    tries = []
    timed_out = threading.Event()

    def wait(connection: sa.Connection) -> None:
        tries.append(1)
        if len(tries) > 1:
            timed_out.set()
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        connection.execute(add)

    def hold(connection: sa.Connection) -> None:
        connection.execute(add)
        waiting.append(threads.submit(store.write, wait))
        assert timed_out.wait(20)

    waiting: list[Future[None]] = []
    with ThreadPoolExecutor(1) as threads:
        store.write(hold)
        waiting[0].result(20)
    store._writer.dispose()  # other tests shall not get the impatient session
    assert used(store) == 2
    assert len(tries) > 1


def test_a_read_cannot_write(store: Store) -> None:
    with pytest.raises((sa.exc.DBAPIError, DatabaseUnavailable), match=r"(?i)read[- ]?only"):
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


def test_all_tries_together_wait_no_longer_for_another_writer_than_one_may(tmp_path: Path) -> None:
    """A supervisor gives half the time after which it would be taken for stuck."""
    url = f"sqlite:///{tmp_path}/flux.db"
    with Store.open(url, create=True) as holder, Store.open(url, busy_seconds=0.3) as store:
        tries: list[str] = []
        sa.event.listen(store._writer, "before_cursor_execute", lambda *given: tries.append(given[2]))

        def hold(_: sa.Connection) -> None:
            with pytest.raises(DatabaseUnavailable, match="stays busy"):
                store.write(lambda connection: None)

        holder.write(hold)
        assert tries.count("BEGIN IMMEDIATE") == 1


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


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mariadb"])
def test_a_server_that_is_not_there_is_unavailable_and_its_password_not_shown(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DatabaseUnavailable, match="cannot be reached") as caught:
        Store.open(f"{scheme}://flux:geheim@127.0.0.1:{port}/flux")
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

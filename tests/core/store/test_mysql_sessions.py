"""What a session on MariaDB and MySQL has, which servers are taken, and what becomes of idle sessions."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from flux.errors import StoreError
from flux.store import mysql_sessions, schema, variables
from flux.store.engine import Store
from tests.databases import SESSION, empty_database, end_session, parameters, server_url


@pytest.mark.parametrize("mysql", parameters("mariadb", "mysql"))
def test_a_session_has_what_the_engine_needs_whatever_the_server_was_set_up_with(
    mysql: str, empty_server_store: Callable[[str], Store]
) -> None:
    store = empty_server_store(mysql)
    level, idle = ("tx_isolation", "idle_transaction_timeout") if mysql == "mariadb" else (
        "transaction_isolation", "wait_timeout",
    )  # fmt: skip
    names = (level, idle, "innodb_lock_wait_timeout", "lock_wait_timeout", "time_zone", "collation_connection")
    look = "SELECT " + ", ".join(f"@@SESSION.{name}" for name in names)
    collation = schema.collation(is_mariadb=mysql == "mariadb")
    rest = (60, 5, 30, "+00:00", collation)
    assert store.write(lambda c: tuple(c.exec_driver_sql(look).one())) == ("READ-COMMITTED", *rest)
    store.read(lambda c: c.scalar(sa.select(1)))
    assert store.write(lambda c: tuple(c.exec_driver_sql(look).one())) == ("READ-COMMITTED", *rest)

    def silence(connection: sa.Connection) -> list[int]:
        raw = connection.connection.dbapi_connection
        options = (socket.TCP_KEEPIDLE, socket.TCP_USER_TIMEOUT)
        return [raw._sock.getsockopt(socket.IPPROTO_TCP, each) for each in options]  # type: ignore[union-attr]

    assert store.write(silence) == [30, 30_000]


@pytest.mark.parametrize("mysql", parameters("mariadb", "mysql"))
def test_a_session_that_ended_while_it_was_idle_is_no_lost_try(
    mysql: str, empty_server_store: Callable[[str], Store]
) -> None:
    store = empty_server_store(mysql)
    long_ago = {"flux_returned": -math.inf}
    sa.event.listen(store._writer, "checkin", lambda _, record: record.info.update(long_ago))
    session = sa.text(SESSION[mysql])
    for _ in range(3):
        end_session(store._writer.url, store.write(lambda connection: connection.scalar(session)))
        tries: list[object] = []

        def work(connection: sa.Connection, tries: list[object] = tries) -> None:
            tries.append(connection)
            connection.execute(session)

        store.write(work)
        assert len(tries) == 1


@pytest.mark.mariadb
def test_a_mariadb_that_is_called_mysql_is_known_for_what_it_is() -> None:
    with empty_database("mariadb") as url:
        other_name = url.replace("mariadb+pymysql://", "mysql://")
        with Store.open(other_name, create=True) as store:
            assert store.dialect == "mysql"
            for name in ("a", "a "):
                store.write(lambda connection, name=name: variables.set(connection, name, name))
        with Store.open(url) as store:
            assert [item.name for item in store.read(variables.every)] == ["a", "a "]


@pytest.mark.mysql
def test_a_mysql_that_is_called_mariadb_is_refused_with_its_name() -> None:
    url = server_url("mysql").set(drivername="mariadb").render_as_string(hide_password=False)
    with pytest.raises(StoreError, match=r"is a MySQL 8.*Write mysql://…"):
        Store.open(url)


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("8.0.17", False), ("8.4.3-commercial", False), ("9.1.0", False), ("10.6.21-MariaDB-log", True),
        ("5.5.5-10.11.6-MariaDB-0+deb12u1", True), ("11.8.2-MariaDB-ubu2404", True),
        ("5.7.44-log", "MySQL 5.7.44-log. Flux needs 8.0.17"), ("8.0.16", "Flux needs 8.0.17"),
        ("5.5.5-10.5.8-MariaDB", "Flux needs 10.6 or newer"),
    ],
)  # fmt: skip
def test_a_server_that_is_too_old_is_refused(version: str, found: bool | str) -> None:
    url = sa.make_url("mysql://db.example.com/flux")
    if isinstance(found, bool):
        assert mysql_sessions.check(url, version) is found
        return
    with pytest.raises(StoreError, match=found):
        mysql_sessions.check(url, version)

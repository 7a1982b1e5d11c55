"""The real servers as these tests use them: MariaDB and MySQL, a database of its own for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flux import DAG
from flux.attempt import AttemptEnd
from flux.connection import Connection
from tests.attempts import MemoryWorld, run

VARIABLES = {"mariadb": "FLUX_TEST_MARIADB", "mysql": "FLUX_TEST_MYSQL"}


@dataclass
class Server:
    """One server, seen through a session of the test's own, and a database of the test's own on it."""

    name: str
    #: Of the login that may do everything, with the test's database as its schema.
    connection: Connection
    session: Any
    logins: list[str] = field(default_factory=list)

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement, at once for good, and return its rows."""
        with self.session.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall())

    def sessions(self, text: str = "") -> list[int]:
        """The numbers of the sessions in the test's database whose statement has `text` in it."""
        found = self.rows(
            "SELECT id, info FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        )
        return [number for number, info in found if text in (info or "")]

    def end(self, number: int) -> None:
        """End a session, which may have ended already."""
        import pymysql

        try:
            self.session.kill(number)
        except pymysql.OperationalError as error:
            if error.args[0] != 1094:
                raise

    def changed(self, **fields: Any) -> Connection:
        """The connection with other settings; `extra` is added to."""
        return changed(self.connection, **fields)

    def login(self, rights: str) -> Connection:
        """A new login with these rights on the test's database."""
        name, database = f"flux_{uuid.uuid4().hex[:12]}", self.connection.schema
        self.rows(f"CREATE USER '{name}'@'127.0.0.1' IDENTIFIED BY 'pass wörd 😀'")
        self.logins.append(name)
        self.rows(f"GRANT {rights} ON `{database}`.* TO '{name}'@'127.0.0.1'")
        return self.changed(login=name, password="pass wörd 😀")

    def run(self, task: Any, folder: Path, *, connection: Connection | None = None) -> AttemptEnd:
        """Execute one attempt of `task`, for which `mysql_default` is this server."""
        return run(task, folder, world_of(connection or self.connection))


def changed(connection: Connection, **fields: Any) -> Connection:
    """A connection with other settings; `extra` is added to."""
    message = connection.to_message()
    extra = {**message["extra"], **fields.pop("extra", {})}
    return Connection.from_message({**message, **fields, "extra": extra})


def world_of(connection: Connection) -> MemoryWorld:
    """A world in which `mysql_default` is that connection."""
    return MemoryWorld(connections={"mysql_default": connection.to_message()})


def make(kind: type, dag_arguments: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
    """A task of that kind in the DAG that `tests.attempts.spec_of` knows."""
    with DAG("sales", start_date="2026-01-01", timezone="Europe/Berlin", **(dag_arguments or {})):
        return kind(task_id="load", **arguments)


def uri_of(name: str) -> str:
    """The address of a test server. Without one the test skips at home and fails in CI."""
    uri = os.environ.get(VARIABLES[name])
    if uri is None:
        reason = f"{VARIABLES[name]} names no server; tests/services/services.sh starts one"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return uri


@pytest.fixture(params=VARIABLES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Both servers, one after the other."""
    import pymysql

    admin = Connection.from_uri("mysql_default", uri_of(request.param))
    assert admin.password is not None
    session = pymysql.connect(
        host=admin.host,
        port=admin.port or 0,
        user=admin.login,
        password=admin.password.reveal(),
        charset="utf8mb4",
        autocommit=True,
    )
    database = f"flux_{uuid.uuid4().hex[:12]}"
    server = Server(request.param, changed(admin, schema=database), session)
    server.rows(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4")
    session.select_db(database)
    try:
        yield server
    finally:
        for number in server.sessions():
            server.end(number)
        server.rows(f"DROP DATABASE `{database}`")
        for login in server.logins:
            server.rows(f"DROP USER '{login}'@'127.0.0.1'")
        session.close()

"""Empty databases for tests, on every kind of server that the store runs on."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

#: The variable that names each server, and the scheme of the URLs that Flux is given for it.
SERVERS = {
    "postgresql": ("FLUX_TEST_POSTGRES", "postgresql+psycopg"),
    "mariadb": ("FLUX_TEST_MARIADB", "mariadb+pymysql"),
    "mysql": ("FLUX_TEST_MYSQL", "mysql+pymysql"),
}
_MARKS = {"postgresql": pytest.mark.postgres, "mariadb": pytest.mark.mariadb, "mysql": pytest.mark.mysql}
#: The statement that ends the session of a number, and that which tells a session its own.
END_SESSION = {
    "postgresql": "SELECT pg_terminate_backend({}, 5000)",
    "mariadb": "KILL CONNECTION {}",
    "mysql": "KILL CONNECTION {}",
}
SESSION = {
    "postgresql": "SELECT pg_backend_pid()",
    "mariadb": "SELECT connection_id()",
    "mysql": "SELECT connection_id()",
}


def parameters(*kinds: str) -> Sequence[Any]:
    """Parameters of a fixture or test for these kinds of database, each marked with the server that it needs."""
    return [kind if kind == "sqlite" else pytest.param(kind, marks=_MARKS[kind]) for kind in kinds]


@contextmanager
def empty_database(kind: str) -> Iterator[str]:
    """The URL of a new database on the server of that kind, dropped afterwards with whoever still uses it.

    On MariaDB and MySQL its login has rights in this database alone. Without such a server the test is skipped; in CI
    it fails.
    """
    server = server_url(kind)
    name = f"flux_test_{uuid.uuid4().hex[:12]}"
    mine = server.set(database=name)
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    if kind == "postgresql":
        _execute(engine, f"CREATE DATABASE {name}")
    else:
        # What the server takes for its own must not matter; this is what an older MariaDB or MySQL was set up with.
        _execute(engine, f"CREATE DATABASE {name} CHARACTER SET latin1 COLLATE latin1_swedish_ci")
        mine = mine.set(username=name, password=name)
        _execute(engine, f"CREATE USER '{name}'@'%%' IDENTIFIED BY '{name}'")
        _execute(engine, f"GRANT ALL ON {name}.* TO '{name}'@'%%'")
    try:
        yield mine.render_as_string(hide_password=False)
    finally:
        if kind == "postgresql":
            _execute(engine, f"DROP DATABASE {name} WITH (FORCE)")
        else:  # dropping it waits for transactions that are still open there
            _execute(engine, f"DROP USER '{name}'@'%%'")
            _cut(engine, mine)
            _execute(engine, f"DROP DATABASE {name}")
        engine.dispose()


@contextmanager
def nobody_in(url: str) -> Iterator[None]:
    """End every session in a database of `empty_database`, and let nobody in meanwhile."""
    mine = sa.make_url(url)
    kind = mine.get_backend_name()
    engine = sa.create_engine(server_url(kind), isolation_level="AUTOCOMMIT")
    is_postgresql = kind == "postgresql"
    switch = f"ALTER DATABASE {mine.database} ALLOW_CONNECTIONS {{}}" if is_postgresql else (
        f"ALTER USER '{mine.username}'@'%%' ACCOUNT {{}}"
    )  # fmt: skip
    off, on = ("false", "true") if is_postgresql else ("LOCK", "UNLOCK")
    _execute(engine, switch.format(off))
    try:
        _cut(engine, mine)
        yield
    finally:
        _execute(engine, switch.format(on))
        engine.dispose()


def end_sessions(url: str) -> int:
    """End every session in a database of `empty_database`, and return how many there were."""
    mine = sa.make_url(url)
    engine = sa.create_engine(server_url(mine.get_backend_name()), isolation_level="AUTOCOMMIT")
    ended = _cut(engine, mine)
    engine.dispose()
    return ended


def end_session(url: str | sa.URL, number: int) -> None:
    """End one session, by its number, of the login of that URL."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    _execute(engine, END_SESSION[engine.dialect.name].format(number))
    engine.dispose()


def server_url(kind: str) -> sa.URL:
    """The URL of the server of that kind, with a login that may do everything; skips or fails without one."""
    variable, scheme = SERVERS[kind]
    server = os.environ.get(variable)
    if not server:
        reason = f"{variable} names no server; tests/services/services.sh starts one"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    return sa.make_url(server).set(drivername=scheme)


def _cut(engine: sa.Engine, database: sa.URL) -> int:
    """End the sessions in a database, and return how many there were."""
    listed = {
        "postgresql": f"SELECT pid FROM pg_stat_activity WHERE datname = '{database.database}'",
        "mysql": f"SELECT id FROM information_schema.processlist WHERE user = '{database.username}'",
    }
    kind = engine.dialect.name
    found = _execute(engine, listed["postgresql" if kind == "postgresql" else "mysql"])
    for (number,) in found:
        try:
            _execute(engine, END_SESSION[kind].format(number))
        except sa.exc.OperationalError as error:
            if "Unknown thread id" not in str(error):  # it has ended by itself
                raise
    return len(found)


def _execute(engine: sa.Engine, statement: str) -> list[Any]:
    with engine.connect() as connection:
        result = connection.exec_driver_sql(statement)
        return list(result) if result.returns_rows else []

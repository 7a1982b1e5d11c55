"""The metadata database as an outsider sees it: made for one day, asked by plain SQL, and kept from its users."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

#: Tables of which a row is locked on a server.
LOCKED = ("task_instance", "dag_run", "dag", "pool", "attempt")


class Database:
    """One database.

    Attributes:
        url: for FLUX_DATABASE_URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)
        self.is_server = self._engine.dialect.name != "sqlite"

    def rows(self, sql: str, **values: Any) -> list[Any]:
        """Return what a SELECT gives, in a transaction of its own."""
        with self._engine.connect() as connection:
            return list(connection.execute(sa.text(sql), values))

    def keep_busy(self, free: threading.Event, table: str, row: float) -> None:
        """Hold what writers need until `free` is set: the whole of a SQLite file, one row of a server's table.

        Args:
            row: which one, from 0 to 1 of those there are.
        """
        with self._engine.connect() as connection:
            if not self.is_server:
                raw = connection.connection.driver_connection
                assert raw is not None
                raw.isolation_level = None
                raw.execute("PRAGMA busy_timeout = 20000")
                raw.execute("BEGIN IMMEDIATE")
                free.wait(30)
                raw.execute("ROLLBACK")
                return
            key = "task_instance_id" if table == "attempt" else "id"
            pick = (
                f"SELECT {key} FROM {table} WHERE {key} >= :row * (SELECT max({key}) FROM {table}) ORDER BY 1 LIMIT 1"
            )
            connection.execute(sa.text(f"SELECT 1 FROM {table} WHERE {key} = ({pick}) FOR UPDATE"), {"row": row})
            free.wait(30)
            connection.rollback()

    def cut_connections(self) -> int:
        """End every other connection to the server's database; return how many there were."""
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return len(self.rows(f"SELECT pg_terminate_backend(pid) {others}"))


@contextlib.contextmanager
def made(kind: str, home: Path) -> Iterator[Database]:
    """An empty database: `sqlite` in the home, `postgresql` on the server that FLUX_TEST_POSTGRES names."""
    if kind == "sqlite":
        yield Database(f"sqlite:///{home / 'flux.db'}")
        return
    server = os.environ.get("FLUX_TEST_POSTGRES")
    if not server:
        raise SystemExit("FLUX_TEST_POSTGRES names no server; tests/services/services.sh starts one")
    name = f"flux_test_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield Database(engine.url.set(database=name).render_as_string(hide_password=False))
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        engine.dispose()

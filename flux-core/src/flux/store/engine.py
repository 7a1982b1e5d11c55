"""The open database: connections, transactions and their repetition. The rest of `store/` only ever sees a connection.

A transaction is repeated when it lost to another one (busy, deadlock, serialization, `StaleState`) and when the
connection broke. A commit whose answer never came may have happened: `work` must therefore be safe to run
again, which it is when its changes compare before they set.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError, NoSuchModuleError

from flux.errors import DatabaseTooNew, DatabaseTooOld, DatabaseUnavailable, Refused, StaleState, StoreError
from flux.store import migrations, mysql_sessions

T = TypeVar("T")

DURABILITIES = ("full", "fast")
TRIES = 5
#: No transaction is begun again when the first try is older than this.
PATIENCE_SECONDS = 30.0
#: Seconds of the shortest pause before another try; it doubles each time.
_AFTER_A_RACE = 0.003
_AFTER_A_LOSS = 0.03

_DRIVERS = {
    "sqlite": ("sqlite+pysqlite", ""),
    "postgresql": ("postgresql+psycopg", "flux-core[postgres]"),
    "postgres": ("postgresql+psycopg", "flux-core[postgres]"),
    "mysql": ("mysql+pymysql", "flux-core[mysql]"),
    "mariadb": ("mariadb+pymysql", "flux-core[mysql]"),
}
#: SQLite's locks and shared memory do not work there.
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"}
)
#: Lock wait timeout, deadlock, a record or a table changed since the snapshot, the query was killed, not its session.
_MYSQL_LOST_RACE = frozenset({1205, 1213, 1020, 1412, 1317})
_LOST_RACE: dict[str, frozenset[int] | frozenset[str]] = {
    "sqlite": frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}),
    "postgresql": frozenset({"40001", "40P01"}),
    "mysql": _MYSQL_LOST_RACE,
    "mariadb": _MYSQL_LOST_RACE,
}
#: The server takes no changes: a replica, or a primary that a failover has made one.
_MYSQL_READ_ONLY = frozenset({1290, 1836})
#: Disk full (two of them), too many connections (two), shutting down, starting up.
_MYSQL_UNAVAILABLE = frozenset({1021, 1114, 1040, 1203, 1053, 1047})
_UNAVAILABLE: dict[str, frozenset[int] | frozenset[str]] = {
    "sqlite": frozenset[int](),
    "postgresql": frozenset({"53100", "53200", "53300", "57P01", "57P02", "57P03"}),
    "mysql": _MYSQL_UNAVAILABLE,
    "mariadb": _MYSQL_UNAVAILABLE,
}
_SQLITE_UNUSABLE = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
)
_SQLITE_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNDEFINED_TABLE = frozenset({"42P01", 1146})


class Store:
    """The open metadata database. Usable from several threads; not after a fork.

    Attributes:
        url: as given, its password masked.
        dialect: "sqlite", "postgresql", "mysql" or "mariadb".
        path: the file of a SQLite database, else None.
    """

    def __init__(self, engine: sa.Engine, path: Path | None, patience: float = PATIENCE_SECONDS) -> None:
        self.url = engine.url.render_as_string(hide_password=True)
        self.dialect = engine.dialect.name
        self.path = path
        self._begin = _BEGIN.get(self.dialect)
        #: Seconds after which a transaction that cannot be done is not tried again.
        self._patience = patience
        self._writer = engine
        self._reader = engine.execution_options(**_READ_OPTIONS[self.dialect])
        self._kinds: frozenset[str] = frozenset()
        self._kinds_now: Callable[[], frozenset[str]] | None = None

    @classmethod
    def open(
        cls, url: str, *, durability: str = "full", create: bool = False, busy_seconds: float = PATIENCE_SECONDS
    ) -> Store:
        """Connect and check that the schema is this version's.

        Args:
            durability: "full" commits to the disk; "fast" may lose the last commits when the machine dies.
            create: make the database's tables, or bring them to the newest schema.
            busy_seconds: how long SQLite waits for another writer, all tries together.

        Raises:
            DatabaseUnavailable: it cannot be reached.
            DatabaseTooOld: it has no schema or an older one, and `create` is not set.
            DatabaseTooNew: a newer Flux made it; nothing was touched.
        """
        parsed = _parse(url)
        path = _prepare_file(parsed, create=create) if parsed.get_backend_name() == "sqlite" else None
        patience = PATIENCE_SECONDS if path is None else min(busy_seconds, PATIENCE_SECONDS)
        store = cls(_engine(parsed, durability, busy_seconds), path, patience)
        try:
            store._check_schema(create=create)
        except BaseException:
            store.close()
            raise
        return store

    def announce(self, kinds: frozenset[str] | Callable[[], frozenset[str]]) -> None:
        """Announce these kinds of state changes (`announcing.KINDS`) from the next transaction on; none: nothing.

        What is announced fills the outbox until somebody is told.

        Args:
            kinds: or a function that is asked before each write, and must be quick.
        """
        if callable(kinds):
            self._kinds_now = kinds
            return
        self._kinds_now = None
        self._announce(kinds)

    def _announce(self, kinds: frozenset[str]) -> None:
        if kinds != self._kinds:
            self._kinds = kinds
            self._writer = self._writer.execution_options(flux_announces=kinds)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` returns, run in one transaction that sees one moment of the database."""
        return self._run(self._reader, work)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` returns, run in one write transaction, committed when it returns.

        `work` may run several times, also after a commit whose answer was lost. What it raises rolls back.

        Raises:
            DatabaseUnavailable: the database stays busy, or cannot be reached.
            StaleState: `work` raised it each time.
        """
        if self._kinds_now is not None:
            self._announce(self._kinds_now())
        return self._run(self._writer, work)

    def keep_logs(self, handlers: Sequence[str]) -> None:
        """From now on note each ended attempt, in the transaction that ends it, for these log handlers."""
        self._writer = self._writer.execution_options(flux_log_handlers=tuple(handlers))

    def close(self) -> None:
        """Close every connection. The store cannot be used afterwards."""
        self._writer.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def upgrade(self) -> None:
        """Bring the schema to the newest revision. Safe to repeat, and beside others who do the same."""
        self.write(migrations.migrate)

    def revision(self) -> str | None:
        """Return the revision of the schema; None when there is none."""
        try:
            return self.read(migrations.current)
        except DBAPIError as error:
            if _code(error) in _UNDEFINED_TABLE or str(error.orig).startswith("no such table"):
                return None
            raise StoreError(f"Database {self.url} cannot be read: {_cause(error)}.") from error

    def _check_schema(self, *, create: bool) -> None:
        revision = self.revision()
        if revision == migrations.HEAD:
            return
        if revision is not None and revision not in migrations.REVISIONS:
            raise DatabaseTooNew(
                f"Database {self.url} was made by a newer Flux (its schema is {revision!r}, this one knows up to "
                f"{migrations.HEAD!r}). Upgrade this installation; nothing was touched."
            )
        if not create:
            has = "no tables of Flux" if revision is None else f"the older schema {revision!r}"
            raise DatabaseTooOld(f"Database {self.url} has {has}. Run `flux db upgrade`.")
        self.upgrade()

    def _run(self, engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
        began = time.monotonic()
        tries = 1
        while True:
            try:
                with engine.begin() as connection:
                    if self._begin is not None:
                        self._begin(connection)
                    return work(connection)
            except StaleState:
                pause = _AFTER_A_RACE
                if tries == TRIES:
                    raise
            except DBAPIError as error:
                again, failure = self._judge(error)
                if failure is None:
                    raise
                if again is None or tries == TRIES or time.monotonic() - began >= self._patience:
                    raise failure from error
                pause = again
            except sa.exc.TimeoutError as error:
                raise DatabaseUnavailable(
                    f"Database {self.url} gave no connection in {PATIENCE_SECONDS:.0f} s: all are in use. Try again."
                ) from error
            time.sleep(pause * random.uniform(1, 2) * 2**tries)
            tries += 1

    def _judge(self, error: DBAPIError) -> tuple[float | None, StoreError | None]:
        """Return how long to pause before another try, None for no other, and what to raise without one.

        No failure at all: the error is the caller's.
        """
        code = _code(error)
        if code in _LOST_RACE[self.dialect]:
            return _AFTER_A_RACE, DatabaseUnavailable(
                f"Database {self.url} stays busy: {_cause(error)}. Nothing is lost; try again."
            )
        if self.dialect == "sqlite" and code in _SQLITE_DAMAGED:
            return None, StoreError(f"Database {self.url} is damaged: {_cause(error)}. Restore it from a copy.")
        if self.dialect == "sqlite" and code in _SQLITE_UNUSABLE:
            return None, DatabaseUnavailable(f"Database {self.url} cannot be used: {_cause(error)}. Nothing is lost.")
        not_connected = error.statement is None and isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))
        if self.dialect in ("mysql", "mariadb") and code in _MYSQL_READ_ONLY:
            self._writer.dispose()  # the next connection may find the server that is the primary now
            return _AFTER_A_LOSS, DatabaseUnavailable(
                f"Database {self.url} takes no changes: {_cause(error)}. Nothing is lost; name its primary in the URL."
            )
        if error.connection_invalidated or not_connected or code in _UNAVAILABLE[self.dialect]:
            return _AFTER_A_LOSS, DatabaseUnavailable(
                f"Database {self.url} cannot be reached: {_cause(error)}. Nothing is lost; check that it runs."
            )
        return None, None


_READ_OPTIONS: dict[str, dict[str, Any]] = {
    "sqlite": {"flux_reads_only": True},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    "mysql": {"flux_reads_only": True},
    "mariadb": {"flux_reads_only": True},
}


def check_text(what: str, *texts: str) -> None:
    """Refuse texts that some server cannot store, before any is asked.

    Args:
        what: whose texts they are, in words that begin a sentence.

    Raises:
        Refused: one has a NUL character or is no Unicode. The message does not show it.
    """
    for text in texts:
        if "\0" in text:
            raise Refused(f"{what} has a NUL character, which cannot be stored. Take it out.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Refused(f"{what} is no UTF-8. Write it in that encoding.") from error


def insert_row(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> int:
    """Insert one row and return its row number."""
    key = connection.execute(_insert(table), dict(values)).inserted_primary_key
    assert key is not None
    return int(key[0])


@cache
def _insert(table: sa.Table) -> sa.Insert:
    return table.insert()


def insert_missing(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert those rows whose primary key or unique columns are not there yet; wait for one that is being inserted."""
    if rows:
        connection.execute(_insert_missing(table, connection.dialect.name), [dict(row) for row in rows])


@cache
def _insert_missing(table: sa.Table, dialect: str) -> sa.Insert:
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    key = next(iter(table.primary_key.columns))
    return mysql.insert(table).on_duplicate_key_update({key.name: key})


def _code(error: DBAPIError) -> str | int | None:
    """The driver's own code: SQLite's primary result code, PostgreSQL's SQLSTATE, MySQL's error number."""
    cause: Any = error.orig
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", None)
        return None if code is None else code & 0xFF
    number = cause.args[0] if cause is not None and cause.args else None
    if isinstance(number, int):  # MySQL's errors have a state too, which many share
        return number
    state: str | None = getattr(cause, "sqlstate", None)
    return state


def _cause(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split()).rstrip(".")


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise StoreError(
            "The database URL (option database_url) cannot be read. "
            "Write it like postgresql+psycopg://user:password@host/name or sqlite:////folder/flux.db."
        ) from error
    name, _, driver = parsed.drivername.partition("+")
    if name not in _DRIVERS:
        raise StoreError(f"Database {name!r} is not supported. Use one of: sqlite, postgresql, mysql, mariadb.")
    if driver and parsed.drivername != _DRIVERS[name][0]:
        raise StoreError(f"Driver {driver!r} of {name} is not supported. Write {_DRIVERS[name][0]}://….")
    return parsed.set(drivername=_DRIVERS[name][0])


def _prepare_file(url: sa.URL, *, create: bool) -> Path:
    """Return the file of a SQLite database; with `create` make it, readable by its owner alone."""
    if not url.database or url.database == ":memory:":
        raise StoreError("A SQLite database of Flux is a file. Write sqlite:////folder/flux.db.")
    path = Path(url.database).absolute()
    system = _file_system(path)
    if system in _NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"Database file {str(path)!r} is on a network file system ({system}), where SQLite's locks cannot be "
            "trusted. Put it on a local disk, or use PostgreSQL."
        )
    if not create and not path.exists():
        raise StoreError(f"Database file {str(path)!r} does not exist. Run `flux init`.")
    if create:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreError(f"Database file {str(path)!r} cannot be made: {error.strerror}.") from error
    return path


def _file_system(path: Path) -> str | None:
    """Return the type of the file system that `path` is or would be on; None where it cannot be told."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    folder, best, system = path.parent.resolve(), Path(), None
    for line in mounts.splitlines():
        fields, _, details = line.partition(" - ")
        place = Path(fields.split(" ")[4].replace("\\040", " "))
        if folder.is_relative_to(place) and len(place.parts) >= len(best.parts):
            best, system = place, details.split(" ")[0]
    return system


def _engine(url: sa.URL, durability: str, busy_seconds: float) -> sa.Engine:
    if durability not in DURABILITIES:
        raise StoreError(f"Durability {durability!r} is unknown. Use one of: {', '.join(DURABILITIES)}.")
    name = url.get_backend_name()
    make = {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql, "mariadb": _mysql}[name]
    try:
        return make(url, durability == "full", busy_seconds)
    except (ImportError, NoSuchModuleError) as error:
        raise StoreError(f"The driver for {name} is not installed. Run `pip install '{_DRIVERS[name][1]}'`.") from error


_POOL: dict[str, Any] = {"pool_size": 3, "max_overflow": 13, "pool_timeout": PATIENCE_SECONDS}


def _sqlite(url: sa.URL, full: bool, busy_seconds: float) -> sa.Engine:
    # The driver's own transactions begin late and deferred, which fails under contention: it begins none, we do.
    engine = sa.create_engine(
        url, **_POOL, connect_args={"isolation_level": None, "timeout": busy_seconds, "check_same_thread": False}
    )

    @sa.event.listens_for(engine, "connect")
    def connected(raw: Any, _: Any) -> None:
        # Going over to WAL the first time needs the file for itself, and does not wait for it by the time-out.
        deadline = time.monotonic() + busy_seconds
        while True:
            try:
                mode = raw.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _LOST_RACE["sqlite"] or time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise StoreError(f"Database {url.database!r} cannot use write-ahead logging here. Put it on a local disk.")
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")

    return engine


def _begin_sqlite(connection: sa.Connection) -> None:
    """Begin the transaction. Not by a listener for "begin": with one, SQLAlchemy looks for listeners at every step."""
    reads_only = connection.get_execution_options().get("flux_reads_only", False)
    if connection.info.get("flux_reads_only") is not reads_only:
        connection.exec_driver_sql(f"PRAGMA query_only = {int(reads_only)}")
        connection.info["flux_reads_only"] = reads_only
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _postgresql(url: sa.URL, full: bool, _: float) -> sa.Engine:
    defaults: dict[str, Any] = {
        "application_name": "flux",
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    arguments = {name: value for name, value in defaults.items() if name not in url.query}
    engine = sa.create_engine(url, **_POOL, isolation_level="READ COMMITTED", connect_args=arguments)

    @sa.event.listens_for(engine, "connect")
    def connected(raw: Any, _: Any) -> None:
        # A stopped client that holds a transaction would stall the others.
        raw.execute("SET idle_in_transaction_session_timeout = 60000")
        # Prepared statements keep the plan of the day they were first run on: on small tables that is a sequential
        # scan, which stays when the table has grown. Every statement of the engine has its index.
        raw.execute("SET enable_seqscan = off")
        if not full:
            raw.execute("SET synchronous_commit = off")
        raw.commit()

    return engine


def _mysql(url: sa.URL, _: bool, __: float) -> sa.Engine:
    return mysql_sessions.engine(url, **_POOL)


_BEGIN = {"sqlite": _begin_sqlite, "mysql": mysql_sessions.begin, "mariadb": mysql_sessions.begin}

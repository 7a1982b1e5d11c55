"""Sessions on MariaDB and MySQL: what the store needs of each, whatever the server was set up with."""

from __future__ import annotations

import math
import re
import socket
import time
from typing import Any

import sqlalchemy as sa

from flux.errors import StoreError
from flux.store import schema

#: The oldest that compare texts by bytes with their trailing spaces (MySQL) or are looked after (MariaDB).
_OLDEST = {"MySQL": (8, 0, 17), "MariaDB": (10, 6)}
#: Seconds after which MySQL ends an idle session of ours, also one that holds a transaction; and seconds for which one
#: that was given back is taken to be alive.
_IDLE_SECONDS, _TRUSTED_SECONDS = 60, 20


def engine(url: sa.URL, **pool: Any) -> sa.Engine:
    """Make the engine of a database there, which connects when it is first used.

    Args:
        pool: arguments of SQLAlchemy's pool.

    Raises:
        ImportError: the driver is not installed.
        StoreError: at each connecting, when the server is too old or not what the URL says.
    """
    url = url.difference_update_query(["charset"])
    # The driver's own word for UTF-8, utf8, is one of at most three bytes.
    arguments: dict[str, Any] = {"charset": "utf8mb4"}
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = 10
    made = sa.create_engine(url, **pool, isolation_level="READ COMMITTED", connect_args=arguments)
    connect = _session_class()

    @sa.event.listens_for(made, "do_connect")
    def make(_: Any, __: Any, args: Any, options: Any) -> Any:
        return connect(*args, **options)

    @sa.event.listens_for(made, "connect", insert=True)  # before SQLAlchemy, whose words for a wrong server are few
    def greeted(raw: Any, _: Any) -> None:
        check(url, raw.get_server_info())
        _notice_a_lost_server(raw._sock)

    @sa.event.listens_for(made, "connect")
    def connected(raw: Any, _: Any) -> None:
        is_mariadb = check(url, raw.get_server_info())
        settings = {
            "innodb_lock_wait_timeout": 5,
            "lock_wait_timeout": 30,  # of a table that is being altered; by default a year
            "time_zone": "'+00:00'",
            # Refuse a value that does not fit instead of cutting it.
            "sql_mode": "'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ENGINE_SUBSTITUTION'",
            "default_storage_engine": "InnoDB",
            # A stopped client that holds a transaction would stall the others.
            **({"idle_transaction_timeout": 60} if is_mariadb else {"wait_timeout": _IDLE_SECONDS}),
            # Texts that are compared with a column, or made by the server, must be compared as columns are.
            "collation_connection": schema.collation(is_mariadb=is_mariadb),
        }
        with raw.cursor() as cursor:
            cursor.execute("SET SESSION " + ", ".join(f"{name} = {value}" for name, value in settings.items()))
            cursor.execute("SELECT @@max_allowed_packet")
            raw.max_allowed_packet = cursor.fetchone()[0]

    # A server ends sessions that are idle for long. One that it may have ended is asked before it is used, so that
    # nobody's transaction has to find out.
    @sa.event.listens_for(made, "checkin")
    def returned(_: Any, record: Any) -> None:
        record.info["flux_returned"] = time.monotonic()

    @sa.event.listens_for(made, "checkout")
    def taken(raw: Any, record: Any, _: Any) -> None:
        if time.monotonic() - record.info.get("flux_returned", math.inf) < _TRUSTED_SECONDS:
            return
        try:
            raw.ping(reconnect=False)
        except made.dialect.loaded_dbapi.Error as error:
            raise sa.exc.DisconnectionError from error

    return made


def _session_class() -> type:
    """Make the driver's connection with an error of its own for a statement that is too long.

    The server answers one by closing the session, which looks as if it were away, and like that would be repeated.
    """
    import pymysql

    class Session(pymysql.connections.Connection):  # type: ignore[misc]
        def query(self, sql: str | bytes, unbuffered: bool = False) -> int:
            most = self.max_allowed_packet - 1
            if 4 * len(sql) > most:
                size = len(sql.encode("utf-8", "surrogateescape") if isinstance(sql, str) else sql)
                if size > most:
                    what = f"{size:,} bytes in one statement; the server's max_allowed_packet is {most + 1:,}"
                    raise pymysql.err.DataError(1153, what)
            affected: int = super().query(sql, unbuffered)
            return affected

    return Session


def begin(connection: sa.Connection) -> None:
    """Say what the next transaction is where it only reads: one statement, where levels by SQLAlchemy take four."""
    if connection.get_execution_options().get("flux_reads_only", False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def check(url: sa.URL, version: str) -> bool:
    """Return whether the server is a MariaDB; StoreError when it is too old or not what the URL says."""
    is_mariadb = "mariadb" in version.lower()
    kind = "MariaDB" if is_mariadb else "MySQL"
    # MariaDB may put the version of a MySQL before its own, for clients that ask for one.
    found = re.findall(r"\d+\.\d+\.\d+", version.removeprefix("5.5.5-"))
    if url.get_backend_name() == "mariadb" and not is_mariadb:
        raise StoreError(f"The server at {url.host} is a {kind} {version}. Write mysql://… instead of mariadb://….")
    oldest = _OLDEST[kind]
    if found and tuple(map(int, found[0].split("."))) < oldest:
        wanted = ".".join(map(str, oldest))
        raise StoreError(f"The server at {url.host} is a {kind} {version}. Flux needs {wanted} or newer.")
    return is_mariadb


def _notice_a_lost_server(connection: socket.socket) -> None:
    """Give up a connection whose other end is silent for a minute, or takes nothing for half of one."""
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)

"""The client of MySQL and MariaDB: one session, one statement at a time. Alone imports PyMySQL, inside functions.

Three things of PyMySQL are worked around here. It waits for ever for the greeting of what accepts a connection and is
no MySQL, so `_greeted` looks at the greeting first. It encodes a password as Latin-1, so it is given bytes. Its
streaming cursor reads what is left of a result when it is closed, after a kill or a lost connection too, so `_forget`
tells it that nothing is left.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flux import Connection, FluxError
from flux_provider_mysql.binding import BindingError, bound

__all__ = ["MySqlClient", "MySqlError", "Outcome", "ServerWarning"]

#: A machine that is gone is noticed after a minute of silence and six questions, ten seconds apart, however long a
#: statement may take.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))
#: Length and number of the first packet, and its first byte.
_GREETING_HEAD = 5
#: As many warnings of a statement are read.
_WARNINGS = 20

_SERVER_GONE = (2006, 2013, 4031)
_NO_SUCH_SESSION = 1094
_DEADLOCK = 1213
#: What to do about an error of the server, by its number.
_HINTS = {
    1040: "Give the task a pool, so that fewer sessions are open at a time.",
    1044: "Grant the login the right, or use a connection whose login has it.",
    1045: "Check its login and password.",
    1049: "Create the database, or change the connection's schema.",
    1130: "Let the server accept this machine for this login.",
    1142: "Grant the login the right, or use a connection whose login has it.",
    1146: "Check the name, and the database it is looked for in.",
    1153: "Raise max_allowed_packet on the server, or send less in one statement.",
    1205: "Something else holds the rows. Run it again: give the task retries.",
    1213: "Two transactions waited for each other. Run it again: give the task retries.",
    1698: "Check its login and password.",
    1792: "A sensor may only read.",
    3948: "Files of this machine are not sent: local_infile is off.",
    4166: "Files of this machine are not sent: local_infile is off.",
}


class MySqlError(FluxError):
    """MySQL or MariaDB cannot be reached, or refused a statement. The message names the connection and the cause."""


@dataclass(frozen=True, slots=True)
class ServerWarning:
    """What a server has to say about a statement that went through."""

    #: Note, Warning or Error.
    level: str
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one statement did."""

    #: Names of the columns of its last result; None: it gave no result.
    columns: tuple[str, ...] | None
    #: Rows that it changed, or that its last result has.
    row_count: int
    #: The first rows of the last result, as many as were asked for; all of them unless `is_cut`.
    rows: list[tuple[Any, ...]] = field(repr=False)
    #: The last result is longer than what was asked for.
    is_cut: bool
    #: How many warnings the server counted; `warnings` holds the first of them.
    warning_count: int
    warnings: tuple[ServerWarning, ...]
    #: It ended a transaction although it is no COMMIT: what came before it is kept for good.
    committed: bool
    #: A transaction is open after it.
    is_open: bool
    seconds: float


class MySqlClient:
    """A session with the server of a connection of type mysql; connects when it is first needed.

    The session speaks utf8mb4 and sends no files. Without `autocommit()` nothing is kept before `commit()`. For one
    thread, but for `cancel`.

    Args:
        schema: the database to use in place of the connection's.
    """

    def __init__(self, connection: Connection, *, schema: str | None = None) -> None:
        self._connection = connection
        self._schema = schema or connection.schema
        self._session: Any = None
        #: The server's number of the session; kept after a lost connection, so that `cancel` can name it.
        self._session_id: int | None = None
        #: A transaction was open before the last statement.
        self._was_open = False

    def check(self) -> str:
        """Ask the server who it is: "MariaDB 10.11.6" or "MySQL 8.0.31".

        Raises:
            MySqlError: it cannot be reached or refuses the login.
        """
        version = str(self.execute("SELECT VERSION()", keep_bytes=1_000).rows[0][0])
        number = version.partition("-")[0]
        return f"MariaDB {number}" if "mariadb" in version.lower() else f"MySQL {number}"

    def autocommit(self) -> None:
        """Keep what each statement does at once."""
        self._open().autocommit(True)

    def read_only(self, limit_seconds: float) -> None:
        """Begin a transaction that may only read, and have the server end a query of it that takes longer."""
        session = self._open()
        if "mariadb" in session.get_server_info().lower():
            self.execute("SET SESSION max_statement_time = %s", (limit_seconds,))
        else:
            self.execute("SET SESSION max_execution_time = %s", (max(int(limit_seconds * 1000), 1),))
        self.execute("START TRANSACTION READ ONLY")

    def execute(
        self,
        statement: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        keep_bytes: int = 0,
    ) -> Outcome:
        """Run one statement and read everything it gives, row by row.

        Args:
            parameters: bound by the driver to `%s` or `%(name)s`. With them a `%` that is no placeholder is written
                `%%`; without (None or empty) a `%` is a `%`.
            keep_bytes: a row is kept while the typed JSON of those before it is shorter than about this: 0 keeps none,
                1 keeps one.

        Raises:
            MySqlError: the server refused it or is gone, or the placeholders do not fit the parameters.
        """
        session = self._open()
        from pymysql.cursors import SSCursor

        cursor = session.cursor(SSCursor)
        began = time.monotonic()
        self._was_open = was_open = _is_in_transaction(session)
        sql = self._bound(cursor, statement, parameters)
        try:
            with self._translating():
                cursor.execute(sql)
                columns, row_count, rows, is_cut = _read(cursor, keep_bytes)
                while cursor.nextset():
                    if cursor.description is not None:
                        columns, row_count, rows, is_cut = _read(cursor, keep_bytes)
                warning_count = cursor.warning_count
                warnings = _first_warnings(session) if warning_count else ()
        except BaseException as error:
            _forget(cursor, is_in_step=isinstance(error.__cause__, _pymysql_error()))
            raise
        cursor.close()
        is_open = _is_in_transaction(session)
        committed = was_open and not is_open and not _ends_transaction(statement)
        seconds = time.monotonic() - began
        return Outcome(columns, row_count, rows, is_cut, warning_count, warnings, committed, is_open, seconds)

    def has_ended_transaction(self, error: MySqlError) -> bool:
        """Whether the statement that raised `error` had ended the open transaction before it failed, as CREATE does.

        What came before it may be kept then. False too where the server rolled it back, or is gone.
        """
        session = self._session
        if not self._was_open or session is None or not session.open or _number(error.__cause__) == _DEADLOCK:
            return False
        try:
            session.ping(reconnect=False)
        except (OSError, _pymysql_error()):
            return False
        return not _is_in_transaction(session)

    def commit(self) -> None:
        """Keep what was done since the last commit.

        Raises:
            MySqlError: the server is gone; nobody knows whether it was kept.
        """
        if self._session is not None:
            with self._translating():
                self._session.commit()

    def cancel(self, limit_seconds: float) -> None:
        """End on the server what this session runs there, and the session, through a second connection.

        Its transaction is rolled back. Blocks for at most about `limit_seconds`; without a session it does nothing.
        Safe to repeat, and after the session's connection was lost here.

        Raises:
            MySqlError: the server cannot be reached or does not allow it.
        """
        session_id, self._session_id = self._session_id, None
        if session_id is None:
            return
        session, self._session = self._session, None
        second = self._connect(limit_seconds, read_timeout=limit_seconds)
        try:
            # The statement first. Then the session: a statement that was sent but has not begun would begin after it.
            for command in (f"KILL QUERY {session_id:d}", f"KILL CONNECTION {session_id:d}"):
                with self._translating():
                    try:
                        second.query(command)
                    except _pymysql_error() as error:
                        if _number(error) != _NO_SUCH_SESSION:
                            raise
            if session is not None and session.open:
                session.close()
        finally:
            second.close()

    def close(self) -> None:
        """Roll back what was not committed and end the session. Safe to repeat."""
        session, self._session = self._session, None
        self._session_id = None
        if session is None or not session.open:
            return
        try:
            session.rollback()
        except (OSError, _pymysql_error()):
            pass  # it is gone: the server rolls back by itself
        session.close()

    def _open(self) -> Any:
        if self._session is None:
            _library()
            self._session = self._connect(self._connect_timeout())
            self._session_id = self._session.thread_id()
        return self._session

    def _connect_timeout(self) -> float:
        text = self._connection.extra.get("connect_timeout", "10")
        try:
            seconds = float(text)
        except (TypeError, ValueError):
            seconds = 0.0
        if not 0 < seconds <= 3_600:
            raise MySqlError(
                f"{self._where()}: connect_timeout = {text!r} is no number of seconds. Set, for example, 10."
            )
        return seconds

    def _connect(self, limit_seconds: float, *, read_timeout: float | None = None) -> Any:
        """A new session of PyMySQL."""
        connection = self._connection
        if connection.login is None:
            raise MySqlError(f"{self._where()} has no login. Set one.")
        certificates = connection.extra.get("ssl_ca")
        password = connection.password
        if certificates:
            _check_certificates(certificates, self._where())
        session = _library().connect(
            defer_connect=True,
            host=connection.host,
            port=self._port(),
            user=connection.login,
            password=b"" if password is None else password.reveal().encode(),
            database=self._schema,
            unix_socket=connection.extra.get("unix_socket"),
            charset="utf8mb4",
            local_infile=False,
            read_timeout=read_timeout,
            program_name="flux",
            **({"ssl_ca": certificates, "ssl_verify_cert": True, "ssl_verify_identity": True} if certificates else {}),
        )
        with self._translating():
            session.connect(self._greeted(limit_seconds))
        return session

    def _greeted(self, limit_seconds: float) -> socket.socket:
        """A connection to the server, which has begun its greeting; nothing of it is read yet."""
        deadline = time.monotonic() + limit_seconds
        found = self._socket(limit_seconds)
        try:
            head = b""
            while len(head) < _GREETING_HEAD:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                found.settimeout(left)
                more = found.recv(_GREETING_HEAD, socket.MSG_PEEK)
                if not more:
                    raise ConnectionResetError("it closed the connection without a greeting")
                if len(more) == len(head):
                    time.sleep(0.01)  # peeking does not wait for further bytes
                head = more
        except TimeoutError as error:
            found.close()
            raise TimeoutError(f"no greeting within {limit_seconds:g} s") from error
        except BaseException:
            found.close()
            raise
        # The number of the first packet is 0; the greeting's first byte is its version, or 255 for an error.
        if head[3] != 0 or head[4] not in (10, 255):
            found.close()
            raise ConnectionError("what answers there is no MySQL server")
        return found

    def _socket(self, limit_seconds: float) -> socket.socket:
        connection = self._connection
        path = connection.extra.get("unix_socket")
        if path:
            found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            found.settimeout(limit_seconds)
            try:
                found.connect(path)
            except BaseException:
                found.close()
                raise
            return found
        if not connection.host:
            raise MySqlError(f"{self._where()} has no host. Set one, or unix_socket.")
        found = socket.create_connection((connection.host, self._port()), limit_seconds)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return found

    def _port(self) -> int:
        return self._connection.port or 3306

    def _bound(self, cursor: Any, statement: str, parameters: Any) -> str:
        if not parameters:
            return statement
        try:
            return bound(statement, parameters, lambda value: str(cursor.mogrify("%s", (value,))))
        except BindingError as error:
            raise MySqlError(str(error)) from error
        except (TypeError, ValueError, _pymysql_error()) as error:
            raise MySqlError(
                f"The parameters cannot be put into the statement: {_text(error)}. "
                "Write %s or %(name)s for a parameter, and %% for a percent sign."
            ) from error

    def _where(self) -> str:
        """Which connection, and where it leads."""
        connection = self._connection
        place = connection.extra.get("unix_socket") or f"{connection.host}:{self._port()}"
        return f"Connection {connection.conn_id!r} ({place})"

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """Raise what PyMySQL and the network raise as MySqlError."""
        try:
            yield
        except Exception as error:
            translated = self._translated(error)
            if translated is None:
                raise
            raise translated from error

    def _translated(self, error: Exception) -> MySqlError | None:
        """An error of PyMySQL or of the network in our words; None: it is none of theirs."""
        if isinstance(error, MySqlError) or not isinstance(
            error, (OSError, RuntimeError, UnicodeError, _pymysql_error())
        ):
            return None
        number = _number(error)
        if isinstance(error, OSError):
            return MySqlError(
                f"{self._where()} cannot be reached: {_text(error)}. Check host and port, and the server."
            )
        if number in _SERVER_GONE:
            return MySqlError(f"{self._where()}: the connection to the server was lost: {_text(error)}.")
        if isinstance(error, UnicodeEncodeError):
            return MySqlError(f"{self._where()}: the statement holds what no character set has: {error}.")
        if isinstance(error, UnicodeError):
            return MySqlError(
                f"{self._where()}: a text is not in the character set it claims: {error}. Ask for its HEX()."
            )
        if isinstance(error, RuntimeError) and "LOAD_LOCAL" in str(error):
            return MySqlError(f"{self._where()}: the server asked for a file of this machine. Files are not sent.")
        hint = _HINTS.get(number or 0, "")
        return MySqlError(f"{self._where()}: {_text(error).rstrip('.')}. {hint}".rstrip())


def _library() -> Any:
    """PyMySQL."""
    try:
        import pymysql
    except ImportError as error:
        raise MySqlError(
            "The library PyMySQL, which talks to MySQL, is not installed. Run: pip install flux-provider-mysql"
        ) from error
    return pymysql


def _check_certificates(path: str, where: str) -> None:
    """Fail in our words where the file of `ssl_ca` cannot be used; the library would not name it."""
    import ssl

    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise MySqlError(
            f"{where}: ssl_ca = {path!r} cannot be read: {_text(error)}. Name a PEM file with those to trust."
        ) from error


def _pymysql_error() -> Any:
    """What all its errors derive from."""
    return _library().MySQLError


def _number(error: BaseException | None) -> int | None:
    """The server's or the driver's number of an error."""
    return error.args[0] if error is not None and error.args and isinstance(error.args[0], int) else None


def _text(error: BaseException) -> str:
    """An error's number and text in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    if len(error.args) > 1 and isinstance(error.args[0], int):
        return f"error {error.args[0]}: {error.args[1]}"
    return str(error) or type(error).__name__


def _is_in_transaction(session: Any) -> bool:
    from pymysql.constants.SERVER_STATUS import SERVER_STATUS_IN_TRANS

    return bool(session.server_status & SERVER_STATUS_IN_TRANS)


def _ends_transaction(statement: str) -> bool:
    return statement.split(maxsplit=1)[0].upper() in ("COMMIT", "ROLLBACK") if statement.strip() else False


def _read(cursor: Any, keep_bytes: int) -> tuple[tuple[str, ...] | None, int, list[tuple[Any, ...]], bool]:
    """Read a result to its end: columns, number of rows, the rows kept, and whether it is longer than was asked for."""
    if cursor.description is None:
        return None, cursor.rowcount, [], False
    columns = tuple(column[0] for column in cursor.description)
    names = sum(_size(name) for name in columns)
    kept: list[tuple[Any, ...]] = []
    count = size = 0
    while batch := cursor.fetchmany(1_000):
        count += len(batch)
        for row in batch:
            if size >= keep_bytes:
                break
            kept.append(row)
            size += names + sum(_size(value) for value in row)
    return columns, count, kept, size > keep_bytes or len(kept) < count


def _size(value: Any) -> int:
    """About how many bytes a value has as typed JSON."""
    if isinstance(value, str):
        return len(json.dumps(value, ensure_ascii=False).encode())
    if isinstance(value, bytes):
        return 40 + len(value) * 4 // 3
    return 40 + len(str(value))


def _first_warnings(session: Any) -> tuple[ServerWarning, ...]:
    from pymysql.cursors import Cursor

    with session.cursor(Cursor) as cursor:
        cursor.execute(f"SHOW WARNINGS LIMIT {_WARNINGS}")
        return tuple(ServerWarning(str(level), int(code), str(text)) for level, code, text in cursor.fetchall())


def _forget(cursor: Any, *, is_in_step: bool) -> None:
    """Give up a cursor whose statement failed, unread; the session too, unless it is in step with the server."""
    session, result = cursor.connection, cursor._result
    cursor.connection = None
    if result is not None and result.unbuffered_active:
        result.unbuffered_active = is_in_step = False
    if not is_in_step:
        session.close()

"""The client on both servers: who it is, how it fails, and that nothing of it stays there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flux.connection import Connection
from flux_provider_mysql.client import MySqlClient, MySqlError
from tests.provider_mysql.conftest import Server, changed
from tests.waiting import until

HERE = Connection.from_uri("mysql_default", "mysql://flux:pass-word@127.0.0.1:3306/flux")


@pytest.fixture
def client(server: Server) -> Iterator[MySqlClient]:
    client = MySqlClient(server.connection)
    yield client
    client.close()


def one(client: MySqlClient, sql: str, *parameters: Any) -> Any:
    """The first cell of what a query gives."""
    return client.execute(sql, parameters, keep_bytes=1).rows[0][0]


class TestSession:
    def test_it_tells_which_server_answers(self, server: Server, client: MySqlClient) -> None:
        name, _, number = client.check().partition(" ")
        assert name == {"mariadb": "MariaDB", "mysql": "MySQL"}[server.name]
        assert number.split(".")[:2] == {"mariadb": ["10", "11"], "mysql": ["8", "0"]}[server.name]

    def test_it_opens_nothing_before_it_is_needed_and_closes_as_often_as_one_likes(self) -> None:
        client = MySqlClient(HERE)
        client.close()
        client.close()
        client.cancel(1)
        assert "pass-word" not in repr(vars(client))

    def test_it_speaks_utf8mb4_and_sends_no_files(self, server: Server, client: MySqlClient, tmp_path: Path) -> None:
        assert one(client, "SELECT @@character_set_client") == "utf8mb4"
        assert one(client, "SELECT @@character_set_results") == "utf8mb4"
        (tmp_path / "secret").write_text("secret")
        server.rows("CREATE TABLE t (a TEXT)")
        with pytest.raises(MySqlError, match=r"(?i)local"):
            client.execute(f"LOAD DATA LOCAL INFILE '{tmp_path / 'secret'}' INTO TABLE t")
        assert server.rows("SELECT * FROM t") == []

    def test_one_call_sends_one_statement(self, server: Server, client: MySqlClient) -> None:
        server.rows("CREATE TABLE t (a INT)")
        with pytest.raises(MySqlError, match="1064"):
            client.execute("SELECT 1; DROP TABLE t")
        assert server.rows("SELECT * FROM t") == []

    def test_nothing_is_kept_before_the_commit(self, server: Server, client: MySqlClient) -> None:
        server.rows("CREATE TABLE t (a INT)")
        client.execute("INSERT INTO t VALUES (1)")
        assert server.rows("SELECT * FROM t") == []
        client.commit()
        client.execute("INSERT INTO t VALUES (2)")
        client.close()
        assert server.rows("SELECT * FROM t") == [(1,)]

    def test_a_password_of_any_characters_is_a_password(self, server: Server) -> None:
        client = MySqlClient(server.login("SELECT"))
        assert str(one(client, "SELECT CURRENT_USER()")).startswith("flux_")
        client.close()

    def test_the_connection_is_encrypted_where_the_server_can(self, server: Server, client: MySqlClient) -> None:
        cipher = client.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'", keep_bytes=1).rows[0][1]
        assert bool(cipher) == (server.name == "mysql")  # MariaDB 10.11 has no certificate unless one is made for it

    def test_a_certificate_that_nobody_vouched_for_is_refused_once_checked(
        self, server: Server, tmp_path: Path
    ) -> None:
        client = MySqlClient(server.changed(extra={"ssl_ca": str(authority(tmp_path))}))
        with pytest.raises(MySqlError, match=r"'mysql_default' \(127\.0\.0\.1:\d+\).*(?i:certificate|ssl)"):
            client.check()


class TestFailure:
    def test_a_wrong_password_names_the_connection_and_not_the_password(self, server: Server) -> None:
        client = MySqlClient(server.changed(password="wrong-password"))
        with pytest.raises(MySqlError, match=r"'mysql_default' \(127\.0\.0\.1:\d+\): error 1045") as caught:
            client.check()
        assert "Check its login and password." in str(caught.value)
        assert "wrong-password" not in str(caught.value)

    def test_an_unknown_database_is_named(self, server: Server) -> None:
        with pytest.raises(MySqlError, match=r"1049.*'nowhere'.*change the connection's schema"):
            MySqlClient(server.connection, schema="nowhere").check()

    def test_a_login_that_may_only_read_is_told_so(self, server: Server) -> None:
        server.rows("CREATE TABLE t (a INT)")
        client = MySqlClient(server.login("SELECT"))
        with pytest.raises(MySqlError, match=r"1142.*denied.*Grant the login the right"):
            client.execute("INSERT INTO t VALUES (1)")
        client.close()

    def test_a_closed_port_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(MySqlError, match=rf"'mysql_default' \(127\.0\.0\.1:{port}\) cannot be reached.*refused"):
            MySqlClient(changed(HERE, port=port)).check()

    @pytest.mark.parametrize(
        ("greeting", "words"),
        [
            (b"", "no greeting within 0.2 s"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "no MySQL server"),
            (b"J\0", "no greeting within 0.2 s"),
        ],
    )
    def test_what_accepts_but_is_no_mysql_is_given_up(self, greeting: bytes, words: str) -> None:
        with answering(lambda peer: peer.sendall(greeting)) as port:
            client = MySqlClient(changed(HERE, port=port, extra={"connect_timeout": "0.2"}))
            began = time.monotonic()
            with pytest.raises(MySqlError, match=words):
                client.check()
            assert time.monotonic() - began < 5

    def test_a_server_that_asks_for_a_file_does_not_get_it(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        got: list[bytes] = []
        with answering(lambda peer: got.append(rogue(peer, str(tmp_path / "secret")))) as port:
            client = MySqlClient(changed(HERE, port=port))
            with pytest.raises(MySqlError, match="asked for a file of this machine"):
                client.execute("SELECT 1")
            client.close()
        assert b"secret" not in got[0]

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"login": None}, "has no login"),
            ({"host": None}, "has no host"),
            ({"extra": {"connect_timeout": "soon"}}, "connect_timeout = 'soon' is no number"),
            ({"extra": {"connect_timeout": "0"}}, "connect_timeout = '0' is no number"),
            ({"extra": {"unix_socket": "/no/such/socket"}}, r"\(/no/such/socket\) cannot be reached"),
        ],
    )
    def test_a_setting_that_cannot_be_used_is_named(self, fields: dict[str, Any], words: str) -> None:
        with pytest.raises(MySqlError, match=words):
            MySqlClient(changed(HERE, **fields)).check()

    @pytest.mark.slow
    def test_a_session_that_the_server_ended_is_named_lost(self, server: Server, client: MySqlClient) -> None:
        client.execute("SET SESSION wait_timeout = 1")
        until(lambda: not server.sessions(), what="the idle session to be ended")
        with pytest.raises(MySqlError, match="connection to the server was lost"):
            client.execute("SELECT 1")
        client.close()

    def test_a_session_that_is_killed_in_a_statement_is_named_lost(self, server: Server, client: MySqlClient) -> None:
        with pytest.raises(MySqlError, match=r"connection to the server was lost|1317"), killing(server, "SLEEP"):
            client.execute("SELECT SLEEP(60)")
        client.close()

    def test_a_session_that_is_killed_in_a_long_result_leaves_no_noise(
        self, server: Server, client: MySqlClient
    ) -> None:
        """The rest of the result is not waited for; a warning from a destructor would fail this test."""
        sql = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 200) "
        sql += "SELECT /* long */ a.i, SLEEP(0.01), REPEAT('x', 100000) FROM n AS a JOIN n AS b"
        with pytest.raises(MySqlError, match=r"connection to the server was lost|1317"), killing(server, "/* long */"):
            client.execute(sql)
        client.close()

    def test_a_deadlock_is_told_with_what_to_do(self, server: Server) -> None:
        server.rows("CREATE TABLE t (id INT PRIMARY KEY, a INT)")
        server.rows("INSERT INTO t VALUES (1, 0), (2, 0)")
        first, second = MySqlClient(server.connection), MySqlClient(server.connection)
        errors: list[Exception] = []

        def update(client: MySqlClient, row: int) -> None:
            try:
                client.execute("UPDATE /* wait */ t SET a = a + 1 WHERE id = %s", [row])
            except MySqlError as error:
                errors.append(error)

        update(first, 1)
        update(second, 2)
        other = threading.Thread(target=update, args=(first, 2))
        other.start()
        until(lambda: server.sessions("/* wait */"), what="the first to wait for the second")
        update(second, 1)
        other.join()
        first.close()
        second.close()
        (error,) = errors
        assert "1213" in str(error)
        assert "give the task retries" in str(error)

    @pytest.mark.parametrize(("text", "words"), [(None, "No such file"), ("nonsense", "no certificate")])
    def test_certificates_that_cannot_be_read_are_named(self, text: str | None, words: str, tmp_path: Path) -> None:
        file = tmp_path / "authority.pem"
        if text is not None:
            file.write_text(text)
        with pytest.raises(MySqlError, match=rf"ssl_ca = '{file}' cannot be read: .*{words}"):
            MySqlClient(changed(HERE, extra={"ssl_ca": str(file)})).check()


class TestStatement:
    def test_parameters_are_bound_and_never_read_as_sql(self, client: MySqlClient) -> None:
        hostile = "'; DROP TABLE t; -- \\' \" ` %s %(a)s \0 \x1a \n\r {{ ds }} 😀 Ł"
        assert one(client, "SELECT %s", hostile) == hostile
        assert client.execute("SELECT %(a)s, '100%%'", {"a": hostile}, keep_bytes=1).rows == [(hostile, "100%")]

    def test_a_percent_sign_is_one_without_parameters(self, client: MySqlClient) -> None:
        assert one(client, "SELECT 'a%s%'") == "a%s%"
        assert client.execute("SELECT '%d'", {}, keep_bytes=1).rows == [("%d",)]

    @pytest.mark.parametrize(
        ("sql", "parameters", "words"),
        [
            ("SELECT %(b)s", {"a": 1}, "names the parameter 'b'"),
            ("SELECT %s, %s", [1], "not enough arguments"),
            ("SELECT %s", [1, 2], "not all arguments converted"),
            ("SELECT 'a%', %s", [1], "%% for a percent sign"),
            ("SELECT %s", {"a": 1}, "a placeholder has none"),
            ("SELECT '100% sure', %(a)s", {"a": 1}, "a placeholder has none"),
        ],
    )
    def test_parameters_that_do_not_fit_are_refused(
        self, sql: str, parameters: Any, words: str, client: MySqlClient
    ) -> None:
        with pytest.raises(MySqlError, match=words):
            client.execute(sql, parameters)
        assert one(client, "SELECT 1") == 1

    @pytest.mark.parametrize(
        "value",
        [
            None, True, -5, 2.5, Decimal("1.10"), "ü", b"\x00\xff", date(2026, 1, 5), datetime(2026, 1, 5, 6, 7, 8, 9),
            timedelta(hours=-800, microseconds=5),
        ],
    )  # fmt: skip
    def test_a_value_arrives_as_what_it_is(self, value: Any, client: MySqlClient) -> None:
        columns = {
            "bool": "BOOL", "int": "BIGINT", "float": "DOUBLE", "Decimal": "DECIMAL(9, 2)", "str": "TEXT",
            "bytes": "BLOB", "date": "DATE", "datetime": "DATETIME(6)", "timedelta": "TIME(6)", "NoneType": "INT",
        }  # fmt: skip
        client.execute(f"CREATE TEMPORARY TABLE v (v {columns[type(value).__name__]})")
        client.execute("INSERT INTO v VALUES (%(v)s)", {"v": value})
        assert one(client, "SELECT v FROM v") == value

    def test_a_list_is_bound_for_in(self, client: MySqlClient) -> None:
        assert one(client, "SELECT 2 IN %s AND 'b' IN %s AND 4 NOT IN %s", [1, 2], ("a", "b"), {4.5}) == 1

    def test_rows_are_counted_and_as_many_kept_as_were_asked_for(self, client: MySqlClient) -> None:
        sql = (
            "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT i, 'ü' AS u FROM n"
        )
        none = client.execute(sql)
        one = client.execute(sql, keep_bytes=1)
        every = client.execute(sql, keep_bytes=1_000_000)
        assert (none.row_count, none.columns, none.rows, none.is_cut) == (900, ("i", "u"), [], True)
        assert (one.row_count, one.rows, one.is_cut) == (900, [(1, "ü")], True)
        assert (len(every.rows), every.rows[-1], every.is_cut) == (900, (900, "ü"), False)

    def test_warnings_are_counted_and_the_first_of_them_read(self, client: MySqlClient) -> None:
        outcome = client.execute("SELECT " + ", ".join(["1/0"] * 30))
        assert (outcome.warning_count, len(outcome.warnings)) == (30, 20)
        assert (outcome.warnings[0].level, outcome.warnings[0].code) == ("Warning", 1365)

    def test_a_procedure_that_gives_several_results_is_read_to_its_end(
        self, server: Server, client: MySqlClient
    ) -> None:
        server.rows("CREATE PROCEDURE p() BEGIN SELECT 1 AS a; SELECT 2 AS b; END")
        outcome = client.execute("CALL p()", keep_bytes=100)
        assert (outcome.columns, outcome.rows) == (("b",), [(2,)])
        assert one(client, "SELECT 3") == 3

    def test_an_implicit_commit_is_told(self, server: Server, client: MySqlClient) -> None:
        server.rows("CREATE TABLE t (a INT)")
        assert not client.execute("INSERT INTO t VALUES (1)").committed
        assert client.execute("CREATE TABLE u (a INT)").committed
        assert not client.execute("INSERT INTO t VALUES (2)").committed
        assert not client.execute("ROLLBACK").committed
        assert server.rows("SELECT * FROM t") == [(1,)]


class TestCancel:
    def test_the_statement_and_the_session_end_on_the_server(self, server: Server) -> None:
        client = MySqlClient(server.connection)

        def sleep() -> None:
            try:
                client.execute("SELECT SLEEP(60)")
            except MySqlError:
                pass  # MySQL lets a SLEEP that is killed end as if it were over

        thread = threading.Thread(target=sleep)
        thread.start()
        until(lambda: server.sessions("SLEEP"), what="the query to run")
        client.cancel(2)
        until(lambda: not server.sessions(), what="the session to be gone")
        thread.join(10)
        assert not thread.is_alive()

    def test_a_login_needs_no_right_to_end_its_own(self, server: Server) -> None:
        client = MySqlClient(server.login("SELECT"))
        client.execute("SELECT 1")
        assert len(server.sessions()) == 1
        client.cancel(2)
        until(lambda: not server.sessions(), what="the session to be gone")
        client.close()

    def test_what_is_gone_already_needs_no_cancelling(self, server: Server) -> None:
        client = MySqlClient(server.connection)
        client.execute("SELECT 1")
        for number in server.sessions():
            server.end(number)
        client.cancel(2)
        assert server.sessions() == []

    def test_a_query_that_may_only_read_is_ended_by_the_server(self, server: Server) -> None:
        client = MySqlClient(server.connection)
        server.rows("CREATE TABLE t (a INT)")
        client.read_only(0.2)
        with pytest.raises(MySqlError, match="1792"):
            client.execute("INSERT INTO t VALUES (1)")
        began = time.monotonic()
        sql = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900) "
        with pytest.raises(MySqlError, match=r"1969|3024"):
            client.execute(sql + "SELECT COUNT(*) FROM n a JOIN n b JOIN n c WHERE a.i + b.i * c.i % 7 = 3")
        assert time.monotonic() - began < 5
        client.close()


def authority(folder: Path) -> Path:
    """The file of a certificate authority that has signed nothing."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Nobody")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    signed = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), True).sign(key, hashes.SHA256())
    (folder / "ca.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    return folder / "ca.pem"


class killing:
    """Ends the session whose statement has `text` in it, once there is one."""

    def __init__(self, server: Server, text: str) -> None:
        self._server = server
        self._text = text
        self._thread = threading.Thread(target=self._kill)

    def _kill(self) -> None:
        (number,) = until(lambda: self._server.sessions(self._text), what=f"a statement with {self._text}")
        self._server.end(number)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()


class answering:
    """A server on a port of its own that takes one connection, does `answer` with it and holds it until the end."""

    def __init__(self, answer: Callable[[socket.socket], object]) -> None:
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        peer, _ = self._listening.accept()
        with peer:
            self._answer(peer)
            self._over.wait(20)

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._listening.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._listening.close()


def rogue(peer: socket.socket, path: str) -> bytes:
    """Speak as a MySQL server that lets anybody in and answers the first query by asking for a file; what it gets."""

    def packet(number: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "little") + bytes([number]) + payload

    ok = b"\0\0\0\2\0\0\0"
    greeting = b"\x0a8.0.31\0" + b"\1\0\0\0" + b"12345678\0" + b"\xff\xf7" + b"\x2d" + b"\2\0" + b"\xff\x81" + b"\x15"
    greeting += b"\0" * 10 + b"123456789012\0" + b"mysql_native_password\0"
    peer.settimeout(5)
    peer.sendall(packet(0, greeting))
    peer.recv(65536)
    peer.sendall(packet(2, ok))
    while b"SELECT 1" not in peer.recv(65536):
        peer.sendall(packet(1, ok))
    peer.sendall(packet(1, b"\xfb" + path.encode()))
    return peer.recv(65536)

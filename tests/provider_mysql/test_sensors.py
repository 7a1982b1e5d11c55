"""The sensor on both servers: what ends the waiting, what does not, and what fails."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flux.attempt import poke
from flux.errors import FluxError
from flux_provider_mysql.client import MySqlError
from flux_provider_mysql.sensors import MySqlSensor, is_true
from tests.attempts import spec_of
from tests.provider_mysql.conftest import Server, make, world_of
from tests.waiting import until


@pytest.mark.parametrize(
    "cell",
    [None, 0, 0.0, -0.0, Decimal("0.00"), False, "", "0", b"", b"\0", b"\0\0", timedelta(0), "0000-00-00"],
)
def test_a_cell_that_says_no_is_waited_on(cell: Any) -> None:
    assert not is_true(cell)


@pytest.mark.parametrize(
    "cell",
    [1, -1, 0.1, Decimal("0.01"), "1", "00", " ", "false", "no", b"0", b"\0\1", timedelta(1), date(2026, 1, 1)],
)
def test_every_other_cell_ends_the_waiting(cell: Any) -> None:
    assert is_true(cell)


def poked(server: Server, text: str, folder: Path, **arguments: Any) -> bool:
    """One poke, by the code that pokes every sensor."""
    task = make(MySqlSensor, sql=text, **arguments)
    return poke(task, spec_of(task, folder), world_of(server.connection))


@pytest.mark.parametrize(
    ("text", "arguments", "holds"),
    [
        ("SELECT 1", {}, True),
        ("SELECT 1;", {}, True),
        ("SELECT 0, 1", {}, False),
        ("SELECT NULL", {}, False),
        ("SELECT 1 FROM (SELECT 1) AS t WHERE FALSE", {}, False),
        ("SELECT COUNT(*) FROM (SELECT 1) AS t WHERE FALSE", {}, False),
        ("SELECT b'0'", {}, False),
        ("SELECT CAST(0 AS DECIMAL(9,2))", {}, False),
        ("SELECT i FROM (SELECT 0 AS i UNION ALL SELECT 1) AS t ORDER BY i", {}, False),
        ("SELECT '0', REPEAT('x', 100000)", {}, False),
        ("SELECT REPEAT('0', 100000)", {}, True),
        ("SELECT %s = '2026-01-05' AND '{{ ds }}' = '2026-01-05'", {"parameters": ["{{ ds }}"]}, True),
        ("SELECT DATABASE() = 'information_schema'", {"database": "information_schema"}, True),
    ],
)
def test_the_first_cell_of_the_first_row_decides(
    text: str, arguments: dict[str, Any], holds: bool, server: Server, tmp_path: Path
) -> None:
    assert poked(server, text, tmp_path, **arguments) is holds


def test_a_zero_date_is_waited_on(server: Server, tmp_path: Path) -> None:
    server.rows("SET sql_mode = ''")
    server.rows("CREATE TABLE loads (ended_at DATETIME(3) NOT NULL)")
    server.rows("INSERT INTO loads VALUES ('0000-00-00 00:00:00')")
    assert not poked(server, "SELECT ended_at FROM loads", tmp_path)
    server.rows("UPDATE loads SET ended_at = '2026-01-05 03:00:00'")
    assert poked(server, "SELECT ended_at FROM loads", tmp_path)


def test_each_poke_sees_what_others_have_committed_and_leaves_no_session(server: Server, tmp_path: Path) -> None:
    server.rows("CREATE TABLE t (a INT)")
    assert not poked(server, "SELECT a FROM t", tmp_path)
    server.rows("INSERT INTO t VALUES (1)")
    assert poked(server, "SELECT a FROM t", tmp_path)
    until(lambda: not server.sessions(), what="the sessions to be gone")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SELECT * FROM nowhere", "1146"),
        ("SELECT 1; SELECT 2", "holds 2 statements. Give one query"),
        ("", "holds 0 statements"),
        ("SET @a = 1", "gives no rows at all"),
        ("SELECT %s", "1064"),
    ],
)
def test_an_error_fails_the_poke(text: str, words: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(FluxError, match=words):
        poked(server, text, tmp_path)
    until(lambda: not server.sessions(), what="the session to be gone")


def test_a_poke_cannot_write(server: Server, tmp_path: Path) -> None:
    server.rows("CREATE TABLE t (a INT)")
    with pytest.raises(MySqlError, match="A sensor may only read"):
        poked(server, "INSERT INTO t VALUES (1)", tmp_path)
    assert server.rows("SELECT * FROM t") == []


@pytest.mark.slow
def test_the_server_ends_a_query_that_takes_longer_than_a_poke_may(server: Server, tmp_path: Path) -> None:
    server.rows("CREATE TABLE n (i INT)")
    server.rows("INSERT INTO n VALUES " + ", ".join(f"({i})" for i in range(1_000)))
    text = "SELECT COUNT(*) FROM n a JOIN n b JOIN n c WHERE a.i + b.i * c.i % 7 = 3"
    with pytest.raises(MySqlError, match=r"1969|3024"):
        poked(server, text, tmp_path, poke_timeout=timedelta(seconds=0.2))

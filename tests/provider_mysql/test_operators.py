"""The operator on both servers, by the code that runs every attempt."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flux import DAG
from flux.connection import Connection
from flux_provider_mysql.operators import MySqlOperator
from tests.attempts import value_of
from tests.provider_mysql.conftest import Server, make
from tests.waiting import until

ROOT = Path(__file__).parents[2]

#: An attempt in a process of its own, as the launcher runs one: its connection and sql come on the command line.
ATTEMPT = """
import json, sys
from pathlib import Path
from flux.connection import Connection
from flux.attempt import install_kill_handler, setup_logging
from flux_provider_mysql.operators import MySqlOperator
from tests.provider_mysql.conftest import make, world_of
from tests.attempts import run
install_kill_handler()
setup_logging()
connection = Connection.from_message(json.loads(sys.argv[1]))
end = run(make(MySqlOperator, sql=sys.argv[2]), Path(sys.argv[3]), world_of(connection))
print(end.outcome)
"""


def sql(text: Any, **arguments: Any) -> MySqlOperator:
    task: MySqlOperator = make(MySqlOperator, sql=text, **arguments)
    return task


class TestTransaction:
    def test_statements_run_in_one_transaction(self, server: Server, tmp_path: Path) -> None:
        server.rows("CREATE TABLE t (a INT)")
        end = server.run(sql("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2);"), tmp_path)
        assert (end.outcome, value_of(end)) == ("success", None)
        assert server.rows("SELECT a FROM t ORDER BY a") == [(1,), (2,)]

    def test_a_statement_that_fails_undoes_those_before_it(self, server: Server, tmp_path: Path) -> None:
        server.rows("CREATE TABLE t (a INT)")
        end = server.run(sql("INSERT INTO t VALUES (1);\nINSERT INTO nowhere VALUES (2)"), tmp_path)
        assert end.outcome == "failed"
        assert str(end.reason).startswith("Statement 2 of 2 (line 2) failed. Connection 'mysql_default' (127.0.0.1:")
        assert "1146" in str(end.reason)
        assert str(end.reason).endswith("Nothing of this transaction is kept.")
        assert server.rows("SELECT a FROM t") == []
        assert server.sessions() == []

    @pytest.mark.parametrize(
        ("text", "words", "kept"),
        [
            (
                "INSERT INTO t VALUES (1); TRUNCATE u; INSERT INTO t VALUES (2); nonsense",
                "Nothing after statement 2",
                [1],
            ),
            ("INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2); nonsense", "Nothing after statement 2", [1]),
            ("INSERT INTO t VALUES (1); CREATE TABLE u (a INT)", "what came before it may be kept", [1]),
            ("INSERT INTO t VALUES (1); DO CAST('x' AS nonsense)", "Nothing of this transaction", []),
        ],
    )
    def test_a_failure_says_what_is_kept_all_the_same(
        self, text: str, words: str, kept: list[int], server: Server, tmp_path: Path
    ) -> None:
        server.rows("CREATE TABLE t (a INT)")
        server.rows("CREATE TABLE u (a INT)")
        assert words in str(server.run(sql(text), tmp_path).reason)
        assert [row[0] for row in server.rows("SELECT a FROM t")] == kept

    def test_with_autocommit_what_ended_is_kept(self, server: Server, tmp_path: Path) -> None:
        server.rows("CREATE TABLE t (a INT)")
        end = server.run(sql("INSERT INTO t VALUES (1); nonsense", autocommit=True), tmp_path)
        assert str(end.reason).endswith("What ended before it is kept.")
        assert server.rows("SELECT a FROM t") == [(1,)]

    def test_a_session_is_closed_after_success(self, server: Server, tmp_path: Path) -> None:
        assert server.run(sql("SELECT 1"), tmp_path).outcome == "success"
        until(lambda: not server.sessions(), what="the session to be gone")

    def test_a_result_that_is_too_large_is_refused_before_the_commit(self, server: Server, tmp_path: Path) -> None:
        server.rows("CREATE TABLE t (a INT)")
        text = (
            "INSERT INTO t VALUES (1); WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900) "
        )
        end = server.run(sql(text + "SELECT REPEAT('x', 10000) FROM n"), tmp_path)
        assert "its last result, 900 rows, is more than 8 MB" in str(end.reason)
        assert server.rows("SELECT a FROM t") == []

    def test_without_a_result_rows_of_any_number_pass(self, server: Server, tmp_path: Path) -> None:
        text = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900) "
        end = server.run(sql(text + "SELECT REPEAT('x', 20000) FROM n", store_result=False), tmp_path)
        assert (end.outcome, end.results) == ("success", {})


class TestArguments:
    def test_a_text_is_a_template_and_parameters_are_too(self, server: Server, tmp_path: Path) -> None:
        task = sql("SELECT '{{ ds }}' AS day, %(next)s AS next", parameters={"next": "{{ tomorrow_ds }}"})
        assert value_of(server.run(task, tmp_path)) == [{"day": "2026-01-05", "next": "2026-01-06"}]

    def test_a_moment_without_its_zone_fits_a_column_of_both_servers(self, server: Server, tmp_path: Path) -> None:
        server.rows("CREATE TABLE t (a DATETIME)")
        moment = {"moment": "{{ data_interval_start.replace(tzinfo=None) }}"}
        task = sql("INSERT INTO t VALUES (%(moment)s); SELECT a FROM t", parameters=moment)
        assert value_of(server.run(task, tmp_path)) == [{"a": datetime(2026, 1, 5)}]

    def test_a_list_of_texts_is_run_in_order(self, server: Server, tmp_path: Path) -> None:
        task = sql(["SET @a = 1; SET @a = @a + 1", "SELECT @a AS a"])
        assert value_of(server.run(task, tmp_path)) == [{"a": 2}]

    def test_a_file_beside_the_dag_file_is_run(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "load.sql").write_text(
            "DELIMITER //\nCREATE PROCEDURE p() BEGIN SELECT 1; SELECT '{{ ds }}; ü' AS a; END//\n"
            "DELIMITER ;\nCALL p();\n"
        )
        task = make(MySqlOperator, {"template_searchpath": [str(tmp_path)]}, sql="load.sql")
        assert value_of(server.run(task, tmp_path)) == [{"a": "2026-01-05; ü"}]

    def test_a_database_can_be_named(self, server: Server, tmp_path: Path) -> None:
        task = sql("SELECT DATABASE() AS d", database="information_schema")
        assert value_of(server.run(task, tmp_path)) == [{"d": "information_schema"}]

    @pytest.mark.parametrize(
        ("text", "arguments", "words"),
        [
            ("-- nothing", {}, "its sql holds no statement"),
            ("SELECT 'it", {}, "quote that begins in line 1"),
            (None, {}, "The SQL is of type NoneType. Give a text."),
            (["SELECT 1", 5], {}, "The SQL is of type int. Give a text."),
            ("SELECT %s; SELECT %s", {"parameters": [1]}, "2 statements cannot share a list"),
        ],
    )
    def test_what_cannot_be_run_fails_before_a_connection(
        self, text: Any, arguments: dict[str, Any], words: str, tmp_path: Path
    ) -> None:
        server = Server("none", Connection.from_uri("mysql_default", "mysql://a@127.0.0.1:1/"), None)
        end = server.run(sql(text, **arguments), tmp_path)
        assert end.outcome == "failed"
        assert words in str(end.reason)

    def test_a_dag_file_with_it_loads_no_client_library(self) -> None:
        code = (
            "import sys; from flux_provider_mysql.operators import MySqlOperator; "
            "from flux_provider_mysql.sensors import MySqlSensor; "
            "MySqlOperator(task_id='a', sql='SELECT 1'); MySqlSensor(task_id='b', sql='SELECT 1'); "
            "print('pymysql' in sys.modules)"
        )
        assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


class TestResult:
    def test_every_type_comes_through_as_itself(self, server: Server, tmp_path: Path) -> None:
        text = """SELECT CAST('1.20' AS DECIMAL(38,2)) AS d, DATE '2026-01-05' AS day,
            TIMESTAMP '2026-01-05 01:02:03.000004' AS moment, TIME '-25:00:01' AS span, X'00FF' AS raw,
            '😀 Ł ü' AS words, NULL AS nothing, 18446744073709551615 AS big, 1e0 AS half,
            CAST('{"a": 1}' AS CHAR) AS json"""
        assert value_of(server.run(sql(text), tmp_path)) == [
            {
                "d": Decimal("1.20"),
                "day": date(2026, 1, 5),
                "moment": datetime(2026, 1, 5, 1, 2, 3, 4),
                "span": -timedelta(hours=25, seconds=1),
                "raw": b"\x00\xff",
                "words": "😀 Ł ü",
                "nothing": None,
                "big": 18446744073709551615,
                "half": 1.0,
                "json": '{"a": 1}',
            }
        ]

    def test_a_date_that_python_does_not_have_comes_as_its_text(self, server: Server, tmp_path: Path) -> None:
        text = (
            "SET sql_mode = ''; CREATE TABLE t (a DATE, b DATETIME); INSERT INTO t VALUES (0, 0), ('2026-02-00', NULL);"
        )
        assert value_of(server.run(sql(text + "SELECT * FROM t"), tmp_path)) == [
            {"a": "0000-00-00", "b": "0000-00-00 00:00:00"},
            {"a": "2026-02-00", "b": None},
        ]

    def test_columns_of_one_name_are_kept_apart(self, server: Server, tmp_path: Path) -> None:
        assert value_of(server.run(sql("SELECT 1 AS a, 2 AS a, 3 AS a__1, 4 AS a, 5 AS b"), tmp_path)) == [
            {"a": 1, "a__1": 2, "a__1__1": 3, "a__2": 4, "b": 5}
        ]

    def test_the_last_statement_that_gives_rows_is_the_result(self, server: Server, tmp_path: Path) -> None:
        assert value_of(server.run(sql("SELECT 1 AS a; SELECT 2 AS a; SET @b = 3"), tmp_path)) == [{"a": 2}]
        assert value_of(server.run(sql("SELECT 1 AS a FROM (SELECT 1) AS t WHERE FALSE"), tmp_path)) == []

    def test_hostile_values_come_back_as_they_went(self, server: Server, tmp_path: Path) -> None:
        server.rows("CREATE TABLE t (a LONGTEXT)")
        for value in ("'; DROP TABLE t; --", "\\", "%s %(a)s", "\0\x1a\r\n", "😀" * 300_000, ""):
            task = sql("DELETE FROM t; INSERT INTO t VALUES (%(a)s); SELECT a FROM t", parameters={"a": value})
            end = server.run(task, tmp_path)
            assert (end.outcome, server.rows("SELECT a FROM t")) == ("success", [(value,)])


class TestLog:
    def test_rows_time_and_warnings_of_each_statement_are_logged(
        self, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "flux_provider_mysql")
        text = "SET sql_mode = ''; CREATE TABLE t (a TINYINT); INSERT INTO t\nVALUES (1), (300); SELECT * FROM t; "
        text += "DROP TABLE IF EXISTS u"
        assert server.run(sql(text), tmp_path).outcome == "success"
        lines = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert ("INFO", "Statement 3 of 5: INSERT INTO t VALUES (1), (300)") in lines
        assert ("WARNING", "Statement 3 of 5: Warning 1264: Out of range value for column 'a' at row 2") in lines
        assert any(line.startswith("Statement 3 of 5: 2 rows changed, 0.") for _, line in lines)
        assert any(line.startswith("Statement 4 of 5: 2 rows read, 0.") for _, line in lines)
        assert any(level == "INFO" and "Statement 5 of 5: Note 1051" in line for level, line in lines)

    def test_a_statement_that_commits_by_itself_is_warned_of(
        self, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.rows("CREATE TABLE t (a INT)")
        end = server.run(sql("DELETE FROM t; INSERT INTO t VALUES (1); TRUNCATE t; nonsense"), tmp_path)
        assert end.outcome == "failed"
        assert "Statement 3 of 4 ended the transaction" in caplog.text

    def test_a_long_statement_is_cut_and_parameters_are_not_shown(
        self, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "flux_provider_mysql")
        server.run(sql("SELECT %(a)s, '" + "x" * 5_000 + "'", parameters={"a": "parameter-value"}), tmp_path)
        assert "parameter-value" not in caplog.text
        assert max(map(len, caplog.text.splitlines())) < 400


class TestKill:
    def start(self, server: Server, text: str, folder: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", ATTEMPT, json.dumps(server.connection.to_message()), text, str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE t SET a = SLEEP(60)",
            "CALL long_work()",
            "SELECT /* long */ a.i, SLEEP(0.001), REPEAT('x', 100000) FROM n AS a JOIN n AS b JOIN n AS c",
        ],
    )
    def test_a_task_that_is_killed_ends_its_query_on_the_server(
        self, statement: str, server: Server, tmp_path: Path
    ) -> None:
        server.rows("CREATE TABLE t (a INT)")
        server.rows("INSERT INTO t VALUES (1)")
        server.rows("CREATE TABLE n (i INT)")
        server.rows("INSERT INTO n VALUES " + ", ".join(f"({i})" for i in range(200)))
        server.rows("CREATE PROCEDURE long_work() BEGIN DO SLEEP(60); DO SLEEP(60); END")
        with self.start(server, f"INSERT INTO t VALUES (2); {statement}", tmp_path) as child:
            until(lambda: server.sessions("SLEEP"), what="the statement to run")
            child.send_signal(signal.SIGTERM)
            output, _ = child.communicate(timeout=10)
        until(lambda: not server.sessions(), seconds=5, what="the session to be gone from the server")
        assert "Exception ignored" not in output
        assert "TaskKilled" in output
        assert server.rows("SELECT a FROM t") == [(1,)]

    @pytest.mark.slow
    def test_the_server_going_away_in_a_statement_is_told(self, server: Server, tmp_path: Path) -> None:
        with self.start(server, "DO SLEEP(60)", tmp_path) as child:
            (number,) = until(lambda: server.sessions("SLEEP"), what="the statement to run")
            server.end(number)
            output, _ = child.communicate(timeout=10)
        assert output.rstrip().endswith("failed")
        assert "Statement 1 of 1 (line 1) failed." in output
        assert "Traceback" not in output.partition("MySqlError")[2].partition("MySqlError")[2]


def test_it_is_a_task_like_any_other() -> None:
    with DAG("sales", start_date="2026-01-01"):
        task = MySqlOperator(task_id="load", sql="SELECT 1", retries=2)
    assert (task.mysql_conn_id, task.retries, task.sql) == ("mysql_default", 2, "SELECT 1")

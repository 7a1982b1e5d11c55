"""The provider against the kit that every provider must pass, at every level, on both servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flux import testing
from flux_provider_mysql.operators import MySqlOperator
from flux_provider_mysql.sensors import MySqlSensor
from tests.provider_mysql.conftest import Server


class Tables:
    """The outside of a task: the rows of every table, and the sessions whose statement runs."""

    def __init__(self, server: Server, tmp: Path) -> None:
        self.tmp = tmp
        self._server = server
        self.connections = {"mysql_default": server.connection}
        server.rows("CREATE TABLE sales (day DATE PRIMARY KEY, amount DECIMAL(9,2))")

    def snapshot(self) -> dict[str, list[tuple[Any, ...]]]:
        tables = [table for (table,) in self._server.rows("SHOW TABLES")]
        return {table: sorted(self._server.rows(f"SELECT * FROM `{table}`")) for table in tables}

    def running(self) -> list[int]:
        return self._server.sessions("SLEEP")

    def make_true(self) -> None:
        self._server.rows("INSERT INTO sales VALUES ('2026-01-05', 1.20)")


@pytest.fixture
def world(server: Server, tmp_path: Path) -> Tables:
    return Tables(server, tmp_path)


class TestProvider(testing.ProviderConformance):
    provider = "mysql"


@pytest.mark.usefixtures("world")  # known to pytest beforehand, so that it runs on both servers
class TestConnection(testing.ConnectionConformance):
    connection_type = "mysql"
    library = "pymysql"


@pytest.mark.usefixtures("world")  # known to pytest beforehand, so that it runs on both servers
class TestOperator(testing.OperatorConformance):
    operator = MySqlOperator
    arguments = {  # noqa: RUF012
        "sql": "REPLACE INTO sales VALUES (%(day)s, 1.20)",
        "parameters": {"day": "2026-01-05"},
        "mysql_conn_id": "mysql_default",
    }
    long_running = True
    long_arguments = {"sql": "INSERT INTO sales SELECT '2026-01-06', SLEEP(60)", "parameters": None}  # noqa: RUF012
    code_fields = ("sql",)
    library = "pymysql"


@pytest.mark.usefixtures("world")  # known to pytest beforehand, so that it runs on both servers
class TestSensor(testing.SensorConformance):
    sensor = MySqlSensor
    arguments = {  # noqa: RUF012
        "sql": "SELECT COUNT(*) FROM sales WHERE day = %(day)s",
        "parameters": {"day": "2026-01-05"},
        "mysql_conn_id": "mysql_default",
    }
    code_fields = ("sql",)
    library = "pymysql"

"""The example runs on both servers, and twice for one day leaves what once leaves."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from flux.connection import Connection
from tests.provider_mysql.conftest import Server, changed

EXAMPLES = Path(__file__).parents[2] / "flux-provider-mysql" / "examples"


def dag_test(connection: Connection, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the example for a day, without a database of Flux."""
    return subprocess.run(
        [Path(sys.executable).with_name("flux"), "dag", "test", "mysql_example", "2026-01-05"],
        env={
            "FLUX_HOME": str(home),
            "FLUX_DAGS_FOLDER": str(EXAMPLES),
            "FLUX_CONN_MYSQL_DEFAULT": connection.to_uri(),
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_example_runs_and_may_run_again(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        done = dag_test(server.connection, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2026-01-05: 19.75 in 2 shops" in done.stdout
    rows = server.rows("SELECT shop, amount FROM example_sales ORDER BY amount")
    assert rows == [("Łódź", Decimal("7.25")), ("Lübeck; am Markt", Decimal("12.50"))]


@pytest.mark.slow
def test_without_a_server_the_example_says_what_is_missing(tmp_path: Path) -> None:
    nowhere = changed(Connection.from_uri("mysql_default", "mysql://etl:pass-word@127.0.0.1:1/sales"))
    done = dag_test(nowhere, tmp_path)
    assert done.returncode == 1
    assert "Connection 'mysql_default' (127.0.0.1:1) cannot be reached" in done.stdout + done.stderr
    assert "pass-word" not in done.stdout + done.stderr

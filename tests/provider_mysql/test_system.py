"""A whole system with the provider: what happens to a query on the server when Flux ends its task."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.system import NOISE, System
from tests.provider_mysql.conftest import Server
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.acceptance]

DAG_FILE = """
    from flux import DAG
    from flux_provider_mysql.operators import MySqlOperator
    from flux_provider_mysql.sensors import MySqlSensor

    with DAG("sales", start_date="2026-01-01"):
        wait = MySqlSensor(task_id="wait", sql="SELECT a FROM t WHERE a = 7", poke_interval=0.1)
        wait >> MySqlOperator(
            task_id="load", sql="INSERT INTO t VALUES (8); UPDATE t SET a = a + SLEEP(60)", execution_timeout={limit}
        )
"""


@pytest.fixture
def system(server: Server, tmp_path: Path) -> Iterator[System]:
    """A home, not up yet, for which `mysql_default` is the server."""
    system = System(tmp_path / "home")
    system.environ["FLUX_CONN_MYSQL_DEFAULT"] = server.connection.to_uri()
    try:
        yield system
    finally:
        system.show()
        system.close()


def test_a_time_limit_reaches_the_server(server: Server, system: System) -> None:
    server.rows("CREATE TABLE t (a INT)")
    system.dag("sales", DAG_FILE.replace("{limit}", "1"))
    system.up()
    run = system.trigger("sales")
    system.wait_task(run, "wait", "deferred")
    server.rows("INSERT INTO t VALUES (7)")
    until(lambda: server.sessions("SLEEP"), 10 * NOISE, "the statement to run")
    system.wait(run, "failed")
    until(lambda: not server.sessions(), 5, "the session to be gone from the server")
    assert system.outcomes(run, "load") == ["timed_out"]
    assert server.rows("SELECT a FROM t") == [(7,)]
    log = system.log(run, "load")
    assert "Statement 1 of 2: 1 row changed" in log
    assert "of-tests" not in log


def test_what_runs_on_the_server_ends_with_the_system(server: Server, system: System) -> None:
    server.rows("CREATE TABLE t (a INT)")
    server.rows("INSERT INTO t VALUES (7)")
    system.dag("sales", DAG_FILE.replace("{limit}", "None"))
    system.up()
    system.trigger("sales")
    until(lambda: server.sessions("SLEEP"), 10 * NOISE, "the statement to run")
    assert system.stop(signal.SIGINT) in (0, 130)
    until(lambda: not server.sessions(), 5, "the session to be gone from the server")
    assert server.rows("SELECT a FROM t") == [(7,)]

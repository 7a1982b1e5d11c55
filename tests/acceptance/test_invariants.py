"""The invariants notice what they are there for."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess

import pytest

from tests.acceptance import invariants
from tests.acceptance.system import System

POOLED = """
    from flux import DAG
    from flux.operators import BashOperator

    with DAG("pooled", schedule=None):
        BashOperator(task_id="one", bash_command="true", pool="wide")
"""


@pytest.mark.parametrize(
    ("damage", "mend"),
    [
        ("UPDATE pool SET used = 1", "UPDATE pool SET used = 0"),
        ("UPDATE dag SET active_tasks = 1", "UPDATE dag SET active_tasks = 0"),
        ("UPDATE dag_run SET open_tasks = 1", "UPDATE dag_run SET open_tasks = 0"),
        ("UPDATE attempt SET outcome = 'failed'", "UPDATE attempt SET outcome = 'success'"),
        ("UPDATE task_instance SET state = 'started'", "UPDATE task_instance SET state = 'success'"),
    ],
)
def test_a_wrong_row_is_noticed(system: System, damage: str, mend: str) -> None:
    system.dag("pooled", POOLED)
    system.up()
    assert system.flux("pool", "set", "wide", "2").code == 0
    system.wait(system.trigger("pooled"))
    system.stop()
    invariants.check(system)
    with contextlib.closing(sqlite3.connect(system.home / "flux.db", isolation_level=None)) as database:
        database.execute(damage)
        with pytest.raises(AssertionError):
            invariants.check(system)
        database.execute(mend)


def test_a_process_that_is_left_is_noticed(system: System) -> None:
    system.home.mkdir()
    with subprocess.Popen(["sleep", "1000"], env={"FLUX_HOME": str(system.home)}) as left:
        with pytest.raises(AssertionError, match="processes are left"):
            invariants.check(system)
        left.kill()


def test_a_death_that_nobody_announced_is_noticed(system: System) -> None:
    system.up()
    old = system.kill("supervisor")
    system.wait_replaced("supervisor", old, 10)
    invariants.check_logs(system)
    system.expect_deaths(-1)
    with pytest.raises(AssertionError, match="died by themselves"):
        invariants.check_logs(system)
    system.expect_deaths(1)

"""A whole system on each database server: sessions that end in mid run, and the commands that look after a database."""

from __future__ import annotations

from collections import Counter

import sqlalchemy as sa

from tests.acceptance.system import NOISE, System, every_server
from tests.databases import end_sessions
from tests.waiting import until

#: A chain, a fan-out through a pool, a result, a sensor and a branch, each of which says that it ran.
MIXED = """
    import os
    from flux import DAG, task
    from flux.operators import BashOperator, BranchPythonOperator
    from flux.sensors import PythonSensor

    def says(name, **given):
        command = f'echo {name} >> "$FLUX_HOME/ran"; sleep 0.05'
        return BashOperator(task_id=name, bash_command=command, **given)

    with DAG("mixed", schedule=None):
        @task
        def number(): return 41
        @task
        def check(value): assert value == 41
        first, last = says("first"), says("last")
        file = os.path.join(os.environ["FLUX_HOME"], "go")
        sensor = PythonSensor(task_id="sensor", python_callable=lambda: os.path.exists(file), poke_interval=0.2)
        branch = BranchPythonOperator(task_id="branch", python_callable=lambda: "yes")
        check(number()) >> first >> [says(f"wide{n}", pool="narrow") for n in range(12)] >> last
        last >> sensor >> branch >> [says("yes"), says("no")]
"""


@every_server
def test_sessions_that_end_all_the_time_cost_no_attempt_and_no_task_runs_twice(system: System) -> None:
    """With a supervisor killed among it, as at a failover of the server."""
    system.dag("mixed", MIXED)
    system.up()
    assert system.flux("pool", "set", "narrow", "3").code == 0
    url = system.environ["FLUX_DATABASE_URL"]
    run = system.trigger("mixed")
    system.expect_lines(".")
    ended = 0
    for task_id in ("wide2", "wide7", "wide10"):
        until(lambda task_id=task_id: task_id in ran(system), 30, f"{task_id} to run")  # type: ignore[misc]
        ended += end_sessions(url)
        if task_id == "wide7":
            system.wait_replaced("supervisor", system.kill("supervisor"), 5 * NOISE)
    (system.home / "go").touch()
    system.wait(run, seconds=20 * NOISE)
    assert ended >= 3
    expected = {"first", "last", "yes", *(f"wide{number}" for number in range(12))}
    assert ran(system) == Counter(expected)
    states = Counter(row.state for row in system.tasks(run).values())
    assert states == Counter(success=len(expected) + 4, skipped=1)
    for task_id in expected:
        assert [each for each in system.outcomes(run, task_id) if each != "never_launched"] == ["success"], task_id


def ran(system: System) -> Counter[str]:
    """How often each task has run."""
    file = system.home / "ran"
    return Counter(file.read_text().split() if file.exists() else ())


@every_server
def test_a_database_is_made_looked_at_and_upgraded_by_commands(system: System) -> None:
    assert system.flux("db", "check").code == 1
    assert system.flux("init").code == 0
    assert system.flux("db", "check").code == 0
    for command in (("db", "upgrade"), ("doctor",), ("status",)):
        done = system.flux(*command)
        assert f":{sa.make_url(system.environ['FLUX_DATABASE_URL']).password}@" not in done.out + done.err
    findings = {each["check"]: each for each in system.json("doctor")}
    assert findings["database"]["state"] == "ok"
    engine = sa.create_engine(system.environ["FLUX_DATABASE_URL"])
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    newer = system.flux("up", "--no-ui")
    assert (newer.code != 0, "newer Flux" in newer.err) == (True, True)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    engine.dispose()

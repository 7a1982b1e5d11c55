"""Ctrl-C, SIGTERM and SIGHUP: the states are recorded first, then every process goes, within the stated bounds."""

from __future__ import annotations

import os
import signal

import pytest

from tests.acceptance.system import NOISE, System, both_databases
from tests.waiting import until

#: Eight tasks that run until they are killed; `stubborn` ignores SIGTERM, `family` has children outside of its group.
EIGHT = """
    from flux import DAG
    from flux.operators import BashOperator

    with DAG("eight", schedule=None, default_args={"retries": 3, "retry_delay": 0}):
        above = [BashOperator(task_id=f"t{n}", bash_command="echo begun; sleep 1000") for n in range(6)]
        stubborn = "trap '' TERM; echo begun; while :; do sleep 1; done"
        above.append(BashOperator(task_id="stubborn", bash_command=stubborn))
        family = "sleep 1000 & setsid sleep 1000 & echo begun; sleep 1000"
        above.append(BashOperator(task_id="family", bash_command=family))
        above >> BashOperator(task_id="after", bash_command="true")
"""
NAMES = [*(f"t{number}" for number in range(6)), "stubborn", "family"]


@both_databases
def test_two_interrupts_record_all_tasks_as_failed_and_leave_no_process(system: System) -> None:
    """Scenario 38."""
    system.dag("eight", EIGHT)
    system.up(FLUX_PARALLELISM="8")
    run = system.trigger("eight")
    for name in NAMES:
        system.wait_log(run, name, "begun")
    system.send(signal.SIGINT)
    states = lambda: {name: row.state for name, row in system.tasks(run).items()}  # noqa: E731
    until(lambda: set(states().values()) == {"failed", "upstream_failed"}, 0.4 * NOISE, "the error states")
    system.send(signal.SIGINT)
    assert system.wait_down(6 * NOISE) == 130
    assert states() == {**dict.fromkeys(NAMES, "failed"), "after": "upstream_failed"}
    for name in NAMES:
        (attempt,) = system.attempts(run, name)
        assert (attempt.outcome, attempt.reason) == ("interrupted", "interrupted (Ctrl-C)")
    assert system.run_state(run) == "failed"


def test_one_interrupt_is_enough_also_for_a_task_that_ignores_sigterm(system: System) -> None:
    system.dag("eight", EIGHT)
    system.up(FLUX_PARALLELISM="8")
    run = system.trigger("eight")
    system.wait_log(run, "stubborn", "begun")
    system.send(signal.SIGINT)
    assert system.wait_down(6 * NOISE) == 130
    assert system.outcomes(run, "stubborn") == ["interrupted"]


def test_interruption_is_in_the_store_before_the_task_gets_its_signal(system: System) -> None:
    system.dag(
        "witness",
        """
        import os, sqlite3, time
        from pathlib import Path
        from flux import DAG, task

        home = Path(os.environ["FLUX_HOME"])
        with DAG("witness", schedule=None):
            @task
            def witness():
                try:
                    print("begun", flush=True)
                    time.sleep(1000)
                finally:
                    with sqlite3.connect(f"file:{home}/flux.db?mode=ro", uri=True) as database:
                        (home / "seen").write_text(database.execute("SELECT state FROM task_instance").fetchone()[0])
            witness()
        """,
    )
    system.up()
    run = system.trigger("witness")
    system.wait_log(run, "witness", "begun")
    system.stop()
    assert (system.home / "seen").read_text() == "failed"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_service_stop_and_a_closed_terminal_end_all_in_order(system: System, signum: int) -> None:
    """Scenario 39; exit code 0, for a service manager."""
    system.dag("eight", EIGHT)
    system.up(FLUX_PARALLELISM="8")
    run = system.trigger("eight")
    for name in ("family", "t0"):
        system.wait_log(run, name, "begun")
    assert system.stop(signum) == 0
    assert system.outcomes(run, "t0") == ["interrupted"]
    assert signal.Signals(signum).name in (system.attempts(run, "t0")[0].reason or "")


#: `first` runs until the test makes `go`.
CHAIN = """
    from flux import DAG
    from flux.operators import BashOperator

    with DAG("chain", schedule=None, on_interrupt="{on_interrupt}"):
        first = BashOperator(
            task_id="first", bash_command='echo begun; until [ -e "$FLUX_HOME/go" ]; do sleep 0.02; done'
        )
        first >> BashOperator(task_id="second", bash_command="true")
"""


def test_drain_lets_running_tasks_end_and_starts_nothing_new(system: System) -> None:
    system.dag("chain", CHAIN.format(on_interrupt="fail"))
    system.up("--drain", "60")
    run = system.trigger("chain")
    system.wait_log(run, "first", "begun")
    system.send(signal.SIGTERM)
    system.wait_said("Nothing new starts")
    (system.home / "go").touch()
    assert system.wait_down() == 0
    assert system.outcomes(run, "first") == ["success"]
    assert system.task(run, "second").state == "ready"
    system.up()
    system.wait(run)


def test_drain_ends_after_its_time(system: System) -> None:
    system.dag("chain", CHAIN.format(on_interrupt="fail"))
    system.up("--drain", "0.5")
    run = system.trigger("chain")
    system.wait_log(run, "first", "begun")
    assert system.stop(signal.SIGTERM) == 0
    assert system.outcomes(run, "first") == ["interrupted"]


def test_dag_may_ask_for_a_retry_after_an_interrupt(system: System) -> None:
    system.dag("chain", CHAIN.format(on_interrupt="retry"))
    system.up()
    run = system.trigger("chain")
    system.wait_log(run, "first", "begun")
    system.stop()
    assert system.task(run, "first").state in ("retrying", "ready")
    (system.home / "go").touch()
    system.up()
    system.wait(run)
    assert system.outcomes(run, "first") == ["interrupted", "success"]


@both_databases
def test_interrupts_amid_many_short_tasks_leave_nothing_started(system: System) -> None:
    """What is claimed by the transaction that was under way is given back."""
    system.dag(
        "storm",
        """
        from flux import DAG
        from flux.operators import BashOperator

        with DAG("storm", schedule=None, on_interrupt="retry"):
            for chain in range(8):
                above = None
                for step in range(25):
                    task = BashOperator(task_id=f"t{chain}_{step}", bash_command="true")
                    if above is not None:
                        above >> task
                    above = task
        """,
    )
    run = None
    for last in (5, 12):
        system.up(FLUX_PARALLELISM="8")
        run = run or system.trigger("storm")
        system.wait_task(run, f"t0_{last}", "success", seconds=60)
        assert system.stop() == 130
        assert not {row.task_id for row in system.tasks(run).values() if row.state in ("started", "queued")}
    system.up()
    assert run is not None
    system.wait(run, seconds=60)
    for name in system.tasks(run):
        assert system.outcomes(run, name).count("success") == 1


def test_sensor_that_waits_goes_on_waiting_in_the_next_system(system: System) -> None:
    system.dag(
        "waits",
        """
        from flux import DAG
        from flux.sensors import FileSensor

        with DAG("waits", schedule=None):
            FileSensor(task_id="waits", filepath="{{ var.value.wanted }}", poke_interval=0.2)
        """,
    )
    system.up()
    assert system.flux("variable", "set", "wanted", str(system.home / "wanted")).code == 0
    run = system.trigger("waits")
    system.wait_task(run, "waits", "deferred")
    assert system.stop() == 130
    assert system.task(run, "waits").state == "deferred"
    (system.home / "wanted").touch()
    system.up()
    system.wait(run)
    assert system.outcomes(run, "waits") == ["success"]


def test_interrupt_while_it_starts_leaves_no_process(system: System) -> None:
    system.up(ready=False)
    until(lambda: (system.home / "run" / "components.json").exists(), 10, "the components")
    assert system.stop() == 130


def test_interrupt_while_the_supervisor_hangs_still_ends_all(system: System) -> None:
    """Nobody can record the interruption; the next command does."""
    system.dag("eight", EIGHT)
    system.up(FLUX_PARALLELISM="8")
    run = system.trigger("eight")
    for name in NAMES:
        system.wait_log(run, name, "begun")
    os.kill(system.pid_of("supervisor"), signal.SIGSTOP)
    system.send(signal.SIGINT)
    assert system.wait_down(6 * NOISE) == 130
    shown = system.json("run", "show", run.dag_id, run.run_id)
    assert {row["state"] for row in shown["task_instances"]} <= {"retrying", "waiting"}
    assert system.outcomes(run, "stubborn") == ["lost"]

"""A supervisor may be replaced under running work: tasks, their channel, timers and sensors go on."""

from __future__ import annotations

import contextlib
import json
import socket

from tests.acceptance.system import NOISE, System
from tests.waiting import until


def replace_supervisor(system: System) -> None:
    old = system.kill("supervisor")
    system.wait_replaced("supervisor", old, 1 * NOISE)


def test_running_task_survives_a_new_supervisor_and_talks_to_it(system: System) -> None:
    """Scenario 40, and the channel: what it asks for after the replacement is answered."""
    system.dag(
        "long",
        """
        import os, time
        from pathlib import Path
        from flux import DAG, get_variable, task

        go = Path(os.environ["FLUX_HOME"], "go")
        with DAG("long", schedule=None):
            @task
            def long():
                print("begun with", get_variable("word"), flush=True)
                while not go.exists():
                    time.sleep(0.02)
                return get_variable("word")

            @task
            def says(word):
                print("got", word)

            says(long())
        """,
    )
    system.up()
    assert system.flux("variable", "set", "word", "first").code == 0
    run = system.trigger("long")
    system.wait_log(run, "long", "begun with first")
    pid = system.attempts(run, "long")[0].pid
    for _ in range(2):
        replace_supervisor(system)
    assert system.flux("variable", "set", "word", "second").code == 0
    (system.home / "go").touch()
    system.wait(run)
    (attempt,) = system.attempts(run, "long")
    assert attempt.outcome == "success"
    assert pid in (None, attempt.pid), "it was another process"
    assert "got second" in system.log(run, "says")


def test_task_asks_while_no_supervisor_is_there_and_waits_for_the_next(system: System) -> None:
    system.dag(
        "asks",
        """
        from flux import DAG, get_variable, task

        with DAG("asks", schedule=None):
            @task
            def asks():
                print("begun", flush=True)
                for number in range(300):
                    get_variable("word")
            asks()
        """,
    )
    system.up()
    assert system.flux("variable", "set", "word", "x").code == 0
    run = system.trigger("asks")
    system.wait_log(run, "asks", "begun")
    system.kill("supervisor")
    system.wait(run)
    assert system.outcomes(run, "asks") == ["success"]


def test_execution_timeout_counts_from_the_start_of_the_task_not_of_the_supervisor(system: System) -> None:
    system.dag(
        "slow",
        """
        from flux import DAG
        from flux.operators import BashOperator

        with DAG("slow", schedule=None):
            BashOperator(task_id="slow", bash_command="echo begun; sleep 1000", execution_timeout=2, kill_grace=1)
        """,
    )
    system.up()
    run = system.trigger("slow")
    system.wait_log(run, "slow", "begun")
    replace_supervisor(system)
    system.wait(run, "failed", (2 + 1) * NOISE)
    assert system.outcomes(run, "slow") == ["timed_out"]
    assert "execution_timeout" in (system.task(run, "slow").reason or "")


def test_retry_that_came_due_without_a_supervisor_is_made_by_the_next(system: System) -> None:
    system.dag(
        "again",
        """
        from flux import DAG
        from flux.operators import BashOperator

        with DAG("again", schedule=None):
            BashOperator(task_id="again", bash_command='mkdir "$FLUX_HOME/second" && exit 1 || true', retries=1,
                         retry_delay=1)
        """,
    )
    system.up()
    run = system.trigger("again")
    system.wait_task(run, "again", "retrying")
    replace_supervisor(system)
    system.wait(run, seconds=5 * NOISE)
    assert system.outcomes(run, "again") == ["failed", "success"]


def test_sensor_and_run_timeouts_hold_across_a_new_supervisor(system: System) -> None:
    system.dag(
        "waits",
        """
        from flux import DAG
        from flux.sensors import FileSensor

        with DAG("waits", schedule=None):
            FileSensor(task_id="waits", filepath="/nowhere/at/all", poke_interval=0.2, timeout=3)

        with DAG("late", schedule=None, dagrun_timeout=3):
            FileSensor(task_id="waits", filepath="/nowhere/at/all", poke_interval=0.2)
        """,
    )
    system.up()
    by_sensor, by_run = system.trigger("waits"), system.trigger("late")
    for run in (by_sensor, by_run):
        system.wait_task(run, "waits", "deferred")
    replace_supervisor(system)
    for run in (by_sensor, by_run):
        system.wait(run, "failed", 4 * NOISE)
        assert len(system.attempts(run, "waits")) == 1


def test_stranger_at_the_launchers_socket_only_makes_the_supervisor_connect_again(system: System) -> None:
    system.dag(
        "chain",
        """
        from flux import DAG
        from flux.operators import BashOperator

        with DAG("chain", schedule=None):
            above = None
            for step in range(10):
                task = BashOperator(task_id=f"t{step}", bash_command='sleep 0.05; echo x >> "$FLUX_HOME/ran"')
                if above is not None:
                    above >> task
                above = task
        """,
    )
    system.up()
    run = system.trigger("chain")
    for step in range(0, 9, 2):
        system.wait_task(run, f"t{step}", "success")
        with socket.socket(socket.AF_UNIX) as stranger, contextlib.suppress(BrokenPipeError):
            stranger.connect(str(system.home / "run" / "launcher.sock"))
            stranger.sendall(json.dumps({"op": "hello", "supervisor": 1}).encode() + b"\n")
    system.wait(run)
    ran = (system.home / "ran").read_text().count("x")
    outcomes = {outcome for name in system.tasks(run) for outcome in system.outcomes(run, name)}
    assert (ran, outcomes) == (10, {"success"})


def test_rubbish_at_the_launchers_socket_harms_nobody(system: System) -> None:
    system.up()
    launcher = system.pid_of("launcher")
    for data in (b"\0\xff" * 1000 + b"\n", b"[]\n", b'{"op":"nothing"}\n', b'{"op":"ack"}\n', b"{}\n"):
        with socket.socket(socket.AF_UNIX) as stranger, contextlib.suppress(BrokenPipeError):
            stranger.connect(str(system.home / "run" / "launcher.sock"))
            stranger.sendall(data)
    system.expect_lines("^Traceback")
    system.dag(
        "one",
        "from flux import DAG\nfrom flux.operators import BashOperator\n"
        'with DAG("one", schedule=None):\n    BashOperator(task_id="one", bash_command="true")\n',
    )
    run = system.trigger("one")
    system.wait(run)
    until(lambda: system.pid_of("launcher") == launcher, 5 * NOISE, "the same launcher")


def test_supervisor_that_cannot_write_its_folder_when_it_starts_goes_on_when_it_can(system: System) -> None:
    """A disk may be full just then."""
    system.dag(
        "chain",
        """
        from flux import DAG
        from flux.operators import BashOperator

        with DAG("chain", schedule=None):
            first = BashOperator(
                task_id="first", bash_command='echo begun; until [ -e "$FLUX_HOME/go" ]; do sleep 0.02; done'
            )
            first >> BashOperator(task_id="second", bash_command="true")
        """,
    )
    system.up()
    run = system.trigger("chain")
    system.wait_log(run, "first", "begun")
    versions = system.home / "run" / "versions"
    kept = versions.rename(versions.with_name("kept"))
    versions.touch()
    system.expect_lines("^Traceback")
    old = system.kill("supervisor")
    until(lambda: "Traceback" in system.component_log("supervisor"), 10, "the failure")
    versions.unlink()
    kept.rename(versions)
    system.wait_replaced("supervisor", old, 3 * NOISE)
    (system.home / "go").touch()
    system.wait(run)
    assert system.outcomes(run, "first") == ["success"]

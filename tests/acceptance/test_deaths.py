"""Any process may die or freeze at any point: the state is right afterwards, nothing is done twice or stuck."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from flux import process
from tests.acceptance.system import NOISE, Run, System, both_databases, every_database
from tests.waiting import until

#: One task that says it ran; no retries.
ONCE = """
    from flux import DAG
    from flux.operators import BashOperator

    with DAG("once", schedule=None):
        first = BashOperator(task_id="first", bash_command='echo ran >> "$FLUX_HOME/ran"; echo out')
        first >> BashOperator(task_id="second", bash_command='echo ran >> "$FLUX_HOME/ran2"')
"""

#: A task that runs until the test makes `go`, with a child in its group and one in a session of its own.
HOLD = """
    from flux import DAG
    from flux.operators import BashOperator

    WAIT = 'until [ -e "$FLUX_HOME/go" ]; do sleep 0.02; done'
    with DAG("hold", schedule=None, default_args={{"retries": {retries}, "retry_delay": 0}}):
        hold = BashOperator(
            task_id="hold",
            bash_command='sleep 1000 & setsid sleep 1000 & echo ran >> "$FLUX_HOME/ran"; echo begun; ' + WAIT,
        )
        hold >> BashOperator(task_id="after", bash_command="true")
"""


def go(system: System) -> None:
    (system.home / "go").touch()


def lines(system: System, name: str) -> int:
    file = system.home / name
    return len(file.read_text().splitlines()) if file.exists() else 0


def start(system: System, source: str, dag_id: str, **environ: str) -> Run:
    system.dag(dag_id, source)
    system.up(**environ)
    return system.trigger(dag_id)


# --- named points ----------------------------------------------------------------------------------------------------


@both_databases
def test_supervisor_that_dies_between_claim_and_launch_costs_no_attempt(system: System) -> None:
    """Scenario 1."""
    system.expect_deaths(1)
    run = start(system, ONCE, "once", FLUX_FAULT=f"after_claim_commit:kill9:{system.home}/fault")
    system.wait(run)
    assert system.outcomes(run, "first") == ["never_launched", "success"]
    assert system.task(run, "first").max_attempts == 2  # one for the attempt that never was
    assert (lines(system, "ran"), lines(system, "ran2")) == (1, 1)


@both_databases
def test_supervisor_that_dies_after_the_launch_finds_its_task_again(system: System) -> None:
    """Scenario 2."""
    system.expect_deaths(1)
    run = start(system, ONCE, "once", FLUX_FAULT=f"after_launch:kill9:{system.home}/fault")
    system.wait(run)
    assert system.outcomes(run, "first") == ["success"]
    assert (lines(system, "ran"), lines(system, "ran2")) == (1, 1)


@every_database
@pytest.mark.parametrize("point", ["before_end_commit", "after_end_commit"])
def test_end_of_a_task_is_recorded_once_whenever_the_supervisor_dies(system: System, point: str) -> None:
    """Scenarios 3 and 15: the launcher keeps the exit, and tells it again after the end was recorded."""
    system.expect_deaths(1)
    run = start(system, ONCE, "once", FLUX_FAULT=f"{point}:kill9:{system.home}/fault")
    system.wait(run)
    assert system.outcomes(run, "first") == ["success"]
    assert system.outcomes(run, "second")[-1] == "success"  # it was claimed with that commit, and not launched
    assert (lines(system, "ran"), lines(system, "ran2")) == (1, 1)
    died_at = (system.home / "fault").stat().st_mtime
    ended_at = system.attempts(run, "first")[0].ended_at
    assert ended_at is not None
    assert ended_at.timestamp() <= died_at, "the end is when the task ended, not when it was recorded"


def test_task_whose_process_dies_before_its_result_file_failed(system: System) -> None:
    run = start(system, ONCE, "once", FLUX_FAULT="before_result_file:kill9")
    system.wait(run, "failed")
    (attempt,) = system.attempts(run, "first")
    assert (attempt.outcome, attempt.signal) == ("failed", 9)
    assert "killed by signal 9" in (attempt.reason or "")
    assert system.task(run, "second").state == "upstream_failed"


def test_task_whose_process_dies_after_its_result_file_succeeded(system: System) -> None:
    run = start(system, ONCE, "once", FLUX_FAULT="after_result_file:kill9")
    system.wait(run)
    assert system.outcomes(run, "first") == ["success"]


def test_dag_host_that_dies_with_an_exit_in_its_hands_loses_no_result(system: System) -> None:
    run = start(system, ONCE, "once", FLUX_FAULT=f"before_exit_message:kill9:{system.home}/fault")
    system.wait(run)
    assert system.outcomes(run, "first") == ["success"]
    assert lines(system, "ran") == 1


# --- tasks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "reason"),
    [("kill -SEGV $$", "SIGSEGV"), ("kill -TERM $$", "SIGTERM"), ("kill -9 $PPID; sleep 1000", "SIGKILL")],
)
def test_task_that_dies_by_a_signal_is_retried_and_says_which(system: System, command: str, reason: str) -> None:
    run = start(
        system,
        f"""
        from flux import DAG
        from flux.operators import BashOperator

        with DAG("dies", schedule=None):
            BashOperator(
                task_id="dies", retries=1, retry_delay=0,
                bash_command='if mkdir "$FLUX_HOME/second"; then {command}; fi',
            )
        """,
        "dies",
    )
    system.wait(run)
    first, second = system.attempts(run, "dies")
    assert (first.outcome, second.outcome) == ("failed", "success")
    assert reason in (first.reason or "")


def test_children_that_nobody_waits_for_do_not_stay_as_zombies(system: System) -> None:
    run = start(
        system,
        """
        import os, time
        from flux import DAG, task

        with DAG("forks", schedule=None):
            @task
            def forks():
                for number in range(50):
                    if os.fork() == 0:
                        os._exit(0)
                    if number % 2 and os.fork() == 0:
                        os.setsid()
                        if os.fork() == 0:
                            time.sleep(0.2)
                        os._exit(0)
            forks()
        """,
        "forks",
    )
    system.wait(run)
    hypervisor = system.pid_of("hypervisor")

    def zombies() -> list[int]:
        below, found = {hypervisor, *process.descendants(hypervisor)}, []
        for entry in process.table():
            if entry.is_zombie and entry.parent in below:
                found.append(entry.pid)
        return found

    until(lambda: not zombies(), 2 * NOISE, "no zombies")


# --- the supervisor --------------------------------------------------------------------------------------------------


@both_databases
def test_killed_supervisor_is_back_in_a_second_and_its_tasks_go_on(system: System) -> None:
    run = start(system, HOLD.format(retries=0), "hold")
    system.wait_log(run, "hold", "begun")
    old = system.kill("supervisor")
    system.wait_replaced("supervisor", old, 1 * NOISE)
    assert system.task(run, "hold").state == "started"
    go(system)
    system.wait(run)
    assert system.outcomes(run, "hold") == ["success"]
    assert lines(system, "ran") == 1


def test_task_that_ended_while_no_supervisor_was_there_is_recorded_as_it_ended(system: System) -> None:
    run = start(system, HOLD.format(retries=0), "hold", FLUX_STUCK_SECONDS="2")
    system.wait_log(run, "hold", "begun")
    pid = system.pid_of("supervisor")
    os.kill(pid, signal.SIGSTOP)
    go(system)
    system.expect_deaths(1)
    system.wait_replaced("supervisor", pid, 6 * NOISE)
    system.wait(run)
    assert system.outcomes(run, "hold") == ["success"]
    assert lines(system, "ran") == 1


def test_frozen_supervisor_is_killed_and_replaced(system: System) -> None:
    """No beats for `stuck_seconds`, two seconds for its stacks, then the restart."""
    run = start(system, HOLD.format(retries=0), "hold", FLUX_STUCK_SECONDS="2")
    system.wait_log(run, "hold", "begun")
    pid = system.pid_of("supervisor")
    os.kill(pid, signal.SIGSTOP)
    system.expect_deaths(1)
    system.wait_replaced("supervisor", pid, (2 + 1 + 2 + 1) * NOISE)
    assert "gave no sign of life" in system.said()
    go(system)
    system.wait(run)
    assert system.outcomes(run, "hold") == ["success"]


def test_supervisor_killed_again_and_again_loses_nothing(system: System) -> None:
    run = start(
        system,
        """
        from flux import DAG
        from flux.operators import BashOperator

        with DAG("chains", schedule=None):
            for chain in range(4):
                above = None
                for step in range(6):
                    name = f"t{chain}_{step}"
                    task = BashOperator(task_id=name, bash_command=f'echo x >> "$FLUX_HOME/{name}"; sleep 0.1')
                    if above is not None:
                        above >> task
                    above = task
        """,
        "chains",
    )
    for step in (0, 2, 4):
        until(lambda step=step: lines(system, f"t0_{step}"), 30, f"step {step}")
        pid = system.kill("supervisor")
        system.wait_replaced("supervisor", pid, 10 * NOISE)
    system.wait(run, seconds=60)
    ran = {name: lines(system, name) for name in system.tasks(run)}
    assert set(ran.values()) == {1}, ran
    for name in ran:
        assert [outcome for outcome in system.outcomes(run, name) if outcome != "never_launched"] == ["success"]


# --- launcher and DAG hosts ------------------------------------------------------------------------------------------


@both_databases
def test_killed_launcher_takes_its_tasks_along_before_they_are_retried(system: System) -> None:
    run = start(system, HOLD.format(retries=1), "hold")
    system.wait_log(run, "hold", "begun")
    first = system.attempts(run, "hold")[0].claim
    pid = system.kill("launcher")
    system.wait_log(run, "hold", "begun", attempt=2)
    carried = {process.carried_claim(pid) for pid in system.processes()}
    assert first not in carried, "a process of the lost attempt was there when the next had begun"
    assert system.pid_of("launcher") != pid
    go(system)
    system.wait(run)
    assert system.outcomes(run, "hold") == ["lost", "success"]
    assert lines(system, "ran") == 2


def test_frozen_launcher_is_killed_and_replaced(system: System) -> None:
    run = start(system, HOLD.format(retries=1), "hold", FLUX_STUCK_SECONDS="2")
    system.wait_log(run, "hold", "begun")
    pid = system.pid_of("launcher")
    os.kill(pid, signal.SIGSTOP)
    system.expect_deaths(1)
    system.wait_replaced("launcher", pid, 6 * NOISE)
    go(system)
    system.wait(run)
    assert system.outcomes(run, "hold") == ["lost", "success"]


def test_launcher_and_supervisor_killed_together_leave_nothing_behind(system: System) -> None:
    run = start(system, HOLD.format(retries=1), "hold")
    system.wait_log(run, "hold", "begun")
    first = system.attempts(run, "hold")[0].claim
    system.kill("supervisor")
    system.kill("launcher")
    system.wait_log(run, "hold", "begun", attempt=2)
    assert first not in {process.carried_claim(pid) for pid in system.processes()}
    go(system)
    system.wait(run)
    assert system.outcomes(run, "hold") == ["lost", "success"]


def test_result_of_a_task_counts_although_everything_died_before_it_was_told(system: System) -> None:
    """Its result file is there, supervisor and launcher are not."""
    run = start(system, HOLD.format(retries=0), "hold", FLUX_STUCK_SECONDS="30")
    system.wait_log(run, "hold", "begun")
    supervisor = system.pid_of("supervisor")
    os.kill(supervisor, signal.SIGSTOP)
    go(system)
    results = system.home / "run" / "results"
    until(lambda: list(results.glob("*.json")), 10, "the result file")
    system.kill("launcher")
    system.kill("supervisor")
    system.wait(run)
    assert system.outcomes(run, "hold") == ["success"]
    assert lines(system, "ran") == 1


def test_killed_dag_host_costs_its_tasks_one_attempt(system: System) -> None:
    run = start(system, HOLD.format(retries=1), "hold")
    system.wait_log(run, "hold", "begun")
    attempt = system.attempts(run, "hold")[0]
    for pid in system.dag_hosts():
        os.kill(pid, signal.SIGKILL)
    system.wait_log(run, "hold", "begun", attempt=2)
    assert attempt.claim not in {process.carried_claim(pid) for pid in system.processes()}
    go(system)
    system.wait(run)
    assert system.outcomes(run, "hold") == ["lost", "success"]


def test_task_that_was_lost_three_times_in_a_row_fails_whatever_its_retries(system: System) -> None:
    run = start(
        system,
        """
        import os, signal
        from flux import DAG, task

        with DAG("murders", schedule=None):
            @task(retries=100, retry_delay=0)
            def murders():
                os.kill(os.getppid(), signal.SIGKILL)
                signal.pause()
            murders()
        """,
        "murders",
    )
    system.wait(run, "failed")
    assert system.outcomes(run, "murders") == ["lost"] * 3
    assert "lost" in (system.task(run, "murders").reason or "")


# --- the hypervisor --------------------------------------------------------------------------------------------------


def test_killed_hypervisor_ends_the_system_and_its_tasks_are_interrupted(system: System) -> None:
    run = start(system, HOLD.format(retries=0), "hold")
    system.wait_log(run, "hold", "begun")
    system.kill("hypervisor")
    system.wait_down(6 * NOISE)
    assert system.task(run, "hold").state == "failed"
    assert "interrupted" in (system.task(run, "hold").reason or "")
    assert system.flux("status", "--json").json["state"] == "down"


@both_databases
def test_hypervisor_and_supervisor_killed_next_command_shows_true_states(system: System) -> None:
    """Scenario 41."""
    run = start(system, HOLD.format(retries=0), "hold")
    system.wait_log(run, "hold", "begun")
    pids = [system.pid_of(kind) for kind in ("hypervisor", "supervisor")]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    shown = system.json("run", "show", run.dag_id, run.run_id)
    states = {row["task_id"]: row["state"] for row in shown["task_instances"]}
    assert (states, shown["state"]) == ({"hold": "failed", "after": "upstream_failed"}, "failed")
    system.wait_down(6 * NOISE)


def test_next_system_goes_on_where_a_killed_one_stopped(system: System) -> None:
    run = start(system, HOLD.format(retries=1), "hold")
    system.wait_log(run, "hold", "begun")
    first = system.attempts(run, "hold")[0].claim
    pids = sorted(system.processes())
    for pid in (system.pid_of("hypervisor"), system.pid_of("supervisor"), system.pid_of("launcher")):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not process.is_alive(pids[0]), 5 * NOISE, "the hypervisor's death")
    system.up()
    system.wait_log(run, "hold", "begun", attempt=2)
    assert first not in {process.carried_claim(pid) for pid in system.processes()}
    go(system)
    system.wait(run)
    assert system.outcomes(run, "hold") == ["lost", "success"]


def test_system_started_over_a_killed_ones_leftovers_ends_them_first(system: System) -> None:
    """The components of the killed one may still be there when the next `flux up` comes."""
    run = start(system, HOLD.format(retries=0), "hold")
    system.wait_log(run, "hold", "begun")
    launcher = system.pid_of("launcher")
    system.kill("hypervisor")
    until(lambda: not system.is_up, 5 * NOISE, "the hypervisor's death")
    system.up()
    assert not process.is_alive(launcher)
    assert system.task(run, "hold").state == "failed"
    assert "sleep 1000" not in system.processes().values()
    assert Path(system.home / "ran").read_text() == "ran\n"

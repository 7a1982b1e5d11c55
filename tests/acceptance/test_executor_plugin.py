"""Attempts that no launcher forked: an executor of a provider runs them by a detour, and everything else is core's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from flux import process
from flux.running import home
from flux.store import listing
from tests.acceptance.system import NOISE, Run, System, both_databases
from tests.providers.installing import install
from tests.waiting import until

REFUSED = 77


class Hopping:
    """A system whose executor is `hopping`, and what that has noted."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system = system
        self.folder = folder
        folder.mkdir()
        site = install("hopping", folder / "site")
        paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        system.environ |= {
            "PYTHONPATH": os.pathsep.join(paths),
            "FLUX_EXECUTOR": "hopping",
            "FLUX_HOPPING_FOLDER": str(folder),
            "FLUX_AGENT_SILENCE_SECONDS": "4",
            "FLUX_CONN_SALES": "mysql://reader:wort@db/sales",
        }

    @property
    def calls(self) -> list[str]:
        """What the executor was asked: "made among VARIABLE...", "start CLAIM TASK", "cancel CLAIM", "stop"."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def starts(self, task_id: str) -> list[int]:
        """The claims of a task that the executor was to start, oldest first."""
        words = [call.split() for call in self.calls]
        return [int(call[1]) for call in words if call[0] == "start" and call[2] == task_id]

    def agent(self, claim: int) -> int:
        """The pid of the agent of a claim, as soon as there is one."""
        file = self.folder / f"{claim}.pids"
        return int(until(lambda: file.exists() and file.read_text().strip(), 10, "the agent's pid"))

    def run_agent(self, claim: int) -> subprocess.CompletedProcess[str]:
        """Run an agent by hand, as an executor does that starts a claim twice, or late."""
        argv = [sys.executable, "-P", "-m", "flux.running.agent"]
        environ = {
            "FLUX_CLAIM": process.claim_text(claim), "FLUX_ENDPOINT": str(self.system.home / "run" / "endpoint")
        }  # fmt: skip
        return subprocess.run(argv, env=environ, cwd="/", capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def hopping(system: System, tmp_path: Path) -> Hopping:
    return Hopping(system, tmp_path / "hopping")


LONG = """
import os, subprocess, time
from pathlib import Path
from flux import DAG, task

go = Path("{go}")
with DAG("long", schedule=None):
    @task(retries={retries}, retry_delay=0.1, kill_grace=1, execution_timeout={limit})
    def long():
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        print("child", child.pid, flush=True)
        while not go.exists():
            time.sleep(0.02)
        child.kill()
        return "went"
    long()
"""


def long_dag(system: System, retries: int = 0, limit: float | None = None) -> Path:
    """A DAG `long` whose task runs, with a child of its own, until the file that is returned is there."""
    go = system.home / "go"
    system.dag("long", LONG.format(go=go, retries=retries, limit=limit))
    return go


def child_of(system: System, run: object, attempt: int = 1) -> int:
    text = system.wait_log(run, "long", "child", attempt=attempt)  # type: ignore[arg-type]
    return int(text.partition("child ")[2].split()[0])


@both_databases
def test_dag_runs_elsewhere_with_results_branches_skips_and_retries(hopping: Hopping) -> None:
    system = hopping.system
    system.dag(
        "sales",
        """
        import os
        from flux import DAG, SkipTask, get_connection, get_variable, task
        from flux.operators import BashOperator, BranchPythonOperator, EmptyOperator
        from tools.words import word

        with DAG("sales", schedule=None):
            @task
            def load():
                print("in", os.getcwd(), "with", sorted(os.environ), "from", __file__)
                return {"rows": "x" * 100_000, "word": word}

            @task(retries=1, retry_delay=0)
            def shaky(loaded, ti):
                if ti.attempt == 1:
                    raise ValueError("the first time")
                return len(loaded["rows"])

            @task
            def connects():
                print("password", len(get_connection("sales").password.reveal()), get_variable("word"))

            @task
            def skips():
                raise SkipTask("nothing today")

            rows = shaky(load())
            branch = BranchPythonOperator(task_id="branch", python_callable=lambda: "left")
            rows >> branch >> [EmptyOperator(task_id="left"), EmptyOperator(task_id="right")]
            rows >> [connects(), skips(), BashOperator(task_id="shell", bash_command="echo {{ ds }} $FLUX_CLAIM")]
        """,
    )
    system.dag("tools/words", "word = 'from beside the file'")
    system.up()
    assert system.flux("variable", "set", "word", "flux").code == 0
    run = system.trigger("sales")
    system.wait(run, seconds=60)
    tasks = system.tasks(run)
    assert {name: row.state for name, row in tasks.items() if row.state != "success"} == {
        "right": "skipped", "skips": "skipped"
    }  # fmt: skip
    assert system.outcomes(run, "shaky") == ["failed", "success"]
    log = system.log(run, "load")
    assert str(system.home / "dags" / "sales.py") in log
    assert "DATABASE" not in log
    assert "FLUX_CONN" not in log
    assert "FLUX_HOME" not in log
    assert log.startswith("--- flux: sales.load, run ")
    assert "exit status 0" in log.splitlines()[-1]
    assert system.json("task", "result", "sales", run.run_id, "shaky")["value"] == 100_000
    shell = system.task(run, "shell")
    assert str(hopping.starts("shell")[0]) in system.log(run, "shell")
    assert shell.host
    assert "FLUX_CLAIM" in str(system.json("task", "rendered", "sales", run.run_id, "shell"))


def test_executor_has_no_database_address_no_key_and_no_connection_to_pass_on(hopping: Hopping) -> None:
    system = hopping.system
    key = hopping.folder / "key"
    key.write_bytes(Fernet.generate_key())
    key.chmod(0o600)
    system.up(FLUX_DATABASE_URL=f"sqlite:///{system.home}/flux.db", FLUX_SECRET_KEY_FILE=str(key))
    (made,) = (call.split() for call in hopping.calls if call.startswith("made"))
    assert "FLUX_EXECUTOR" in made
    assert not {"FLUX_DATABASE_URL", "FLUX_SECRET_KEY_FILE", "FLUX_CONN_SALES"}.intersection(made)


def test_large_log_and_large_results_arrive_whole(hopping: Hopping) -> None:
    system = hopping.system
    system.environ["FLUX_LOG_MAX_BYTES"] = "4000000"
    system.dag(
        "large",
        """
        import sys
        from flux import DAG, task

        with DAG("large", schedule=None):
            @task
            def prints():
                for number in range(20_000):
                    print(f"line {number:06d}", "x" * 30)
                return ["y" * 1000] * 3000

            @task
            def floods():
                for number in range(600_000):
                    print(f"line {number:06d}", "x" * 30)
            floods()

            @task
            def reads(rows):
                return sum(map(len, rows))
            reads(prints())
        """,
    )
    system.up()
    run = system.trigger("large")
    system.wait(run, seconds=90)
    lines = [line for line in system.log(run, "prints").splitlines() if line.startswith("line ")]
    assert lines == [f"line {number:06d} {'x' * 30}" for number in range(20_000)]
    assert system.json("task", "result", "large", run.run_id, "reads")["value"] == 3_000_000
    flood = system.home / "logs" / "large" / run.run_id / "floods" / "-" / "1.log"
    assert flood.stat().st_size > 20_000_000
    assert flood.stat().st_blocks * 512 < 6_000_000
    text = flood.read_bytes()
    assert b"line 000000 " in text[:1000]
    assert b"line 599999 " in text[-1000:]


def test_time_limit_kills_the_attempt_and_what_it_started(hopping: Hopping) -> None:
    system = hopping.system
    long_dag(system, limit=2)
    system.up()
    run = system.trigger("long")
    child = child_of(system, run)
    system.wait(run, "failed")
    (attempt,) = system.attempts(run, "long")
    assert attempt.outcome == "timed_out"
    assert not process.is_alive(child)


def test_lost_agent_is_found_out_and_its_attempt_retried(hopping: Hopping) -> None:
    system = hopping.system
    go = long_dag(system, retries=1)
    system.up()
    run = system.trigger("long")
    child = child_of(system, run)
    (claim,) = hopping.starts("long")
    folder = Path(f"/proc/{child}/cwd").readlink()
    assert folder.name.startswith("flux-agent-")
    os.kill(hopping.agent(claim), signal.SIGKILL)
    second = child_of(system, run, attempt=2)
    assert not process.is_alive(child), "the first attempt's processes must be gone before the second begins"
    assert process.is_alive(second)
    assert not folder.exists(), "what the killed agent could not remove is to be swept"
    assert Path(f"/proc/{second}/cwd").readlink().exists()
    go.touch()
    system.wait(run)
    assert system.outcomes(run, "long") == ["lost", "success"]
    assert f"cancel {claim}" in hopping.calls
    assert hopping.run_agent(claim).returncode == REFUSED


def test_agent_that_was_stopped_for_too_long_is_fenced(hopping: Hopping) -> None:
    system = hopping.system
    go = long_dag(system, retries=1)
    system.up()
    run = system.trigger("long")
    child_of(system, run)
    (claim,) = hopping.starts("long")
    agent = hopping.agent(claim)
    os.kill(agent, signal.SIGSTOP)
    child_of(system, run, attempt=2)
    assert not process.is_alive(agent)
    go.touch()
    system.wait(run)
    assert system.outcomes(run, "long") == ["lost", "success"]


def test_second_start_and_late_start_of_a_claim_run_nothing(hopping: Hopping) -> None:
    system = hopping.system
    go = long_dag(system)
    system.up()
    run = system.trigger("long")
    child_of(system, run)
    (claim,) = hopping.starts("long")
    again = hopping.run_agent(claim)
    assert again.returncode == REFUSED
    assert "has started it already" in again.stderr
    go.touch()
    system.wait(run)
    late = hopping.run_agent(claim)
    assert late.returncode == REFUSED
    assert "It is over" in late.stderr
    assert system.outcomes(run, "long") == ["success"]
    assert system.log(run, "long").count("child") == 1


def test_running_and_queued_attempts_survive_a_new_supervisor(hopping: Hopping) -> None:
    system = hopping.system
    go = long_dag(system)
    system.dag(
        "other",
        """
        from flux import DAG, task
        with DAG("other", schedule=None):
            @task
            def other():
                print("begun")
            other()
        """,
    )
    system.up()
    run = system.trigger("long")
    child_of(system, run)
    (hopping.folder / "hold").touch()
    queued = system.trigger("other")
    system.wait_task(queued, "other", "queued")
    until(lambda: hopping.starts("other"), 10, "the executor's start")
    (reason,) = system.json("why", "other", queued.run_id, "other")["reasons"]
    assert "queued at executor 'hopping' since" in reason["message"]
    (hopping.folder / "hold").unlink()
    old = system.kill("supervisor")
    system.wait_replaced("supervisor", old, 2 * NOISE)
    system.wait(queued)
    assert hopping.starts("other") == hopping.starts("other")[:1] * 2
    go.touch()
    system.wait(run)
    assert system.outcomes(run, "long") == ["success"]
    assert system.outcomes(queued, "other") == ["success"]
    assert "exit status 0" in system.log(run, "long").splitlines()[-1]


def test_ctrl_c_ends_agents_everywhere_and_records_it_first(hopping: Hopping) -> None:
    system = hopping.system
    long_dag(system)
    system.up()
    run = system.trigger("long")
    child = child_of(system, run)
    (claim,) = hopping.starts("long")
    agent = hopping.agent(claim)
    assert system.stop() == 130
    assert not process.is_alive(child)
    until(lambda: not process.is_alive(agent), 10, "the end of the agent")
    assert system.outcomes(run, "long") == ["interrupted"]
    assert "killed: interrupted" in system.log(run, "long").splitlines()[-1]
    assert hopping.calls[-1] == "stop"


def test_what_the_executor_never_begins_is_given_to_it_again(hopping: Hopping) -> None:
    system = hopping.system
    system.environ["FLUX_QUEUED_TIMEOUT_SECONDS"] = "2"
    go = long_dag(system)
    (hopping.folder / "hold").touch()
    system.up()
    run = system.trigger("long")
    first = until(lambda: hopping.starts("long"), 10, "the executor's start")[0]
    until(lambda: f"cancel {first}" in hopping.calls, 10, "the executor to be told")
    (hopping.folder / "hold").unlink()
    go.touch()
    system.wait(run)
    assert system.outcomes(run, "long")[0] == "never_launched"
    assert system.outcomes(run, "long")[-1] == "success"
    assert hopping.run_agent(first).returncode == REFUSED


def test_executor_that_refuses_costs_no_attempt_and_does_not_end_the_supervisor(hopping: Hopping) -> None:
    system = hopping.system
    go = long_dag(system)
    (hopping.folder / "refuse").touch()
    system.up()
    supervisor = system.pid_of("supervisor")
    run = system.trigger("long")
    until(lambda: len(hopping.starts("long")) > 1, 10, "another try")
    (hopping.folder / "refuse").unlink()
    go.touch()
    system.wait(run)
    assert "node-1 does not answer" in (system.attempts(run, "long")[0].reason or "")
    assert supervisor == system.pid_of("supervisor")


PAIR = """
from flux import DAG, task
with DAG("pair", schedule=None):
    @task(priority_weight=9, pool="one")
    def first():
        pass
    @task(pool="one")
    def second():
        pass
    first(), second()
"""


def pair_dag(hopping: Hopping) -> System:
    """A running system of one slot, whose DAG `pair` has two tasks in a pool of one slot, `first` before `second`."""
    system = hopping.system
    system.dag("pair", PAIR)
    system.up(FLUX_PARALLELISM="1", FLUX_QUEUED_TIMEOUT_SECONDS="4", FLUX_EXECUTOR_CALL_SECONDS="3")
    assert system.flux("pool", "set", "one", "1").code == 0
    return system


def why(system: System, run: Run, task_id: str) -> str:
    """What `flux why` says."""
    return " ".join(reason["message"] for reason in system.json("why", run.dag_id, run.run_id, task_id)["reasons"])


def test_what_is_always_refused_holds_up_nobody_and_fails_in_the_words_of_its_executor(hopping: Hopping) -> None:
    (hopping.folder / "refuse-first").touch()
    system = pair_dag(hopping)
    run = system.trigger("pair")
    system.wait_task(run, "second", "success", seconds=3)
    assert "the executor refused it: ConnectionError: node-1 does not answer" in why(system, run, "first")
    system.wait(run, "failed")
    (*others, last) = system.attempts(run, "first")
    assert {attempt.outcome for attempt in others} == {"never_launched"}
    assert last.outcome == "failed"
    assert (last.reason or "").endswith("the executor refused it: ConnectionError: node-1 does not answer")
    assert 3 <= len(others) <= 5


def test_cluster_that_rejects_a_job_after_it_has_taken_it_is_heard(hopping: Hopping) -> None:
    reject = hopping.folder / "reject-first"
    reject.write_text("QOSMaxSubmitJobPerUserLimit")
    system = pair_dag(hopping)
    run = system.trigger("pair")
    system.wait_task(run, "second", "success", seconds=5)
    assert "what the executor began is gone: QOSMaxSubmitJobPerUserLimit" in why(system, run, "first")
    reject.unlink()
    system.wait(run)


def test_agent_whose_python_has_no_flux_is_told_at_once_in_its_own_words(hopping: Hopping) -> None:
    python = hopping.folder / "bare-python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    (hopping.folder / "python-first").write_text(str(python))
    system = pair_dag(hopping)
    run = system.trigger("pair")
    system.wait_task(run, "second", "success", seconds=5)
    reason = system.attempts(run, "first")[0].reason or ""
    assert reason.startswith("never launched: what the executor began is gone: exit status 1: ")
    assert "No module named 'flux'" in reason
    system.wait(run, "failed")


def test_start_that_does_not_return_holds_up_no_other_is_told_and_keeps_nothing_from_ending(hopping: Hopping) -> None:
    hang = hopping.folder / "hang-first"
    hang.touch()
    system = pair_dag(hopping)
    run = system.trigger("pair")
    system.wait_task(run, "second", "success", seconds=10)
    assert "the executor did not return from start() within 3 s" in (system.attempts(run, "first")[0].reason or "")
    trouble = "The executor 'hopping' has not returned from start() of pair.first"
    assert trouble in why(system, run, "first")
    assert trouble in system.flux("doctor").out
    system.wait(run, "failed", seconds=20)
    began = time.monotonic()
    assert system.stop() == 130
    assert time.monotonic() - began < 6


def test_queued_attempts_go_back_when_another_executor_is_configured(hopping: Hopping) -> None:
    system = hopping.system
    go = long_dag(system)
    (hopping.folder / "hold").touch()
    system.up()
    run = system.trigger("long")
    system.wait_task(run, "long", "queued")
    system.kill("supervisor", signal.SIGSTOP)
    for part in reversed(home.running(system.home / "run")):
        process.send(part.pid, signal.SIGKILL)
    system.send(signal.SIGKILL)
    system.wait_down()
    system.environ["FLUX_EXECUTOR"] = "local"
    go.touch()
    system.up()
    system.wait(run)
    assert system.outcomes(run, "long") == ["never_launched", "success"]
    assert system.opened.store.read(
        lambda connection: listing.attempts(connection, run.dag_id, run.run_id, "long")
    )[-1].host  # fmt: skip


@pytest.mark.parametrize("point", ["after_claim_commit", "after_agent_start", "before_end_commit", "after_end_commit"])
def test_supervisor_that_dies_at_the_worst_moment_loses_nothing_and_runs_nothing_twice(
    hopping: Hopping, point: str
) -> None:
    system = hopping.system
    ran = hopping.folder / "ran"
    system.dag(
        "many",
        f"""
        from flux import DAG, task
        with DAG("many", schedule=None):
            @task
            def one(number):
                with open("{ran}", "a") as file:
                    print(number, file=file)
                return "x" * 100_000
            @task
            def last(rows):
                return len(rows)
            last([one.override(task_id=f"one_{{number}}")(number) for number in range(4)])
        """,
    )
    system.expect_deaths(1)
    system.up(FLUX_FAULT=f"{point}:kill9:{hopping.folder / 'fault'}")
    run = system.trigger("many")
    system.wait(run, seconds=60)
    assert (hopping.folder / "fault").exists()
    assert sorted(ran.read_text().split()) == ["0", "1", "2", "3"]
    assert {outcome for name in system.tasks(run) for outcome in system.outcomes(run, name)} == {"success"}


def test_agent_outlives_the_whole_system_and_is_adopted_by_the_next(hopping: Hopping) -> None:
    system = hopping.system
    go = long_dag(system)
    system.up()
    run = system.trigger("long")
    child = child_of(system, run)
    (claim,) = hopping.starts("long")
    agent = hopping.agent(claim)
    parts = [part.pid for part in home.running(system.home / "run")]
    system.send(signal.SIGKILL)
    until(lambda: not system.is_up, 10, "the end of the hypervisor")
    for pid in parts:
        process.send(pid, signal.SIGKILL)
    until(lambda: not any(process.is_alive(pid) for pid in parts), 10, "the end of all parts")
    assert process.is_alive(agent)
    system.up()
    until(lambda: system.task(run, "long").state == "started", 10, "the attempt to be there still")
    go.touch()
    system.wait(run)
    assert system.outcomes(run, "long") == ["success"]
    assert not process.is_alive(child)


def test_drain_waits_for_what_agents_run(hopping: Hopping) -> None:
    system = hopping.system
    go = long_dag(system)
    system.up("--drain", "60")
    run = system.trigger("long")
    child_of(system, run)
    system.send(signal.SIGTERM)
    go.touch()
    assert system.wait_down() in (0, 143)
    assert system.outcomes(run, "long") == ["success"]


def test_run_that_takes_too_long_is_stopped_with_its_agents_and_its_queue(hopping: Hopping) -> None:
    system = hopping.system
    system.dag(
        "slow",
        """
        import time
        from flux import DAG, task
        with DAG("slow", schedule=None, dagrun_timeout=3):
            @task
            def runs():
                print("begun", flush=True)
                time.sleep(1000)
            @task
            def waits():
                pass
            runs(), waits()
        """,
    )
    system.up(FLUX_PARALLELISM="2")
    (hopping.folder / "hold-waits").touch()
    run = system.trigger("slow")
    system.wait(run, "failed")
    assert system.outcomes(run, "runs") == ["killed"]
    assert system.outcomes(run, "waits") == ["killed"]


def test_sensors_are_poked_here_and_what_follows_runs_there(hopping: Hopping) -> None:
    system = hopping.system
    file = hopping.folder / "arrives"
    system.dag(
        "waits",
        f"""
        from flux import DAG
        from flux.operators import BashOperator
        from flux.sensors import FileSensor
        with DAG("waits", schedule=None):
            FileSensor(task_id="wait", filepath="{file}", poke_interval=0.1) >> BashOperator(
                task_id="then", bash_command="echo then"
            )
        """,
    )
    system.up()
    run = system.trigger("waits")
    system.wait_task(run, "wait", "deferred")
    file.touch()
    system.wait(run)
    assert hopping.starts("wait") == []
    assert len(hopping.starts("then")) == 1

"""The launcher with real hosts and attempts: reading files, running, killing, and what is left after deaths."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flux import process
from flux.running.components import launcher_environ
from flux.running.launcher_client import LauncherClient
from tests.waiting import until

pytestmark = pytest.mark.slow

TASKS = """
import os, signal, subprocess, sys, time
from flux import DAG
from flux.operators import BashOperator, PythonOperator

def ok():
    print("working")
    return 7

def fail():
    raise ValueError("bad row")

def wait(path="/nowhere"):
    print("waiting", flush=True)
    while not os.path.exists(path):
        time.sleep(0.01)

def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait()

def locked():
    print("locked", flush=True)
    sum(range(10**15))

def polite():
    try:
        wait()
    finally:
        print("cleaned up", flush=True)

def zombies():
    for _ in range(20):
        if os.fork() == 0:
            os._exit(0)

with DAG("tasks") as dag:
    for function in (ok, fail, wait, deaf, locked, polite, zombies):
        PythonOperator(task_id=function.__name__, python_callable=function)
    PythonOperator(task_id="exit_hard", python_callable=lambda: os._exit(0))
    PythonOperator(task_id="exit_0", python_callable=lambda: sys.exit(0))
    PythonOperator(task_id="exit_3", python_callable=lambda: sys.exit(3))
    PythonOperator(task_id="segfault", python_callable=lambda: os.kill(os.getpid(), signal.SIGSEGV))
    PythonOperator(task_id="environment", python_callable=lambda: dict(os.environ))
    BashOperator(task_id="leaves", bash_command="setsid sleep 1000 & sleep 1000 & echo $! begun; true")
    BashOperator(task_id="leaves_unmarked", bash_command="env -i setsid sleep 1000 >/dev/null 2>&1 & true")
    BashOperator(task_id="tree", bash_command="sleep 1000 & setsid sleep 1000 & trap '' TERM; echo begun; sleep 1000")
"""


@pytest.fixture
def version(desk: Any) -> str:
    desk.write("tasks.py", TASKS)
    return str(desk.version("tasks.py"))


def cpu_ticks(pid: int) -> int:
    """The time a process has computed, in hundredths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def of(claim: int) -> set[int]:
    return process.find([process.Owner(claim)])[claim]


def test_a_task_runs_and_its_end_is_in_the_result_file(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "ok")
    started = desk.wait(op="started", claim=spec.claim)
    ended = desk.exit(spec)
    assert (ended["exit_status"], ended["signal"], ended["killed"], ended["strays"]) == (0, None, None, 0)
    assert ended["pid"] == started["pid"]
    assert ended["max_rss_bytes"] > 1_000_000
    assert desk.end(spec)["results"] == {"return_value": "7"}
    log = desk.log(spec)
    assert "working\n" in log
    assert log.startswith("--- flux: tasks.ok, run manual__1, attempt 1 of 1")
    assert log.splitlines()[-1].startswith("--- flux: attempt 1 ended")


def test_a_failing_task_leaves_its_reason(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "fail")
    assert desk.exit(spec)["exit_status"] == 1
    assert desk.end(spec)["reason"] == "ValueError: bad row"
    assert "ValueError: bad row" in desk.log(spec)


def test_an_attempt_that_leaves_by_os_exit_has_no_result_file(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "exit_hard")
    assert desk.exit(spec)["exit_status"] == 0
    assert not Path(spec.result_file).exists()


@pytest.mark.parametrize(("task", "outcome"), [("exit_0", "success"), ("exit_3", "failed")])
def test_sys_exit_ends_by_its_code(desk: Any, version: str, task: str, outcome: str) -> None:
    spec = desk.run(version, "tasks", task)
    desk.exit(spec)
    assert desk.end(spec)["outcome"] == outcome


def test_a_crash_is_reported_by_its_signal(desk: Any, version: str) -> None:
    ended = desk.exit(desk.run(version, "tasks", "segfault"))
    assert (ended["exit_status"], ended["signal"], ended["killed"]) == (None, signal.SIGSEGV, None)


def test_the_environment_of_an_attempt_has_its_claim_and_no_secrets(desk: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("FLUX_DATABASE_URL", "sqlite:///x")
    monkeypatch.setenv("FLUX_CONN_HIVE", "hive://user:password@host")
    desk.write("tasks.py", TASKS)
    spec = desk.run(desk.version("tasks.py"), "tasks", "environment")
    desk.exit(spec)
    text = desk.end(spec)["results"]["return_value"]
    assert process.claim_text(spec.claim) in text
    assert "FLUX_DATABASE_URL" not in text
    assert "password" not in text


def test_a_running_attempt_is_found_by_its_claim(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "wait")
    started = desk.wait(op="started", claim=spec.claim)
    until(lambda: "waiting" in desk.log(spec))
    assert process.carried_claim(started["pid"]) == spec.claim
    desk.launcher.kill(spec.claim, 0, "test")
    assert desk.exit(spec)["signal"] == signal.SIGKILL


def test_a_kill_lets_the_task_clean_up(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "polite")
    desk.logged(spec, "waiting")
    desk.launcher.kill(spec.claim, 5, "cleared")
    ended = desk.exit(spec)
    assert ended["killed"] == "cleared"
    assert ended["signal"] == signal.SIGTERM
    assert "cleaned up" in desk.log(spec)


@pytest.mark.parametrize(("task", "word"), [("deaf", "waiting"), ("locked", "locked")])
def test_what_ignores_sigterm_is_killed_after_the_grace(desk: Any, version: str, task: str, word: str) -> None:
    """Scenarios 28 and 29: also C code that holds the GIL."""
    spec = desk.run(version, "tasks", task)
    pid = desk.wait(op="started", claim=spec.claim)["pid"]
    desk.logged(spec, word)
    until(lambda: task == "deaf" or cpu_ticks(pid) > 10)
    began = time.monotonic()
    desk.launcher.kill(spec.claim, 0.3, "timeout")
    assert desk.exit(spec)["signal"] == signal.SIGKILL
    assert 0.25 < time.monotonic() - began < 3.5, "the grace is not the usual one of 4 s"


def test_a_kill_reaches_the_whole_tree(desk: Any, version: str) -> None:
    """Scenario 31."""
    spec = desk.run(version, "tasks", "tree")
    desk.logged(spec, "begun")
    until(lambda: len(of(spec.claim)) >= 4)
    desk.launcher.kill(spec.claim, 0.5, "killed")
    desk.exit(spec)
    assert not of(spec.claim)


def test_what_a_task_leaves_behind_is_ended_before_its_exit_is_told(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "leaves")
    ended = desk.exit(spec)
    assert ended["exit_status"] == 0
    assert ended["strays"] == 2
    assert not of(spec.claim)


def test_a_leftover_without_marks_is_ended_when_nothing_else_runs(desk: Any, version: str) -> None:
    ended = desk.exit(desk.run(version, "tasks", "leaves_unmarked"))
    assert ended["strays"] == 1


def test_unreaped_children_leave_no_zombies(desk: Any, version: str) -> None:
    """Scenario 32."""
    spec = desk.run(version, "tasks", "zombies")
    started = desk.wait(op="started", claim=spec.claim)
    host = next(entry.parent for entry in process.table() if entry.pid == started["pid"])
    desk.exit(spec)
    until(lambda: not [entry for entry in process.table() if entry.parent == host])


def test_attempts_of_a_dead_host_are_lost_and_their_processes_gone(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "tree")
    started = desk.wait(op="started", claim=spec.claim)
    until(lambda: "begun" in desk.log(spec))
    host = next(entry.parent for entry in process.table() if entry.pid == started["pid"])
    os.kill(host, signal.SIGKILL)
    ended = desk.exit(spec)
    assert "its DAG host died" in ended["error"]
    assert not of(spec.claim)
    again = desk.run(version, "tasks", "ok")
    assert desk.exit(again)["exit_status"] == 0, "a new host is made for the version"


def test_a_dead_launcher_takes_its_attempts_along(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "wait")
    started = desk.wait(op="started", claim=spec.claim)
    os.kill(desk.launcher.pid, signal.SIGKILL)
    until(lambda: not process.is_alive(started["pid"]))


def test_a_private_launcher_ends_with_its_client(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "wait")
    started = desk.wait(op="started", claim=spec.claim)
    pid = desk.launcher.pid
    desk.close_client()
    assert not process.is_alive(pid)
    assert not process.is_alive(started["pid"])


def test_an_exit_is_kept_until_it_is_acknowledged(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "ok")
    desk.exit(spec)
    assert [kept["claim"] for kept in desk.hello()["exits"]] == [spec.claim]
    desk.launcher.ack([spec.claim])
    assert desk.hello()["exits"] == []


def test_a_claim_that_is_known_is_not_run_again(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "wait")
    desk.wait(op="started", claim=spec.claim)
    desk.launcher.run(version, spec)
    assert [known["claim"] for known in desk.hello()["claims"]] == [spec.claim]
    assert not [message for message in desk.messages if message["op"] == "started"]
    desk.launcher.kill_all(0, "test")
    desk.exit(spec)
    desk.launcher.run(version, spec)
    assert desk.hello()["claims"] == []


def test_a_version_unknown_to_this_machine_is_an_error(desk: Any) -> None:
    desk.start()
    assert "cannot be read" in desk.exit(desk.run("f" * 64, "tasks", "ok"))["error"]


def test_a_task_that_is_gone_is_an_error(desk: Any, version: str) -> None:
    assert "Task 'gone' no longer exists in DAG 'tasks'" in desk.exit(desk.run(version, "tasks", "gone"))["error"]


def test_run_as_another_user_is_refused(desk: Any, version: str) -> None:
    spec = desk.run(version, "tasks", "ok", run_as_user="nobody-here")
    assert "run_as_user='nobody-here'" in desk.exit(spec)["error"]


def test_idle_hosts_beyond_the_limit_end(desk: Any) -> None:
    desk.start(dag_hosts=2)
    for name in "abcd":
        desk.write(f"{name}.py", f"from flux import DAG\nDAG({name!r})\n")
        desk.version(f"{name}.py")
    assert until(lambda: desk.hello()["hosts"] if len(desk.hello()["hosts"]) <= 2 else None)


def test_idle_hosts_end_after_their_time(desk: Any, version: str) -> None:
    desk.hello()
    desk.launcher._settings = {"dag_host_idle_seconds": 0.1}
    until(lambda: not desk.hello()["hosts"])
    assert desk.exit(desk.run(version, "tasks", "ok"))["exit_status"] == 0


def test_other_settings_hold_at_once(desk: Any, version: str) -> None:
    assert desk.hello()["hosts"]
    desk.launcher.set({"dag_host_idle_seconds": 0.1, "unknown": 1})
    until(lambda: not desk.hello()["hosts"])


def test_a_supervisor_that_comes_back_adopts_what_runs(desk: Any, system: Any) -> None:
    client = system()
    desk.client = client
    desk.wait(op="state")
    desk.write("tasks.py", TASKS)
    version = desk.version("tasks.py")
    spec = desk.run(version, "tasks", "wait")
    desk.wait(op="started", claim=spec.claim)
    client.close()
    desk.client = LauncherClient(desk.loop, desk.run_folder / "launcher.sock", desk.take, desk.lost)
    state = desk.wait(op="state")
    assert [known["claim"] for known in state["claims"]] == [spec.claim]
    desk.launcher.kill(spec.claim, 0, "test")
    assert desk.exit(spec)["killed"] == "test"


def test_attempts_nobody_adopts_are_killed(desk: Any, system: Any) -> None:
    desk.client = system(adopt_timeout_seconds=0.2)
    desk.wait(op="state")
    desk.write("tasks.py", TASKS)
    spec = desk.run(desk.version("tasks.py"), "tasks", "wait")
    started = desk.wait(op="started", claim=spec.claim)
    desk.client.close()
    until(lambda: not process.is_alive(started["pid"]))
    desk.client = LauncherClient(desk.loop, desk.run_folder / "launcher.sock", desk.take, desk.lost)
    exits = until(lambda: desk.hello()["exits"])
    assert [(kept["claim"], kept["killed"]) for kept in exits] == [
        (spec.claim, "no supervisor adopted it within 0.2 s")
    ]


def test_without_hypervisor_and_supervisor_all_ends(desk: Any, system: Any) -> None:
    """Scenario 41."""
    desk.client = system()
    desk.wait(op="state")
    desk.write("tasks.py", TASKS)
    spec = desk.run(desk.version("tasks.py"), "tasks", "wait")
    started = desk.wait(op="started", claim=spec.claim)
    system.hang_up()
    assert desk.hello()["claims"], "the supervisor is enough"
    desk.client.close()
    until(lambda: not process.is_alive(started["pid"]))
    assert process.wait(system.pid).exit_status == 0


class System:
    """A launcher as the hypervisor starts it."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk
        self.pid = 0
        self._beats = -1

    def __call__(self, **settings: Any) -> LauncherClient:
        desk = self._desk
        self._beats, theirs = os.pipe()
        argv = [sys.executable, "-m", "flux.running.launcher", "--run-folder", str(desk.run_folder)]
        argv += ["--hypervisor-fd", str(theirs)]
        self.pid = process.spawn(argv, env=launcher_environ(os.environ), pass_fds=[theirs], new_group=True)
        os.close(theirs)
        assert os.read(self._beats, 1) == b"."
        return LauncherClient(desk.loop, desk.run_folder / "launcher.sock", desk.take, desk.lost, settings=settings)

    def hang_up(self) -> None:
        if self._beats >= 0:
            os.close(self._beats)
            self._beats = -1


@pytest.fixture
def system(desk: Any) -> Any:
    system = System(desk)
    yield system
    system.hang_up()
    if system.pid and process.is_alive(system.pid):
        process.send(system.pid, signal.SIGTERM)
        process.wait(system.pid)

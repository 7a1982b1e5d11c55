"""The standby of a DAG host: what it is before it has an order, and the attempt that it becomes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from flux import process
from flux.loop import Loop
from flux.running import attempt_processes, standby
from tests.waiting import until

pytestmark = pytest.mark.slow

TASKS = """
import os, subprocess, time
from flux import DAG
from flux.operators import PythonOperator

def ok():
    print("working")
    return os.getpid()

def wait():
    print("waiting", flush=True)
    while True:
        time.sleep(0.01)

def claims():
    mine = open("/proc/self/environ").read()
    childs = subprocess.run(["cat", "/proc/self/environ"], capture_output=True, text=True).stdout
    return [text.split("FLUX_CLAIM=")[1][:19] for text in (mine, childs)]

def descriptors():
    return sorted(os.listdir("/proc/self/fd"))

with DAG("tasks"):
    for function in (ok, wait, claims, descriptors):
        PythonOperator(task_id=function.__name__, python_callable=function)
"""


class Host:
    """A DAG host and what is below it."""

    def __init__(self, desk: Any) -> None:
        self.desk = desk
        desk.write("tasks.py", TASKS)
        self.version = desk.version("tasks.py")

    @property
    def pid(self) -> int:
        (host,) = self.desk.hello()["hosts"]
        return int(host["pid"])

    def run(self, task: str, **changes: Any) -> Any:
        return self.desk.run(self.version, "tasks", task, **changes)

    def result(self, task: str, **changes: Any) -> Any:
        """Run a task to its end and return what it returned."""
        spec = self.run(task, **changes)
        assert self.desk.exit(spec)["exit_status"] == 0, self.desk.log(spec)
        return json.loads(self.desk.end(spec)["results"]["return_value"])

    def children(self) -> list[int]:
        host = self.pid
        return [entry.pid for entry in process.table() if entry.parent == host and not entry.is_zombie]

    def standby(self) -> int:
        """Run a task, and return the pid of the standby that is there afterwards and waits."""
        self.result("ok")
        (pid,) = until(self.children, what="a standby")
        until(lambda: asleep(pid), what="it waits for an order")
        return pid


def asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.fixture
def host(desk: Any) -> Host:
    return Host(desk)


def test_a_host_that_ran_nothing_has_none(host: Host) -> None:
    assert host.children() == []


def test_the_next_attempt_is_the_standby(host: Host) -> None:
    pid = host.standby()
    spec = host.run("ok")
    assert host.desk.wait(op="started", claim=spec.claim)["pid"] == pid
    ended = host.desk.exit(spec)
    assert (ended["pid"], ended["exit_status"], ended["strays"]) == (pid, 0, 0)
    assert json.loads(host.desk.end(spec)["results"]["return_value"]) == pid
    first, second, *_ = host.desk.log(spec).splitlines()
    assert first.startswith("--- flux: tasks.ok, run manual__1, attempt 1 of 1")
    assert f"pid {pid}" in first
    assert second == "working"


def test_it_is_no_attempt_before_it_has_its_order(host: Host) -> None:
    pid = host.standby()
    assert b"FLUX_CLAIM=" + process.NO_CLAIM.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert host.desk.hello()["claims"] == []
    assert os.getsid(pid) == pid


def test_its_descriptors_are_its_own(host: Host) -> None:
    folder = Path(f"/proc/{host.standby()}/fd")
    targets = {int(file.name): str(file.readlink()) for file in folder.iterdir()}
    assert targets.pop(0) == "/dev/null"
    (others,) = [target for number, target in targets.items() if number > 2]
    assert others.startswith("socket:")


@pytest.mark.parametrize("prepared", [False, True])
def test_an_attempt_has_only_its_standard_descriptors(host: Host, prepared: bool) -> None:
    if prepared:
        host.standby()
    listing = 3
    assert host.result("descriptors") == ["0", "1", "2", str(listing)]


def test_the_claim_is_seen_in_the_attempt_and_its_children(host: Host) -> None:
    host.standby()
    claim = 4_100_000_000_000_000_001
    assert host.result("claims", claim=claim) == [process.claim_text(claim)] * 2


def test_two_attempts_never_share_one(host: Host) -> None:
    host.standby()
    specs = [host.run("ok") for _ in range(4)]
    pids = [host.desk.exit(spec)["pid"] for spec in specs]
    for _ in range(10):
        pids.append(host.result("ok"))
    assert len(set(pids)) == len(pids)


def test_after_its_death_the_next_attempt_runs_all_the_same(host: Host) -> None:
    pid = host.standby()
    process.send(pid, signal.SIGKILL)
    until(lambda: not process.is_alive(pid))
    spec = host.run("ok")
    ended = host.desk.exit(spec)
    assert (ended["exit_status"], ended["error"]) == (0, None)
    assert ended["pid"] != pid


def test_an_order_too_long_for_it_runs_all_the_same(host: Host) -> None:
    host.standby()
    assert host.result("ok", conf={"text": "x" * standby.LONGEST_ORDER})


def test_an_attempt_that_was_a_standby_can_be_killed(host: Host) -> None:
    pid = host.standby()
    spec = host.run("wait")
    host.desk.logged(spec, "waiting")
    host.desk.launcher.kill(spec.claim, 5, "cleared")
    ended = host.desk.exit(spec)
    assert (ended["pid"], ended["signal"], ended["killed"]) == (pid, signal.SIGTERM, "cleared")


def test_it_is_nobodys_stray(host: Host) -> None:
    """A kill of the only attempt takes what is below the host along, but not the standby."""
    spec = host.run("wait")
    host.desk.logged(spec, "waiting")
    attempt = host.desk.wait(op="started", claim=spec.claim)["pid"]
    if (os.cpu_count() or 1) > 1:
        until(lambda: len(host.children()) == 2, what="a standby beside the attempt")
    kept = set(host.children()) - {attempt}
    host.desk.launcher.kill(spec.claim, 0, "cleared")
    assert host.desk.exit(spec)["strays"] == 0
    assert kept <= set(host.children())


def test_it_ends_with_its_host(host: Host) -> None:
    pid = host.standby()
    process.send(host.pid, signal.SIGKILL)
    until(lambda: not process.is_alive(pid))


def test_it_ends_with_the_launcher(host: Host) -> None:
    pid = host.standby()
    host.desk.close_client()
    assert not process.is_alive(pid)


def test_an_idle_host_ends_it(host: Host) -> None:
    pid = host.standby()
    until(lambda: not process.is_alive(pid))
    assert host.children() == []
    assert host.result("ok") != pid


def test_a_dry_walk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    standby.dry_walk()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_hosts_dry_walk_leaves_nothing(capfd: Any) -> None:
    loop = Loop()
    before = set(Path("/proc/self/fd").iterdir())
    attempt_processes.dry_walk(loop, standby.nothing()[1])
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert loop._seconds_to_sleep() is None, "no timer is left"
    assert capfd.readouterr() == ("", "")
    loop.close()


def test_a_hosts_dry_walk_is_the_way_of_an_attempt_from_its_start_to_its_exit() -> None:
    told: list[str] = []
    loop = Loop()
    attempt_processes.dry_walk(loop, standby.nothing()[1], lambda message: told.append(message["op"]))
    loop.close()
    assert told == ["started", "exit"]

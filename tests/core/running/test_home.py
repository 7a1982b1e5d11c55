from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux import process
from flux.errors import AlreadyRunning
from flux.running import home
from tests.waiting import until


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        yield sleeper
        sleeper.kill()


def test_a_second_lock_is_refused_with_the_pid_of_the_first(run_folder: Path) -> None:
    held = home.lock(run_folder)
    with pytest.raises(AlreadyRunning, match=rf"{run_folder.parent}.*\(pid {os.getpid()}\)"):
        home.lock(run_folder)
    os.close(held)


#: Locks the home and keeps it until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from flux.running import home
home.lock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_the_lock_of_a_killed_process_is_free(run_folder: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(run_folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(AlreadyRunning, match=f"pid {holder.pid}"):
            home.lock(run_folder)
        holder.kill()
    os.close(home.lock(run_folder))


def test_the_lock_is_not_passed_on_to_programs_that_are_started(run_folder: Path) -> None:
    held = home.lock(run_folder)
    with subprocess.Popen(["sleep", "1000"], close_fds=False) as sleeper:
        os.close(held)
        assert sleeper.poll() is None
        os.close(home.lock(run_folder))
        sleeper.kill()


def test_running_lists_what_is_alive(run_folder: Path, sleeper: subprocess.Popen[bytes]) -> None:
    me = home.Running.now("hypervisor", os.getpid(), "running", time.time())
    other = home.Running.now("launcher", sleeper.pid, "starting", 0)
    home.publish(run_folder, [me, other])
    assert home.running(run_folder) == [me, other]
    assert other.started_at == "1970-01-01T00:00:00+00:00"
    sleeper.kill()
    sleeper.wait()
    assert home.running(run_folder) == [me]


def test_a_pid_that_was_given_to_another_process_is_not_taken_for_the_component(
    run_folder: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    stranger = home.Running("launcher", sleeper.pid, 1, "running", "2026-01-05T02:00:00+00:00")
    home.publish(run_folder, [stranger])
    assert home.running(run_folder) == []
    assert home.end_leftovers(run_folder, 1) == []
    assert sleeper.poll() is None


@pytest.mark.parametrize("content", [None, "", "{half a li"])
def test_a_missing_or_broken_list_is_an_empty_one(run_folder: Path, content: str | None) -> None:
    if content is not None:
        (run_folder / "components.json").write_text(content)
    assert home.running(run_folder) == []


def test_withdrawing_twice_is_fine(run_folder: Path) -> None:
    home.publish(run_folder, [])
    home.withdraw(run_folder)
    home.withdraw(run_folder)
    assert not (run_folder / "components.json").exists()


def test_leftovers_that_ignore_sigterm_are_killed_with_their_children(run_folder: Path) -> None:
    command = ["bash", "-c", "trap '' TERM; sleep 1000 & echo started; read"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        home.publish(run_folder, [home.Running.now("launcher", stubborn.pid, "running", time.time())])
        below = until(lambda: process.descendants(stubborn.pid))
        assert [component.kind for component in home.end_leftovers(run_folder, 0.2)] == ["launcher"]
        assert stubborn.wait(5) == -signal.SIGKILL
    until(lambda: not any(process.is_alive(pid) for pid in below), what="the end of its child")


def test_a_process_that_ended_does_not_run_although_nobody_waited_for_it(run_folder: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        component = home.Running.now("launcher", ended.pid, "running", time.time())
        until(lambda: not process.is_alive(ended.pid))
        home.publish(run_folder, [component])
        assert home.running(run_folder) == []

"""Starting, finding and ending real processes."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux import process
from tests.waiting import until


@pytest.fixture
def started() -> Iterator[list[int]]:
    """Pids that are killed and reaped after the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        process.send_group(pid, signal.SIGKILL)
        try:
            process.wait(pid)
        except ChildProcessError:
            pass


def sleeper(started: list[int], script: str = "sleep 1000", **arguments: object) -> int:
    pid = process.spawn(["bash", "-c", f"{script}; true"], new_session=True, **arguments)  # type: ignore[arg-type]
    started.append(pid)
    return pid


def with_claim(claim: int) -> dict[str, str]:
    return {**os.environ, "FLUX_CLAIM": process.claim_text(claim)}


def test_an_exit_status_a_signal_and_memory_are_told() -> None:
    ended = process.wait(process.spawn(["bash", "-c", "exit 3"]))
    assert (ended.exit_status, ended.signal, str(ended)) == (3, None, "exit status 3")
    assert ended.max_rss_bytes > 100_000
    ended = process.wait(process.spawn(["bash", "-c", "kill -9 $$"]))
    assert (ended.exit_status, ended.signal, str(ended)) == (None, 9, "killed by SIGKILL")


def test_a_program_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        process.spawn(["/nowhere/program"])


def test_standard_input_is_empty_unless_given(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        process.wait(process.spawn(["cat"], stdout=out.fileno()))
    assert (tmp_path / "out").read_bytes() == b""


def test_ended_children_are_reaped_without_blocking(started: list[int]) -> None:
    alive = sleeper(started)
    dead = process.spawn(["true"])
    ended: list[int] = []
    until(lambda: ended.extend(one.pid for one in process.reap()) or dead in ended)
    assert alive not in ended
    assert alive in process.children()
    assert dead not in process.children()


def test_processes_are_found_by_claim_session_log_and_parent(started: list[int], tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = (
        "setsid sleep 1001 & "  # by its claim
        f"env -i sleep 1002 & "  # by its session
        f"env -i setsid sleep 1003 >>{log} & "  # by its log
        "env -i setsid bash -c 'sleep 1004; true' & "  # by its parent
        "sleep 1000"
    )
    pid = sleeper(started, script, env=with_claim(77))
    owner = process.Owner(77, session=pid, log=str(log))

    def words() -> set[str]:
        found = process.find([owner])[77]
        lines = (Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0") for one in found)
        return {line[1].decode() for line in lines if line[0] == b"sleep"}

    until(lambda: words() == {"1000", "1001", "1002", "1003", "1004"})
    assert process.end_now([owner], grace=0.2, deadline=5)
    assert process.find([owner])[77] == set()


def test_what_is_above_the_one_who_asks_is_spared(started: list[int]) -> None:
    """An agent that ends its attempt must not end what its executor started it by."""
    code = (
        "import os, subprocess; from flux import process; "
        "child = subprocess.Popen(['sleep', '1000']); "
        "assert process.find([process.Owner(77)]) == {77: {child.pid}}, process.find([process.Owner(77)]); "
        "child.kill(); child.wait()"
    )
    shell = f'{sys.executable} -c "{code}"; exit $?'
    pid = process.spawn(["bash", "-c", shell], env=with_claim(77))
    assert process.wait(pid).exit_status == 0


def test_the_user_of_this_process_has_a_name() -> None:
    assert process.user_name() == pwd.getpwuid(os.getuid()).pw_name


def test_several_owners_are_told_apart(started: list[int]) -> None:
    first, second = sleeper(started, env=with_claim(5)), sleeper(started, env=with_claim(6))
    owners = [process.Owner(5), process.Owner(6), process.Owner(7)]
    until(lambda: all(len(process.find(owners)[claim]) == 2 for claim in (5, 6)))
    found = process.find(owners)
    assert first in found[5]
    assert second in found[6]
    assert found[7] == set()


def test_what_ignores_sigterm_is_killed_after_the_grace(started: list[int]) -> None:
    pid = sleeper(started, "trap '' TERM; sleep 1000; sleep 1000", env=with_claim(8))
    until(lambda: len(process.find([process.Owner(8)])[8]) == 2)
    began = time.monotonic()
    assert process.end_now([process.Owner(8)], grace=0.3, deadline=5)
    assert time.monotonic() - began >= 0.3
    assert not process.is_alive(pid)


def test_a_process_without_a_claim_carries_none(started: list[int]) -> None:
    zeros = sleeper(started, env={"FLUX_CLAIM": process.NO_CLAIM, "PATH": os.environ["PATH"]})
    assert process.carried_claim(zeros) is None
    assert process.carried_claim(2**22 - 1) is None


def test_descendants_leave_out_the_trees_that_are_barred(started: list[int]) -> None:
    one, two = sleeper(started), sleeper(started)
    until(lambda: len(process.descendants(os.getpid())) >= 4)
    assert not process.descendants(os.getpid(), without=[one, two])
    assert one in process.descendants(os.getpid(), without=[two])


def test_a_signal_to_what_is_gone_says_so() -> None:
    child = subprocess.Popen(["true"], start_new_session=True)
    child.wait()
    assert not process.send(child.pid, signal.SIGTERM)
    assert not process.send_group(child.pid, signal.SIGTERM)
    assert not process.is_alive(child.pid)
    assert process.group(child.pid) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("sys.exit(7)", 7),
        ("os._exit(0)", 0),
        ("os.kill(os.getpid(), 9)", -9),
        ("os.kill(os.getpid(), 15)", -15),
        ("os.kill(os.getpid(), 11)", -11),
        ("os.kill(os.getppid(), 9); time.sleep(60)", -9),
        ("raise KeyboardInterrupt", -2),
    ],
)
def test_a_process_that_goes_on_in_a_child_ends_as_the_child_does(code: str, status: int) -> None:
    program = f"import os, sys, time\nfrom flux import process\nprocess.go_on_in_child()\n{code}"
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, timeout=30, check=False)
    assert done.returncode == status


@pytest.mark.slow
def test_who_goes_on_in_a_child_has_a_parent_that_may_be_killed_and_is_gone_with_it(tmp_path: Path) -> None:
    """And what the child alone keeps is closed with the child."""
    program = (
        "import os, sys, time\nfrom flux import process\nprocess.go_on_in_child(int(sys.argv[1]))\n"
        "os.write(int(sys.argv[1]), f'{os.getpid()} {os.getppid()} '.encode())\n"
        "os.kill(os.getppid(), 9)\ntime.sleep(60)"
    )
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-c", program, str(writing)], pass_fds=[writing]) as started:
        os.close(writing)
        with os.fdopen(reading) as said:
            child, parent = map(int, said.read().split())
    assert (parent, started.returncode) == (started.pid, -signal.SIGKILL)
    assert child != parent
    until(lambda: not process.is_alive(child))

"""An agent's folder goes with the agent, however that ends, and never before."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flux import process
from flux.running.agent_folder import AgentFolder, sweep

#: Makes a folder as an agent does, and a child that only has its lock; says their names and stays.
HOLDER = """
import os, sys, time
from flux import process
from flux.running.agent_folder import AgentFolder
folder = AgentFolder()
(folder.path / "run" / "sources").mkdir(parents=True)
(folder.path / "run" / "sources" / "a").touch()
child = os.fork() if sys.argv[1:] == ["forks"] else -1
if child != 0:
    print(folder.path, child, flush=True)
time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


class Holder:
    """A process that has an agent's folder."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", HOLDER, *words], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        path, child = self.process.stdout.readline().split()
        self.path, self.child = Path(path), int(child)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def hold() -> Iterator[Callable[..., Holder]]:
    """Start a holder; none outlives the test."""
    made: list[Holder] = []

    def hold(*words: str) -> Holder:
        made.append(Holder(*words))
        return made[-1]

    yield hold
    for each in made:
        each.kill()
        if each.child > 0:
            process.send(each.child, signal.SIGKILL)


def test_folder_is_private_and_goes_with_what_is_in_it(temporary: Path) -> None:
    folder = AgentFolder()
    path = folder.path
    assert path.stat().st_mode & 0o777 == 0o700
    (path / "run").mkdir()
    (path / "run" / "a").touch()
    (path / "link").symlink_to(temporary)
    folder.remove()
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_folder_of_a_living_agent_stays_and_that_of_a_killed_one_is_swept(hold: Callable[..., Holder]) -> None:
    living, killed = hold(), hold()
    killed.kill()
    assert sweep() == [killed.path]
    assert not killed.path.exists()
    assert (living.path / "run" / "sources" / "a").exists()
    living.kill()
    assert sweep() == [living.path]


@pytest.mark.slow
def test_folder_stays_while_a_process_lives_that_the_agent_forked(hold: Callable[..., Holder]) -> None:
    holder = hold("forks")
    holder.kill()
    assert sweep() == []
    assert holder.path.exists()
    process.send(holder.child, signal.SIGKILL)
    descriptor = os.open(holder.path / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for the end of the child, which is nobody's here
    os.close(descriptor)
    assert sweep() == [holder.path]


def test_only_folders_of_agents_are_swept(temporary: Path) -> None:
    other = temporary / "else"
    other.mkdir()
    (other / "lock").touch()
    (temporary / "flux-agent-link").symlink_to(other)
    (temporary / "flux-agent-file").touch()
    (temporary / "flux-agent-of-another-kind").mkdir()
    (temporary / "flux-agent-of-another-kind" / "kept").touch()
    assert sweep() == []
    assert (other / "lock").exists()
    assert (temporary / "flux-agent-of-another-kind" / "kept").exists()


def test_folder_of_an_agent_that_died_before_it_had_locked_it_is_swept(temporary: Path) -> None:
    (temporary / "flux-agent-empty").mkdir()
    assert sweep() == [temporary / "flux-agent-empty"]


def test_what_an_interrupted_sweep_has_left_is_swept(temporary: Path) -> None:
    folder = temporary / "flux-agent-half"
    folder.mkdir()
    (folder / "lock").touch()
    assert sweep() == [folder]
    assert list(temporary.iterdir()) == []


def test_agent_whose_folder_is_swept_before_it_has_locked_it_takes_another(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep comes between the folder's making and its lock: played by a folder that is gone at once."""
    made: list[str] = []
    make = tempfile.mkdtemp

    def swept_at_once(prefix: str) -> str:
        made.append(make(prefix=prefix))
        if len(made) == 1:
            assert sweep() == [Path(made[0])]
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept_at_once)
    folder = AgentFolder()
    assert [str(folder.path)] == made[1:]
    assert sweep() == []
    folder.remove()


def test_agent_whose_folder_is_swept_while_it_locks_it_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep comes between the opening of the lock and the locking."""
    lock = fcntl.flock
    swept: list[Path] = []

    def swept_at_once(descriptor: int, operation: int) -> None:
        if not swept:
            monkeypatch.setattr(fcntl, "flock", lock)
            swept.extend(sweep())
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", swept_at_once)
    folder = AgentFolder()
    assert swept
    assert swept[0] != folder.path
    assert (folder.path / "lock").exists()
    folder.remove()


def test_temporary_folder_that_cannot_be_read_is_no_problem(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "gone"))
    assert sweep() == []

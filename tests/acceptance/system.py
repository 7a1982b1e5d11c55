"""A whole system in a home of its own, run as people run it: `flux up`, commands, signals, and what is in the store."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flux import config, process
from flux.app import Flux
from flux.cli import output
from flux.errors import NotFound
from flux.running import actions, home
from flux.store import dags, listing
from flux.store.listing import AttemptRow, TaskInstanceRow
from tests.databases import parameters
from tests.waiting import until

#: Stated bounds are waited for this many times as long: the machine has other work.
NOISE = 5
FLUX = Path(sys.executable).with_name("flux")

#: For tests that are run on both databases, as representatives of their kind.
both_databases = pytest.mark.parametrize("system", parameters("sqlite", "postgresql"), indirect=True)
#: For the few that are run on all of them.
every_database = pytest.mark.parametrize(
    "system", parameters("sqlite", "postgresql", "mariadb", "mysql"), indirect=True
)
every_server = pytest.mark.parametrize("system", parameters("postgresql", "mariadb", "mysql"), indirect=True)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Run:
    """A DAG run of the test."""

    dag_id: str
    run_id: str


class System:
    """One home: its DAG files, its `flux up` and its store.

    What a test does to the processes by `kill` is known to be its doing; other deaths it announces by `expect_deaths`,
    so that `invariants.check_logs` finds those that nobody meant.
    """

    def __init__(self, home_folder: Path, database_url: str | None = None) -> None:
        self.home = home_folder
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
        self.environ |= {"FLUX_HOME": str(home_folder)}
        if database_url is not None:
            self.environ["FLUX_DATABASE_URL"] = database_url
        self.expected_deaths = 0
        #: Regular expressions of lines in the components' logs that this test causes.
        self.expected_lines: list[str] = []
        self._up: subprocess.Popen[bytes] | None = None
        self._flux: Flux | None = None
        self._said_before = 0

    # --- the system ------------------------------------------------------------------------------------------------

    def up(self, *arguments: str, ready: bool = True, **environ: str) -> System:
        """Start `flux up` with further variables; with `ready` wait until it takes work."""
        assert self._up is None or self._up.poll() is not None, "it is up already"
        self.home.parent.mkdir(parents=True, exist_ok=True)
        self._said_before = len(self.said())
        with self._words.open("ab") as words:
            self._up = subprocess.Popen(
                [FLUX, "up", "--no-ui", *arguments],
                env={**self.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                process_group=0,
            )
        if ready:
            self.wait_said("Flux is up", seconds=30)
        return self

    @property
    def _words(self) -> Path:
        return self.home.parent / f"{self.home.name}.up.log"

    def said(self) -> str:
        """What `flux up` has printed, in all its lives."""
        return self._words.read_text() if self._words.exists() else ""

    def wait_said(self, text: str, seconds: float = 10) -> None:
        """Wait until the present `flux up` has printed this."""

        def said() -> bool:
            found = text in self.said()[self._said_before :]
            assert found or self._up is None or self._up.poll() is None, f"flux up ended: {self.said()}"
            return found

        until(said, seconds, f"{text!r} from flux up")

    def send(self, signum: int) -> None:
        """Send a signal to `flux up`, as a terminal or a service manager does."""
        assert self._up is not None
        self._up.send_signal(signum)

    def wait_down(self, seconds: float = 6 * NOISE) -> int:
        """Wait until `flux up` has ended and no process of this home is left; return its exit code."""
        assert self._up is not None
        code = self._up.wait(seconds)
        until(lambda: not self.processes(), seconds, f"the end of every process; there are {self.processes()}")
        return code

    def stop(self, signum: int = signal.SIGINT) -> int:
        """End the system by a signal and return the exit code of `flux up`."""
        self.send(signum)
        return self.wait_down()

    @property
    def is_up(self) -> bool:
        """Whether `flux up` runs."""
        return self._up is not None and self._up.poll() is None

    def close(self) -> None:
        """Leave no process behind, whatever happened."""
        if self.is_up:
            self.send(signal.SIGINT)
            try:
                self.wait_down()
            except (AssertionError, subprocess.TimeoutExpired):
                print(f"did not end: {self.processes()}")
        until(self._kill_all, 10, "the end of every process")
        if self._up is not None:
            self._up.wait(10)
        if self._flux is not None:
            self._flux.close()
            self._flux = None

    def _kill_all(self) -> bool:
        """Kill what is left; True when nothing was."""
        left = self.processes()
        for pid in left:
            process.send(pid, signal.SIGKILL)
        return not left

    # --- its processes ---------------------------------------------------------------------------------------------

    def processes(self) -> dict[int, str]:
        """Every living process of this home: {pid: its command line}.

        What carries its FLUX_HOME or the way to its supervisor, or writes into it.
        """
        parts = {part.pid for part in home.running(self.home / "run")} | ({self._up.pid} if self._up else set())
        ours = os.fsencode(self.home)
        needles = (b"\0FLUX_HOME=" + ours + b"\0", b"\0FLUX_ENDPOINT=" + ours + b"/")
        found = {}
        for entry in process.table():
            if entry.is_zombie or entry.pid == os.getpid():
                continue
            environ = _environ(entry.pid)
            if entry.pid in parts or any(each in environ for each in needles) or self._writes_here(entry.pid):
                found[entry.pid] = _command(entry.pid)
        return found

    def _writes_here(self, pid: int) -> bool:
        for number in (1, 2):
            try:
                if Path(f"/proc/{pid}/fd/{number}").readlink().is_relative_to(self.home):
                    return True
            except OSError:
                continue
        return False

    def pid_of(self, kind: str) -> int:
        """The pid of a running component: hypervisor, launcher or supervisor."""
        found = [part.pid for part in home.running(self.home / "run") if part.kind == kind and part.state == "running"]
        assert found, f"no {kind} runs: {home.running(self.home / 'run')}"
        return found[0]

    def dag_hosts(self) -> list[int]:
        """The pids of the launcher's children."""
        launcher = self.pid_of("launcher")
        return [entry.pid for entry in process.table() if entry.parent == launcher and not entry.is_zombie]

    def kill(self, kind: str, signum: int = signal.SIGKILL) -> int:
        """Signal a component and return its pid; SIGKILL counts as a death that is meant."""
        pid = self.pid_of(kind)
        os.kill(pid, signum)
        if signum == signal.SIGKILL and kind != "hypervisor":
            self.expect_deaths(1)
        return pid

    def expect_deaths(self, count: int) -> None:
        """Announce deaths of components that the hypervisor will see."""
        self.expected_deaths += count

    def expect_lines(self, *patterns: str) -> None:
        """Announce lines of the components' logs that would otherwise be taken for a defect."""
        self.expected_lines += patterns

    def wait_replaced(self, kind: str, pid: int, seconds: float) -> int:
        """Wait until another process of this kind runs than `pid`, and return its pid."""

        def other() -> int | None:
            running = [part for part in home.running(self.home / "run") if part.kind == kind]
            return next((part.pid for part in running if part.pid != pid and part.state == "running"), None)

        return until(other, seconds, f"another {kind} than {pid}") or 0

    # --- commands and files ----------------------------------------------------------------------------------------

    def flux(self, *arguments: str, seconds: float = 60) -> Done:
        """Run a command of the command line."""
        done = subprocess.run(
            [FLUX, *arguments], env=self.environ, capture_output=True, text=True, timeout=seconds, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str) -> Any:
        """The document that a command prints with --json; the command has to succeed."""
        done = self.flux(*arguments, "--json")
        assert done.code == 0, done
        return done.json

    def dag(self, name: str, source: str) -> Path:
        """Write a file into the DAGs folder, at once whole; `name` without .py is completed."""
        file = self.home / "dags" / (name if Path(name).suffix else f"{name}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        part.write_text(textwrap.dedent(source))
        part.replace(file)
        return file

    def trigger(self, dag_id: str, **options: Any) -> Run:
        """Read changed files and make a manual run; options as those of `actions.trigger`."""
        actions.sync_folder(self.opened)
        run = actions.trigger(self.opened, dag_id, who="test", **options)
        return Run(run.dag_id, run.run_id)

    # --- what the store and the logs say ---------------------------------------------------------------------------

    @property
    def opened(self) -> Flux:
        """The home as a command opens it; made when it is not there."""
        if self._flux is None:
            environ = {name: value for name, value in self.environ.items() if name.startswith("FLUX_")}
            self._flux = Flux.open(config.load(environ), create=True)
        return self._flux

    # What tests ask again and again is read here; a process for each look would keep a core from the system.

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The runs of a DAG as `flux run list --json` has them, but oldest first."""
        rows = self.opened.store.read(lambda connection: listing.runs(connection, dag_id=dag_id))
        return [output.plain(row) for row in reversed(rows)]

    def dag_version(self, dag_id: str) -> dags.DagVersion | None:
        """The newest version of a DAG once the running system has read changed files; None: there is no such DAG."""

        def newest(connection: sa.Connection) -> dags.DagVersion | None:
            try:
                found = dags.by_id(connection, dag_id)
            except NotFound:
                return None
            return None if found.dag_version_id is None else dags.version(connection, found.dag_version_id)

        actions.sync_folder(self.opened)
        return self.opened.store.read(newest)

    def dag_errors(self) -> dict[str, dict[str, Any]]:
        """{file: why it could not be read} once the running system has read changed files."""
        actions.sync_folder(self.opened)
        return {file.path: file.error or {} for file in self.opened.store.read(dags.errors)}

    def run_state(self, run: Run) -> str:
        return self.opened.store.read(lambda connection: listing.run(connection, run.dag_id, run.run_id)).state

    def wait(self, run: Run, state: str = "success", seconds: float = 30) -> None:
        """Wait until the run has this state; a run that ends otherwise fails at once, with its task instances."""

        def there() -> bool:
            now = self.run_state(run)
            assert now == state or now not in ("success", "failed"), f"{now}: {self.tasks(run)}"
            return now == state

        until(there, seconds, f"run {run} to be {state}; {self.tasks(run)}")

    def tasks(self, run: Run) -> dict[str, TaskInstanceRow]:
        """{task_id: its task instance} of a run without mapped tasks."""
        from flux.store import naming

        rows = self.opened.store.read(
            lambda connection: listing.task_instances(connection, naming.run(connection, run.dag_id, run.run_id).id)
        )
        return {row.task_id: row for row in rows}

    def task(self, run: Run, task_id: str) -> TaskInstanceRow:
        return self.tasks(run)[task_id]

    def wait_task(self, run: Run, task_id: str, state: str, seconds: float = 30) -> TaskInstanceRow:
        """Wait until a task instance has this state."""
        until(lambda: self.task(run, task_id).state == state, seconds, f"{task_id} to be {state}")
        return self.task(run, task_id)

    def attempts(self, run: Run, task_id: str) -> list[AttemptRow]:
        """The attempts of a task instance, oldest first."""
        return self.opened.store.read(lambda connection: listing.attempts(connection, run.dag_id, run.run_id, task_id))

    def outcomes(self, run: Run, task_id: str) -> list[str | None]:
        return [attempt.outcome for attempt in self.attempts(run, task_id)]

    def log(self, run: Run, task_id: str, attempt: int = 1) -> str:
        """The log of an attempt; empty while there is none."""
        file = self.home / "logs" / run.dag_id / run.run_id / task_id / "-" / f"{attempt}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait_log(self, run: Run, task_id: str, text: str, *, attempt: int = 1, seconds: float = 30) -> str:
        """Wait until an attempt has printed this, and return its log."""
        until(lambda: text in self.log(run, task_id, attempt), seconds, f"{text!r} in the log of {task_id}")
        return self.log(run, task_id, attempt)

    def component_log(self, kind: str) -> str:
        file = self.home / "run" / f"{kind}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait_file(self, name: str, seconds: float = 30) -> str:
        """Wait until a file of the home has content, and return it."""
        file = self.home / name
        return until(lambda: file.exists() and file.read_text(), seconds, f"something in {name}") or ""

    def unexpected_lines(self, pattern: str) -> list[str]:
        """Lines of the components' logs that match, without those the test announced."""
        lines = [line for kind in ("supervisor", "launcher") for line in self.component_log(kind).splitlines()]
        return [
            line
            for line in lines
            if re.search(pattern, line) and not any(re.search(known, line) for known in self.expected_lines)
        ]

    def show(self) -> None:
        """Print what people would look at after a failure."""
        print(f"--- flux up\n{self.said()}")
        for kind in ("supervisor", "launcher"):
            print(f"--- {kind}.log\n{self.component_log(kind)}")
        print(f"--- processes\n{self.processes()}")


def _environ(pid: int) -> bytes:
    """The environment of a process at its last exec; empty when it is gone or hides it, as Flux's components do."""
    try:
        return b"\0" + Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
    except OSError:
        return b""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "gone"


def need(program: str, reason: str) -> str:
    """Return the path of a program, or skip the test with the reason."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: {reason}")
    return found

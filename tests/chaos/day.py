"""A chaos day: a system that works, and a driver that at random moments does to it what nobody should.

Everything is drawn from one seed, but what happens then also depends on the machine: a seed names a mixture of deeds,
not a repetition.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TypeAlias

from flux import process
from flux.running import home
from tests.acceptance.system import FLUX, System
from tests.chaos.database import Database
from tests.waiting import until

DAGS = Path(__file__).parent / "dags"
#: The files whose DAGs are triggered by hand; `steps` and `past` have a schedule.
BY_HAND = ("fan", "branches", "waits", "limits", "late", "shells", "sizes")
FILES = (*BY_HAND, "steps", "past")
PARALLELISM = 8
#: Slots of each pool, which the journals count as well.
POOLS = {"single": 1, "triple": 3}
#: Seconds without a sign of life after which a component is restarted: less than the longest stop, more than the
#: database is ever kept busy.
STUCK = 6
#: Seconds that a command may take on a machine that has other work.
COMMAND = 60.0
#: Seconds in which everything must have ended once nobody interferes any more.
QUIET = 120.0


@dataclass
class Deeds:
    """What was done, for the checks: which deaths and which gaps in the records are the driver's."""

    #: Pids of components that were killed or stopped.
    harmed: set[int] = field(default_factory=set)
    #: Seconds since 1970 at which a process that writes the ends of logs was killed.
    log_ends_lost: list[float] = field(default_factory=list)
    #: (dag_id, run_id)
    deleted: set[tuple[str, str]] = field(default_factory=set)
    upgraded: set[tuple[str, str]] = field(default_factory=set)
    #: The provider that listens was gone for a moment: what was to be told then is dropped, and the listener ended.
    provider_gone: bool = False
    done: Counter[str] = field(default_factory=Counter)


@dataclass
class _Command:
    words: tuple[str, ...]
    process: subprocess.Popen[bytes]
    began: float
    output: IO[bytes]


class Day:
    """One system, its driver and what they did to each other.

    Args:
        pace: mean seconds between two deeds.
    """

    def __init__(self, folder: Path, database: Database, seed: int, minutes: float, pace: float) -> None:
        self.dice = random.Random(seed)
        self.database = database
        self.minutes = minutes
        self.pace = pace
        self.system = System(folder / "home", database.url)
        self.home = self.system.home
        self.deeds = Deeds()
        #: What went wrong before the checks.
        self.findings: list[str] = []
        self._began = time.monotonic()
        self.commands: list[_Command] = []
        self.killed: set[int] = set()
        #: Seconds that `flux up` took at most to end.
        self.slowest_end = 0.0
        self.frozen: list[tuple[int, threading.Timer]] = []
        self.busy: list[tuple[threading.Event, threading.Thread]] = []
        self.pause = threading.Event()
        #: When each component was first seen, and how many of a kind were killed young by the present `flux up`.
        self.seen: dict[int, float] = {}
        self.early: Counter[str] = Counter()
        self.edits = 0
        self._diary = (folder / "diary").open("a", buffering=1)

    def say(self, what: str) -> None:
        """Write what is done into the diary."""
        print(f"{time.monotonic() - self._began:7.2f} {datetime.now(UTC):%H:%M:%S.%f} {what}", file=self._diary)

    def did(self, kind: str, detail: str = "") -> None:
        self.deeds.done[kind] += 1
        self.say(f"{kind} {detail}".rstrip())

    # --- the day ---------------------------------------------------------------------------------------------------

    def live(self, deeds: Mapping[Deed, float]) -> None:
        """Start the system, interfere for the given time, mend everything, wait until all is quiet, and stop."""
        try:
            self._prepare()
            self.up()
            deadline = time.monotonic() + self.minutes * 60
            while time.monotonic() < deadline:
                self.pause.wait(min(self.dice.expovariate(1 / self.pace), 4))
                with contextlib.suppress(NothingThere):
                    self.dice.choices(list(deeds), list(deeds.values()))[0](self)
                self.collect()
                for part in home.running(self.home / "run"):
                    self.seen.setdefault(part.pid, time.monotonic())
                if not self.system.is_up:
                    self.findings.append(f"flux up ended by itself: {self.system.said()[-400:]}")
                    self.up()
            self._mend()
            self._wait_quiet()
            self._flux("status")
            code = self.system.stop()
            if code != 130:
                self.findings.append(f"flux up ended with {code} after Ctrl-C")
        except (AssertionError, subprocess.TimeoutExpired, OSError) as error:
            self.findings.append(f"{type(error).__name__}: {error}")
        finally:
            self._release()
            for command in self.commands:
                command.process.kill()
                command.process.wait()

    def close(self) -> None:
        """Leave no process."""
        self.system.close()
        self._diary.close()

    def _prepare(self) -> None:
        end = datetime.now(UTC) + timedelta(minutes=self.minutes)
        self.system.environ |= {
            "CHAOS_END": end.isoformat(timespec="seconds"),
            "FLUX_DURABILITY": "fast",
            "FLUX_PARALLELISM": str(PARALLELISM),
            "FLUX_STUCK_SECONDS": str(STUCK),
            "PYTHONWARNINGS": "always::ResourceWarning",
        }
        for folder in ("dags", "journal", "locks", "files"):
            (self.home / folder).mkdir(parents=True)
        self._flux("init")
        self._set_pools()
        for path in DAGS.glob("*.py"):
            shutil.copy(path, self.home / "dags")

    def _set_pools(self) -> None:
        for name, slots in POOLS.items():
            self._flux("pool", "set", name, str(slots))

    def _flux(self, *words: str) -> None:
        done = self.system.flux(*words)
        assert done.code == 0, f"`flux {' '.join(words)}`: {done}"

    def up(self) -> None:
        self.say("up")
        self.early.clear()
        self.system.up(*self.dice.choice(((), ("--drain", "2"))))
        self.say(f"is up; {[(part.kind, part.pid) for part in home.running(self.home / 'run')]}")

    def _mend(self) -> None:
        self.say("mend")
        self._release()
        for path in DAGS.glob("*.py"):
            self.write(path.name, path.read_text())
        until(lambda: not self.collect(), COMMAND, "the end of all commands")
        for row in self.database.rows("SELECT dag_id FROM dag WHERE paused"):
            self._flux("dag", "unpause", row.dag_id)
        self._set_pools()

    def _wait_quiet(self) -> None:
        deadline = time.monotonic() + QUIET
        while left := self._unfinished():
            if time.monotonic() > deadline:
                self.findings.append(f"not quiet after {QUIET:.0f} s: {left}")
                self._ask_why()
                return
            self.pause.wait(0.5)
        self.say("quiet")

    def _unfinished(self) -> list[str]:
        """What is still to be done: runs, what is due, and what is to be told."""
        rows = self.database.rows
        # A day that failed for good holds the days after it for good.
        held = bool(rows(_FAILED_DAYS))
        found = [
            f"{row.dag_id} {row.run_id} {row.state}" for row in rows(_OPEN_RUNS) if not (held and row.dag_id == "past")
        ]
        now = datetime.now(UTC).replace(tzinfo=None)
        for row in rows("SELECT dag_id, next_due_at FROM dag WHERE next_due_at IS NOT NULL AND NOT paused"):
            due = datetime.fromisoformat(row.next_due_at) if isinstance(row.next_due_at, str) else row.next_due_at
            if due <= now and not (held and row.dag_id == "past"):
                found.append(f"{row.dag_id} is due since {due}")
        count = rows("SELECT count(*) AS n FROM outbox WHERE state = 'waiting'")[0].n
        return found + ([f"{count} messages to tell"] if count else [])

    def _ask_why(self) -> None:
        for row in self.database.rows(_OPEN_INSTANCES):
            why = self.system.flux("why", row.dag_id, row.run_id, row.task_id)
            self.findings.append(
                f"  {row.dag_id} {row.run_id} {row.task_id} is {row.state} (blocked on {row.blocked_on!r}, "
                f"claim {row.claim}): {' '.join(why.out.split())}"
            )

    def _release(self) -> None:
        """Let go of whatever is held or stopped."""
        for free, thread in self.busy:
            free.set()
            thread.join(40)
        for pid, timer in self.frozen:
            timer.cancel()
            process.send(pid, signal.SIGCONT)
        self.busy, self.frozen = [], []

    # --- commands and files ----------------------------------------------------------------------------------------

    def command(self, *words: str, asks: bool = False) -> None:
        """Begin a command of the command line; of one that asks, only what it says on stderr is looked at."""
        if len(self.commands) >= 2:
            raise NothingThere
        self.did(" ".join(words[:2]), " ".join(words[2:]))
        output = tempfile.TemporaryFile()  # noqa: SIM115
        child = subprocess.Popen(
            [FLUX, *words],
            env=self.system.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if asks else output,
            stderr=output,
        )
        self.commands.append(_Command(words, child, time.monotonic(), output))

    def collect(self) -> int:
        """Look at the commands that have ended; return how many have not."""
        for command in list(self.commands):
            name = " ".join(command.words)
            if command.process.poll() is None:
                if time.monotonic() - command.began > COMMAND:
                    self.findings.append(f"`flux {name}` hangs")
                    command.process.send_signal(signal.SIGABRT)
                    command.process.wait()
                continue
            self.commands.remove(command)
            command.output.seek(0)
            said = command.output.read().decode(errors="replace")
            self.say(f"`flux {name}`: {command.process.returncode} {' '.join(said.split())[-300:]}")
            if command.process.pid in self.killed:
                command.output.close()
                continue
            if command.process.returncode not in (0, 1) or "Traceback" in said or "Warning" in said:
                self.findings.append(f"`flux {name}` ended with {command.process.returncode}: {said[-1500:]}")
            command.output.close()
        return len(self.commands)

    def write(self, name: str, text: str) -> None:
        part = self.home / "dags" / f".{name}.part"
        part.write_text(text)
        part.replace(self.home / "dags" / name)


#: Something to do to a system.
Deed: TypeAlias = "Callable[[Day], None]"


class NothingThere(Exception):
    """There is nothing now to which the deed could be done."""


_OPEN_RUNS = (
    "SELECT dag_id, run_id, state FROM dag_run JOIN dag ON dag.id = dag_row WHERE state IN ('queued', 'running')"
)
_OPEN_INSTANCES = """
    SELECT dag_id, run_id, task_id, task_instance.state AS state, blocked_on, claim
    FROM task_instance JOIN dag_run ON dag_run.id = dag_run_id JOIN dag ON dag.id = dag_row
    WHERE task_instance.state NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
    ORDER BY task_instance.id LIMIT 8
"""
_FAILED_DAYS = """
    SELECT 1 FROM task_instance JOIN dag_run ON dag_run.id = dag_run_id JOIN dag ON dag.id = dag_row
    WHERE dag_id = 'past' AND task_instance.state IN ('failed', 'upstream_failed') LIMIT 1
"""

"""Run the Seattle example as a user would: a fresh home, `flux up`, files that arrive, and the result compared.

Everything is done by public commands (`flux init`, `flux up`, `flux run list --json` …), so this is also a client to
copy from. Exits 0 only if the target database holds exactly what this program computes from the data by itself,
130 when interrupted. The home stays where it is, to be looked at.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any
from zoneinfo import ZoneInfo

HERE = Path(__file__).resolve().parent
DATA = HERE / "seattle-temps-2010-03.csv"
SEATTLE = ZoneInfo("America/Los_Angeles")
DAG_ID = "seattle"
#: Where `aggregate` fails once (seattle.py), and which file arrives late.
BAD_DAY = "2010-03-10"
LATE_DAY = "2010-03-31"
#: Seconds between two files; until the system must be up; until all must be done.
DELIVERY_SECONDS = 0.2
UP_SECONDS = 30.0
LIMIT_SECONDS = 120.0

#: State to the character that shows it, for terminals that have Unicode and for those that have not.
SYMBOLS = {
    "waiting": ("·", "."),
    "ready": ("○", "o"),
    "queued": ("○", "o"),
    "started": ("▶", ">"),
    "deferred": ("~", "~"),
    "retrying": ("↻", "r"),
    "success": ("✓", "+"),
    "failed": ("✗", "X"),
    "skipped": ("–", "-"),
    "upstream_failed": ("✗", "X"),
    "removed": (" ", " "),
}


class DemoFailed(Exception):
    """Something did not happen as it must; the message says what."""


class System:
    """A Flux home of its own, the commands on it, and the running system."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.flux = Path(sys.executable).with_name("flux")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
        self.env["FLUX_HOME"] = str(home)
        self.up_log = home / "up.log"

    def call(self, *arguments: str) -> str:
        """Run one command and return what it printed; DemoFailed when it refuses."""
        command = [str(self.flux), *arguments]
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise DemoFailed(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr or done.stdout}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Run one command with --json and return the document."""
        return json.loads(self.call(*arguments, "--json"))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have `flux up` running inside the block; whatever ends the block also ends every process of it."""
        with self.up_log.open("wb") as log:
            # A session of its own: Ctrl-C reaches this program, which passes it on once.
            up = subprocess.Popen(
                [str(self.flux), "up", "--no-ui"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                self._wait_until_up(up)
                yield
            finally:
                self._stop(up)

    def _wait_until_up(self, up: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + UP_SECONDS
        while "Flux is up" not in self.up_log.read_text(errors="replace"):
            if up.poll() is not None:
                raise DemoFailed(f"flux up ended with {up.returncode}:\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"flux up was not up after {UP_SECONDS:g} s:\n{self._last_words()}")
            time.sleep(0.02)

    def _last_words(self) -> str:
        return "\n".join(self.up_log.read_text(errors="replace").splitlines()[-12:])

    def _stop(self, up: subprocess.Popen[bytes]) -> None:
        """End the system: ask, ask again (which kills), and at last kill what does not listen."""
        for ask, patience in ((signal.SIGTERM, 10.0), (signal.SIGINT, 4.0)):
            if up.poll() is None:
                up.send_signal(ask)
                try:
                    up.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
                except KeyboardInterrupt:
                    continue
        if up.poll() is None:
            os.killpg(up.pid, signal.SIGKILL)
            up.wait()


class Delivery:
    """Hands the month out as one file a day into `incoming/`, in order."""

    def __init__(self, folder: Path) -> None:
        self.incoming = folder / "incoming"
        self.incoming.mkdir(parents=True)
        self.days: dict[str, list[dict[str, str]]] = {}
        with DATA.open(newline="") as file:
            for row in csv.DictReader(file):
                self.days.setdefault(row["date"][:10].replace("/", "-"), []).append(row)
        self.pending = list(self.days)
        self._next_at = 0.0

    def step(self, now: float) -> None:
        """Deliver what is due by `now`; the late day is kept back."""
        while self.pending and self.pending[0] != LATE_DAY and self._next_at <= now:
            self.deliver(self.pending[0])
            self._next_at = max(self._next_at, now - 1) + DELIVERY_SECONDS

    def deliver(self, day: str) -> None:
        """Write the file of `day` whole, and only then give it its name."""
        self.pending.remove(day)
        unfinished = self.incoming / f".{day}.csv"
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["date", "temp"])
            writer.writeheader()
            writer.writerows(self.days[day])
        unfinished.rename(self.incoming / f"{day}.csv")

    def expected(self) -> dict[str, tuple[int, float, float, float]]:
        """Compute what the database must hold, by other means than the pipeline: day to (hours, mean, low, high)."""
        numbers = {}
        for day, rows in self.days.items():
            readings = [Fraction(row["temp"]) for row in rows]
            mean = round(sum(readings, start=Fraction()) / len(readings), 2)
            numbers[day] = (len(readings), float(mean), float(min(readings)), float(max(readings)))
        return numbers


class Picture:
    """What is known of every day's task instances, and how it is shown: a tree in a terminal, else plain lines."""

    def __init__(self, days: list[str]) -> None:
        self.days = days
        self.tasks: list[tuple[str, int]] = []
        self.states: dict[str, dict[str, str]] = {day: {} for day in days}
        self.runs: dict[str, str] = {}
        self.live = sys.stdout.isatty() and os.environ.get("TERM") not in (None, "dumb")
        self.column = 0 if "utf" in (sys.stdout.encoding or "").lower() else 1
        self._drawn = 0
        self._said = ""
        self._began = time.monotonic()

    def learn_tasks(self, tasks: list[dict[str, Any]]) -> None:
        """Take the DAG's tasks (`flux task list`), upstream before downstream, as a tree."""
        depth: dict[str, int] = {}
        for task in tasks:
            depth[task["task_id"]] = 1 + max((depth.get(up, 0) for up in task["upstream"]), default=0)
        self.tasks = list(depth.items())

    def say(self, text: str) -> None:
        """Print one line that stays, above the tree."""
        self._erase()
        print(f"{time.monotonic() - self._began:5.1f} s  {text}", flush=True)
        self.draw()

    def update(self) -> None:
        """Show what is known now."""
        if self.live:
            self.draw()
            return
        counts = Counter(self.runs.values())
        summary = f"{len(self.runs)} runs: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        if summary != self._said:
            self._said = summary
            self.say(summary)

    def draw(self) -> None:
        if self.live:
            self._erase()
            lines = self.lines()
            print("\n".join(lines), flush=True)
            self._drawn = len(lines)

    def lines(self) -> list[str]:
        """The tree: a line for each task, a column for each day."""
        ruler = "".join(f"{number:<5}" for number in range(1, len(self.days) + 1, 5))
        out = ["", f"{'March 2010':<26}{ruler}", f"{DAG_ID:<26}{self._row([self.runs.get(d, '') for d in self.days])}"]
        branch = "└ " if self.column == 0 else "- "
        for task_id, depth in self.tasks:
            states = [self.states[day].get(task_id, "") for day in self.days]
            out.append(f"{'  ' * (depth - 1) + branch + task_id:<26}{self._row(states)}")
        legend = ("waiting", "ready", "started", "deferred", "retrying", "success", "failed")
        return [*out, "  ".join(f"{SYMBOLS[state][self.column]} {state}" for state in legend), ""]

    def _row(self, states: list[str]) -> str:
        states = ["started" if state == "running" else state for state in states]
        return "".join(SYMBOLS.get(state, (" ", " "))[self.column] for state in states)

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="")
            self._drawn = 0


class Watch:
    """Asks the system for its runs, and for the task instances of those that move."""

    #: How many runs are looked at in one turn; each is a command, so a process.
    AT_ONCE = 2

    def __init__(self, system: System, delivery: Delivery, picture: Picture) -> None:
        self.system = system
        self.delivery = delivery
        self.picture = picture
        self._looked: dict[str, float] = {}

    def turn(self) -> None:
        """Ask once, and show what changed."""
        runs = {}
        for run in self.system.json("run", "list", "--dag", DAG_ID, "--limit", "40"):
            day = datetime.fromisoformat(run["logical_date"]).astimezone(SEATTLE).date().isoformat()
            runs[day] = run
            self.picture.runs[day] = run["state"]
            if run["state"] == "success":
                self.picture.states[day] = {task_id: "success" for task_id, _ in self.picture.tasks}
        moving = [day for day, run in runs.items() if run["state"] == "running"]
        moving.sort(key=lambda day: (day in self.delivery.pending, self._looked.get(day, 0.0), day))
        for day in moving[: self.AT_ONCE]:
            self.look(day, runs[day]["run_id"])
        self.picture.update()

    def look(self, day: str, run: str) -> dict[str, dict[str, Any]]:
        """Ask for one run's task instances, by task_id, and remember their states."""
        self._looked[day] = time.monotonic()
        instances = {each["task_id"]: each for each in self.system.json("run", "show", DAG_ID, run)["task_instances"]}
        before = self.picture.states[day]
        self.picture.states[day] = {task_id: instance["state"] for task_id, instance in instances.items()}
        for task_id, instance in instances.items():
            if instance["state"] == "retrying" and before.get(task_id) != "retrying":
                self.picture.say(f"{task_id} of {day} failed and will try again: {instance['reason']}")
        return instances


def run_month(system: System, delivery: Delivery, picture: Picture) -> None:
    """Deliver the month while the system runs it; return when every run has succeeded."""
    watch = Watch(system, delivery, picture)
    deadline = time.monotonic() + LIMIT_SECONDS
    others = [day for day in delivery.days if day != LATE_DAY]
    while not all(picture.runs.get(day) == "success" for day in delivery.days):
        if time.monotonic() > deadline:
            raise DemoFailed(f"Not done after {LIMIT_SECONDS:g} s. Runs: {picture.runs}")
        delivery.step(time.monotonic())
        if not picture.tasks:
            wait_for_dag(system, picture, deadline)
        watch.turn()
        failed = [day for day, state in picture.runs.items() if state == "failed"]
        if failed:
            raise DemoFailed(f"The run of {failed[0]} failed. See {system.home / 'logs' / DAG_ID}")
        if delivery.pending == [LATE_DAY] and all(picture.runs.get(day) == "success" for day in others):
            sensor = watch.look(LATE_DAY, LATE_DAY)["wait_for_file"]
            if sensor["state"] == "deferred":
                delivery.deliver(LATE_DAY)
                picture.say(f"30 days are done. wait_for_file of {LATE_DAY} is deferred: it waits without a process")
                picture.say(f"or a slot. Its file arrives now, late: {LATE_DAY}.csv")


def wait_for_dag(system: System, picture: Picture, deadline: float) -> None:
    """Wait until the DAG file that was put into the folder is known, and take its tasks."""
    while not any(row["dag_id"] == DAG_ID for row in system.json("dag", "list")):
        errors = subprocess.run([str(system.flux), "dag", "errors"], env=system.env, capture_output=True, text=True)
        if errors.returncode:
            raise DemoFailed(f"The DAG file cannot be read:\n{errors.stdout}")
        if time.monotonic() > deadline:
            raise DemoFailed(f"The DAG file was not picked up. See {system.up_log}")
    picture.learn_tasks(system.json("task", "list", DAG_ID))
    picture.say(f"DAG {DAG_ID!r} is picked up: {len(picture.tasks)} tasks; files arrive every {DELIVERY_SECONDS:g} s")


def check(system: System, delivery: Delivery, database: Path) -> str:
    """Compare the database with the data, and the retry with what was asked; return the verdict's line."""
    with closing(sqlite3.connect(database)) as connection:
        found = {row[0]: tuple(row[1:]) for row in connection.execute("SELECT ds, hours, mean, low, high FROM day")}
    expected = delivery.expected()
    wrong = [
        f"{day}: expected {expected.get(day)}, found {found.get(day)}"
        for day in sorted(expected.keys() | found.keys())
        if expected.get(day) != found.get(day)
    ]
    if wrong:
        raise DemoFailed("The numbers in the database are wrong:\n" + "\n".join(wrong))
    outcomes = [each["outcome"] for each in system.json("task", "attempts", DAG_ID, BAD_DAY, "aggregate")]
    if outcomes != ["failed", "success"]:
        raise DemoFailed(f"aggregate of {BAD_DAY} should fail once, then succeed; its attempts: {outcomes}")
    hours = sum(numbers[0] for numbers in found.values())
    short = expected["2010-03-14"][0]
    return f"Right: {len(found)} days, {hours} hours ({short} on 14 March), each number as computed from the data"


def try_next(system: System) -> str:
    """What a person may do now with what is there."""
    here = Path.cwd()
    flux = system.flux.relative_to(here) if system.flux.is_relative_to(here) else system.flux
    return f"""
Logs      {system.home / "logs" / DAG_ID}/<run>/<task>/-/<attempt>.log
Reports   {system.home / "seattle" / "reports"}      Database  {system.home / "seattle" / "seattle.db"}

Try next
  export FLUX_HOME={shlex.quote(str(system.home))}
  {flux} run show {DAG_ID} 2010-03-14
  {flux} task attempts {DAG_ID} {BAD_DAY} aggregate
  {flux} task log {DAG_ID} {BAD_DAY} aggregate --attempt 1
  {flux} up            # the same system again; Ctrl-C ends it. Edit $FLUX_HOME/dags/seattle.py meanwhile
  docs/tutorial/first-pipeline.md shows how to write a DAG of your own
"""


def run(home: Path) -> None:
    system = System(home)
    folder = home / "seattle"
    delivery = Delivery(folder)
    picture = Picture(list(delivery.days))
    picture.say(f"A fresh home: {home}")
    system.call("init")
    system.call("variable", "set", "seattle_folder", str(folder))
    with system.running():
        picture.say("flux up: the system runs")
        shutil.copy(HERE / "seattle.py", home / "dags" / "seattle.py")
        run_month(system, delivery, picture)
        verdict = check(system, delivery, folder / "seattle.db")
    if not picture.live:
        print("\n".join(picture.lines()))
    print("Temperatures of Seattle, March 2010 (NOAA, public domain)")
    for day in delivery.days:
        print(" ", (folder / "reports" / f"{day}.txt").read_text(encoding="utf-8").strip())
    print(f"\n{verdict}.\n{try_next(system)}")


def interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the Seattle example in a fresh home.")
    parser.add_argument("--home", type=Path, help="an empty or missing folder to use; default: a temporary one")
    arguments = parser.parse_args()
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupt)
    if arguments.home and arguments.home.exists() and any(arguments.home.iterdir()):
        parser.error(f"{arguments.home} is not empty")
    home = (arguments.home or Path(tempfile.mkdtemp(prefix="flux-demo-"))).absolute()
    home.mkdir(parents=True, exist_ok=True)
    try:
        run(home)
    except KeyboardInterrupt:
        print("\nInterrupted; every process is ended.", file=sys.stderr)
        return 130
    except DemoFailed as error:
        print(f"\nThe demo failed: {error}\nThe home is kept: {home}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What `flux up` makes of a home, a database, a disk and a clock that are not as they should be."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux.store import migrations
from tests.acceptance import invariants
from tests.acceptance.system import NOISE, Run, System, every_database, every_server
from tests.databases import nobody_in
from tests.waiting import until

ONE = """
    from flux import DAG
    from flux.operators import BashOperator

    with DAG("one", schedule=None):
        BashOperator(task_id="one", bash_command="true")
"""

#: Task `hold` runs until the test makes `go`.
HOLD = """
    from flux import DAG
    from flux.operators import BashOperator

    with DAG("hold", schedule=None):
        hold = BashOperator(
            task_id="hold", bash_command='echo begun; until [ -e "$FLUX_HOME/go" ]; do sleep 0.02; done'
        )
        hold >> BashOperator(task_id="after", bash_command="true")
"""


def runs_a_task(system: System) -> Run:
    system.dag("one", ONE)
    run = system.trigger("one")
    system.wait(run)
    return run


def refused(system: System, *names: str) -> None:
    """`flux up` ends with exit code 1 and one line that has these words, and leaves nothing behind."""
    before = len(system.said())
    system.up(ready=False)
    assert system.wait_down(30) == 1
    lines = [line for line in system.said()[before:].splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert all(name in lines[0] for name in names), lines


# --- the home --------------------------------------------------------------------------------------------------------


def test_second_system_on_one_home_is_refused_with_the_pid_of_the_first(system: System) -> None:
    system.up()
    done = system.flux("up")
    assert (done.code, done.out) == (1, "")
    assert f"pid {system.pid_of('hypervisor')}" in done.err
    assert len(done.err.strip().splitlines()) == 1
    runs_a_task(system)


def test_second_system_on_one_sqlite_file_is_refused_with_the_pid_of_the_first(system: System, tmp_path: Path) -> None:
    system.up()
    other = System(tmp_path / "other", f"sqlite:///{system.home}/flux.db")
    refused(other, f"pid {system.pid_of('supervisor')}")
    other.close()
    runs_a_task(system)


def test_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = System(tmp_path / "file" / "home").flux("up")
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "FLUX_HOME" in done.err
    assert str(tmp_path / "file") in done.err


def test_home_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    refused(System(home), "FLUX_HOME", str(home))


def test_home_with_a_path_too_long_for_sockets_works(tmp_path: Path) -> None:
    system = System(tmp_path / ("long" * 30) / "home")
    try:
        system.up()
        runs_a_task(system)
        assert system.json("status")["state"] == "up"
        assert system.stop() == 130
        invariants.check(system)
    finally:
        system.close()


def test_sockets_and_lists_of_an_earlier_system_are_in_nobodys_way(system: System) -> None:
    """Files of a killed system stay; so may somebody's socket under the same name."""
    run_folder = system.home / "run"
    run_folder.mkdir(parents=True)
    (run_folder / "endpoint").write_text("/nowhere/supervisor.sock")
    (run_folder / "components.json").write_text("{half")
    (run_folder / "up.pid").write_text("1\n")
    with contextlib.ExitStack() as kept:
        for name in ("launcher.sock", "supervisor.sock"):
            taken = kept.enter_context(socket.socket(socket.AF_UNIX))
            taken.bind(str(run_folder / name))
            taken.listen()
        system.up()
        runs_a_task(system)
        assert system.json("status")["state"] == "up"


# --- the database ----------------------------------------------------------------------------------------------------


def test_database_newer_than_the_code_is_refused_untouched(system: System) -> None:
    assert system.flux("init").code == 0
    set_schema(system, "9999")
    before = (system.home / "flux.db").read_bytes()
    refused(system, "newer Flux")
    assert (system.home / "flux.db").read_bytes() == before
    set_schema(system, migrations.HEAD)


def set_schema(system: System, revision: str) -> None:
    """Write a revision into the database file itself."""
    with contextlib.closing(sqlite3.connect(system.home / "flux.db", isolation_level=None)) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@every_database
def test_database_that_is_away_for_a_moment_loses_nothing(system: System) -> None:
    """A task ends while nobody can write: it is recorded when the database is back, and no task is killed."""
    system.dag("hold", HOLD)
    system.up()
    run = system.trigger("hold")
    system.wait_log(run, "hold", "begun")
    system.expect_lines(".")
    with database_away(system):
        (system.home / "go").touch()
        results = system.home / "run" / "results"
        until(lambda: list(results.glob("*.json")), 10, "the end of the task")
        if "FLUX_DATABASE_URL" in system.environ:
            until(lambda: "Nothing is lost" in system.component_log("supervisor"), 10, "a word about the database")
    system.wait(run, seconds=10 * NOISE)
    assert system.outcomes(run, "hold") == ["success"]
    assert system.outcomes(run, "after")[-1] == "success"


@every_server
def test_supervisor_that_restarts_while_the_database_is_away_waits_for_it(system: System) -> None:
    system.dag("hold", HOLD)
    system.up()
    run = system.trigger("hold")
    system.wait_log(run, "hold", "begun")
    system.expect_lines(".")
    with database_away(system):
        old = system.kill("supervisor")
        until(lambda: "Nothing is lost" in system.component_log("supervisor"), 20, "a word about the database")
        (system.home / "go").touch()
    system.wait_replaced("supervisor", old, 5 * NOISE)
    system.wait(run)
    assert system.outcomes(run, "hold") == ["success"]


@contextlib.contextmanager
def database_away(system: System) -> Iterator[None]:
    """Keep everybody from the system's database: others' connections are cut, or its file is locked."""
    url = system.environ.get("FLUX_DATABASE_URL")
    if url is None:
        with contextlib.closing(sqlite3.connect(system.home / "flux.db", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
            database.execute("ROLLBACK")
        return
    with nobody_in(url):
        yield


# --- the disk --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, *, leave: int) -> Path:
    """Take all space of a disk but `leave` bytes."""
    file = folder / "filling"
    with file.open("wb") as target:
        free = shutil.disk_usage(folder).free - leave
        os.posix_fallocate(target.fileno(), 0, max(free, 1))
    return file


def test_nearly_full_disk_lets_nothing_start_until_there_is_space(small_disk: Path) -> None:
    system = System(small_disk / "home")
    try:
        system.dag("hold", HOLD)
        system.up()
        run = system.trigger("hold")
        system.wait_log(run, "hold", "begun")
        filling = fill(small_disk, leave=400_000)
        (system.home / "go").touch()
        system.wait_task(run, "hold", "success")
        until(lambda: "nearly full" in (system.flux("status", "--json").json["trouble"] or ""), 20, "the warning")
        assert system.task(run, "after").state == "ready"
        filling.unlink()
        system.wait(run, seconds=5 * NOISE)
        assert system.stop() == 130
        invariants.check(system)
    finally:
        system.show()
        system.close()


def test_full_disk_of_the_database_loses_no_end(small_disk: Path) -> None:
    system = System(small_disk / "home")
    try:
        system.dag("hold", HOLD)
        system.up()
        run = system.trigger("hold")
        system.wait_log(run, "hold", "begun")
        supervisor = system.pid_of("supervisor")
        os.kill(supervisor, signal.SIGSTOP)
        (system.home / "go").touch()
        until(lambda: list((system.home / "run" / "results").glob("*.json")), 10, "the end of the task")
        filling = fill(small_disk, leave=0)
        os.kill(supervisor, signal.SIGCONT)
        until(lambda: "full" in (system.flux("status", "--json").json["trouble"] or ""), 20, "the warning")
        filling.unlink()
        system.wait(run, seconds=10 * NOISE)
        assert system.outcomes(run, "hold") == ["success"]
        assert system.pid_of("supervisor") == supervisor
        assert system.stop() == 130
        invariants.check(system)
    finally:
        system.show()
        system.close()


# --- the clock -------------------------------------------------------------------------------------------------------


def test_clock_that_jumps_makes_no_run_twice_and_kills_nobody(system: System, tmp_path: Path) -> None:
    library = ctypes.util.find_library("faketime") or next(
        (str(path) for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None
    )
    if library is None:
        pytest.skip("libfaketime is not installed: nothing else moves the clock of a process tree")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    system.environ |= {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    system.dag(
        "hourly",
        """
        from flux import DAG
        from flux.operators import BashOperator

        with DAG("hourly", schedule="0 * * * *", start_date="2020-01-01", catchup=False):
            BashOperator(task_id="one", bash_command="true")
        """,
    )
    system.dag("hold", HOLD)
    system.up()
    held = system.trigger("hold")
    system.wait_log(held, "hold", "begun")
    dates = lambda: [row["logical_date"] for row in system.runs("hourly")]  # noqa: E731
    until(lambda: len(dates()) == 1, 20, "the run of the latest hour")
    for offset, count in (("+1h", 2), ("+0", 2), ("+1h", 2), ("+2h", 3)):
        clock.write_text(offset)
        until(lambda count=count: len(dates()) == count, 20, f"{count} runs at {offset}")
        assert len(set(dates())) == count
    (system.home / "go").touch()
    system.wait(held)
    assert system.outcomes(held, "hold") == ["success"]

"""`flux run …` and what `flux task …` shows of runs; the store is filled without running anything."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flux.app import Flux
from flux.cli import attempt_log
from flux.errors import PluginError
from flux.states import Event, Outcome
from flux.store import naming, transitions
from flux.store.advance import Advance
from flux.store.attempts import End, log_path
from flux.store.runs import DagRun
from flux.store.structures import StructureCache
from flux.times import utc_now
from tests.installed import install
from tests.waiting import until

if TYPE_CHECKING:
    from tests.core.cli.conftest import Cli

pytestmark = pytest.mark.slow
CLAIM = 4711


@pytest.fixture
def mine(sales: Cli) -> Cli:
    """`sales` with the run `mine` of 5 January, which waits."""
    sales.ok("dag", "trigger", "sales", "--logical-date", "2026-01-05", "--run-id", "mine")
    return sales


@pytest.fixture
def flux(mine: Cli) -> Iterator[Flux]:
    with mine.opened() as flux:
        yield flux


def open_attempt(flux: Flux, text: bytes) -> DagRun:
    """Open attempt 1 of extract, with this log."""

    def work(connection: Any) -> DagRun:
        run = naming.run(connection, "sales", "mine")
        row, _ = naming.task_instance_row(connection, run, "extract", None)
        now = utc_now()
        values = {
            "b_id": row, "b_attempt": 1, "b_claim": CLAIM, "b_job_id": 1, "b_now": now, "b_deadline_at": None,
            "b_holds": 0,
        }  # fmt: skip
        attempt = {
            "task_instance_id": row, "attempt": 1, "claim": CLAIM, "job_id": 1, "launcher": "x", "host": "here",
            "started_at": now, "log": log_path(run, "extract", -1, 1),
        }  # fmt: skip
        transitions.open_attempts(connection, Event.CLAIM, [values], [attempt])
        return run

    run = flux.store.write(work)
    log = flux.config.logs_folder / log_path(run, "extract", -1, 1)
    log.parent.mkdir(parents=True)
    log.write_bytes(text)
    return run


def test_runs_are_filtered_and_limited(mine: Cli) -> None:
    mine.ok("dag", "trigger", "sales", "--run-id", "second")

    def ids(*options: str) -> list[str]:
        return [row["run_id"] for row in mine.ok("run", "list", "--json", *options).json]

    assert ids() == ["second", "mine"]
    assert ids("--limit", "1") == ["second"]
    assert ids("--dag", "sales", "--state", "running", "--kind", "manual") == ["second", "mine"]
    assert ids("--state", "failed") == ids("--kind", "scheduled") == []
    assert mine("run", "list", "--dag", "salse").code == 1
    assert mine("run", "list", "--state", "nope").code == 2


def test_run_is_shown_by_run_id_and_by_date_with_its_task_instances(mine: Cli) -> None:
    by_id = mine.ok("run", "show", "sales", "mine", "--json").json
    assert mine.ok("run", "show", "sales", "2026-01-05", "--json").json == by_id
    assert set(by_id) >= {
        "dag_id", "run_id", "kind", "logical_date", "data_interval", "state", "created_at", "started_at", "ended_at",
        "version", "task_instances",
    }  # fmt: skip
    assert [(each["task_id"], each["state"]) for each in by_id["task_instances"]] == [
        ("extract", "ready"),
        ("load", "waiting"),
    ]
    assert set(by_id["task_instances"][0]) == {
        "task_id", "map_index", "state", "attempt", "max_attempts", "started_at", "ended_at", "reason", "operator",
        "pool", "queue", "host", "pid",
    }  # fmt: skip
    assert by_id["task_instances"][0]["map_index"] is None


def test_date_that_names_two_runs_is_refused_listing_them(mine: Cli) -> None:
    mine.ok("dag", "trigger", "sales", "--logical-date", "2026-01-05", "--run-id", "other")
    done = mine("run", "show", "sales", "2026-01-05")
    assert done.code == 1
    assert "mine" in done.err
    assert "other" in done.err


def test_deleting_without_a_terminal_needs_yes_and_prints_the_list(mine: Cli) -> None:
    for option in ([], ["--dry-run"]):
        done = mine("run", "delete", "sales", "mine", *option)
        assert "mine (running)" in done.err
    assert mine("run", "delete", "sales", "mine").code == 1
    assert mine("run", "delete", "sales", "mine", "--dry-run").code == 0
    done = mine("run", "delete", "sales", "mine", "--yes")
    assert (done.code, "is running" in done.err) == (1, True)
    assert len(mine.ok("run", "list", "--json").json) == 1


def test_queued_run_is_deleted_with_yes(cli: Cli) -> None:
    cli.write("one.py", "from flux import DAG\nfrom flux.operators import EmptyOperator\n"
              "with DAG('one', max_active_runs=1):\n    EmptyOperator(task_id='a')\n")  # fmt: skip
    cli.ok("dag", "trigger", "one", "--run-id", "first")
    assert "max_active_runs" in cli.ok("dag", "trigger", "one", "--run-id", "second").err
    cli.ok("run", "delete", "one", "second", "--yes")
    assert [row["run_id"] for row in cli.ok("run", "list", "--json").json] == ["first"]


def test_why_gives_the_reasons_in_order_and_nothing_changes(mine: Cli) -> None:
    answer = mine.ok("why", "sales", "mine", "load", "--json").json
    assert answer["state"] == "waiting"
    assert [(reason["code"], reason["object"]) for reason in answer["reasons"]] == [
        ("upstream", "extract"),
        ("pool", "warehouse"),
        ("no_system", str(mine.home)),
    ]
    assert all(set(reason) == {"code", "message", "object"} for reason in answer["reasons"])
    assert "flux pool set warehouse" in mine.ok("why", "sales", "mine", "load").out
    assert mine("why", "sales", "mine", "laod").code == 1


def test_log_of_a_task_without_attempt_is_refused_with_a_hint(mine: Cli) -> None:
    done = mine("task", "log", "sales", "mine", "extract")
    assert (done.code, done.out, "flux why" in done.err) == (1, "", True)
    assert mine("task", "log", "sales", "mine", "nope").code == 1


def test_log_is_printed_as_written_with_bad_bytes_replaced(mine: Cli, flux: Flux) -> None:
    open_attempt(flux, "grüße\r\n\x1b[31mred".encode() + b"\xff\xc3")
    assert mine.ok("task", "log", "sales", "mine", "extract").out == "grüße\r\n\x1b[31mred\ufffd\ufffd"
    assert mine("task", "log", "sales", "mine", "extract", "--attempt", "2").code == 1


def test_followed_log_goes_on_until_the_task_instance_has_ended(mine: Cli, flux: Flux) -> None:
    run = open_attempt(flux, b"one\n")
    texts = attempt_log.texts(flux, attempt_log.Place(run, "extract", None), attempt=None, follow=True)
    assert next(texts) == "one\n"
    with (flux.config.logs_folder / log_path(run, "extract", -1, 1)).open("ab") as log:
        log.write(b"two\n")
    assert next(texts) == "two\n"

    def end(connection: Any) -> None:
        advance = Advance(connection, StructureCache().through(connection), utc_now())
        advance.finish([End(CLAIM, Outcome.SUCCESS, None, utc_now())])
        advance.write()

    flux.store.write(end)
    with (flux.config.logs_folder / log_path(run, "extract", -1, 1)).open("ab") as log:
        log.write(b"the end")
    assert "".join(texts) == "the end"


def test_log_that_is_gone_is_said(mine: Cli, flux: Flux) -> None:
    run = open_attempt(flux, b"")
    (flux.config.logs_folder / log_path(run, "extract", -1, 1)).unlink()
    done = mine("task", "log", "sales", "mine", "extract")
    assert (done.code, "gone" in done.err) == (1, True)


HANDLERS = """
import pathlib, sys, time

class Handler:
    def keep(self, log): ...

class Good(Handler):
    def read(self, log):
        return b"kept " + log.task_id.encode()

class Empty(Handler):
    def read(self, log):
        return None

class Text(Handler):
    def read(self, log):
        return "a text"

class Leaves(Handler):
    def read(self, log):
        sys.exit(3)

class Hangs(Handler):
    def read(self, log):
        pathlib.Path(__file__).with_name("asked").touch()
        time.sleep(1000)

class Slow(Handler):
    def __init__(self):
        time.sleep(1000)
    def read(self, log): ...
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution of log handlers, under a module name of this test alone; a child process finds it too."""
    folder = tmp_path / "site"
    module = f"handlers_of_{tmp_path.name}"
    names = "".join(f"{name.lower()} = {module}.all:{name}\n" for name in re.findall(r"class (\w+)\(", HANDLERS))
    install(
        folder, "kept", distribution=module, modules={"all.py": HANDLERS}, entry_points=f"[flux.log_handlers]\n{names}"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder / module


@pytest.fixture
def gone(mine: Cli, flux: Flux) -> attempt_log.Place:
    """Extract of the run `mine`, whose log is gone."""
    run = open_attempt(flux, b"")
    (flux.config.logs_folder / log_path(run, "extract", -1, 1)).unlink()
    return attempt_log.Place(run, "extract", None)


def test_log_that_is_gone_is_read_from_the_first_handler_that_has_it(
    mine: Cli, gone: attempt_log.Place, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_LOG_HANDLERS", "empty,good,hangs")
    assert mine.ok("task", "log", "sales", "mine", "extract").out == "kept extract"
    monkeypatch.setenv("FLUX_LOG_HANDLERS", "empty")
    done = mine("task", "log", "sales", "mine", "extract")
    assert (done.code, "is gone." in done.err) == (1, True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text", "Log handler 'text' returned a str. It must be bytes or None."),
        ("leaves", "is gone, and log handler 'leaves' cannot read it: SystemExit: 3."),
    ],
)
def test_handler_that_gives_no_log_and_not_none_is_named(
    mine: Cli, gone: attempt_log.Place, site: Path, name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_LOG_HANDLERS", name)
    done = mine("task", "log", "sales", "mine", "extract")
    assert (done.code, done.out, words in done.err) == (1, "", True), done


@pytest.mark.parametrize("name", ["hangs", "slow"])
def test_handler_that_does_not_answer_in_time_is_named(
    mine: Cli, gone: attempt_log.Place, site: Path, name: str
) -> None:
    (mine.home / "flux.toml").write_text(f"log_handlers = ['empty', '{name}']\n")
    with mine.opened() as flux, pytest.raises(PluginError, match=f"log handler '{name}' did not give it within 0.1 s"):
        list(attempt_log.texts(flux, gone, attempt=None, follow=False, kept_seconds=0.1))


def test_handler_that_hangs_can_be_interrupted(
    mine: Cli, gone: attempt_log.Place, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_LOG_HANDLERS", "hangs")
    argv = [sys.executable, "-m", "flux.cli.main", "task", "log", "sales", "mine", "extract"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as child:
        until(lambda: (site / "asked").exists())
        child.send_signal(signal.SIGINT)
        assert (child.communicate(timeout=20)[1].strip(), child.returncode) == (b"", 130)


def test_attempts_are_listed_with_the_keys_of_the_contract(mine: Cli, flux: Flux) -> None:
    open_attempt(flux, b"")
    (row,) = mine.ok("task", "attempts", "sales", "mine", "extract", "--json").json
    assert set(row) >= {
        "attempt", "claim", "outcome", "reason", "exit_status", "signal", "host", "pid", "started_at", "ended_at",
        "max_rss_bytes",
    }  # fmt: skip
    assert (row["attempt"], row["claim"], row["outcome"]) == (1, CLAIM, None)
    assert mine.ok("task", "attempts", "sales", "mine", "load", "--json").json == []


def test_result_that_is_not_there_is_named(mine: Cli) -> None:
    done = mine("task", "result", "sales", "mine", "extract", "--key", "rows")
    assert (done.code, "rows" in done.err) == (1, True)

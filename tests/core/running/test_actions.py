"""What people do to the system, without a running one; and how a running one is told."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux import config, wire
from flux.app import Flux
from flux.builtin import core_verdict
from flux.errors import BadDate, BadParam, NotFound, PluginError, Refused
from flux.plugins import Ref
from flux.plugins.catalogue import Catalogue
from flux.plugins.verdict import ProviderState, Verdict
from flux.running import actions
from flux.states import RunKind, RunState
from flux.store import audit, dags, listing, naming, pools, variables
from flux.store.dags import Reading
from flux.store.runs import DagRun
from flux.structure import DagStructure, TaskStructure
from flux.times import from_iso, utc_now
from tests.waiting import until

DAILY = {"kind": "cron", "expressions": ["0 2 * * *"], "day_or": True}
HOURLY = {"kind": "cron", "expressions": ["0 * * * *"], "day_or": True}


@pytest.fixture
def flux(tmp_path: Path) -> Iterator[Flux]:
    """An open installation on SQLite, with nothing in it."""
    with Flux.open(config.load({"FLUX_DURABILITY": "fast"}, home=tmp_path / "home"), create=True) as flux:
        yield flux


def define(flux: Flux, dag_id: str = "sales", *, tasks: tuple[TaskStructure, ...] | None = None, **fields: Any) -> None:
    """Put a DAG into the store, as if its file had been read."""
    if tasks is None:
        tasks = (TaskStructure(0, "load", "BashOperator", "flux.operators"),)
    structure = DagStructure(dag_id, f"{dag_id}.py", 1, tasks, **fields)
    source = structure.to_json().encode()
    sha = hashlib.sha256(source).hexdigest()
    reading = Reading(sha, [structure.to_json()], {structure.file: sha}, {sha: source})
    flux.store.write(lambda connection: dags.register(connection, structure.file, reading, utc_now()))


def trigger(flux: Flux, dag_id: str = "sales", **arguments: Any) -> DagRun:
    return actions.trigger(flux, dag_id, who="ada", **arguments)


def why(flux: Flux, run: DagRun, task_id: str = "load") -> list[str]:
    """The reasons besides the last one, which is that no system runs."""
    *codes, last = [reason.code for reason in actions.why(flux, run.dag_id, run.run_id, task_id).reasons]
    assert last == "no_system"
    return codes


# --- trigger ---


def test_run_of_a_dag_without_schedule_covers_the_moment(flux: Flux) -> None:
    define(flux)
    before = utc_now()
    run = trigger(flux)
    assert before <= run.logical_date <= utc_now()
    assert (run.kind, run.state, run.interval.start) == (RunKind.MANUAL, RunState.RUNNING, run.interval.end)


def test_run_of_a_scheduled_dag_covers_the_latest_complete_interval(flux: Flux) -> None:
    define(flux, schedule=DAILY)
    interval = trigger(flux).interval
    assert interval.end <= utc_now()
    assert (utc_now() - interval.end).days < 1


def test_bare_date_names_the_interval_that_starts_on_the_local_day(flux: Flux) -> None:
    define(flux, schedule=DAILY, timezone="America/Los_Angeles")
    assert trigger(flux, logical_date="2026-01-05").logical_date == from_iso("2026-01-05T10:00:00+00:00")


def test_bare_date_that_names_several_intervals_is_refused_listing_them(flux: Flux) -> None:
    define(flux, schedule=HOURLY)
    with pytest.raises(BadDate, match=r"24 data intervals.*2026-01-05T23:00:00"):
        trigger(flux, logical_date="2026-01-05")


def test_moment_that_starts_no_interval_is_refused_with_its_neighbours(flux: Flux) -> None:
    define(flux, schedule=DAILY)
    with pytest.raises(BadDate, match=r"2026-01-05T02:00:00.*2026-01-06T02:00:00"):
        trigger(flux, logical_date="2026-01-05T03:00")


def test_day_on_which_no_interval_starts_is_refused(flux: Flux) -> None:
    define(flux, schedule=DAILY, start_date="2026-01-05T00:00:00+00:00")
    with pytest.raises(BadDate, match="2026-01-04"):
        trigger(flux, logical_date="2026-01-04")


def test_dag_whose_first_interval_is_not_over_is_refused(flux: Flux) -> None:
    define(flux, schedule=DAILY, start_date="2999-01-01T00:00:00+00:00")
    with pytest.raises(Refused, match="2999-01-02T02:00:00"):
        trigger(flux)


def test_two_manual_runs_of_one_moment_have_different_ids(flux: Flux) -> None:
    define(flux, schedule=DAILY)
    first, second = (trigger(flux, logical_date="2026-01-05") for _ in range(2))
    assert first.run_id != second.run_id
    assert first.logical_date == second.logical_date


def test_run_id_that_is_taken_or_odd_is_refused(flux: Flux) -> None:
    define(flux)
    trigger(flux, run_id="mine")
    for run_id, cause in (("mine", "already"), ("scheduled__x", "scheduler"), (".hidden", "cannot be used")):
        with pytest.raises(Refused, match=cause):
            trigger(flux, run_id=run_id)


def test_conf_is_checked_against_the_params_and_kept(flux: Flux) -> None:
    define(flux, params={"region": {"default": "north", "enum": ["north", "south"]}})
    with pytest.raises(BadParam, match="region"):
        trigger(flux, conf={"region": "west"})
    run = trigger(flux, conf={"region": "south", "other": 1})
    assert json.loads(run.conf or "") == {"region": "south", "other": 1}


def test_param_without_default_has_to_be_given(flux: Flux) -> None:
    define(flux, params={"region": {"type": ["string"]}})
    with pytest.raises(BadParam, match="region"):
        trigger(flux)


def test_unknown_dag_is_named_with_near_ones(flux: Flux) -> None:
    define(flux, "sales")
    with pytest.raises(NotFound, match=r"'salse'.*sales"):
        trigger(flux, "salse")


def test_dag_that_no_file_defines_any_more_is_not_run(flux: Flux) -> None:
    define(flux)
    flux.store.write(lambda connection: dags.register(connection, "sales.py", Reading(None), utc_now()))
    with pytest.raises(NotFound, match="any more"):
        trigger(flux)


def test_refused_trigger_leaves_no_run_and_no_audit(flux: Flux) -> None:
    define(flux, schedule=DAILY)
    with pytest.raises(BadDate):
        trigger(flux, logical_date="2026-01-05T03:00")
    assert flux.store.read(listing.runs) == []
    assert flux.store.read(audit.every) == []


# --- pause, pools, variables ---


def test_paused_dag_holds_its_runs_until_unpaused(flux: Flux) -> None:
    define(flux)
    assert actions.pause(flux, "sales", who="ada") is True
    assert actions.pause(flux, "sales", who="ada") is False
    run = trigger(flux)
    assert why(flux, run) == ["paused"]
    assert actions.unpause(flux, "sales", who="ada") is True
    assert why(flux, run) == []


def test_pool_that_is_missing_or_too_small_holds_its_tasks(flux: Flux) -> None:
    define(flux, tasks=(TaskStructure(0, "load", "BashOperator", "flux.operators", pool="hive", pool_slots=2),))
    run = trigger(flux)
    assert why(flux, run) == ["pool"]
    actions.set_pool(flux, "hive", 1, who="ada")
    assert why(flux, run) == ["pool"]
    actions.set_pool(flux, "hive", 2, who="ada")
    assert why(flux, run) == []


def test_pool_in_use_is_not_deleted(flux: Flux) -> None:
    define(flux, tasks=(TaskStructure(0, "load", "BashOperator", "flux.operators", pool="hive"),))
    actions.set_pool(flux, "hive", 2, who="ada")
    trigger(flux)
    with pytest.raises(Refused, match="hive"):
        actions.delete_pool(flux, "hive", who="ada")
    assert [pool.name for pool in flux.store.read(pools.every)] == ["hive"]


def test_pool_can_be_deleted_when_nothing_is_in_it(flux: Flux) -> None:
    actions.set_pool(flux, "hive", 2, who="ada")
    actions.delete_pool(flux, "hive", who="ada")
    assert flux.store.read(pools.every) == []


def test_variables_are_set_all_or_none(flux: Flux) -> None:
    actions.set_variables(flux, {"a": "1", "b": "2"}, who="ada")
    actions.delete_variable(flux, "a", who="ada")
    assert [(row.name, row.value) for row in flux.store.read(variables.every)] == [("b", "2")]
    with pytest.raises(NotFound, match="b"):
        actions.delete_variable(flux, "a", who="ada")


def test_every_change_is_audited_without_the_values_of_variables(flux: Flux) -> None:
    define(flux)
    actions.pause(flux, "sales", who="ada")
    actions.set_pool(flux, "hive", 2, who="bob")
    actions.set_variable(flux, "token", "s3cret", who="ada")
    entries = flux.store.read(audit.every)
    assert [(entry.who, entry.action, entry.object) for entry in reversed(entries)] == [
        ("ada", "dag.pause", "dag sales"),
        ("bob", "pool.set", "pool hive"),
        ("ada", "variable.set", "variable token"),
    ]
    assert "s3cret" not in repr(entries)


# --- runs ---


def test_deleted_run_takes_its_logs_along(flux: Flux) -> None:
    define(flux, tasks=())
    run = trigger(flux)
    log = flux.config.logs_folder / "sales" / run.run_id / "load" / "-" / "1.log"
    log.parent.mkdir(parents=True)
    log.write_text("x")
    assert actions.delete_run(flux, "sales", run.run_id, who="ada").run_id == run.run_id
    assert not (flux.config.logs_folder / "sales" / run.run_id).exists()
    with pytest.raises(NotFound):
        flux.store.read(lambda connection: naming.run(connection, "sales", run.run_id))


def test_running_run_is_not_deleted(flux: Flux) -> None:
    define(flux)
    run = trigger(flux)
    with pytest.raises(Refused, match="running"):
        actions.delete_run(flux, "sales", run.run_id, who="ada")
    assert [row.run_id for row in flux.store.read(listing.runs)] == [run.run_id]


def test_run_held_back_by_max_active_runs_says_so(flux: Flux) -> None:
    define(flux, max_active_runs=1)
    trigger(flux)
    waiting = trigger(flux)
    assert waiting.state is RunState.QUEUED
    answer = actions.why(flux, "sales", waiting.run_id, "load")
    assert (answer.state, [reason.code for reason in answer.reasons]) == (
        "queued",
        ["max_active_runs", "no_system"],
    )


def test_why_names_unfinished_upstream(flux: Flux) -> None:
    upstream = TaskStructure(0, "extract", "BashOperator", "flux.operators", downstream=(1,))
    load = TaskStructure(1, "load", "BashOperator", "flux.operators", upstream=(0,))
    define(flux, tasks=(upstream, load))
    answer = actions.why(flux, "sales", trigger(flux).run_id, "load")
    assert answer.state == "waiting"
    assert [(reason.code, reason.object) for reason in answer.reasons][:-1] == [("upstream", "extract")]


def test_waiting_for_an_ended_run_returns_it_at_once(flux: Flux) -> None:
    define(flux, tasks=())
    assert actions.wait_run(flux, trigger(flux)).state is RunState.SUCCESS


# --- the running system ---


class System:
    """Answers on a home's endpoint, as a supervisor does, and notes what it was asked."""

    def __init__(self, flux: Flux, *, answers: bool = True) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers = answers
        path = flux.config.run_folder / "s.sock"
        self._listener, address = wire.listen(path)
        self._listener.setblocking(True)
        (flux.config.run_folder / "endpoint").write_text(address)
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(peer)
            lines = wire.Lines(peer)
            assert lines.receive(5) == {"client": "cli"}
            self.asked.append(lines.receive(5))
            if self._answers:
                lines.send({"id": self.asked[-1]["id"], "value": {"components": []}})

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for sock in (self._listener, *self._open):
            sock.close()


@pytest.fixture
def system(flux: Flux) -> Iterator[System]:
    system = System(flux)
    yield system
    system.close()


def test_running_system_is_told_of_a_change(flux: Flux, system: System) -> None:
    actions.set_pool(flux, "hive", 2, who="ada")
    until(lambda: [message["verb"] for message in system.asked] == ["wake"], what="the wake")
    assert actions.is_running(flux)


def test_running_system_reads_the_folder_itself(flux: Flux, system: System) -> None:
    (flux.config.dags_folder / "broken.py").write_text("syntax error")
    actions.sync_folder(flux)
    assert [message["verb"] for message in system.asked] == ["sync"]
    assert flux.store.read(dags.files) == []


def test_endpoint_that_nobody_serves_is_no_running_system(flux: Flux) -> None:
    gone = System(flux)
    gone.close()
    assert actions.is_running(flux) is False
    actions.set_pool(flux, "hive", 2, who="ada")


def test_system_that_does_not_answer_is_told_apart_from_none(flux: Flux) -> None:
    silent = System(flux, answers=False)
    with pytest.raises(actions.NotAnswering):
        actions.ask_system(flux, {"verb": "status"}, seconds=0.05)
    silent.close()


# --- the executor ---

EXECUTORS = """
import time
from flux.executor import BaseExecutor

class Good(BaseExecutor):
    def start(self, assignment): ...
    def cancel(self, claim): ...
    def stop(self): ...

class Raises(Good):
    def __init__(self, parallelism):
        raise ValueError("ACME_CLUSTER is not set.")

class Exits(Good):
    def __init__(self, parallelism):
        raise SystemExit(3)

class Hangs(Good):
    def __init__(self, parallelism):
        time.sleep(1000)

class Bare(Good):
    def __init__(self, parallelism):
        pass

class Abstract(BaseExecutor):
    pass

class Other:
    pass
"""


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """A provider `acme` with executors good, raises, ..., and a provider `broken`."""
    module = f"executors_of_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(EXECUTORS)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("Good", "Raises", "Exits", "Hangs", "Bare", "Abstract", "Other", "Missing")
    refs = tuple(Ref(name.lower(), f"{module}:{name}") for name in names)
    good = Verdict("acme", "flux-provider-acme", "0.1", ProviderState.OK, executors=refs)
    broken = Verdict("far", "flux-provider-far", "0.2", ProviderState.BROKEN, "No module named 'ssh'.")
    return Catalogue([core_verdict(), good, broken])


def executor_of(name: str, catalogue: Catalogue, folder: Path, **options: Any) -> Any:
    configured = config.load({"FLUX_EXECUTOR": name, "FLUX_PARALLELISM": "3"}, home=folder)
    return actions.executor_of(configured, catalogue, **options)


def test_executor_is_made_with_the_configured_parallelism(offered: Catalogue, tmp_path: Path) -> None:
    made = executor_of("good", offered, tmp_path)
    assert (type(made).__name__, made.parallelism) == ("Good", 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "ValueError: ACME_CLUSTER is not set."),
        ("exits", "SystemExit: 3."),
        ("hangs", "TimeoutError: it is not there after 0.1 s."),
        ("bare", "its parallelism is None; hand the number to super().__init__()."),
        ("abstract", "abstract methods cancel, start, stop."),
        ("other", "is no subclass of flux.executor.BaseExecutor."),
        ("missing", "has no attribute 'Missing'."),
    ],
)
def test_executor_that_cannot_be_made_is_one_line_with_the_option(
    name: str, words: str, offered: Catalogue, tmp_path: Path
) -> None:
    with pytest.raises(PluginError) as caught:
        executor_of(name, offered, tmp_path, **({"seconds": 0.1} if name == "hangs" else {}))
    assert str(caught.value).startswith(f"Executor {name!r} (from FLUX_EXECUTOR) cannot be made: ")
    assert str(caught.value).endswith(words)
    assert "\n" not in str(caught.value)


def test_executor_that_nobody_offers_is_refused_naming_the_providers_that_might(
    offered: Catalogue, tmp_path: Path
) -> None:
    with pytest.raises(NotFound) as caught:
        executor_of("goood", offered, tmp_path)
    assert str(caught.value) == (
        "Executor 'goood' does not exist. Known: good. It is named by FLUX_EXECUTOR. "
        "Provider 'far' (flux-provider-far 0.2) is broken: No module named 'ssh'."
    )

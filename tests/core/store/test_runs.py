"""Making runs, holding them back, finding the one before, deleting them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import Refused
from flux.states import Outcome, RunKind, RunState, State
from flux.store import dags, runs
from flux.store.runs import DagRun
from flux.store.schema import attempt, dag_run, rendered_fields, task_instance, task_result
from tests.store_engine import NOW, Engine, Key

PAST = {"a": {"depends_on_past": True}}


@pytest.fixture(autouse=True)
def _sound(engine: Engine) -> Any:
    """After every test here the invariants hold."""
    yield
    engine.assert_sound()


def key(run: DagRun, task_id: str = "a") -> Key:
    return run.run_id, task_id


# --- making ----------------------------------------------------------------------------------------------------------


def test_a_run_has_a_row_for_each_of_its_tasks_and_its_roots_are_ready(engine: Engine) -> None:
    version = engine.dag(
        {
            "root": {"retries": 2, "priority_weight": 7, "queue": "big"},
            "now": {"upstream": ["root"], "trigger_rule": "always"},
            "below": {"upstream": ["root"]},
        },
        dagrun_timeout=60.0,
    )
    run = engine.run(version, conf={"table": "täble"})
    rows = engine.rows(run)
    assert engine.states(run) == {"root": State.READY, "now": State.READY, "below": State.WAITING}
    assert (rows["root"].max_attempts, rows["root"].priority_weight, rows["root"].queue) == (3, 7, "big")
    assert (rows["root"].ready_at, rows["below"].ready_at, rows["below"].upstream_total) == (NOW, None, 1)
    assert (run.state, run.open_tasks, run.started_at) == (RunState.RUNNING, 3, NOW)
    assert run.deadline_at == NOW + timedelta(seconds=60)
    assert run.conf == '{"table": "t\\u00e4ble"}'
    assert run.run_id == "scheduled__2026-01-01T00:00:00+00:00"
    assert (run.interval.start, run.interval.end) == (
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 2, tzinfo=UTC),
    )


def test_one_run_exists_for_an_interval_whatever_made_it(engine: Engine) -> None:
    version = engine.dag()
    engine.run(version)
    for kind in (RunKind.SCHEDULED, RunKind.BACKFILL):
        with pytest.raises(Refused, match="has run 'scheduled__2026-01-01T00:00:00"):
            engine.run(version, kind=kind)
    assert engine.run(version, kind=RunKind.MANUAL).interval.start == datetime(2026, 1, 1, tzinfo=UTC)


def test_manual_runs_are_as_many_as_one_likes_and_are_counted(engine: Engine) -> None:
    version = engine.dag()
    names = [engine.run(version, kind=RunKind.MANUAL).run_id for _ in range(3)]
    assert names == [f"manual__2026-01-01T00:00:00+00:00__{number}" for number in (1, 2, 3)]


def test_a_run_id_is_used_once_in_a_dag(engine: Engine) -> None:
    version, other = engine.dag(), engine.dag(dag_id="other")
    engine.run(version, kind=RunKind.MANUAL, run_id="mine")
    engine.run(other, kind=RunKind.MANUAL, run_id="mine")
    with pytest.raises(Refused, match="already has a run 'mine'"):
        engine.run(version, kind=RunKind.MANUAL, run_id="mine")
    engine.run(version, kind=RunKind.MANUAL, run_id="Mine")


@pytest.mark.parametrize("name", ["mine", "2026-01-05T00:00:00+02:00", "a_b-c.d:e", "x" * 200, "manual__x"])
def test_a_run_id_that_people_may_choose(name: str) -> None:
    assert runs.check_run_id(name) is None


@pytest.mark.parametrize(
    "name", ["", ".hidden", "a/b", "a b", "ä", "x" * 201, "scheduled__1", "backfill__1", "a\n", "../x", "a\0"]
)
def test_a_run_id_that_people_may_not_choose(name: str) -> None:
    with pytest.raises(Refused, match="Run id"):
        runs.check_run_id(name)


def test_a_run_without_any_task_instance_is_over_at_once(engine: Engine) -> None:
    version = engine.dag({"by_hand": {"adhoc": True}}, max_active_runs=1)
    run = engine.run(version)
    assert (run.state, engine.rows(run), engine.dag_row(version).active_runs) == (RunState.SUCCESS, {}, 0)
    assert engine.run(engine.dag({}, dag_id="empty")).state == RunState.SUCCESS


@pytest.mark.parametrize(
    ("fields", "days"),
    [
        ({}, [1, 2, 3]),
        ({"adhoc": True}, []),
        ({"start_date": "2026-01-02T00:00:00+00:00"}, [2, 3]),
        ({"end_date": "2026-01-02T00:00:00+00:00"}, [1, 2]),
        ({"start_date": "2026-01-02T01:00:00+01:00", "end_date": "2026-01-02T00:00:00+00:00"}, [2]),
    ],
)
def test_a_task_takes_part_within_its_own_dates(engine: Engine, fields: dict[str, Any], days: list[int]) -> None:
    version = engine.dag({"always": {}, "a": fields})
    found = [day for day in (1, 2, 3) if "a" in engine.states(engine.run(version, day))]
    assert found == days


# --- max_active_runs -------------------------------------------------------------------------------------------------


def test_runs_beyond_max_active_runs_wait_without_rows_and_begin_oldest_first(engine: Engine) -> None:
    version = engine.dag({"a": {}}, max_active_runs=1)
    made = {day: engine.run(version, day) for day in (2, 4, 3, 1)}
    assert [made[day].state for day in (2, 4, 3, 1)] == [RunState.RUNNING, *[RunState.QUEUED] * 3]
    engine.claim()
    order = [2]
    while engine.open:
        outcomes = engine.finish([(next(iter(engine.open)), Outcome.SUCCESS)])
        order += [run.logical_date.day for run in outcomes.runs_started]
        engine.assert_sound()
    assert order == [2, 1, 3, 4]


def test_a_run_that_begins_in_a_transaction_is_claimed_in_it(engine: Engine) -> None:
    version = engine.dag({"a": {}}, max_active_runs=1)
    first, second = engine.run(version, 1), engine.run(version, 2)
    engine.claim()
    assert [item.run.run_id for item in engine.end("a", run=first).claimed] == [second.run_id]


def test_a_failed_run_gives_its_place_back_too(engine: Engine) -> None:
    version = engine.dag({"a": {}}, max_active_runs=1)
    engine.run(version, 1)
    second = engine.run(version, 2)
    engine.claim()
    engine.end("a", Outcome.FAILED)
    assert engine.run_row(second).state == RunState.RUNNING


def test_queued_runs_that_turn_out_empty_do_not_hold_up_the_others(engine: Engine) -> None:
    tasks = {"a": {"start_date": "2026-01-04T00:00:00+00:00"}}
    version = engine.dag({"b": {}}, max_active_runs=1)
    first = engine.run(version, 1)
    version = engine.dag(tasks, max_active_runs=1)
    others = [engine.run(version, day) for day in (2, 3, 4)]
    engine.claim()
    outcomes = engine.end("b", run=first)
    assert [engine.run_row(run).state for run in others] == [RunState.SUCCESS, RunState.SUCCESS, RunState.RUNNING]
    assert [run.run_id for run in outcomes.runs_started] == [run.run_id for run in others]
    assert [run.run_id for run in outcomes.runs_ended] == [run.run_id for run in (first, *others[:2])]


def test_a_run_that_begins_late_is_told_with_its_deadline(engine: Engine) -> None:
    version = engine.dag({"a": {}}, max_active_runs=1, dagrun_timeout=60.0)
    first, second = engine.run(version, 1), engine.run(version, 2)
    engine.claim()
    engine.now += timedelta(hours=1)
    (started,) = engine.end("a", run=first).runs_started
    assert (started.run_id, started.state) == (second.run_id, RunState.RUNNING)
    assert started.deadline_at == engine.now + timedelta(seconds=60)


def test_a_queued_run_keeps_the_version_it_was_made_of(engine: Engine) -> None:
    old = engine.dag({"a": {}}, max_active_runs=1)
    first, second = engine.run(old, 1), engine.run(old, 2)
    engine.dag({"b": {}}, max_active_runs=1)
    engine.claim()
    engine.end("a", run=first)
    assert engine.states(second) == {"a": State.STARTED}


def test_a_raised_max_active_runs_lets_queued_runs_begin(engine: Engine) -> None:
    version = engine.dag({"a": {}}, max_active_runs=1)
    every = [engine.run(version, day) for day in (1, 2, 3)]
    engine.dag({"a": {}}, max_active_runs=3)
    engine.release(f"runs:{version.dag_row}")
    assert {engine.run_row(run).state for run in every} == {RunState.RUNNING}


def test_a_lowered_max_active_runs_ends_nothing(engine: Engine) -> None:
    version = engine.dag({"a": {}}, max_active_runs=3)
    every = [engine.run(version, day) for day in (1, 2, 3)]
    engine.dag({"a": {}}, max_active_runs=1)
    last = engine.run(version, 4)
    engine.claim()
    engine.end("a", run=every[0])
    engine.end("a", run=every[1])
    assert engine.run_row(last).state == RunState.QUEUED
    engine.end("a", run=every[2])
    assert engine.run_row(last).state == RunState.RUNNING


# --- the past --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "goes_on"), [(Outcome.SUCCESS, True), (Outcome.SKIPPED, True), (Outcome.FAILED, False)]
)
def test_depends_on_past_waits_for_the_same_task_of_the_run_before(
    engine: Engine, outcome: Outcome, goes_on: bool
) -> None:
    version = engine.dag(PAST)
    first, second = engine.run(version, 1), engine.run(version, 2)
    assert [item.run.run_id for item in engine.advance().claimed] == [first.run_id]
    assert engine.rows(second)["a"].blocked_on == f"past:{engine.rows(first)['a'].id}"
    claimed = engine.finish([(key(first), outcome)]).claimed
    assert [item.run.run_id for item in claimed] == ([second.run_id] if goes_on else [])
    assert bool(engine.rows(second)["a"].blocked_on) is not goes_on


def test_a_retry_of_the_past_is_waited_for(engine: Engine) -> None:
    version = engine.dag({"a": {"depends_on_past": True, "retries": 1, "retry_delay": 0.0}})
    first, second = engine.run(version, 1), engine.run(version, 2)
    engine.claim()
    assert engine.end("a", Outcome.FAILED, run=first).claimed == []
    engine.wake()
    assert [item.run.run_id for item in engine.end("a", run=first).claimed] == [second.run_id]


def test_a_run_does_not_wait_for_one_that_was_made_later_and_waits_for_its_place(engine: Engine) -> None:
    """Otherwise the older one would wait for the end of the younger, and the younger for the older."""
    version = engine.dag(PAST, max_active_runs=1)
    engine.store.write(lambda c: dags.set_paused(c, version.dag_row, True))
    late, before = engine.run(version, 5), engine.run(version, 4)
    assert (engine.run_row(late).state, engine.run_row(before).state) == (RunState.RUNNING, RunState.QUEUED)
    engine.store.write(lambda c: dags.set_paused(c, version.dag_row, False))
    assert [item.run.run_id for item in engine.release(f"paused:{version.dag_row}").claimed] == [late.run_id]
    engine.drain()
    assert {engine.run_row(run).state for run in (late, before)} == {RunState.SUCCESS}


def test_queued_runs_that_depend_on_their_past_go_one_after_the_other(engine: Engine) -> None:
    version = engine.dag({**PAST, "b": {"upstream": ["a"]}}, max_active_runs=2)
    every = [engine.run(version, day) for day in range(1, 6)]
    order = [item.run.run_id for item in engine.advance().claimed]
    while engine.open:
        outcomes = engine.finish([(next(iter(engine.open)), Outcome.SUCCESS)])
        order += [item.run.run_id for item in outcomes.claimed if item.task.task_id == "a"]
    assert order == [run.run_id for run in every]


def test_wait_for_downstream_waits_for_the_direct_downstreams_too(engine: Engine) -> None:
    tasks = {"a": {"wait_for_downstream": True}, "b": {"upstream": ["a"]}, "c": {"upstream": ["b"]}}
    version = engine.dag(tasks)
    first, second = engine.run(version, 1), engine.run(version, 2)
    engine.claim()
    engine.end("a", run=first)
    assert engine.rows(second)["a"].blocked_on == f"past:{engine.rows(first)['b'].id}"
    claimed = engine.end("b", run=first).claimed
    assert {(item.run.run_id, item.task.task_id) for item in claimed} == {(first.run_id, "c"), (second.run_id, "a")}


def test_the_past_is_the_next_older_scheduled_or_backfilled_run(engine: Engine) -> None:
    version = engine.dag(PAST)
    engine.run(version, 2, kind=RunKind.MANUAL)
    first = engine.run(version, 1, kind=RunKind.BACKFILL)
    third = engine.run(version, 3)
    claimed = {item.run.run_id for item in engine.advance().claimed}
    assert third.run_id not in claimed
    assert engine.rows(third)["a"].blocked_on == f"past:{engine.rows(first)['a'].id}"
    find = lambda before, **fields: engine.store.read(  # noqa: E731
        lambda c: runs.previous(c, version.dag_row, before, **fields)
    )
    assert find(third.logical_date).run_id == first.run_id
    assert find(first.logical_date) is None
    assert find(third.logical_date, successful=True) is None
    engine.end("a", run=first)
    assert find(third.logical_date, successful=True).run_id == first.run_id


def test_a_previous_run_that_has_no_such_task_holds_nobody_back(engine: Engine) -> None:
    engine.run(engine.dag({"z": {}, "a": {"adhoc": True}}), 1)
    engine.run(engine.dag({"z": {}}), 2)
    second = engine.run(engine.dag(PAST), 3)
    assert "a" in engine.claim()
    assert engine.states(second) == {"a": State.STARTED}


# --- finding and deleting --------------------------------------------------------------------------------------------


def test_runs_are_found_by_their_names(engine: Engine) -> None:
    version = engine.dag(dagrun_timeout=60.0)
    run, later = engine.run(version, 1), engine.run(version, 2)

    def look(connection: sa.Connection) -> None:
        assert runs.by_run_id(connection, version.dag_row, run.run_id).id == run.id  # type: ignore[union-attr]
        assert runs.by_run_id(connection, version.dag_row, "nothing") is None
        assert runs.by_interval(connection, version.dag_row, later.logical_date).id == later.id  # type: ignore[union-attr]
        assert runs.newest_scheduled(connection, version.dag_row).id == later.id  # type: ignore[union-attr]
        assert {found.id for found in runs.with_deadline(connection)} == {run.id, later.id}
        assert runs.task_state(connection, "sales", run.run_id, "load") == State.READY
        assert runs.task_state(connection, "sales", run.run_id, "nothing") is None
        assert runs.has_ended(connection, "sales", run.run_id) is False
        assert runs.has_ended(connection, "sales", "nothing") is True

    engine.store.read(look)
    engine.drain()
    assert engine.store.read(lambda c: runs.has_ended(c, "sales", run.run_id)) is True
    assert engine.store.read(runs.with_deadline) == []


def test_deleting_a_run_leaves_nothing_of_it(engine: Engine) -> None:
    version = engine.dag({"a": {}})
    run, kept = engine.run(version, 1), engine.run(version, 2)
    engine.claim()
    engine.end("a", run=run, results={"return_value": "1"}, rendered="{}")
    engine.store.write(lambda c: runs.delete(c, run_of(c, run)))
    assert [row.id for row in engine.select(sa.select(dag_run))] == [kept.id]
    for table in (task_result, rendered_fields):
        assert engine.select(sa.select(table)) == []
    left = engine.select(sa.select(task_instance.c.dag_run_id)), engine.select(sa.select(attempt.c.claim))
    assert left == ([(kept.id,)], [(engine.open[key(kept)].claim,)])
    assert engine.run(version, 1).run_id == run.run_id


def run_of(connection: sa.Connection, run: DagRun) -> DagRun:
    return runs.by_rows(connection, [run.id])[0]


def test_a_running_run_is_not_deleted(engine: Engine) -> None:
    run = engine.run(engine.dag())
    with pytest.raises(Refused, match="is running"):
        engine.store.write(lambda c: runs.delete(c, run))
    assert engine.states(run) == {"load": State.READY}


def test_a_queued_run_is_deleted_without_a_trace(engine: Engine) -> None:
    version = engine.dag(max_active_runs=1)
    engine.run(version, 1)
    second = engine.run(version, 2)
    engine.store.write(lambda c: runs.delete(c, second))
    engine.drain()
    assert len(engine.select(sa.select(dag_run))) == 1


def test_what_waits_for_a_run_that_is_deleted_goes_on(engine: Engine) -> None:
    version = engine.dag(PAST)
    first, second = engine.run(version, 1), engine.run(version, 2)
    engine.claim()
    engine.end("a", Outcome.FAILED, run=first)
    assert engine.rows(second)["a"].blocked_on.startswith("past:")
    engine.store.write(lambda c: runs.delete(c, run_of(c, first)))
    assert engine.rows(second)["a"].blocked_on == ""
    assert engine.claim() == ["a"]


def test_the_dag_of_a_run_says_whether_it_is_paused(engine: Engine) -> None:
    version = engine.dag()
    run = engine.run(version)
    engine.store.write(lambda c: dags.set_paused(c, version.dag_row, True))
    assert engine.store.read(lambda c: run_of(c, run)).dag_paused is True

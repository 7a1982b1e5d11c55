"""What becomes of a task instance whose attempt did not succeed, and of the run at its end or past its time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flux.states import Outcome, RunState, State
from flux.store import pools
from flux.store.advance import time_out
from flux.store.runs import DagRun
from flux.store.schema import task_instance
from tests.store_engine import NOW, Engine

Tasks = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def _sound(engine: Engine) -> Any:
    """After every test here the invariants hold."""
    yield
    engine.assert_sound()


# --- retries, losses, launches that never were -----------------------------------------------------------------------


def test_a_failed_attempt_with_retries_left_waits_for_its_delay(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 1, "retry_delay": 90.0}, "b": {"upstream": ["a"]}}))
    engine.claim()
    outcomes = engine.end("a", Outcome.FAILED, exit_status=3)
    row = engine.rows(run)["a"]
    assert (row.state, row.wake_at, row.reason) == (State.RETRYING, NOW + timedelta(seconds=90), "failed by the test")
    assert outcomes.retrying == [(row.id, row.wake_at)]
    assert [item.attempt for item in engine.wake().claimed] == [2]
    engine.end("a", Outcome.FAILED)
    assert engine.states(run) == {"a": State.FAILED, "b": State.UPSTREAM_FAILED}
    assert [(one.attempt, one.outcome, one.exit_status) for one in engine.attempts(run, "a")] == [
        (1, Outcome.FAILED, 3),
        (2, Outcome.FAILED, None),
    ]
    assert engine.run_row(run).state == RunState.FAILED


def test_waking_what_is_no_longer_retrying_does_nothing(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}}))
    row_id = engine.rows(run)["a"].id
    assert [item.task.task_id for item in engine.advance(lambda a: a.wake([row_id, row_id + 1000])).claimed] == ["a"]
    assert engine.advance(lambda a: a.wake([row_id])).claimed == []


def test_an_attempt_that_may_not_be_retried_fails_at_once(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 5}}))
    engine.claim()
    engine.end("a", Outcome.KILLED, may_retry=False)
    assert engine.states(run) == {"a": State.FAILED}


def test_an_interrupted_attempt_can_be_given_back_beyond_its_retries(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 0}}))
    engine.claim()
    engine.end("a", Outcome.INTERRUPTED, must_retry=True)
    assert engine.rows(run)["a"].wake_at == NOW
    assert [item.attempt for item in engine.wake().claimed] == [2]
    engine.end("a", Outcome.FAILED)
    assert engine.states(run) == {"a": State.FAILED}


def test_three_losses_in_a_row_are_enough(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 100, "retry_delay": 0.0}}))
    engine.claim()
    for losses in (1, 2):
        engine.end("a", Outcome.LOST)
        assert (engine.states(run)["a"], engine.rows(run)["a"].losses) == (State.RETRYING, losses)
        engine.wake()
    engine.end("a", Outcome.LOST)
    assert engine.states(run) == {"a": State.FAILED}


def test_a_failure_between_begins_the_count_of_losses_anew(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 100, "retry_delay": 0.0}}))
    engine.claim()
    for outcome in (Outcome.LOST, Outcome.LOST, Outcome.FAILED, Outcome.LOST, Outcome.LOST):
        engine.end("a", outcome)
        assert engine.states(run) == {"a": State.RETRYING}
        engine.wake()
    engine.end("a")
    assert engine.states(run) == {"a": State.SUCCESS}


def test_a_lost_attempt_without_retries_fails(engine: Engine) -> None:
    run = engine.run(engine.dag())
    engine.claim()
    engine.end("load", Outcome.LOST)
    assert engine.states(run) == {"load": State.FAILED}


def test_an_attempt_that_was_never_launched_costs_nothing(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 1, "retry_delay": 0.0}}))
    engine.claim()
    for _ in range(5):
        assert [item.task.task_id for item in engine.end("a", Outcome.NEVER_LAUNCHED).claimed] == ["a"]
    engine.end("a", Outcome.FAILED)
    assert engine.states(run) == {"a": State.RETRYING}
    engine.wake()
    engine.end("a", Outcome.FAILED)
    assert engine.states(run) == {"a": State.FAILED}
    assert [one.attempt for one in engine.attempts(run, "a")] == list(range(1, 8))


def test_what_is_put_off_costs_nothing_and_leaves_its_slots_to_others_until_its_time(engine: Engine) -> None:
    engine.store.write(lambda c: pools.set(c, "etl", 1))
    run = engine.run(engine.dag({"a": {"pool": "etl", "priority_weight": 9}, "b": {"pool": "etl"}}))
    assert engine.claim() == ["a"]
    later = NOW + timedelta(seconds=2)
    outcomes = engine.end("a", Outcome.NEVER_LAUNCHED, not_before=later)
    row = engine.rows(run)["a"]
    assert (row.state, row.wake_at, row.reason) == (State.RETRYING, later, "never_launched by the test")
    assert outcomes.retrying == [(row.id, later)]
    assert [item.task.task_id for item in outcomes.claimed] == ["b"]
    engine.end("b")
    assert [(item.attempt, item.max_attempts) for item in engine.wake().claimed] == [(2, 2)]
    engine.assert_sound()


def test_being_put_off_between_does_not_begin_the_count_of_losses_anew(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 100, "retry_delay": 0.0}}))
    engine.claim()
    for outcome in (Outcome.LOST, Outcome.NEVER_LAUNCHED, Outcome.LOST, Outcome.NEVER_LAUNCHED, Outcome.LOST):
        engine.end("a", outcome, not_before=NOW)
        engine.wake()
    assert engine.states(run) == {"a": State.FAILED}


# --- the state of a run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("leaf", "state"), [(Outcome.FAILED, RunState.FAILED), (Outcome.SUCCESS, RunState.SUCCESS)])
def test_a_run_ends_as_its_leaves_do(engine: Engine, leaf: Outcome, state: RunState) -> None:
    run = engine.run(engine.dag({"work": {}, "tidy": {"upstream": ["work"], "trigger_rule": "all_done"}}))
    engine.claim()
    engine.end("work", Outcome.FAILED)
    engine.end("tidy", leaf)
    assert engine.run_row(run).state == state


def test_a_task_whose_downstreams_take_no_part_is_a_leaf(engine: Engine) -> None:
    run = engine.run(
        engine.dag(
            {
                "work": {},
                "by_hand": {"upstream": ["work"], "adhoc": True},
                "later": {"upstream": ["work"], "start_date": "2026-02-01T00:00:00+00:00"},
                "over": {"upstream": ["work"], "end_date": "2025-12-31T00:00:00+00:00"},
            }
        )
    )
    assert engine.claim() == ["work"]
    engine.end("work", Outcome.FAILED)
    assert engine.states(run) == {"work": State.FAILED}
    assert engine.run_row(run).state == RunState.FAILED


def test_a_task_whose_upstreams_take_no_part_is_a_root(engine: Engine) -> None:
    run = engine.run(engine.dag({"by_hand": {"adhoc": True}, "work": {"upstream": ["by_hand"]}}))
    assert engine.claim() == ["work"]
    engine.end("work")
    assert engine.run_row(run).state == RunState.SUCCESS


def test_a_removed_leaf_does_not_turn_a_failed_run_green(engine: Engine) -> None:
    run = engine.run(engine.dag({"work": {}, "gone": {"upstream": ["work"], "trigger_rule": "all_done"}, "keep": {}}))
    engine.claim()
    engine.end("work", Outcome.FAILED)
    engine.end("gone")
    engine.sql(sa.update(task_instance).where(task_instance.c.task_id == "gone").values(state=State.REMOVED))
    engine.end("keep")
    assert engine.run_row(run).state == RunState.FAILED


# --- dagrun_timeout --------------------------------------------------------------------------------------------------


def timed_out(engine: Engine, run: DagRun) -> list[int]:
    def work(connection: sa.Connection) -> list[int]:
        return time_out(connection, engine.structures.through(connection), run.id, engine.now)[0]

    return engine.store.write(work)


TIMED: Tasks = {
    "on": {"retries": 3, "retry_delay": 0.0}, "off": {"pool": "nobody_made_it"}, "then": {"upstream": ["on"]},
    "end": {"upstream": ["then"], "trigger_rule": "all_done"},
}  # fmt: skip


def test_a_run_past_its_time_skips_what_has_not_begun_and_names_what_has(engine: Engine) -> None:
    run = engine.run(engine.dag(TIMED, dagrun_timeout=60.0))
    engine.claim()
    assert timed_out(engine, run) == []  # not yet
    engine.now += timedelta(seconds=60)
    assert timed_out(engine, run) == [engine.open[run.run_id, "on"].claim]
    assert engine.states(run) == {
        "on": State.STARTED, "off": State.SKIPPED, "then": State.SKIPPED, "end": State.SKIPPED,
    }  # fmt: skip
    assert engine.rows(run)["then"].reason == "dagrun_timeout has passed"
    assert timed_out(engine, run) == []  # once
    outcomes = engine.end("on", Outcome.TIMED_OUT, may_retry=False)
    assert [ended.run_id for ended in outcomes.runs_ended] == [run.run_id]
    assert engine.run_row(run).state == RunState.FAILED


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.LOST, Outcome.NEVER_LAUNCHED])
def test_nothing_of_a_run_past_its_time_begins_again(engine: Engine, outcome: Outcome) -> None:
    """The attempt may end by itself, or with its machine, before the kill reaches it."""
    run = engine.run(engine.dag(TIMED, dagrun_timeout=60.0))
    engine.claim()
    engine.now += timedelta(seconds=61)
    timed_out(engine, run)
    assert engine.end("on", outcome).claimed == []
    assert engine.states(run)["on"] == State.FAILED
    assert engine.run_row(run).state == RunState.FAILED


def test_a_run_past_its_time_in_which_nothing_runs_is_over_at_once_and_lets_the_next_begin(engine: Engine) -> None:
    version = engine.dag({"off": {"pool": "nobody_made_it"}}, dagrun_timeout=60.0, max_active_runs=1)
    first, second = engine.run(version, 1), engine.run(version, 2)
    engine.claim()
    engine.now += timedelta(seconds=61)
    assert timed_out(engine, first) == []
    assert (engine.run_row(first).state, engine.run_row(second).state) == (RunState.FAILED, RunState.RUNNING)
    assert engine.run_row(second).deadline_at == engine.now + timedelta(seconds=60)


def test_retrying_task_instances_of_a_run_past_its_time_do_not_wake(engine: Engine) -> None:
    run = engine.run(engine.dag(TIMED, dagrun_timeout=60.0))
    engine.claim()
    engine.end("on", Outcome.FAILED)
    engine.now += timedelta(seconds=61)
    timed_out(engine, run)
    assert engine.states(run)["on"] == State.SKIPPED
    assert engine.wake().claimed == []


def test_a_run_past_its_time_passes_on_the_room_of_what_it_had_been_promised(engine: Engine) -> None:
    """A task instance that was unblocked but not asked yet is skipped: the next in line gets the pool."""
    version = engine.dag({"use": {"pool": "etl"}}, dagrun_timeout=60.0)
    other = engine.dag({"use": {"pool": "etl"}}, dag_id="other")
    engine.store.write(lambda c: pools.set(c, "etl", 1))
    holder, first, second = engine.run(other, 1), engine.run(version, 2), engine.run(other, 3)
    assert engine.claim() == ["use"]
    engine.end("use", run=holder, room=0)  # promotes `first`; the executor is full
    assert [engine.rows(run)["use"].blocked_on == "" for run in (first, second)] == [True, False]
    engine.now += timedelta(seconds=61)
    timed_out(engine, first)
    assert [item.run.run_id for item in engine.advance().claimed] == [second.run_id]

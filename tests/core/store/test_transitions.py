"""Every event on every state, through the statements that the engine uses: the table decides, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import StaleState
from flux.states import HELD, TRANSITIONS, Event, Outcome, RunState, State
from flux.store import transitions
from flux.store.runs import DagRun
from flux.store.schema import attempt, task_instance
from tests.store_engine import NOW, Engine

CLAIM = 4711
#: Built when its issue comes: clearing by hand.
NOT_YET = {Event.CLEAR}
RULES = {Event.RULE_SKIP, Event.RULE_FAIL}
OPENINGS = {Event.CLAIM, Event.DEFER, Event.ENQUEUE}
ENDINGS = {Event.SUCCEED, Event.SKIP, Event.FAIL, Event.RETRY, Event.REQUEUE, Event.PUT_OFF}
MARKS = {Event.MARK_SUCCESS, Event.MARK_FAILED, Event.MARK_SKIPPED, Event.REMOVE}


def opening(
    row_id: int, event: Event = Event.CLAIM, *, number: int = 2, claim: int = 99
) -> tuple[dict[str, Any], dict[str, Any]]:
    move = {"b_id": row_id, "b_attempt": number, "b_claim": claim, "b_job_id": 1, "b_deadline_at": None}
    if event is not Event.ENQUEUE:
        move["b_now"] = NOW
    opened = {
        "task_instance_id": row_id, "attempt": number, "claim": claim, "job_id": 1, "launcher": "a" * 32,
        "host": "here", "started_at": NOW, "log": f"{number}.log",
    }  # fmt: skip
    return move, opened


def ending(event: Event, claim: int = CLAIM) -> dict[str, Any]:
    values: dict[str, Any] = {"b_claim": claim, "b_ended_at": NOW}
    if event is not Event.REQUEUE:
        values |= {"b_reason": "why", "b_losses": 0}
    if event in (Event.RETRY, Event.PUT_OFF):
        values["b_wake_at"] = NOW
    if event is Event.SUCCEED:
        values["b_closes"] = None
    return values


def apply(connection: sa.Connection, event: Event, row_id: int) -> None:
    if event in (Event.READY, Event.WAKE):
        transitions.make_ready(connection, event, [row_id], NOW)
    elif event in RULES:
        transitions.apply_rule(connection, event, {row_id: "why"}, NOW)
    elif event in MARKS:
        transitions.mark(connection, event, [row_id], "why", NOW)
    elif event is Event.REWIND:
        transitions.rewind(connection, [row_id])
    elif event in ENDINGS:
        transitions.end_attempts(connection, event, [ending(event)])
    elif event is Event.BEGIN:
        if not begin(connection):
            raise StaleState("nobody holds it as queued")
    else:
        move, opened = opening(row_id, event)
        transitions.open_attempts(connection, event, [move], [opened])


def begin(connection: sa.Connection, agent: str = "agent-1") -> bool:
    return transitions.begin_attempt(connection, CLAIM, agent=agent, host="node-1", pid=77, now=NOW)


def assert_stale(engine: Engine, move: Callable[[sa.Connection], object]) -> None:
    """A move finds its row stale; rolled back by another error, for StaleState is what the store waits and repeats."""

    def stale(connection: sa.Connection) -> None:
        with pytest.raises(StaleState):
            move(connection)
        raise LookupError

    with pytest.raises(LookupError):
        engine.store.write(stale)


@pytest.fixture
def run(engine: Engine) -> DagRun:
    return engine.run(engine.dag({"load": {"retries": 3}}))


@pytest.fixture
def put(engine: Engine, run: DagRun) -> Callable[[State], int]:
    """Put the task instance "load" into a state after its first attempt, with a claim where one is open."""

    def put(state: State) -> int:
        row_id = int(engine.rows(run)["load"].id)
        claim = CLAIM if state in HELD else None
        engine.sql(sa.delete(attempt))
        engine.sql(sa.insert(attempt).values(task_instance_id=row_id, attempt=1, claim=CLAIM))
        engine.sql(
            sa.update(task_instance).values(
                state=state, claim=claim, attempt=1, blocked_on="", holds=int(claim is not None), ended_at=None
            )
        )
        return row_id

    return put


@pytest.mark.parametrize("event", sorted(set(Event) - NOT_YET))
def test_an_event_moves_a_task_instance_from_its_states_and_from_no_other(
    engine: Engine, run: DagRun, put: Callable[[State], int], event: Event
) -> None:
    for state in State:
        row_id = put(state)
        before = engine.rows(run)["load"]
        move = lambda connection: apply(connection, event, row_id)  # noqa: E731, B023
        if state in TRANSITIONS[event].sources:
            engine.store.write(move)
            row = engine.rows(run)["load"]
            assert row.state == TRANSITIONS[event].target, f"{event} from {state}"
            assert (row.claim is not None) == State(row.state).is_held == (row.holds == 1), f"{event} from {state}"
        else:
            assert_stale(engine, move)
            assert engine.rows(run)["load"] == before, f"{event} from {state}"


def test_every_event_but_those_of_later_issues_has_a_statement() -> None:
    others = {Event.READY, Event.WAKE, Event.BEGIN, Event.REWIND}
    assert others | RULES | MARKS | ENDINGS | OPENINGS == set(Event) - NOT_YET


@pytest.mark.parametrize("event", sorted(ENDINGS))
def test_a_claim_that_nobody_holds_ends_nothing(
    engine: Engine, run: DagRun, put: Callable[[State], int], event: Event
) -> None:
    put(State.STARTED)
    with pytest.raises(StaleState):
        engine.store.write(lambda c: transitions.end_attempts(c, event, [ending(event, CLAIM + 2)]))
    assert engine.states(run) == {"load": State.STARTED}


@pytest.mark.parametrize("event", sorted(OPENINGS))
def test_a_blocked_task_instance_or_one_that_another_attempt_began_is_not_claimed(
    engine: Engine, run: DagRun, put: Callable[[State], int], event: Event
) -> None:
    row_id = put(State.READY)
    move, opened = opening(row_id, event, number=1)
    with pytest.raises(StaleState):
        engine.store.write(lambda c: transitions.open_attempts(c, event, [move], [opened]))
    engine.sql(sa.update(task_instance).values(blocked_on="pool:1"))
    with pytest.raises(StaleState):
        engine.store.write(lambda c: apply(c, event, row_id))
    assert engine.states(run) == {"load": State.READY}
    assert [one.attempt for one in engine.attempts(run, "load")] == [1]


def test_a_queued_attempt_is_begun_by_one_agent_and_says_by_whom_and_when(
    engine: Engine, run: DagRun, put: Callable[[State], int]
) -> None:
    put(State.QUEUED)
    assert engine.store.write(begin)
    (row,) = engine.attempts(run, "load")
    assert (row.launcher, row.host, row.pid, row.started_at) == ("agent-1", "node-1", 77, NOW)
    assert engine.rows(run)["load"].started_at == NOW
    assert not engine.store.write(lambda connection: begin(connection, "agent-2"))
    assert engine.attempts(run, "load")[0].launcher == "agent-1"


def test_an_agent_that_is_written_down_again_is_the_same(
    engine: Engine, run: DagRun, put: Callable[[State], int]
) -> None:
    """A commit whose answer was lost is done again."""
    put(State.QUEUED)
    assert engine.store.write(begin)
    assert engine.store.write(begin)
    assert engine.states(run) == {"load": State.STARTED}


def test_one_row_that_moved_takes_the_whole_transaction_back(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}, "b": {}, "c": {}}))
    ids = [row.id for row in engine.rows(run).values()]
    engine.sql(sa.update(task_instance).where(task_instance.c.task_id == "b").values(state=State.SKIPPED))
    with pytest.raises(StaleState, match="1 of 3"):
        engine.store.write(lambda c: [transitions.block(c, dict.fromkeys(ids, "pool:1"))])
    assert {row.blocked_on for row in engine.rows(run).values()} == {""}


def test_an_attempt_is_closed_once(engine: Engine, put: Callable[[State], int], run: DagRun) -> None:
    put(State.STARTED)
    values = {
        "b_claim": CLAIM, "b_started_at": None, "b_ended_at": NOW, "b_outcome": Outcome.FAILED, "b_reason": "first",
        "b_pid": None, "b_exit_status": 1, "b_signal": None, "b_max_rss_bytes": None,
    }  # fmt: skip
    engine.store.write(lambda c: transitions.close_attempts(c, [values]))
    with pytest.raises(StaleState):
        engine.store.write(lambda c: transitions.close_attempts(c, [{**values, "b_reason": "second"}]))
    assert [(one.outcome, one.reason) for one in engine.attempts(run, "load")] == [(Outcome.FAILED, "first")]


def test_closing_an_attempt_keeps_the_start_and_the_pid_that_are_known(
    engine: Engine, put: Callable[[State], int], run: DagRun
) -> None:
    put(State.STARTED)
    engine.sql(sa.update(attempt).values(started_at=NOW, pid=12))
    values = {
        "b_claim": CLAIM, "b_started_at": None, "b_ended_at": NOW + timedelta(1), "b_outcome": Outcome.LOST,
        "b_reason": None, "b_pid": None, "b_exit_status": None, "b_signal": 9, "b_max_rss_bytes": 5,
    }  # fmt: skip
    engine.store.write(lambda c: transitions.close_attempts(c, [values]))
    (one,) = engine.attempts(run, "load")
    assert (one.started_at, one.pid, one.signal, one.max_rss_bytes) == (NOW, 12, 9, 5)


@pytest.mark.parametrize("event", [Event.REQUEUE, Event.PUT_OFF])
def test_an_attempt_that_never_began_costs_none(
    engine: Engine, run: DagRun, put: Callable[[State], int], event: Event
) -> None:
    put(State.STARTED)
    before = engine.rows(run)["load"]
    engine.store.write(lambda c: transitions.end_attempts(c, event, [ending(event)]))
    after = engine.rows(run)["load"]
    assert (after.attempt, after.max_attempts) == (before.attempt, before.max_attempts + 1)


def test_only_ready_task_instances_are_blocked(engine: Engine, run: DagRun, put: Callable[[State], int]) -> None:
    for state in set(State) - {State.READY}:
        row_id = put(state)
        assert_stale(engine, lambda c, row_id=row_id: transitions.block(c, {row_id: "pool:1"}))
    assert engine.rows(run)["load"].blocked_on == ""


def test_a_run_starts_from_queued_and_ends_from_running_without_open_tasks(engine: Engine) -> None:
    version = engine.dag(max_active_runs=1)
    first, second = engine.run(version, 1), engine.run(version, 2)
    assert (first.state, second.state) == (RunState.RUNNING, RunState.QUEUED)
    start = lambda run: engine.store.write(  # noqa: E731
        lambda c: transitions.start_run(c, run.id, open_tasks=0, deadline_at=None, now=NOW)
    )
    close = lambda run: engine.store.write(lambda c: transitions.close_run(c, run.id, RunState.FAILED, NOW))  # noqa: E731
    with pytest.raises(StaleState):
        start(first)
    with pytest.raises(StaleState):
        close(first)
    with pytest.raises(StaleState):
        close(second)
    start(second)
    close(second)
    with pytest.raises(StaleState):
        close(second)
    assert engine.run_row(second).state == RunState.FAILED
    assert engine.run_row(first).state == RunState.RUNNING


def test_adopting_changes_the_holder_and_nothing_else(engine: Engine) -> None:
    tasks = {f"t{number}": {} for number in range(1200)}
    run = engine.run(engine.dag(tasks))
    claims = [item.claim for item in engine.advance().claimed[:1000]]
    engine.store.write(lambda c: transitions.adopt(c, claims, 77))
    rows = engine.rows(run).values()
    assert {row.claim for row in rows if row.job_id == 77} == set(claims)
    assert {row.state for row in rows if row.job_id == 77} == {State.STARTED}
    engine.assert_sound()

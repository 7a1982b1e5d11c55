"""The table of transitions, as a whole: what it must contain and must never allow."""

from __future__ import annotations

import pytest

from flux.states import CLAIMED_EVENTS, HELD, TERMINAL, TRANSITIONS, Event, Outcome, RunState, State


def reachable(start: State) -> set[State]:
    found, todo = {start}, [start]
    while todo:
        here = todo.pop()
        for move in TRANSITIONS.values():
            if here in move.sources and move.target not in found:
                found.add(move.target)
                todo.append(move.target)
    return found


def test_every_event_has_its_transition() -> None:
    assert set(TRANSITIONS) == set(Event)


def test_every_state_is_reached_from_waiting() -> None:
    assert reachable(State.WAITING) == set(State)


def test_every_state_that_is_not_terminal_leads_to_success_and_to_failure() -> None:
    for state in set(State) - TERMINAL:
        assert {State.SUCCESS, State.FAILED} <= reachable(state), state


def test_what_is_removed_comes_back_only_with_a_version_that_has_it() -> None:
    assert [event for event, move in TRANSITIONS.items() if State.REMOVED in move.sources] == [Event.REWIND]


def test_states_are_terminal_held_or_open() -> None:
    assert not TERMINAL & HELD
    assert {state for state in State if state.is_terminal} == TERMINAL
    assert {state for state in State if state.is_held} == HELD
    assert set(State) - TERMINAL - HELD == {State.WAITING, State.READY, State.RETRYING}


@pytest.mark.parametrize("event", [Event.CLAIM, Event.DEFER, Event.ENQUEUE])
def test_an_attempt_is_opened_only_from_ready_and_into_a_held_state(event: Event) -> None:
    assert TRANSITIONS[event].sources == {State.READY}
    assert TRANSITIONS[event].target.is_held


@pytest.mark.parametrize("event", sorted(CLAIMED_EVENTS))
def test_an_event_that_names_a_claim_comes_from_held_states_alone(event: Event) -> None:
    assert TRANSITIONS[event].sources <= HELD


@pytest.mark.parametrize("event", sorted(set(Event) - CLAIMED_EVENTS - {Event.CLEAR}))
def test_nothing_but_its_claim_and_clearing_moves_what_is_held(event: Event) -> None:
    assert not TRANSITIONS[event].sources & HELD


@pytest.mark.parametrize("event", [Event.RULE_SKIP, Event.RULE_FAIL, Event.READY])
def test_trigger_rules_move_only_what_waits(event: Event) -> None:
    assert TRANSITIONS[event].sources == {State.WAITING}


def test_a_terminal_state_is_left_by_hand_alone() -> None:
    leaving = {event for event, move in TRANSITIONS.items() if move.sources & TERMINAL}
    assert leaving == {
        Event.CLEAR, Event.MARK_SUCCESS, Event.MARK_FAILED, Event.MARK_SKIPPED, Event.REMOVE, Event.REWIND,
    }  # fmt: skip


def test_states_are_stored_as_the_words_people_see() -> None:
    assert f"{State.UPSTREAM_FAILED} {Outcome.NEVER_LAUNCHED}" == "upstream_failed never_launched"
    assert {state for state in RunState if state.is_terminal} == {RunState.SUCCESS, RunState.FAILED}

"""The states of task instances and DAG runs, the events that move them, and the one table of transitions.

A task instance is in one `State`. It moves only by an `Event`, and an event is legal only from the states that
`TRANSITIONS` lists for it. Whoever writes a state (`store/transitions.py`, nobody else) builds its UPDATE from this
table: the WHERE clause names the from-states, and the claim where an attempt holds one, so that a move that has
become illegal changes no row. The database therefore decides every race, and the loser learns what it found.

    waiting ──ready──> ready ──claim──> started ──succeed/fail/skip──> success, failed, skipped
       │                 │──enqueue──> queued ──begin──> started ──retry──> retrying ──wake──> ready
       │                 └──defer────> deferred (a sensor: an attempt without a process, until its condition holds)
       └──rule_skip/rule_fail──> skipped, upstream_failed

To add a state or an event: the enum, `TRANSITIONS`, the glossary, and the property test in `tests/core/store`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a task instance is."""

    #: Not all of its upstream has ended.
    WAITING = "waiting"
    #: May run; `blocked_on` names the limit it waits for, or is empty.
    READY = "ready"
    #: Handed to an executor; its claim is issued, nothing has begun.
    QUEUED = "queued"
    #: A process executes the attempt.
    STARTED = "started"
    #: A sensor between two pokes: the attempt is open, no process belongs to it.
    DEFERRED = "deferred"
    #: An attempt failed, or could not begin; the next begins at `wake_at`.
    RETRYING = "retrying"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    #: Its trigger rule can no longer hold because something above it failed.
    UPSTREAM_FAILED = "upstream_failed"
    #: A finished row whose task is no longer in the run's DAG version.
    REMOVED = "removed"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL

    @property
    def is_held(self) -> bool:
        """An attempt is open and a claim is issued."""
        return self in HELD


class RunState(StrEnum):
    """Where a DAG run is."""

    #: Held back by its DAG's max_active_runs; has no task instances yet.
    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in (RunState.SUCCESS, RunState.FAILED)


class Event(StrEnum):
    """What moves a task instance."""

    #: Its trigger rule holds.
    READY = "ready"
    #: Its trigger rule, or a gate above it, says that it will not run.
    RULE_SKIP = "rule_skip"
    #: Its trigger rule can no longer hold because of a failure.
    RULE_FAIL = "rule_fail"
    #: Given to an executor that queues; a claim is issued.
    ENQUEUE = "enqueue"
    #: A queued attempt began.
    BEGIN = "begin"
    #: Taken by a supervisor to be launched at once; a claim is issued.
    CLAIM = "claim"
    #: A sensor's first poke is due; a claim is issued and kept to the end.
    DEFER = "defer"
    SUCCEED = "succeed"
    FAIL = "fail"
    SKIP = "skip"
    #: The attempt failed and another is allowed.
    RETRY = "retry"
    #: The retry delay is over.
    WAKE = "wake"
    #: The claim was issued but no process ever began; costs no attempt.
    REQUEUE = "requeue"
    #: Its executor said that nothing will begin; tried again later, costs no attempt.
    PUT_OFF = "put_off"
    #: Back to the start by hand; `ready` follows when its upstream allows it.
    CLEAR = "clear"
    MARK_SUCCESS = "mark_success"
    MARK_FAILED = "mark_failed"
    MARK_SKIPPED = "mark_skipped"
    #: The task is not in the DAG version that the run was moved to.
    REMOVE = "remove"
    #: In the DAG version that the run was moved to, it waits for more, or is there again.
    REWIND = "rewind"


@dataclass(frozen=True, slots=True)
class Transition:
    """What an event does: from which states, to which."""

    sources: frozenset[State]
    target: State


TERMINAL = frozenset({State.SUCCESS, State.FAILED, State.SKIPPED, State.UPSTREAM_FAILED, State.REMOVED})
HELD = frozenset({State.QUEUED, State.STARTED, State.DEFERRED})
_OPEN = frozenset({State.WAITING, State.READY, State.RETRYING})
_MARKABLE = _OPEN | (TERMINAL - {State.REMOVED})

TRANSITIONS: Mapping[Event, Transition] = {
    Event.READY: Transition(frozenset({State.WAITING}), State.READY),
    Event.RULE_SKIP: Transition(frozenset({State.WAITING}), State.SKIPPED),
    Event.RULE_FAIL: Transition(frozenset({State.WAITING}), State.UPSTREAM_FAILED),
    Event.ENQUEUE: Transition(frozenset({State.READY}), State.QUEUED),
    Event.BEGIN: Transition(frozenset({State.QUEUED}), State.STARTED),
    Event.CLAIM: Transition(frozenset({State.READY}), State.STARTED),
    Event.DEFER: Transition(frozenset({State.READY}), State.DEFERRED),
    Event.SUCCEED: Transition(frozenset({State.STARTED, State.DEFERRED}), State.SUCCESS),
    Event.FAIL: Transition(HELD, State.FAILED),
    Event.SKIP: Transition(frozenset({State.STARTED, State.DEFERRED}), State.SKIPPED),
    Event.RETRY: Transition(HELD, State.RETRYING),
    Event.WAKE: Transition(frozenset({State.RETRYING}), State.READY),
    Event.REQUEUE: Transition(HELD, State.READY),
    Event.PUT_OFF: Transition(HELD, State.RETRYING),
    Event.CLEAR: Transition(HELD | (TERMINAL - {State.REMOVED}), State.WAITING),
    Event.MARK_SUCCESS: Transition(_MARKABLE, State.SUCCESS),
    Event.MARK_FAILED: Transition(_MARKABLE, State.FAILED),
    Event.MARK_SKIPPED: Transition(_MARKABLE, State.SKIPPED),
    Event.REMOVE: Transition(_OPEN | (TERMINAL - {State.REMOVED}), State.REMOVED),
    Event.REWIND: Transition(frozenset({State.READY, State.RETRYING, State.REMOVED}), State.WAITING),
}

#: Events that end an attempt: they name its claim, and close its attempt row.
CLAIMED_EVENTS = frozenset(
    {Event.BEGIN, Event.SUCCEED, Event.FAIL, Event.SKIP, Event.RETRY, Event.REQUEUE, Event.PUT_OFF}
)


class Outcome(StrEnum):
    """How an attempt ended. An attempt that still runs has none."""

    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    #: Ended because its task instance was cleared.
    CLEARED = "cleared"
    #: Ended by `flux kill`.
    KILLED = "killed"
    #: Ended because Flux was stopped.
    INTERRUPTED = "interrupted"
    TIMED_OUT = "timed_out"
    #: Its process, or the machine it was on, vanished.
    LOST = "lost"
    #: The claim was issued but no process ever began.
    NEVER_LAUNCHED = "never_launched"


class RunKind(StrEnum):
    """Why a DAG run exists."""

    SCHEDULED = "scheduled"
    MANUAL = "manual"
    BACKFILL = "backfill"

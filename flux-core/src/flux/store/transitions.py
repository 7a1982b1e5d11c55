"""The only module that writes the state of a task instance or a DAG run.

One builder per kind of move. Each takes its from-states from `states.TRANSITIONS`, so a move that is no longer legal
changes no row, and each names the claim where an attempt holds one, so that only its holder can end it. All run inside
the caller's write transaction; those that take rows run once for all of them.

A move whose rows were read in the same transaction must change every one of them. If it does not, another process was
faster: `StaleState` is raised, the transaction rolls back, and the caller begins again from what is there now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import StaleState
from flux.states import CLAIMED_EVENTS, TRANSITIONS, Event, RunState, State
from flux.store import announcing
from flux.store.prepared import Prepared
from flux.store.schema import attempt, dag_run, task_instance


def state_is(*states: State) -> sa.ColumnElement[bool]:
    """Return the condition on the state, for statements that find their rows by another column.

    Written as an expression, so that no planner takes an index that begins with the state: PostgreSQL prepares these
    statements while the table is small, finds one index as good as the other, and keeps to it when the table has grown.
    """
    state = sa.func.coalesce(task_instance.c.state, "")
    return sa.or_(*(state == each for each in states))


def _sources(event: Event) -> sa.ColumnElement[bool]:
    """The part of a WHERE clause that admits the event's from-states."""
    return state_is(*sorted(TRANSITIONS[event].sources))


def _move(event: Event, **values: Any) -> sa.Update:
    """The UPDATE of one row for an event: by claim where the event ends or begins a claimed attempt, else by id."""
    row = (
        task_instance.c.claim == bindparam("b_claim")
        if event in CLAIMED_EVENTS
        else task_instance.c.id == bindparam("b_id")
    )
    return sa.update(task_instance).where(row, _sources(event)).values(state=TRANSITIONS[event].target, **values)


def _each(moves: Mapping[Event, sa.Update]) -> Mapping[Event, Prepared]:
    return {event: Prepared(statement) for event, statement in moves.items()}


_RELEASED: dict[str, Any] = {"claim": None, "job_id": None, "holds": 0, "deadline_at": None}
_ENDED = {
    **_RELEASED,
    "ended_at": bindparam("b_ended_at"),
    "reason": bindparam("b_reason"),
    "losses": bindparam("b_losses"),
}

_END = _each(
    {
        Event.SUCCEED: _move(Event.SUCCEED, **_ENDED, closes=bindparam("b_closes")),
        Event.SKIP: _move(Event.SKIP, **_ENDED),
        Event.FAIL: _move(Event.FAIL, **_ENDED),
        Event.RETRY: _move(Event.RETRY, **_ENDED, wake_at=bindparam("b_wake_at")),
        Event.REQUEUE: _move(
            Event.REQUEUE,
            **_RELEASED,
            max_attempts=task_instance.c.max_attempts + 1,
            blocked_on="",
            ready_at=bindparam("b_ended_at"),
        ),
        Event.PUT_OFF: _move(
            Event.PUT_OFF,
            **_ENDED,
            max_attempts=task_instance.c.max_attempts + 1,
            wake_at=bindparam("b_wake_at"),
        ),
    }
)

_OPEN = _each(
    {
        event: _move(
            event,
            attempt=bindparam("b_attempt"),
            claim=bindparam("b_claim"),
            job_id=bindparam("b_job_id"),
            holds=1,
            started_at=None if event is Event.ENQUEUE else bindparam("b_now"),
            ended_at=None,
            wake_at=None,
            reason=None,
            deadline_at=bindparam("b_deadline_at"),
        ).where(
            sa.func.coalesce(task_instance.c.blocked_on, "") == "",
            task_instance.c.attempt == bindparam("b_attempt") - 1,
        )
        for event in (Event.CLAIM, Event.DEFER, Event.ENQUEUE)
    }
)

_READY = _each(
    {
        Event.READY: _move(Event.READY, ready_at=bindparam("b_now"), blocked_on=""),
        Event.WAKE: _move(Event.WAKE, ready_at=bindparam("b_now"), blocked_on="", wake_at=None),
    }
)

_RULE = _each(
    {
        event: _move(event, ended_at=bindparam("b_now"), reason=bindparam("b_reason"))
        for event in (Event.RULE_SKIP, Event.RULE_FAIL)
    }
)

#: A state by hand, for task instances that no attempt holds.
_MARK = _each(
    {
        event: _move(event, ended_at=bindparam("b_now"), reason=bindparam("b_reason"), blocked_on="", wake_at=None)
        for event in (Event.MARK_SUCCESS, Event.MARK_FAILED, Event.MARK_SKIPPED)
    }
    | {
        # What has ended keeps the moment at which it did.
        Event.REMOVE: _move(
            Event.REMOVE,
            ended_at=sa.func.coalesce(
                task_instance.c.ended_at, bindparam("b_now", type_=task_instance.c.ended_at.type)
            ),
            reason=bindparam("b_reason"),
            blocked_on="",
            wake_at=None,
        )
    }
)

_REWIND = Prepared(_move(Event.REWIND, ready_at=None, blocked_on="", wake_at=None, ended_at=None, reason=None))

_BLOCK = Prepared(
    sa.update(task_instance)
    .where(task_instance.c.id == bindparam("b_id"), state_is(State.READY))
    .values(blocked_on=bindparam("b_key"))
)

_UNBLOCK = (
    sa.update(task_instance)
    .where(task_instance.c.blocked_on.in_(bindparam("b_keys", expanding=True)), state_is(State.READY))
    .values(blocked_on="")
)

_BEGIN = _move(Event.BEGIN, started_at=bindparam("b_now"))
_BEGIN_ATTEMPT = (
    sa.update(attempt)
    .where(attempt.c.claim == bindparam("b_claim"))
    .values(
        started_at=bindparam("b_now"),
        launcher=bindparam("b_launcher"),
        host=bindparam("b_host"),
        pid=bindparam("b_pid", type_=sa.Integer()),
    )
)
_IS_BEGUN = sa.select(attempt.c.claim).where(
    attempt.c.claim == bindparam("b_claim"), attempt.c.launcher == bindparam("b_launcher"), attempt.c.outcome.is_(None)
)
_INSERT_ATTEMPT = Prepared(
    sa.insert(attempt)
    .values(
        {
            name: bindparam(name)
            for name in (
                "task_instance_id", "attempt", "claim", "job_id", "launcher", "host", "started_at", "log"
            )
        }
    )
    .inline()
)  # fmt: skip

_CLOSE_ATTEMPT = Prepared(
    sa.update(attempt)
    .where(attempt.c.claim == bindparam("b_claim"), attempt.c.outcome.is_(None))
    .values(
        started_at=sa.func.coalesce(bindparam("b_started_at", type_=attempt.c.started_at.type), attempt.c.started_at),
        ended_at=bindparam("b_ended_at"),
        outcome=bindparam("b_outcome"),
        reason=bindparam("b_reason"),
        pid=sa.func.coalesce(bindparam("b_pid", type_=sa.Integer()), attempt.c.pid),
        exit_status=bindparam("b_exit_status"),
        signal=bindparam("b_signal"),
        max_rss_bytes=bindparam("b_max_rss_bytes"),
    )
)

_RUN_TO = {
    state: sa.update(dag_run).where(dag_run.c.id == bindparam("b_id"), dag_run.c.state == source)
    for state, source in ((RunState.RUNNING, RunState.QUEUED), (RunState.SUCCESS, RunState.RUNNING))
}
_START_RUN = Prepared(
    _RUN_TO[RunState.RUNNING].values(
        state=RunState.RUNNING,
        started_at=bindparam("b_now"),
        deadline_at=bindparam("b_deadline_at"),
        open_tasks=bindparam("b_open_tasks"),
    )
)
_CLOSE_RUN = Prepared(
    _RUN_TO[RunState.SUCCESS]
    .where(dag_run.c.open_tasks == 0)
    .values(state=bindparam("b_state"), ended_at=bindparam("b_now"))
)
_INSERT_RUN = sa.insert(dag_run)
_INSERT_TASKS = sa.insert(task_instance)

Rows = Sequence[Mapping[str, Any]]


def _all(connection: sa.Connection, statement: Prepared, rows: Rows) -> None:
    """Run one UPDATE for each of `rows`; every one must change exactly one row."""
    if not rows:
        return
    changed = statement.run(connection, *rows)
    if changed != len(rows):
        raise StaleState(f"{len(rows) - changed} of {len(rows)} rows were no longer as they were read.")


def _move_all(connection: sa.Connection, event: Event, statement: Prepared, rows: Rows) -> None:
    """Move task instances, and announce it in the same transaction where somebody listens."""
    if not rows or not announcing.is_wanted(connection, announcing.TASK_STATE):
        _all(connection, statement, rows)
        return
    states = announcing.before(connection, event, rows)
    _all(connection, statement, rows)
    announcing.moved(connection, states)


def _move_run(connection: sa.Connection, statement: Prepared, row: Mapping[str, Any], source: RunState) -> None:
    """Move a DAG run from `source`, and announce it in the same transaction where somebody listens."""
    _all(connection, statement, [row])
    if announcing.is_wanted(connection, announcing.RUN_STATE):
        announcing.run_moved(connection, row["b_id"], source)


def open_attempts(connection: sa.Connection, event: Event, rows: Rows, attempts: Rows) -> None:
    """Claim ready, unblocked task instances (`claim`, `defer` or `enqueue`) and open their attempt rows.

    Args:
        rows: b_id, b_attempt (the new number), b_claim, b_job_id, b_deadline_at and, but for enqueue, b_now.
        attempts: the new attempt rows: task_instance_id, attempt, claim, job_id, launcher, host, started_at, log.
    """
    if rows:
        _move_all(connection, event, _OPEN[event], rows)
        _INSERT_ATTEMPT.run(connection, *attempts)


def begin_attempt(connection: sa.Connection, claim: int, *, agent: str, host: str, pid: int, now: datetime) -> bool:
    """Move a queued attempt to started, as begun by `agent`; False: nobody holds that claim, or another began it."""
    row = {"b_claim": claim, "b_now": now}
    began = {**row, "b_launcher": agent, "b_host": host, "b_pid": pid}
    is_wanted = announcing.is_wanted(connection, announcing.TASK_STATE)
    states = announcing.before(connection, Event.BEGIN, [row]) if is_wanted else []
    if connection.execute(_BEGIN, row).rowcount == 1:
        connection.execute(_BEGIN_ATTEMPT, began)
        announcing.moved(connection, states)
        return True
    # The transaction may have been committed before, and its answer lost.
    return connection.execute(_IS_BEGUN, {"b_claim": claim, "b_launcher": agent}).first() is not None


def end_attempts(connection: sa.Connection, event: Event, rows: Rows) -> None:
    """End held attempts by `succeed`, `skip`, `fail`, `retry`, `put_off` or `requeue`.

    Args:
        rows: b_claim, b_ended_at, and, but for requeue, b_reason, b_losses; b_closes (succeed); b_wake_at (retry and
            put_off).
    """
    _move_all(connection, event, _END[event], rows)


def close_attempts(connection: sa.Connection, rows: Rows) -> None:
    """Write into the attempt rows how they ended.

    Args:
        rows: b_claim, b_started_at, b_ended_at, b_outcome, b_reason, b_pid, b_exit_status, b_signal, b_max_rss_bytes.
    """
    _all(connection, _CLOSE_ATTEMPT, rows)


def make_ready(connection: sa.Connection, event: Event, ids: Sequence[int], now: datetime) -> None:
    """Move waiting (`ready`) or retrying (`wake`) task instances to ready, not blocked on anything yet."""
    _move_all(connection, event, _READY[event], [{"b_id": row, "b_now": now} for row in ids])


def apply_rule(connection: sa.Connection, event: Event, reasons: Mapping[int, str], now: datetime) -> None:
    """End waiting task instances without an attempt (`rule_skip`, `rule_fail`). `reasons` maps row number to text."""
    rows = [{"b_id": row, "b_reason": text, "b_now": now} for row, text in reasons.items()]
    _move_all(connection, event, _RULE[event], rows)


def mark(connection: sa.Connection, event: Event, ids: Sequence[int], reason: str | None, now: datetime) -> None:
    """Set task instances that no attempt holds by hand, or take them out of the run (`remove`)."""
    _move_all(connection, event, _MARK[event], [{"b_id": row, "b_reason": reason, "b_now": now} for row in ids])


def rewind(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Have task instances wait again whose run was moved to another version: ready, retrying or removed ones."""
    _move_all(connection, Event.REWIND, _REWIND, [{"b_id": row} for row in ids])


def block(connection: sa.Connection, keys: Mapping[int, str]) -> None:
    """Set what ready task instances wait for. `keys` maps row number to key; the empty key unblocks."""
    _all(connection, _BLOCK, [{"b_id": row, "b_key": key} for row, key in keys.items()])


def unblock(connection: sa.Connection, keys: Sequence[str]) -> None:
    """Have every task instance asked again that waits for one of `keys`."""
    for start in range(0, len(keys), 500):
        connection.execute(_UNBLOCK, {"b_keys": list(keys[start : start + 500])})


def insert_run(connection: sa.Connection, values: Mapping[str, Any]) -> int:
    """Insert a DAG run in state queued and return its row number."""
    key = connection.execute(_INSERT_RUN, {**values, "state": RunState.QUEUED}).inserted_primary_key
    assert key is not None
    return int(key[0])


def insert_task_instances(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the task instances of a run; each is waiting or ready."""
    if rows:
        connection.execute(_INSERT_TASKS, list(rows))


def start_run(
    connection: sa.Connection, dag_run_row: int, *, open_tasks: int, deadline_at: datetime | None, now: datetime
) -> None:
    """Move a queued DAG run to running."""
    row = {"b_id": dag_run_row, "b_now": now, "b_deadline_at": deadline_at, "b_open_tasks": open_tasks}
    _move_run(connection, _START_RUN, row, RunState.QUEUED)


def close_run(connection: sa.Connection, dag_run_row: int, state: RunState, now: datetime) -> None:
    """End a running DAG run whose task instances have all ended."""
    row = {"b_id": dag_run_row, "b_state": state, "b_now": now}
    _move_run(connection, _CLOSE_RUN, row, RunState.RUNNING)


_ADOPT = sa.update(task_instance).where(task_instance.c.claim.in_(bindparam("b_claims", expanding=True)))


def adopt(connection: sa.Connection, claims: Sequence[int], job_id: int) -> None:
    """Make another job the holder of open attempts; their states stay."""
    for start in range(0, len(claims), 500):
        connection.execute(_ADOPT.values(job_id=job_id), {"b_claims": list(claims[start : start + 500])})

"""What the end of an attempt makes of its task instance: done, tried again, put off; with its results and its log.

`write` only ends what it is given. What lies below, and the room that is free now, are `advance`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flux import graph, retries
from flux.states import TRANSITIONS, Event, Outcome
from flux.store import kept_logs, transitions
from flux.store.attempts import End
from flux.store.resolving import Ended
from flux.store.schema import rendered_fields, task_result
from flux.store.scope import Row, Scope

#: A task instance that was lost this many times in a row fails, so that it cannot walk through a whole fleet.
MAX_LOSSES = 3
#: After these it is not known whether an attempt can come to a good end: losses before them count on.
_TELLS_NO_HEALTH = (Outcome.LOST, Outcome.NEVER_LAUNCHED)


@dataclass(slots=True)
class Endings:
    """What became of the task instances."""

    #: In a terminal state now.
    terminal: list[Ended] = field(default_factory=list)
    #: Ready again at once.
    again: list[Row] = field(default_factory=list)
    #: (task instance row, when it wakes)
    retrying: list[tuple[int, datetime]] = field(default_factory=list)


def write(scope: Scope, rows: Sequence[Row], ends: Mapping[int, End]) -> Endings:
    """End the attempts that `rows` hold, by `ends` (by claim): their states, attempt rows, results and kept logs."""
    found = Endings()
    moves: dict[Event, list[dict[str, Any]]] = {}
    for row in rows:
        end = ends[row.claim or 0]
        event, wake_at = _event(scope, row, end)
        closes = _closes(scope, row, end) if event is Event.SUCCEED else ()
        moves.setdefault(event, []).append(_end_values(row, end, event, wake_at, closes))
        if wake_at is not None:
            found.retrying.append((row.id, wake_at))
        elif event is Event.REQUEUE:
            found.again.append(row)
        else:
            found.terminal.append(Ended(row, TRANSITIONS[event].target, closes))
    for event, values in moves.items():
        transitions.end_attempts(scope.connection, event, values)
    transitions.close_attempts(scope.connection, [_attempt_values(ends[row.claim or 0]) for row in rows])
    _store_results(scope, rows, ends)
    if kept_logs.is_wanted(scope.connection):
        kept_logs.note(scope.connection, [(row.dag_run_id, row.claim) for row in rows if row.claim], scope.now)
    return found


def _event(scope: Scope, row: Row, end: End) -> tuple[Event, datetime | None]:
    """The event an end stands for, and when the next attempt is due."""
    if end.outcome is Outcome.SUCCESS:
        return Event.SUCCEED, None
    if end.outcome is Outcome.SKIPPED:
        return Event.SKIP, None
    if scope.runs[row.dag_run_id].reason is not None:  # its dagrun_timeout has passed: nothing begins again
        return Event.FAIL, None
    if end.outcome is Outcome.NEVER_LAUNCHED:
        return (Event.REQUEUE, None) if end.not_before is None else (Event.PUT_OFF, end.not_before)
    if end.must_retry:
        return Event.RETRY, scope.now
    lost_for_good = end.outcome is Outcome.LOST and row.losses + 1 >= MAX_LOSSES
    wake_at = retries.decide(
        scope.task(row),
        row.attempt,
        row.max_attempts,
        row.id,
        scope.now,
        allowed=end.may_retry and not lost_for_good,
    )
    return (Event.FAIL, None) if wake_at is None else (Event.RETRY, wake_at)


def _closes(scope: Scope, row: Row, end: End) -> tuple[int, ...]:
    """The indices of the tasks that a gate which succeeded closes."""
    task = scope.task(row)
    if task.gate is None or end.chosen is None:
        return ()
    if task.gate == "branch":
        structure = scope.structure(row)
        chosen = [structure.index_of[name] for name in end.chosen if name in structure.index_of]
        kept = graph.reach(chosen, [other.downstream for other in structure.tasks]) | set(chosen)
        return tuple(index for index in task.downstream if index not in kept)
    return task.gates


def _store_results(scope: Scope, rows: Sequence[Row], ends: Mapping[int, End]) -> None:
    results, rendered = [], []
    for row in rows:
        end = ends[row.claim or 0]
        key = {"task_instance_id": row.id, "attempt": row.attempt}
        results += [{**key, "key": name, "value": text, "path": None} for name, text in end.results.items()]
        results += [{**key, "key": name, "value": None, "path": path} for name, path in end.result_files.items()]
        if end.rendered is not None:
            rendered.append({**key, "fields": end.rendered})
    if results:
        scope.connection.execute(sa.insert(task_result), results)
    if rendered:
        scope.connection.execute(sa.insert(rendered_fields), rendered)


def _end_values(row: Row, end: End, event: Event, wake_at: datetime | None, closes: tuple[int, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {"b_claim": end.claim, "b_ended_at": end.ended_at}
    if event is Event.REQUEUE:
        return values
    losses = row.losses + (end.outcome is Outcome.LOST) if end.outcome in _TELLS_NO_HEALTH else 0
    reason = end.reason if losses < MAX_LOSSES else f"lost {losses} times in a row, and so given up; {end.reason}"
    values |= {"b_reason": reason, "b_losses": losses}
    if event in (Event.RETRY, Event.PUT_OFF):
        values["b_wake_at"] = wake_at
    if event is Event.SUCCEED:
        values["b_closes"] = json.dumps(closes) if closes else None
    return values


def _attempt_values(end: End) -> dict[str, Any]:
    return {
        "b_claim": end.claim, "b_started_at": end.started_at, "b_ended_at": end.ended_at, "b_outcome": end.outcome,
        "b_reason": end.reason, "b_pid": end.pid, "b_exit_status": end.exit_status, "b_signal": end.signal,
        "b_max_rss_bytes": end.max_rss_bytes,
    }  # fmt: skip

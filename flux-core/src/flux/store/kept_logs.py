"""Logs that a log handler is still to keep: rows of the outbox, made in the transaction that ends the attempt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.store import outbox
from flux.store.schema import attempt, dag, dag_run, task_instance

#: Of a kind in the outbox; the handler's name follows, of at most 28 characters.
_PREFIX = "log "
#: Seconds before a handler that has failed is called again: twice as many each time, up to the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0


@dataclass(frozen=True, slots=True)
class LogToKeep:
    """The log of an attempt that has ended."""

    #: Row number of its message.
    message: int
    #: How often keeping it has failed.
    tries: int
    dag_id: str
    run_id: str
    task_id: str
    #: -1 for a task that is not mapped.
    map_index: int
    attempt: int
    #: Relative to the logs folder.
    log: str


_PLACE = (
    sa.select(
        attempt.c.claim, dag.c.dag_id, dag_run.c.run_id, task_instance.c.task_id, task_instance.c.map_index,
        attempt.c.attempt, attempt.c.log,
    )
    .join_from(attempt, task_instance, attempt.c.task_instance_id == task_instance.c.id)
    .join(dag_run, task_instance.c.dag_run_id == dag_run.c.id)
    .join(dag, dag_run.c.dag_row == dag.c.id)
    .where(attempt.c.claim.in_(bindparam("claims", expanding=True)), attempt.c.log.is_not(None))
)  # fmt: skip


def is_wanted(connection: sa.Connection) -> bool:
    """Say whether any handler is to be told; see `Store.keep_logs`."""
    return bool(connection.get_execution_options().get("flux_log_handlers"))


def note(connection: sa.Connection, ended: Sequence[tuple[int, int]], now: datetime) -> None:
    """Note that attempts have ended, (row number of the DAG run, claim), for every handler of `Store.keep_logs`."""
    for handler in connection.get_execution_options().get("flux_log_handlers", ()):
        outbox.add_all(connection, kind(handler), [(run, {"claim": claim}) for run, claim in ended], now)


def due(
    connection: sa.Connection, handler: str, now: datetime, *, limit: int = 50
) -> tuple[list[LogToKeep], list[int]]:
    """Return the oldest logs that `handler` is to keep now, and the messages of attempts that are no longer there."""
    messages = outbox.due(connection, [kind(handler)], now, limit=limit)
    claims = [message.payload["claim"] for message in messages]
    places = {row.claim: row for row in connection.execute(_PLACE, {"claims": claims})} if claims else {}
    found, gone = [], []
    for message in messages:
        row = places.get(message.payload["claim"])
        if row is None:
            gone.append(message.id)
        else:
            found.append(LogToKeep(message.id, message.tries, *row[1:]))
    return found, gone


def done(connection: sa.Connection, kept: Iterable[int], failed: Iterable[LogToKeep], now: datetime) -> None:
    """Drop the messages of what was kept, and put off what was not."""
    outbox.done(connection, kept)
    for log in failed:
        pause = min(_FIRST_PAUSE * 2.0 ** min(log.tries, 30), _LONGEST_PAUSE)
        outbox.later(connection, log.message, now + timedelta(seconds=pause))


def waiting(connection: sa.Connection, handler: str) -> int:
    """Return how many logs `handler` has still to keep, those that are put off among them."""
    return outbox.waiting(connection, [kind(handler)])


def kind(handler: str) -> str:
    """Return the outbox's kind of messages for `handler`."""
    return _PREFIX + handler

"""The outbox."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from flux.store import outbox
from flux.store.announcing import KINDS
from flux.store.engine import Store


def test_messages_are_told_in_the_order_they_were_added(store: Store, now: datetime) -> None:
    for number in range(3):
        store.write(lambda c, n=number: outbox.add(c, KINDS[0], {"n": n}, dag_run_id=5, now=now))
    due = store.read(lambda connection: outbox.due(connection, KINDS, now, limit=2))
    assert [(item.kind, item.payload, item.dag_run_id) for item in due] == [
        (KINDS[0], {"n": 0}, 5),
        (KINDS[0], {"n": 1}, 5),
    ]


def test_one_that_was_told_is_gone(store: Store, now: datetime) -> None:
    store.write(lambda c: outbox.add(c, KINDS[0], {}, now=now))
    [message] = store.read(lambda c: outbox.due(c, KINDS, now))
    store.write(lambda c: outbox.done(c, [message.id]))
    assert store.read(lambda c: outbox.due(c, KINDS, now)) == []


def test_one_that_could_not_be_told_waits(store: Store, now: datetime) -> None:
    minute = timedelta(minutes=1)
    store.write(lambda c: outbox.add(c, KINDS[0], {}, now=now))
    [message] = store.read(lambda c: outbox.due(c, KINDS, now))
    store.write(lambda c: outbox.later(c, message.id, now + minute))
    assert store.read(lambda c: outbox.due(c, KINDS, now + minute / 2)) == []
    [again] = store.read(lambda c: outbox.due(c, KINDS, now + minute))
    assert (again.id, again.tries) == (message.id, 1)


def test_the_same_key_is_added_once(store: Store, now: datetime) -> None:
    for key in ("x", "x", "y", None, None):
        store.write(lambda c, key=key: outbox.add(c, KINDS[0], {}, dedupe_key=key, now=now))
    assert len(store.read(lambda c: outbox.due(c, KINDS, now))) == 4


def test_a_rolled_back_transaction_tells_nobody(store: Store, now: datetime) -> None:
    def work(connection: sa.Connection) -> None:
        outbox.add(connection, KINDS[0], {}, now=now)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.write(work)
    assert store.read(lambda c: outbox.due(c, KINDS, now)) == []

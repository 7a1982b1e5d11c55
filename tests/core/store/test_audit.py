"""The audit."""

from __future__ import annotations

from datetime import datetime, timedelta

from flux.store import audit
from flux.store.audit import Entry
from flux.store.engine import Store


def test_the_newest_action_comes_first(store: Store, now: datetime) -> None:
    later = now + timedelta(seconds=1)
    store.write(lambda c: audit.add(c, "ann", "dag.pause", "DAG sales", None, now))
    store.write(lambda c: audit.add(c, "bob", "run.trigger", "DAG sales", {"conf": {"a": 1}}, later))
    newest = Entry(later, "bob", "run.trigger", "DAG sales", {"conf": {"a": 1}})
    assert store.read(audit.every) == [newest, Entry(now, "ann", "dag.pause", "DAG sales", None)]
    assert store.read(lambda c: audit.every(c, 1)) == [newest]

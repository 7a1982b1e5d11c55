"""Pools."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest
import sqlalchemy as sa

from flux.errors import NotFound, Refused
from flux.store import engine, pools, schema
from flux.store.dags import DagVersion
from flux.store.engine import Store


@pytest.fixture
def add_instances(store: Store, now: datetime, make_version: Callable[..., DagVersion]) -> Callable[..., None]:
    """Add a run whose task instances, one for each state, are in a pool; the ready ones wait for it."""

    def add(pool: str, *states: str) -> None:
        def work(connection: sa.Connection) -> None:
            version = make_version(connection, {"load": {"pool": pool}})
            run = {
                "dag_row": version.dag_row,
                "dag_version_id": version.id,
                "run_id": "manual__1",
                "kind": "manual",
                "state": "running",
                **dict.fromkeys(("logical_date", "interval_start", "interval_end", "created_at"), now),
            }
            run_row = engine.insert_row(connection, schema.dag_run, run)
            pool_row = pools.ids(connection, [pool])[pool]
            for map_index, state in enumerate(states):
                instance = {
                    "dag_run_id": run_row,
                    "task_id": "load",
                    "task_index": 0,
                    "map_index": map_index,
                    "state": state,
                    "pool_id": pool_row,
                    "blocked_on": f"pool:{pool_row}" if state == "ready" else "",
                }
                engine.insert_row(connection, schema.task_instance, instance)

        store.write(work)

    return add


def test_a_pool_is_made_and_then_changed(store: Store) -> None:
    made = store.write(lambda connection: pools.set(connection, "hive", 4, "warehouse"))
    changed = store.write(lambda connection: pools.set(connection, "hive", 0))
    assert (made.slots, made.used, made.queued, made.description) == (4, 0, 0, "warehouse")
    assert (changed.id, changed.slots, changed.description) == (made.id, 0, "warehouse")
    assert store.read(pools.every) == [changed]
    assert store.read(lambda connection: pools.by_name(connection, "hive")) == changed


def test_a_pool_cannot_have_less_than_no_slots(store: Store) -> None:
    with pytest.raises(Refused, match="'hive' cannot have -1 slots"):
        store.write(lambda connection: pools.set(connection, "hive", -1))
    assert store.read(pools.every) == []


def test_what_waits_for_a_slot_is_counted(store: Store, add_instances: Callable[..., None]) -> None:
    store.write(lambda connection: pools.set(connection, "hive", 1))
    store.write(lambda connection: pools.set(connection, "other", 1))
    add_instances("hive", "ready", "ready", "started", "waiting")
    assert [(pool.name, pool.queued) for pool in store.read(pools.every)] == [("hive", 2), ("other", 0)]


def test_a_pool_with_unfinished_task_instances_is_not_deleted(store: Store, add_instances: Callable[..., None]) -> None:
    store.write(lambda connection: pools.set(connection, "hive", 1))
    add_instances("hive", "success", "waiting", "started")
    with pytest.raises(Refused, match="'hive' has 2 unfinished"):
        store.write(lambda connection: pools.delete(connection, "hive"))
    assert store.read(lambda connection: pools.by_name(connection, "hive")).slots == 1


def test_a_deleted_pool_keeps_its_row_for_those_that_name_it(store: Store, add_instances: Callable[..., None]) -> None:
    made = store.write(lambda connection: pools.set(connection, "hive", 1, "warehouse"))
    add_instances("hive", "success")
    store.write(lambda connection: pools.delete(connection, "hive"))
    assert store.read(pools.every) == []
    [left] = store.read(pools.missing)
    assert (left.id, left.slots, left.description) == (made.id, None, None)
    assert store.write(lambda connection: pools.set(connection, "hive", 2)).id == made.id


def test_a_pool_that_is_only_named_is_not_found(store: Store, add_instances: Callable[..., None]) -> None:
    store.write(lambda connection: pools.set(connection, "hive", 1))
    add_instances("hiv")
    for question in (pools.by_name, pools.delete):
        with pytest.raises(NotFound, match=r"'hiv' .*hive"):
            store.write(lambda connection, ask=question: ask(connection, "hiv"))
    assert set(store.read(lambda connection: pools.ids(connection, ["hiv", "hive", "none"]))) == {"hiv", "hive"}

"""What one transaction knows: read once, the same facts for whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.states import Outcome
from flux.store import dags, pools
from flux.store.keyed import Keyed
from flux.store.prepared import Prepared
from flux.store.runs import DagRun
from flux.store.schema import task_instance
from flux.store.scope import ROWS, Scope
from tests.store_engine import Engine

_BY_NAME = Keyed(ROWS, task_instance.c.task_id)
_OF_RUN = Prepared(ROWS.where(task_instance.c.dag_run_id == bindparam("run")))


def in_scope(engine: Engine, run: DagRun, look: Callable[[Scope, dict[str, Any]], object], **options: Any) -> None:
    def work(connection: sa.Connection) -> None:
        scope = Scope(connection, engine.structures.through(connection), engine.now, **options)
        look(scope, {row.task_id: row for row in scope.rows(_OF_RUN, run=run.id)})

    engine.store.write(work)


def test_rows_bring_their_runs_and_structures_along(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}, "b": {"upstream": ["a"]}}))

    def look(scope: Scope, rows: dict[str, Any]) -> None:
        assert scope.runs[run.id].run_id == run.run_id
        assert scope.task(rows["b"]).upstream == (0,)
        assert scope.structure(rows["a"]).dag_id == "sales"
        many = [*(f"x{number}" for number in range(1200)), "a"]
        assert [row.task_id for row in scope.rows_of(_BY_NAME, many)] == ["a"]

    in_scope(engine, run, look)


def test_a_task_counts_against_its_dag_its_own_limit_and_its_pool(engine: Engine) -> None:
    version = engine.dag({"a": {"pool": "etl", "max_active_tis_per_dag": 2}, "b": {}, "c": {"inline": True}})
    run = engine.run(version)

    def look(scope: Scope, rows: dict[str, Any]) -> None:
        assert [kind for kind, _ in scope.keys(rows["a"])] == ["dag", "task", "pool"]
        assert scope.keys(rows["b"]) == [("dag", version.dag_row)]
        assert scope.keys(rows["c"]) == []

    in_scope(engine, run, look)


def test_facts_say_what_applies_and_nothing_else(engine: Engine) -> None:
    tasks = {"a": {"pool": "etl", "pool_slots": 2, "max_active_tis_per_dag": 2, "depends_on_past": True}, "b": {}}
    version = engine.dag(tasks, max_active_tasks=3)
    before = engine.run(version, 1)
    engine.store.write(lambda c: pools.set(c, "etl", 5))
    run = engine.run(version, 2)
    engine.store.write(lambda c: dags.set_paused(c, version.dag_row, True))

    def look(scope: Scope, rows: dict[str, Any]) -> None:
        a, b = scope.facts(rows["a"]), scope.facts(rows["b"])
        assert (a.paused_key, b.paused_key) == (f"paused:{version.dag_row}",) * 2
        assert a.past is not None
        assert (a.past.task_id, a.past.run_id, a.past.state) == ("a", before.run_id, "ready")
        assert a.pool is not None
        assert (a.pool.slots, a.pool.used, a.pool.wanted, a.pool.name) == (5, 0, 2, "etl")
        assert a.task_limit is not None
        assert (a.task_limit.slots, a.task_limit.name) == (2, "a")
        assert a.dag_limit is not None
        assert a.dag_limit.slots == 3
        assert (b.past, b.pool, b.task_limit) == (None, None, None)

    for locks in (False, True):
        in_scope(engine, run, look, locks=locks)


def test_facts_can_be_asked_in_a_transaction_that_only_reads(engine: Engine) -> None:
    version = engine.dag({"a": {"depends_on_past": True, "pool": "nobody_made_it"}})
    engine.run(version, 1)
    run = engine.run(version, 2)
    engine.store.write(lambda c: dags.set_paused(c, version.dag_row, True))

    def work(connection: sa.Connection) -> Any:
        scope = Scope(connection, engine.structures.through(connection), engine.now)
        return scope.facts(scope.rows(_OF_RUN, run=run.id)[0])

    assert engine.store.read(work).paused_key is not None


def test_a_past_that_succeeded_or_was_skipped_is_no_fact(engine: Engine) -> None:
    version = engine.dag({"a": {"depends_on_past": True}, "b": {"depends_on_past": True}})
    before, run = engine.run(version, 1), engine.run(version, 2)
    engine.claim()
    engine.end("a", run=before, room=None)
    engine.end("b", Outcome.SKIPPED, run=before, room=None)
    in_scope(engine, run, lambda scope, rows: [_assert_no_past(scope, rows[name]) for name in ("a", "b")])
    assert engine.claim() == ["a", "b"]


def _assert_no_past(scope: Scope, row: Any) -> None:
    assert scope.facts(row).past is None

"""Pools, max_active_tasks, max_active_tis_per_dag: never exceeded, never idle while somebody waits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import StaleState
from flux.schedule import DataInterval
from flux.states import Outcome, RunKind, RunState, State
from flux.store import advance as advance_module
from flux.store import dags, pools, runs
from flux.store.advance import Advance
from flux.store.dags import DagVersion
from flux.store.limits import Ledger, key_text, parse_key
from flux.store.schema import pool, task_instance
from flux.structure import SensorStructure
from tests.store_engine import NOW, Engine, interleave

ETL = {"pool": "etl"}


@pytest.fixture(autouse=True)
def _sound(engine: Engine) -> Any:
    """After every test here the invariants hold."""
    yield
    engine.assert_sound()


@pytest.fixture
def set_pool(engine: Engine) -> Callable[..., None]:
    """Make or change a pool as a command does: in a transaction of its own, without a holder."""

    def set_pool(slots: int, name: str = "etl") -> None:
        engine.store.write(lambda c: enlarge(c, slots, name))

    return set_pool


def enlarge(connection: sa.Connection, slots: int, name: str = "etl") -> None:
    made = pools.set(connection, name, slots)
    advance_module.release(connection, [f"pool:{made.id}"], NOW)


def test_keys_are_read_as_they_are_written() -> None:
    assert parse_key(key_text(("pool", 3))) == ("pool", 3)


# --- pools -----------------------------------------------------------------------------------------------------------


def test_a_pool_lets_in_what_fits_and_the_best_of_the_others_follow(
    engine: Engine, set_pool: Callable[..., None]
) -> None:
    set_pool(2)
    run = engine.run(engine.dag({f"t{weight}": {**ETL, "priority_weight": weight} for weight in (1, 5, 3, 4, 2)}))
    assert engine.claim() == ["t5", "t4"]
    assert engine.pool("etl").used == 2
    assert {row.task_id for row in engine.rows(run).values() if row.blocked_on} == {"t1", "t2", "t3"}
    assert [item.task.task_id for item in engine.end("t4").claimed] == ["t3"]
    both = [((run.run_id, "t5"), Outcome.FAILED), ((run.run_id, "t3"), Outcome.SUCCESS)]
    assert [item.task.task_id for item in engine.finish(both).claimed] == ["t2", "t1"]
    engine.drain()
    assert engine.pool("etl").used == 0


def test_a_pool_that_nobody_made_holds_back_until_it_is_made(engine: Engine, set_pool: Callable[..., None]) -> None:
    run = engine.run(engine.dag({"a": ETL}))
    assert engine.claim() == []
    assert engine.rows(run)["a"].blocked_on == f"pool:{engine.pool('etl').id}"
    set_pool(1)
    assert engine.claim() == ["a"]


def test_a_pool_made_smaller_than_its_use_takes_nothing_until_there_is_room(
    engine: Engine, set_pool: Callable[..., None]
) -> None:
    set_pool(3)
    engine.run(engine.dag({f"t{number}": ETL for number in range(5)}))
    assert engine.claim() == ["t0", "t1", "t2"]
    set_pool(1)
    assert engine.end("t0").claimed == []
    assert engine.end("t1").claimed == []
    assert [item.task.task_id for item in engine.end("t2").claimed] == ["t3"]
    set_pool(0)
    assert engine.end("t3").claimed == []
    set_pool(1)
    assert engine.claim() == ["t4"]


def test_a_task_that_wants_more_slots_than_are_free_lets_smaller_ones_pass(
    engine: Engine, set_pool: Callable[..., None]
) -> None:
    set_pool(3)
    engine.run(
        engine.dag(
            {
                "first": {**ETL, "pool_slots": 2, "priority_weight": 9},
                "big": {**ETL, "pool_slots": 2, "priority_weight": 8},
                "small": {**ETL, "priority_weight": 1},
            }
        )
    )
    assert engine.claim() == ["first", "small"]
    assert engine.pool("etl").used == 3
    assert [item.task.task_id for item in engine.end("first").claimed] == ["big"]


def test_freed_slots_reach_the_small_ones_behind_many_large_ones(engine: Engine, set_pool: Callable[..., None]) -> None:
    """Whoever is asked and does not fit passes on the room that is left."""
    set_pool(3)
    tasks: dict[str, dict[str, Any]] = {"hold": {**ETL, "pool_slots": 3, "priority_weight": 99}}
    tasks |= {f"big{number}": {**ETL, "pool_slots": 2, "priority_weight": 50} for number in range(6)}
    run = engine.run(engine.dag({**tasks, "small": {**ETL, "priority_weight": 1}}))
    assert engine.claim() == ["hold"]
    claimed = [item.task.task_id for item in engine.end("hold").claimed]
    assert claimed == ["big0", "small"]
    assert engine.rows(run)["big1"].blocked_on


def test_a_task_larger_than_its_pool_waits_without_hindering_others(
    engine: Engine, set_pool: Callable[..., None]
) -> None:
    set_pool(2)
    run = engine.run(engine.dag({"huge": {**ETL, "pool_slots": 5, "priority_weight": 9}, "a": ETL, "b": ETL}))
    assert engine.claim() == ["a", "b"]
    engine.end("a")
    engine.end("b")
    assert engine.states(run)["huge"] == State.READY
    set_pool(5)
    assert engine.claim() == ["huge"]


def test_a_pool_made_much_larger_is_filled_at_once(engine: Engine, set_pool: Callable[..., None]) -> None:
    """More wait than one batch of questions holds."""
    set_pool(1)
    engine.run(engine.dag({f"t{number}": ETL for number in range(200)}))
    assert len(engine.claim()) == 1
    set_pool(150)
    assert len(engine.claim()) == 149
    assert engine.pool("etl").used == 150


def test_a_task_blocked_elsewhere_passes_the_room_of_its_pool_on(engine: Engine, set_pool: Callable[..., None]) -> None:
    set_pool(1)
    held = engine.dag({"x": {**ETL, "priority_weight": 9}}, dag_id="held")
    free = engine.dag({"y": {**ETL, "priority_weight": 1}, "z": ETL}, dag_id="free")
    free_run, held_run = engine.run(free), engine.run(held)
    assert engine.claim() == ["x"]
    engine.end("x", Outcome.NEVER_LAUNCHED, room=0)
    engine.store.write(lambda c: dags.set_paused(c, held.dag_row, True))
    assert engine.claim() == ["y"]
    assert engine.rows(held_run)["x"].blocked_on == f"paused:{held.dag_row}"
    assert engine.rows(free_run)["z"].blocked_on == f"pool:{engine.pool('etl').id}"


def test_the_executor_takes_no_more_than_its_room_by_weight(engine: Engine) -> None:
    run = engine.run(engine.dag({"low": {}, "high": {"priority_weight": 3}, "middle": {"priority_weight": 2}}))
    assert engine.claim(2) == ["high", "middle"]
    assert (engine.rows(run)["low"].state, engine.rows(run)["low"].blocked_on) == (State.READY, "")
    assert [item.task.task_id for item in engine.end("high", room=1).claimed] == ["low"]


def test_a_task_that_needs_no_slot_counts_where_its_author_named_a_pool(
    engine: Engine, set_pool: Callable[..., None]
) -> None:
    set_pool(1)
    sensor = {"sensor": SensorStructure(poke_interval=60.0, poke_timeout=10.0, timeout=3600.0)}
    version = engine.dag({"wait": {**sensor, **ETL}, "free": sensor, "work": {}}, max_active_tasks=1)
    engine.run(version)
    assert sorted(engine.claim()) == ["free", "wait", "work"]
    assert (engine.pool("etl").used, engine.dag_row(version).active_tasks) == (1, 1)


# --- the limits of DAGs and tasks ------------------------------------------------------------------------------------


def test_max_active_tasks_counts_over_all_runs_of_a_dag(engine: Engine) -> None:
    version = engine.dag({"a": {}, "b": {"upstream": ["a"]}}, max_active_tasks=2)
    every = [engine.run(version, day) for day in (1, 2, 3)]
    assert engine.claim() == ["a", "a"]
    assert engine.rows(every[2])["a"].blocked_on == f"dag:{version.dag_row}"
    engine.end("a", run=every[0])
    assert engine.dag_row(version).active_tasks == 2
    engine.drain()
    assert engine.dag_row(version).active_tasks == 0
    assert {engine.run_row(run).state for run in every} == {RunState.SUCCESS}


def test_max_active_tis_per_dag_counts_one_task_over_all_runs(engine: Engine) -> None:
    version = engine.dag({"a": {"max_active_tis_per_dag": 1}, "b": {}})
    every = [engine.run(version, day) for day in (1, 2, 3)]
    assert sorted(engine.claim()) == ["a", "b", "b", "b"]
    for run, following in itertools.pairwise(every):
        assert [item.run.run_id for item in engine.end("a", run=run).claimed] == [following.run_id]


def test_a_limit_that_a_new_version_raises_lets_more_in(engine: Engine) -> None:
    version = engine.dag({"a": {}, "b": {}, "c": {}}, max_active_tasks=1)
    engine.run(version)
    assert engine.claim() == ["a"]
    engine.dag({"a": {}, "b": {}, "c": {}}, max_active_tasks=2)
    assert [item.task.task_id for item in engine.release(f"dag:{version.dag_row}").claimed] == ["b"]
    engine.drain()


def test_a_limit_that_a_new_version_drops_holds_nobody_back(engine: Engine) -> None:
    version = engine.dag({"a": {}, "b": {}, "c": {}}, max_active_tasks=1)
    engine.run(version)
    assert engine.claim() == ["a"]
    engine.dag({"a": {}, "b": {}, "c": {}})
    assert [item.task.task_id for item in engine.release(f"dag:{version.dag_row}").claimed] == ["b", "c"]


def test_limits_of_every_kind_together_are_all_kept(engine: Engine, set_pool: Callable[..., None]) -> None:
    set_pool(3)
    version = engine.dag(
        {
            "a": {**ETL, "max_active_tis_per_dag": 1, "pool_slots": 2},
            "b": {**ETL, "max_active_tis_per_dag": 2},
            "c": ETL,
            "d": {"max_active_tis_per_dag": 1},
        },
        max_active_tasks=4,
    )
    every = [engine.run(version, day) for day in range(1, 6)]
    engine.claim()
    while engine.open:
        assert engine.pool("etl").used <= 3
        assert engine.dag_row(version).active_tasks <= 4
        engine.assert_sound()
        engine.finish([(next(iter(engine.open)), Outcome.SUCCESS)])
    assert {engine.run_row(run).state for run in every} == {RunState.SUCCESS}


# --- the ledger ------------------------------------------------------------------------------------------------------


def test_what_is_given_and_taken_in_one_transaction_cancels_out(engine: Engine, set_pool: Callable[..., None]) -> None:
    set_pool(1)
    key = ("pool", engine.pool("etl").id)

    def work(connection: sa.Connection) -> int:
        ledger = Ledger(connection)
        assert ledger.room(key) == 1
        ledger.change(key, 1)
        assert ledger.room(key) == 0
        ledger.change(key, -1)
        ledger.write()
        return ledger.room(key)

    assert engine.store.write(work) == 1


def test_room_that_another_took_in_between_begins_the_transaction_again(
    engine: Engine, set_pool: Callable[..., None]
) -> None:
    set_pool(1)
    key = ("pool", engine.pool("etl").id)

    def take(connection: sa.Connection) -> None:
        ledger = Ledger(connection)
        ledger.load([key])
        connection.execute(sa.update(pool).values(used=1))
        ledger.change(key, 1)
        with pytest.raises(StaleState, match="pool 'etl' has no room any more"):
            ledger.write()
        connection.execute(sa.update(pool).values(used=0))

    engine.store.write(take)


# --- beside others ---------------------------------------------------------------------------------------------------


def asked(engine: Engine) -> Callable[[sa.Connection], None]:
    """A supervisor's transaction that asks everything which is ready."""

    def work(connection: sa.Connection) -> None:
        advance = Advance(connection, engine.structures.through(connection), engine.now, engine.holder)
        advance.look()
        advance.claim(100)
        advance.write()

    return work


@pytest.mark.parametrize("order", ["asked first", "changed first"])
@pytest.mark.parametrize("what", ["pool", "paused"])
def test_whoever_is_blocked_while_a_command_lifts_what_blocks_is_not_forgotten(
    engine: Engine, make_version: Callable[..., DagVersion], set_pool: Callable[..., None], what: str, order: str
) -> None:
    version = engine.dag({"a": ETL})
    set_pool(0 if what == "pool" else 1)
    run = engine.run(version)
    if what == "paused":
        engine.store.write(lambda c: dags.set_paused(c, version.dag_row, True))

    def change(connection: sa.Connection) -> None:
        if what == "pool":
            enlarge(connection, 1)
        else:
            dags.set_paused(connection, version.dag_row, False)
            advance_module.release(connection, [f"paused:{version.dag_row}"], NOW)

    other = Engine(engine.store, make_version)
    if order == "asked first":
        interleave(engine.store, asked(engine), lambda: engine.store.write(change))
    else:
        interleave(engine.store, change, lambda: engine.store.write(asked(other)))
    engine.assert_sound()
    engine.claim()
    assert engine.states(run) == {"a": State.STARTED}


def ended(engine: Engine, end: Any) -> Callable[[sa.Connection], None]:
    def work(connection: sa.Connection) -> None:
        advance = Advance(connection, engine.structures.through(connection), engine.now, engine.holder)
        advance.finish([end])
        advance.claim(0)
        advance.write()

    return work


@pytest.mark.parametrize("order", ["asked first", "ended first"])
@pytest.mark.parametrize("what", ["pool", "dag", "task", "past"])
def test_whoever_is_blocked_while_another_supervisor_ends_what_blocks_is_not_forgotten(
    engine: Engine, make_version: Callable[..., DagVersion], set_pool: Callable[..., None], what: str, order: str
) -> None:
    fields: dict[str, Any] = {
        "pool": ETL, "dag": {}, "task": {"max_active_tis_per_dag": 1}, "past": {"depends_on_past": True},
    }[what]  # fmt: skip
    version = engine.dag({"a": fields}, max_active_tasks=1 if what == "dag" else None)
    set_pool(1)
    first = engine.run(version, 1)
    engine.claim()
    second = engine.run(version, 2)
    end = engine.end_of(engine.open[first.run_id, "a"], Outcome.SUCCESS)
    other = Engine(engine.store, make_version)
    if order == "asked first":
        interleave(engine.store, asked(other), lambda: engine.store.write(ended(engine, end)))
    else:
        interleave(engine.store, ended(engine, end), lambda: engine.store.write(asked(other)))
    engine.assert_sound()
    engine.claim()
    assert engine.states(second) == {"a": State.STARTED}


@pytest.mark.parametrize("order", ["made first", "ended first"])
def test_a_run_that_is_made_while_the_last_active_one_ends_begins(
    engine: Engine, make_version: Callable[..., DagVersion], order: str
) -> None:
    version = engine.dag(max_active_runs=1)
    first = engine.run(version, 1)
    engine.claim()
    end = engine.end_of(engine.open[first.run_id, "load"], Outcome.SUCCESS)
    if order == "made first":
        interleave(engine.store, make(version), lambda: engine.store.write(ended(engine, end)))
    else:
        interleave(engine.store, ended(engine, end), lambda: engine.store.write(make(version)))
    engine.assert_sound()
    assert engine.claim() == ["load"]


def make(version: DagVersion) -> Callable[[sa.Connection], None]:
    moment = datetime(2026, 1, 2, tzinfo=UTC)

    def work(connection: sa.Connection) -> None:
        record = dags.by_row(connection, version.dag_row)
        interval = DataInterval(moment, moment)
        runs.create(connection, dag=record, version=version, kind=RunKind.MANUAL, interval=interval, now=NOW)

    return work


def test_two_runs_made_at_once_do_not_exceed_max_active_runs(engine: Engine) -> None:
    version = engine.dag(max_active_runs=1)
    interleave(engine.store, make(version), lambda: engine.store.write(make(version)))
    assert engine.dag_row(version).active_runs == 1


def test_two_ends_of_one_fan_in_at_once_make_it_ready_once(
    engine: Engine, make_version: Callable[..., DagVersion]
) -> None:
    run = engine.run(engine.dag({"x": {}, "y": {}, "down": {"upstream": ["x", "y"]}}))
    engine.claim()
    ends = [engine.end_of(engine.open[run.run_id, name], Outcome.SUCCESS) for name in ("x", "y")]
    other = Engine(engine.store, make_version)
    interleave(engine.store, ended(engine, ends[0]), lambda: engine.store.write(ended(other, ends[1])))
    assert engine.states(run)["down"] == State.READY
    assert engine.select(sa.select(task_instance.c.upstream_ok).where(task_instance.c.task_id == "down")) == [(2,)]


def test_two_supervisors_that_ask_at_once_begin_it_once(
    engine: Engine, make_version: Callable[..., DagVersion]
) -> None:
    run = engine.run(engine.dag({"a": {}, "b": {}}))
    other = Engine(engine.store, make_version)
    interleave(engine.store, asked(engine), lambda: engine.store.write(asked(other)))
    assert {len(engine.attempts(run, name)) for name in ("a", "b")} == {1}

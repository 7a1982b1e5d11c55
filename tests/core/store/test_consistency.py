"""The sweep: damage to any counter is found, told and repaired, and a healthy store is left alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flux.states import Outcome, RunState, State
from flux.store import consistency, pools
from flux.store.dags import DagVersion
from flux.store.runs import DagRun
from flux.store.schema import dag, dag_run, pool, task_instance, task_limit
from tests.store_engine import Engine

TASKS = {
    "gate": {"gate": "short_circuit", "gates": ["mid", "last"]},
    "mid": {"upstream": ["gate"], "pool": "etl", "pool_slots": 2, "max_active_tis_per_dag": 2},
    "other": {},
    "last": {"upstream": ["mid", "other"]},
}


@pytest.fixture
def version(engine: Engine) -> DagVersion:
    engine.store.write(lambda c: pools.set(c, "etl", 3))
    return engine.dag(TASKS, max_active_tasks=5)


@pytest.fixture
def run(engine: Engine, version: DagVersion) -> DagRun:
    """A run in which "mid" and "other" are started and "last" waits."""
    run = engine.run(version)
    engine.claim()
    engine.end("gate")
    return run


def repair(engine: Engine, *, after: float = 60) -> list[str]:
    now = engine.now + timedelta(seconds=after)
    return engine.store.write(lambda c: consistency.repair(c, engine.structures.through(c), now))


def test_a_healthy_store_is_left_alone(engine: Engine, run: DagRun) -> None:
    before = engine.rows(run), engine.run_row(run)
    assert repair(engine) == []
    assert (engine.rows(run), engine.run_row(run)) == before


DAMAGE = {
    "pool": sa.update(pool).values(used=3),
    "task": sa.update(task_limit).values(used=0),
    "dag": sa.update(dag).values(active_tasks=5),
    "runs": sa.update(dag).values(active_runs=0),
}


@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_a_count_of_use_that_is_wrong_is_set_right_and_told(engine: Engine, run: DagRun, kind: str) -> None:
    engine.sql(DAMAGE[kind])
    assert engine.broken() != []
    (told,) = repair(engine)
    assert told.startswith(kind)
    engine.assert_sound()
    assert repair(engine) == []


def test_room_that_a_wrong_count_hid_is_given_out(engine: Engine, version: DagVersion) -> None:
    engine.sql(sa.update(pool).values(used=3))
    run = engine.run(version)
    engine.claim()
    engine.end("gate")
    assert engine.states(run)["mid"] == State.READY
    repair(engine)
    assert engine.claim() == ["mid"]


def test_queued_runs_that_a_wrong_count_held_back_begin(engine: Engine) -> None:
    version = engine.dag(dag_id="serial", max_active_runs=1)
    engine.sql(sa.update(dag).values(active_runs=1))
    run = engine.run(version)
    assert run.state is RunState.QUEUED
    told = repair(engine)
    assert told == ["runs 'serial' counted 1 in use, there are 0", "dag 'serial' had room for runs that were queued"]
    assert engine.claim() == ["load"]
    engine.assert_sound()


def test_queued_runs_for_which_a_new_version_made_room_begin(engine: Engine) -> None:
    """Should its release be lost with the process that was to send it."""
    version = engine.dag(dag_id="serial", max_active_runs=1)
    every = [engine.run(version, day) for day in (1, 2)]
    engine.sql(sa.update(dag).values(max_active_runs=2))
    repair(engine)
    assert {engine.run_row(run).state for run in every} == {RunState.RUNNING}
    engine.assert_sound()


@pytest.mark.parametrize(
    "values",
    [
        {"upstream_ok": 0}, {"upstream_total": 3}, {"gates_open": 1}, {"gates_closed": 1, "gates_open": 1},
        {"upstream_bad": 1, "upstream_ok": 0},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_that_cannot_go_on_is_counted_anew(engine: Engine, run: DagRun, values: dict[str, Any]) -> None:
    engine.end("mid", room=None)
    engine.end("other", room=None)
    engine.sql(sa.update(task_instance).where(task_instance.c.task_id == "last").values(state=State.WAITING, **values))
    assert repair(engine, after=1) == []  # it may be another's transaction
    assert len(repair(engine)) == 1
    engine.assert_sound()
    assert engine.claim() == ["last"]


def test_a_run_whose_open_tasks_are_wrong_is_closed(engine: Engine, run: DagRun) -> None:
    engine.end("mid", room=None)
    engine.end("other", Outcome.FAILED, room=None)
    engine.sql(sa.update(dag_run).values(open_tasks=2, state=RunState.RUNNING, ended_at=None))
    engine.sql(sa.update(dag).values(active_runs=1))
    assert len(repair(engine)) == 1
    assert engine.run_row(run).state == RunState.FAILED
    engine.assert_sound()


def test_a_task_blocked_on_what_no_longer_holds_it_back_is_asked_again(engine: Engine, run: DagRun) -> None:
    engine.sql(sa.update(pool).values(slots=2))
    second = engine.run(engine.dag(TASKS, max_active_tasks=5), 2)
    engine.claim()
    engine.end("gate", run=second)
    assert engine.rows(second)["mid"].blocked_on.startswith("pool:")
    engine.sql(sa.update(pool).values(slots=4))
    assert repair(engine) == []
    assert engine.claim() == ["mid"]


def test_recounting_changes_nothing_that_is_right(engine: Engine, run: DagRun) -> None:
    before = engine.rows(run), engine.run_row(run)
    engine.store.write(lambda c: consistency.recount(c, engine.structures.through(c), run.id))
    assert (engine.rows(run), engine.run_row(run)) == before

"""Open attempts as a supervisor finds them at its start, and what a claim may ask for."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import sqlalchemy as sa

from flux.states import Outcome, State
from flux.store import held
from flux.store.runs import DagRun
from flux.store.schema import attempt, task_instance
from flux.structure import SensorStructure
from tests.store_engine import NOW, Engine

SENSOR = SensorStructure(poke_interval=60.0, poke_timeout=10.0, timeout=3600.0)


def everything(engine: Engine) -> list[held.Held]:
    return engine.store.read(lambda c: held.everything(c, engine.structures.through(c)))


def test_a_restarted_supervisor_finds_every_open_attempt_as_it_was_claimed(engine: Engine) -> None:
    engine.run(engine.dag({"a": {"retries": 1}, "wait": {"sensor": SENSOR}, "done": {}, "later": {"upstream": ["a"]}}))
    engine.claim()
    engine.end("done")
    found = {item.claimed.task.task_id: item for item in everything(engine)}
    for (_, task_id), claimed in engine.open.items():
        assert dataclasses.replace(found[task_id].claimed, run=claimed.run) == claimed
    assert len(found) == 2
    assert (found["a"].state, found["wait"].state) == (State.STARTED, State.DEFERRED)
    assert (found["a"].job_id, found["a"].launcher) == (1, "a" * 32)
    assert found["a"].log.endswith("/a/-/1.log")
    assert found["wait"].claimed.deadline_at == NOW + timedelta(hours=1)


def test_the_latest_attempt_is_the_one_that_is_open(engine: Engine) -> None:
    engine.run(engine.dag({"a": {"retries": 1, "retry_delay": 0.0}}))
    engine.claim()
    engine.end("a", Outcome.FAILED)
    assert everything(engine) == []
    engine.wake()
    (item,) = everything(engine)
    assert (item.claimed.attempt, item.log.endswith("/2.log")) == (2, True)


def test_nothing_is_open_in_an_empty_store(engine: Engine) -> None:
    assert everything(engine) == []
    assert engine.store.read(held.retrying) == []
    assert engine.store.read(held.holders) == []


def test_a_claim_knows_its_run_and_task_as_long_as_it_is_held(engine: Engine) -> None:
    run = engine.run(engine.dag())
    engine.claim()
    claim = engine.open[run.run_id, "load"].claim
    found = engine.store.read(lambda c: held.run_of(c, claim))
    assert found is not None
    assert (found[0].run_id, found[1]) == (run.run_id, "load")
    engine.end("load")
    assert engine.store.read(lambda c: held.run_of(c, claim)) is None


def test_retrying_task_instances_are_found_with_their_time(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 1, "retry_delay": 90.0}}))
    engine.claim()
    engine.end("a", Outcome.FAILED)
    assert engine.store.read(held.retrying) == [(engine.rows(run)["a"].id, NOW + timedelta(seconds=90))]


def result(engine: Engine, run: DagRun, key: str = "return_value") -> tuple[str | None, str | None] | None:
    return engine.store.read(lambda c: held.result(c, run.id, "a", key, -1))


def test_a_result_is_that_of_the_attempt_that_won(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 1, "retry_delay": 0.0}, "b": {}}))
    engine.claim()
    engine.end("a", Outcome.FAILED, results={"return_value": '"first"'})
    assert result(engine, run) is None
    engine.wake()
    engine.end("a", results={"return_value": '"second"'}, result_files={"big": "x/2.1.result"})
    assert result(engine, run) == ('"second"', None)
    assert result(engine, run, "big") == (None, "x/2.1.result")
    assert result(engine, run, "nothing") is None


def test_progress_is_kept_as_long_as_the_attempt_is_open(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 1, "retry_delay": 0.0}}))
    engine.claim()
    claim = engine.open[run.run_id, "a"].claim
    engine.store.write(lambda c: held.set_progress(c, claim, "x" * 1000))
    assert engine.rows(run)["a"].reason == "x" * 500
    engine.end("a", Outcome.FAILED)
    engine.store.write(lambda c: held.set_progress(c, claim, "late"))
    assert engine.rows(run)["a"].reason == "failed by the test"
    engine.wake()
    assert engine.rows(run)["a"].reason is None


def test_more_open_attempts_than_an_in_list_takes_are_found(engine: Engine) -> None:
    version = engine.dag({"a": {}}, max_active_runs=1000)
    for day in range(1, 621):
        engine.run(version, day)
    engine.claim()
    assert len(everything(engine)) == 620
    left = engine.select(sa.select(sa.func.count()).select_from(attempt).where(attempt.c.outcome.is_(None)))
    assert left == [(620,)]
    assert engine.select(sa.select(task_instance.c.state).distinct()) == [(State.STARTED,)]

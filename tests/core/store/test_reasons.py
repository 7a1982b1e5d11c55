"""`flux why`: for each state and each cause, what it says; and that it says what the scheduler does."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flux.dependencies import Reason
from flux.states import Outcome
from flux.store import dags, pools
from flux.store.dags import Reading
from flux.store.reasons import reasons, run_reason
from flux.store.runs import DagRun
from flux.store.schema import dag_version, task_instance
from flux.structure import SensorStructure
from tests.store_engine import NOW, Engine

SENSOR = SensorStructure(poke_interval=60.0, poke_timeout=10.0, timeout=3600.0)


def why(engine: Engine, run: DagRun, task_id: str, *, parallelism: int = 8) -> list[Reason]:
    row_id = engine.rows(run)[task_id].id
    return engine.store.read(
        lambda c: reasons(
            c, row_id, engine.structures.through(c), engine.now, executor="slurm", parallelism=parallelism
        )
    )


def codes(engine: Engine, run: DagRun, task_id: str, **options: Any) -> list[str]:
    return [reason.code for reason in why(engine, run, task_id, **options)]


def test_what_runs_or_is_done_has_no_reason(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}, "b": {}}))
    engine.claim()
    engine.end("b", Outcome.FAILED)
    assert (why(engine, run, "a"), why(engine, run, "b")) == ([], [])


def test_what_is_queued_names_its_executor_and_takes_its_room(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}, "b": {}}))
    engine.holder = dataclasses.replace(engine.holder, queues=True)
    engine.claim(1)
    (queued, ready) = ("a", "b") if engine.states(run)["a"] == "queued" else ("b", "a")
    (reason,) = why(engine, run, queued)
    assert reason.code == "queued"
    assert "queued at executor 'slurm' since 2026-01-05T02:00:00+00:00" in reason.message
    (reason,) = why(engine, run, ready, parallelism=1)
    assert reason.message == "The executor runs 1 attempts, parallelism is 1."


def test_what_is_queued_again_names_why_it_was_not_launched(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}}))
    engine.holder = dataclasses.replace(engine.holder, queues=True)
    engine.claim()
    engine.end("a", Outcome.NEVER_LAUNCHED, room=1)
    (reason,) = why(engine, run, "a")
    assert reason.message.endswith("no agent has begun. Attempt 1: never_launched by the test.")


def test_what_was_put_off_says_when_it_comes_again_and_why(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}}))
    engine.claim()
    engine.end("a", Outcome.NEVER_LAUNCHED, not_before=NOW + timedelta(seconds=4))
    (reason,) = why(engine, run, "a")
    assert reason.message == ("Attempt 2 begins at 2026-01-05T02:00:04+00:00. Attempt 1: never_launched by the test.")


def test_a_waiting_task_names_the_upstreams_it_waits_for_and_its_rule(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}, "b": {}, "c": {"upstream": ["a", "b"]}}))
    engine.claim()
    engine.end("b")
    (reason,) = why(engine, run, "c")
    assert (reason.code, reason.object) == ("upstream", "a")
    assert reason.message == "Task 'a' above it is started; trigger rule all_success waits for it."


def test_a_gate_further_up_is_named_as_one(engine: Engine) -> None:
    tasks = {
        "gate": {"gate": "short_circuit", "gates": ["mid", "last"]},
        "mid": {"upstream": ["gate"]},
        "last": {"upstream": ["mid"]},
    }
    run = engine.run(engine.dag(tasks))
    assert [(reason.code, reason.object) for reason in why(engine, run, "last")] == [
        ("gate", "gate"), ("upstream", "mid"),
    ]  # fmt: skip


def test_of_many_upstreams_ten_are_named(engine: Engine) -> None:
    names = [f"t{number}" for number in range(25)]
    run = engine.run(engine.dag({**{name: {} for name in names}, "last": {"upstream": names}}))
    found = why(engine, run, "last")
    assert len(found) == 11
    assert found[-1].message == "15 more tasks above it have not ended."


def test_a_retrying_task_says_when(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 1, "retry_delay": 90.0}}))
    engine.claim()
    engine.end("a", Outcome.FAILED)
    assert [(reason.code, reason.message) for reason in why(engine, run, "a")] == [
        ("retry", "Attempt 2 begins at 2026-01-05T02:01:30+00:00."),
    ]


def test_a_sensor_between_two_pokes_says_when_it_gives_up(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"sensor": SENSOR}}))
    engine.advance()
    (reason,) = why(engine, run, "a")
    assert reason.code == "poke"
    assert "2026-01-05T03:00:00+00:00" in reason.message


def test_every_limit_past_and_pause_is_told_in_the_order_in_which_it_is_met(engine: Engine) -> None:
    tasks = {"a": {"depends_on_past": True, "pool": "etl", "max_active_tis_per_dag": 1}}
    version = engine.dag(tasks, max_active_tasks=1)
    engine.store.write(lambda c: pools.set(c, "etl", 1))
    engine.run(version, 1)
    run = engine.run(version, 2)
    engine.claim()
    engine.store.write(lambda c: dags.set_paused(c, version.dag_row, True))
    assert codes(engine, run, "a") == ["paused", "past", "dag_limit", "task_limit", "pool"]


@pytest.mark.parametrize("paused", [True, False])
def test_the_first_reason_is_the_one_the_scheduler_stored(engine: Engine, paused: bool) -> None:
    version = engine.dag({"a": {"pool": "nobody_made_it"}})
    run = engine.run(version)
    engine.store.write(lambda c: dags.set_paused(c, version.dag_row, paused))
    engine.claim()
    assert engine.rows(run)["a"].blocked_on == why(engine, run, "a")[0].key != ""


def test_a_task_that_only_waits_for_the_executor_says_so(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"priority_weight": 2}, "b": {}}))
    assert engine.claim(1) == ["a"]
    assert [reason.message for reason in why(engine, run, "b", parallelism=1)] == [
        "The executor runs 1 attempts, parallelism is 1.",
    ]
    assert why(engine, run, "b", parallelism=2) == []


def test_a_broken_file_is_named_beside_the_reason(engine: Engine) -> None:
    version = engine.dag({"a": {"pool": "nobody_made_it"}})
    run = engine.run(version)
    error = {"message": "SyntaxError: invalid syntax.", "line": 3, "traceback": ""}
    engine.store.write(lambda c: dags.register(c, "sales.py", Reading(hash="1" * 64, error=error), NOW))
    assert codes(engine, run, "a") == ["pool", "broken_file"]
    assert why(engine, run, "a")[1].message == (
        "File 'sales.py' cannot be read: SyntaxError: invalid syntax. Its last good version goes on running."
    )


def test_a_run_that_waits_for_others_says_so(engine: Engine) -> None:
    version = engine.dag(max_active_runs=1)
    first, second = engine.run(version, 1), engine.run(version, 2)
    assert run_reason(first, 1) is None
    reason = run_reason(second, 1)
    assert reason is not None
    assert (reason.code, reason.object) == ("max_active_runs", "sales")
    assert reason.message == (f"Run {second.run_id!r} waits: DAG 'sales' runs its max_active_runs = 1 runs already.")


def test_a_task_whose_counters_are_wrong_is_promised_the_sweep(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}, "b": {"upstream": ["a"]}}))
    engine.claim()
    engine.end("a", room=None)
    engine.sql(sa.update(task_instance).where(task_instance.c.task_id == "b").values(state="waiting"))
    (reason,) = why(engine, run, "b")
    assert reason.code == "trigger_rule"
    assert reason.message.endswith("The sweep will mend it within 30 seconds.")


def test_a_damaged_version_is_named(engine: Engine) -> None:
    version = engine.dag({"a": {}})
    run = engine.run(version)
    engine.sql(sa.update(dag_version).where(dag_version.c.id == version.id).values(structure="{}"))
    engine.structures._known.clear()
    [reason] = why(engine, run, "a")
    assert f"DAG version {version.id} cannot be read" in reason.message

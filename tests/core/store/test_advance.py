"""Finish, resolve, free and promote, claim next: what one transaction makes of the ends that come to it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flux.states import Event, Outcome, RunKind, RunState, State
from flux.store import advance as advance_module
from flux.store import dags, pools
from flux.store.attempts import End
from flux.store.runs import DagRun
from flux.store.schema import dag, dag_version, rendered_fields, task_instance, task_result
from flux.structure import SensorStructure
from flux.trigger_rules import TRIGGER_RULES, Verdict, verdict
from tests.store_engine import NOW, Engine

Tasks = dict[str, dict[str, Any]]

CHAIN: Tasks = {"a": {}, "b": {"upstream": ["a"]}, "c": {"upstream": ["b"]}}
DIAMOND: Tasks = {
    "top": {}, "left": {"upstream": ["top"]}, "right": {"upstream": ["top"]}, "bottom": {"upstream": ["left", "right"]},
}  # fmt: skip
SENSOR = SensorStructure(poke_interval=60.0, poke_timeout=10.0, timeout=3600.0)


@pytest.fixture(autouse=True)
def _sound(engine: Engine) -> Any:
    """After every test here the invariants hold."""
    yield
    engine.assert_sound()


# --- chains, fans and diamonds ---------------------------------------------------------------------------------------


def test_a_chain_claims_the_next_task_in_the_transaction_that_ends_the_one_before(engine: Engine) -> None:
    run = engine.run(engine.dag(CHAIN))
    assert engine.claim() == ["a"]
    assert [item.task.task_id for item in engine.end("a").claimed] == ["b"]
    assert [item.task.task_id for item in engine.end("b").claimed] == ["c"]
    assert [ended.run_id for ended in engine.end("c").runs_ended] == [run.run_id]
    assert engine.run_row(run).state == RunState.SUCCESS
    assert engine.run_row(run).ended_at == NOW


def test_what_is_claimed_tells_the_launcher_all_it_needs(engine: Engine) -> None:
    version = engine.dag({"a": {"retries": 2}}, on_interrupt="retry")
    run = engine.run(version)
    (claimed,) = engine.advance().claimed
    assert (claimed.run.run_id, claimed.version_id, claimed.attempt, claimed.max_attempts) == (
        run.run_id, version.id, 1, 3,
    )  # fmt: skip
    assert (claimed.on_interrupt, claimed.started_at, claimed.deadline_at) == ("retry", NOW, None)
    (opened,) = engine.attempts(run, "a")
    assert (opened.claim, opened.job_id, opened.launcher, opened.host) == (claimed.claim, 1, "a" * 32, "here")
    assert opened.log == f"sales/{run.run_id}/a/-/1.log"


@pytest.mark.parametrize("together", [True, False])
def test_a_fan_in_runs_after_the_last_of_its_upstreams(engine: Engine, together: bool) -> None:
    names = [f"up{number}" for number in range(20)]
    run = engine.run(engine.dag({**{name: {} for name in names}, "down": {"upstream": names}}))
    assert sorted(engine.claim()) == sorted(names)
    keys = [(run.run_id, name) for name in names]
    if together:
        claimed = engine.finish([(key, Outcome.SUCCESS) for key in keys]).claimed
    else:
        for key in keys[:-1]:
            assert engine.finish([(key, Outcome.SUCCESS)]).claimed == []
        claimed = engine.finish([(keys[-1], Outcome.SUCCESS)]).claimed
    assert [item.task.task_id for item in claimed] == ["down"]


def test_a_diamond_meets_again(engine: Engine) -> None:
    run = engine.run(engine.dag(DIAMOND))
    engine.claim()
    assert [item.task.task_id for item in engine.end("top").claimed] == ["left", "right"]
    assert engine.end("right").claimed == []
    assert [item.task.task_id for item in engine.end("left").claimed] == ["bottom"]
    engine.end("bottom")
    assert set(engine.states(run).values()) == {State.SUCCESS}


def test_a_failure_ends_everything_below_in_the_same_transaction(engine: Engine) -> None:
    last = {"upstream": ["d"], "trigger_rule": "all_done"}
    run = engine.run(engine.dag({**CHAIN, "d": {"upstream": ["c"]}, "last": last}))
    engine.claim()
    outcomes = engine.end("a", Outcome.FAILED)
    assert engine.states(run) == {
        "a": State.FAILED, "b": State.UPSTREAM_FAILED, "c": State.UPSTREAM_FAILED, "d": State.UPSTREAM_FAILED,
        "last": State.STARTED,
    }  # fmt: skip
    assert outcomes.ended == 4
    assert engine.rows(run)["b"].reason == "task 'a' failed: trigger rule all_success cannot hold"
    engine.end("last")
    assert engine.run_row(run).state == RunState.SUCCESS


def test_a_skip_cascades_until_a_rule_stops_it(engine: Engine) -> None:
    run = engine.run(engine.dag({**CHAIN, "d": {"upstream": ["c"], "trigger_rule": "none_failed"}}))
    engine.claim()
    engine.end("a", Outcome.SKIPPED)
    assert engine.states(run) == {"a": State.SKIPPED, "b": State.SKIPPED, "c": State.SKIPPED, "d": State.STARTED}
    engine.end("d")
    assert engine.run_row(run).state == RunState.SUCCESS


OUTCOMES = {"ok": Outcome.SUCCESS, "bad": Outcome.FAILED, "skipped": Outcome.SKIPPED}
BECOMES = {Verdict.RUN: State.STARTED, Verdict.SKIP: State.SKIPPED, Verdict.FAIL: State.UPSTREAM_FAILED}


@pytest.mark.parametrize("rule", TRIGGER_RULES)
def test_every_rule_over_every_pair_of_outcomes_in_both_orders_and_at_once(engine: Engine, rule: str) -> None:
    version = engine.dag({"x": {}, "y": {}, "down": {"upstream": ["x", "y"], "trigger_rule": rule}})
    day = itertools.count(1)
    for pair in itertools.product(OUTCOMES, repeat=2):
        counts = {name: pair.count(name) for name in OUTCOMES}
        expected = BECOMES[verdict(rule, total=2, **counts)]
        for order in (("x",), ("y",), ("x", "y")):
            run = engine.run(version, kind=RunKind.MANUAL, run_id=f"r{next(day)}")
            engine.claim()
            ends = {name: ((run.run_id, name), OUTCOMES[word]) for name, word in zip(("x", "y"), pair, strict=True)}
            engine.finish([ends[name] for name in order])
            engine.finish([ends[name] for name in {"x", "y"} - set(order)])
            assert engine.states(run)["down"] == expected, f"{rule} over {pair}, {order} first"
            engine.drain()


# --- gates -----------------------------------------------------------------------------------------------------------

BRANCH: Tasks = {
    "pick": {"gate": "branch", "gates": ["one", "two", "join"]},
    "one": {"upstream": ["pick"]},
    "two": {"upstream": ["pick"]},
    "below": {"upstream": ["two"]},
    "join": {"upstream": ["pick", "one"], "trigger_rule": "none_failed_min_one_success"},
}


def test_a_branch_closes_what_is_neither_chosen_nor_below_a_chosen_one(engine: Engine) -> None:
    run = engine.run(engine.dag(BRANCH))
    engine.claim()
    claimed = engine.end("pick", chosen=["one"]).claimed
    assert [item.task.task_id for item in claimed] == ["one"]
    assert engine.states(run) == {
        "pick": State.SUCCESS, "one": State.STARTED, "two": State.SKIPPED, "below": State.SKIPPED,
        "join": State.WAITING,
    }  # fmt: skip
    rows = engine.rows(run)
    assert rows["two"].reason == "closed by a branch or short-circuit"
    assert json.loads(rows["pick"].closes) == [2]
    assert [item.task.task_id for item in engine.end("one").claimed] == ["join"]


@pytest.mark.parametrize(
    ("chosen", "started"), [([], set()), (["one", "two"], {"one", "two"}), (None, {"one", "two"}), (["join"], {"join"})]
)
def test_a_branch_may_choose_nothing_several_or_the_join(
    engine: Engine, chosen: list[str] | None, started: set[str]
) -> None:
    run = engine.run(engine.dag(BRANCH))
    engine.claim()
    engine.end("pick", chosen=chosen)
    found = {name for name, state in engine.states(run).items() if state == State.STARTED}
    assert found == started


@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.FAILED, State.UPSTREAM_FAILED), (Outcome.SKIPPED, State.SKIPPED)]
)
def test_a_branch_that_did_not_succeed_chooses_nothing_and_the_rules_decide(
    engine: Engine, outcome: Outcome, state: State
) -> None:
    run = engine.run(engine.dag(BRANCH))
    engine.claim()
    engine.end("pick", outcome, may_retry=False, chosen=["one"])
    assert {engine.states(run)[name] for name in ("one", "two", "below")} == {state}
    assert engine.rows(run)["pick"].closes is None


def short_circuit(*, every: bool) -> Tasks:
    return {
        "check": {"gate": "short_circuit", "gates": ["near", "far", "last"] if every else ["near"]},
        "other": {},
        "near": {"upstream": ["check"]},
        "far": {"upstream": ["near", "other"], "trigger_rule": "one_success"},
        "last": {"upstream": ["far"], "trigger_rule": "all_done"},
    }


def test_a_short_circuit_closes_all_descendants_whatever_their_rule(engine: Engine) -> None:
    run = engine.run(engine.dag(short_circuit(every=True)))
    assert engine.claim() == ["check", "other"]
    assert engine.end("other").claimed == []  # `far` takes no verdict before the gate has ended
    assert engine.states(run)["far"] == State.WAITING
    engine.end("check", chosen=[])
    assert {engine.states(run)[name] for name in ("near", "far", "last")} == {State.SKIPPED}
    assert engine.run_row(run).state == RunState.SUCCESS


def test_a_short_circuit_of_direct_downstreams_leaves_the_rest_to_their_rules(engine: Engine) -> None:
    run = engine.run(engine.dag(short_circuit(every=False)))
    engine.claim()
    engine.end("check", chosen=[])
    assert engine.states(run)["near"] == State.SKIPPED
    assert [item.task.task_id for item in engine.end("other").claimed] == ["far"]


def test_a_short_circuit_that_lets_pass_or_fails_closes_nothing(engine: Engine) -> None:
    version = engine.dag(short_circuit(every=True))
    first = engine.run(version, 1)
    engine.claim()
    engine.end("check", chosen=None)
    assert engine.states(first)["near"] == State.STARTED
    engine.drain()
    second = engine.run(version, 2)
    engine.claim()
    engine.end("check", Outcome.FAILED)
    assert engine.states(second)["near"] == State.UPSTREAM_FAILED
    assert engine.states(second)["far"] == State.WAITING
    engine.end("other")
    assert engine.states(second)["far"] == State.STARTED


def test_two_gates_in_a_row_both_have_their_say(engine: Engine) -> None:
    run = engine.run(
        engine.dag(
            {
                "outer": {"gate": "short_circuit", "gates": ["inner", "x", "y"]},
                "inner": {"upstream": ["outer"], "gate": "branch", "gates": ["x", "y"]},
                "x": {"upstream": ["inner"], "trigger_rule": "always"},
                "y": {"upstream": ["inner"], "trigger_rule": "all_done"},
            }
        )
    )
    assert engine.claim() == ["outer"]
    assert [item.task.task_id for item in engine.end("outer").claimed] == ["inner"]
    assert [item.task.task_id for item in engine.end("inner", chosen=["y"]).claimed] == ["y"]
    assert engine.states(run)["x"] == State.SKIPPED


def test_a_gate_that_has_no_row_in_the_run_holds_nobody(engine: Engine) -> None:
    tasks = {name: dict(fields) for name, fields in BRANCH.items()}
    tasks["pick"]["adhoc"] = True
    run = engine.run(engine.dag(tasks))
    assert sorted(engine.claim()) == ["one", "two"]
    assert "pick" not in engine.states(run)


# --- results ---------------------------------------------------------------------------------------------------------


def test_results_and_rendered_fields_are_kept_with_their_attempt(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {"retries": 1, "retry_delay": 0.0}}))
    engine.claim()
    engine.end("a", Outcome.FAILED, rendered='{"sql": "first"}')
    engine.wake()
    engine.end("a", results={"return_value": "1"}, result_files={"big": "sales/r/a/-/2.1.result"}, rendered="{}")
    row = engine.rows(run)["a"]
    found = engine.select(sa.select(task_result).order_by(task_result.c.key))
    assert [(one.task_instance_id, one.attempt, one.key, one.value, one.path) for one in found] == [
        (row.id, 2, "big", None, "sales/r/a/-/2.1.result"),
        (row.id, 2, "return_value", "1", None),
    ]
    assert [(one.attempt, one.fields) for one in engine.select(sa.select(rendered_fields))] == [
        (1, '{"sql": "first"}'),
        (2, "{}"),
    ]


# --- fencing ---------------------------------------------------------------------------------------------------------


def test_the_end_of_a_claim_that_nobody_holds_is_dropped_and_told(engine: Engine) -> None:
    run = engine.run(engine.dag(CHAIN))
    engine.claim()
    old = engine.open[run.run_id, "a"]
    engine.end("a", Outcome.NEVER_LAUNCHED)
    late = engine.end_of(old, Outcome.SUCCESS)
    assert engine.advance(lambda a: a.finish([late])).fenced == [old.claim]
    assert engine.states(run) == {"a": State.STARTED, "b": State.WAITING, "c": State.WAITING}


def test_an_end_that_is_told_twice_counts_once(engine: Engine) -> None:
    run = engine.run(engine.dag(DIAMOND))
    engine.claim()
    end = engine.end_of(engine.open.pop((run.run_id, "top")), Outcome.SUCCESS)
    assert len(engine.advance(lambda a: a.finish([end, end])).claimed) == 2
    again = engine.advance(lambda a: a.finish([end]))
    assert (again.fenced, again.ended) == ([end.claim], 0)
    assert engine.rows(run)["left"].upstream_ok == 1


def test_unknown_and_known_ends_in_one_transaction_do_not_hinder_each_other(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}, "b": {}}))
    engine.claim()
    ends = [End(12345, Outcome.SUCCESS, None, NOW), engine.end_of(engine.open.pop((run.run_id, "a")), Outcome.SUCCESS)]
    assert engine.advance(lambda a: a.finish(ends)).fenced == [12345]
    assert engine.states(run) == {"a": State.SUCCESS, "b": State.STARTED}


# --- what needs no slot ----------------------------------------------------------------------------------------------


def test_inline_tasks_are_done_without_an_attempt_to_launch(engine: Engine) -> None:
    names = [f"t{number}" for number in range(40)]
    tasks: Tasks = {name: {"inline": True, "upstream": names[max(0, i - 1) : i]} for i, name in enumerate(names)}
    run = engine.run(engine.dag(tasks))
    outcomes = engine.advance(room=0)
    while outcomes.more:
        outcomes = engine.advance(room=0)
    assert outcomes.claimed == []
    assert engine.run_row(run).state == RunState.SUCCESS
    assert {one.outcome for name in names for one in engine.attempts(run, name)} == {Outcome.SUCCESS}


def test_an_inline_task_in_a_full_pool_waits_for_it(engine: Engine) -> None:
    version = engine.dag({"hold": {"pool": "etl"}, "mark": {"inline": True, "pool": "etl"}})
    engine.store.write(lambda c: advance_module.release(c, [set_pool(c, "etl", 1)], NOW))
    run = engine.run(version)
    assert engine.claim() == ["hold"] or engine.states(run)["mark"] == State.SUCCESS
    engine.drain()
    assert set(engine.states(run).values()) == {State.SUCCESS}
    assert engine.pool("etl").used == 0


def set_pool(connection: sa.Connection, name: str, slots: int) -> str:
    return f"pool:{pools.set(connection, name, slots).id}"


def test_sensors_open_their_attempt_though_the_executor_is_full(engine: Engine) -> None:
    run = engine.run(engine.dag({"wait": {"sensor": SENSOR}, "work": {}, "next": {"upstream": ["wait"]}}))
    (claimed,) = engine.advance(room=0).claimed
    assert (claimed.task.task_id, claimed.deadline_at) == ("wait", NOW + timedelta(seconds=3600))
    assert engine.states(run) == {"wait": State.DEFERRED, "work": State.READY, "next": State.WAITING}
    assert engine.rows(run)["wait"].deadline_at == claimed.deadline_at
    assert engine.select(sa.select(dag.c.active_tasks)) == [(0,)]
    assert [item.task.task_id for item in engine.end("wait", room=1).claimed] == ["work"]


def test_a_sensor_that_fails_is_retried_with_a_new_deadline(engine: Engine) -> None:
    run = engine.run(engine.dag({"wait": {"sensor": SENSOR, "retries": 1, "retry_delay": 60.0}}))
    engine.advance()
    engine.end("wait", Outcome.FAILED)
    row = engine.rows(run)["wait"]
    assert (row.state, row.deadline_at) == (State.RETRYING, None)
    engine.now += timedelta(hours=1)
    (again,) = engine.wake(room=0).claimed
    assert again.deadline_at == NOW + timedelta(hours=2)


# --- marks, size -----------------------------------------------------------------------------------------------------


def test_marking_resolves_what_lies_below(engine: Engine) -> None:
    run = engine.run(engine.dag(DIAMOND))
    row_id = engine.rows(run)["top"].id
    claimed = engine.advance(lambda a: a.mark([row_id], Event.MARK_SUCCESS, "by hand")).claimed
    assert [item.task.task_id for item in claimed] == ["left", "right"]


@pytest.mark.slow
def test_a_run_of_ten_thousand_tasks_costs_what_changes(engine: Engine) -> None:
    """One end in a wide run must not read the run: the statements of a step are counted, not its time."""
    names = [f"t{number}" for number in range(10_000)]
    tasks: Tasks = {"root": {}, **{name: {"upstream": ["root"]} for name in names}}
    tasks["last"] = {"upstream": names}
    run = engine.run(engine.dag(tasks))
    engine.claim()
    engine.end("root", room=10)
    assert len(engine.open) == 10
    for statements in (_statements(engine, run, 1), _statements(engine, run, 1)):
        assert statements <= 25
    if engine.store.dialect == "sqlite":  # the others take the same way, by the second
        engine.drain()
        assert engine.run_row(run).state == RunState.SUCCESS


def _statements(engine: Engine, run: DagRun, room: int) -> int:
    """How many statements it takes to end one task instance and begin another."""
    seen: list[str] = []
    observe = lambda *args: seen.append(args[2])  # noqa: E731
    sa.event.listen(sa.Engine, "before_cursor_execute", observe)
    try:
        name = next(iter(engine.open))[1]
        engine.end(name, room=room)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", observe)
    return len(seen)


@pytest.mark.slow
def test_a_chain_that_is_deeper_than_python_recurses_fails_at_once(engine: Engine) -> None:
    names = [f"t{number}" for number in range(1200)]
    tasks: Tasks = {name: {"upstream": names[max(0, i - 1) : i]} for i, name in enumerate(names)}
    run = engine.run(engine.dag(tasks))
    engine.claim()
    assert engine.end("t0", Outcome.FAILED).ended == 1200
    assert engine.run_row(run).state == RunState.FAILED


@pytest.mark.slow
def test_more_ends_and_wakes_than_an_in_list_takes_are_one_transaction(engine: Engine) -> None:
    names = [f"t{number}" for number in range(1500)]
    run = engine.run(engine.dag({name: {"retries": 1, "retry_delay": 0.0} for name in names}))
    while engine.claim():
        pass
    keys = [(run.run_id, name) for name in names]
    engine.finish([(key, Outcome.FAILED) for key in keys])
    assert set(engine.states(run).values()) == {State.RETRYING}
    engine.drain()
    assert engine.run_row(run).state == RunState.SUCCESS


def test_a_paused_dag_holds_everything_back_and_unpausing_lets_it_go(engine: Engine) -> None:
    version = engine.dag({"a": {}, "b": {}, "c": {"inline": True}})
    run = engine.run(version)
    engine.store.write(lambda c: dags.set_paused(c, version.dag_row, True))
    assert engine.claim() == []
    assert {row.blocked_on for row in engine.rows(run).values()} == {f"paused:{version.dag_row}"}
    engine.assert_sound()
    engine.store.write(lambda c: dags.set_paused(c, version.dag_row, False))
    assert len(engine.release(f"paused:{version.dag_row}").claimed) == 2
    assert engine.states(run)["c"] == State.SUCCESS


def test_what_runs_goes_on_when_its_dag_is_paused_and_nothing_follows(engine: Engine) -> None:
    version = engine.dag(CHAIN)
    run = engine.run(version)
    engine.claim()
    engine.store.write(lambda c: dags.set_paused(c, version.dag_row, True))
    assert engine.end("a").claimed == []
    assert engine.states(run) == {"a": State.SUCCESS, "b": State.READY, "c": State.WAITING}


def test_a_process_without_a_job_claims_nothing(engine: Engine) -> None:
    engine.run(engine.dag())
    engine.holder = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="holder"):
        engine.advance()


def test_a_damaged_version_keeps_nobody_else_from_being_claimed(engine: Engine) -> None:
    bad, good = engine.dag({"a": {}}, dag_id="bad"), engine.dag({"a": {}}, dag_id="good")
    of_bad, of_good = engine.run(bad), engine.run(good)
    row = sa.update(dag_version).where(dag_version.c.id == bad.id)
    engine.sql(row.values(structure="{"))
    engine.structures._known.clear()
    outcomes = engine.advance(room=1)
    assert engine.states(of_good) == {"a": "started"}
    assert engine.states(of_bad) == {"a": "ready"}
    assert engine.rows(of_bad)["a"].blocked_on == f"version:{bad.id}"
    assert f"version {bad.id} cannot be read" in outcomes.damaged[bad.id]
    assert engine.advance().damaged == {}
    engine.sql(row.values(structure=bad.structure.to_json()))
    engine.sql(sa.update(task_instance).values(blocked_on=""))


# --- executors that queue --------------------------------------------------------------------------------------------


def test_an_executor_that_queues_gets_tasks_but_neither_sensors_nor_what_ends_at_once(engine: Engine) -> None:
    engine.holder = dataclasses.replace(engine.holder, queues=True)
    run = engine.run(engine.dag({"a": {}, "mark": {"inline": True}, "wait": {"sensor": SENSOR}}))
    engine.claim()
    assert engine.states(run) == {"a": State.QUEUED, "mark": State.SUCCESS, "wait": State.DEFERRED}
    (queued,) = engine.attempts(run, "a")
    assert (queued.launcher, queued.host, queued.pid) == (None, None, None)
    assert engine.rows(run)["a"].started_at is None


def test_what_was_queued_and_never_began_costs_no_attempt(engine: Engine) -> None:
    engine.holder = dataclasses.replace(engine.holder, queues=True)
    engine.store.write(lambda connection: pools.set(connection, "etl", 1))
    run = engine.run(engine.dag({"a": {"pool": "etl"}}))
    first = engine.advance().claimed[0]
    assert engine.pool("etl").used == 1
    second = engine.end("a", Outcome.NEVER_LAUNCHED).claimed[0]
    assert engine.pool("etl").used == 1
    assert (second.attempt, second.max_attempts) == (first.attempt + 1, first.max_attempts + 1)
    assert engine.states(run) == {"a": State.QUEUED}


def test_a_queued_attempt_may_be_killed_or_fail(engine: Engine) -> None:
    engine.holder = dataclasses.replace(engine.holder, queues=True)
    run = engine.run(engine.dag({"a": {}, "b": {"upstream": ["a"]}}))
    engine.claim()
    engine.end("a", Outcome.KILLED, may_retry=False)
    assert engine.states(run) == {"a": State.FAILED, "b": State.UPSTREAM_FAILED}

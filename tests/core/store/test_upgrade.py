"""Moving a run to the newest version of its DAG."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import Refused
from flux.schedule import DataInterval
from flux.states import Outcome, RunKind, RunState, State
from flux.store import dags, pools, runs, upgrade
from flux.store.advance import Advance, Outcomes
from flux.store.attempts import End, Holder
from flux.store.engine import Store
from flux.store.runs import DagRun
from flux.store.schema import task_instance
from flux.store.structures import StructureCache

HOLDER = Holder(1, "launcher", "here")


def _states(connection: sa.Connection, run: DagRun) -> dict[str, str]:
    query = sa.select(task_instance.c.task_id, task_instance.c.state).where(task_instance.c.dag_run_id == run.id)
    return {row.task_id: row.state for row in connection.execute(query)}


class _World:
    """One DAG whose file changes, and a run of its first version."""

    def __init__(self, store: Store, make_version: Any, now: datetime) -> None:
        self.store, self.make_version, self.now = store, make_version, now

    def version(self, tasks: dict[str, dict[str, Any]]) -> dags.DagVersion:
        return self.store.write(lambda connection: self.make_version(connection, tasks))

    def run(self, version: dags.DagVersion) -> DagRun:
        interval = DataInterval(self.now, self.now)
        return self.store.write(
            lambda connection: runs.create(
                connection,
                dag=dags.by_row(connection, version.dag_row),
                version=version,
                kind=RunKind.MANUAL,
                interval=interval,
                now=self.now,
            )
        )

    def step(self, *ends: End, room: int = 8) -> Outcomes:
        def work(connection: sa.Connection) -> Outcomes:
            advance = Advance(connection, StructureCache().through(connection), self.now, HOLDER)
            advance.finish(ends)
            advance.claim(room)
            advance.write()
            return advance.outcomes

        return self.store.write(work)

    def succeed(self, outcomes: Outcomes) -> Outcomes:
        return self.step(*(End(item.claim, Outcome.SUCCESS, None, self.now) for item in outcomes.claimed))

    def upgrade(self, run: DagRun) -> upgrade.Upgrade:
        def work(connection: sa.Connection) -> upgrade.Upgrade:
            planned = upgrade.plan(connection, runs.by_rows(connection, [run.id])[0])
            upgrade.apply(connection, planned, self.now)
            return planned

        return self.store.write(work)

    def states(self, run: DagRun) -> dict[str, str]:
        return self.store.read(lambda connection: _states(connection, run))

    def state(self, run: DagRun) -> RunState:
        return self.store.read(lambda connection: runs.by_rows(connection, [run.id])[0].state)


@pytest.fixture
def world(store: Store, make_version: Any, now: datetime) -> _World:
    return _World(store, make_version, now)


def test_new_tasks_are_added_gone_ones_removed_and_the_run_ends_by_the_new_version(world: _World) -> None:
    run = world.run(world.version({"a": {}, "b": {"upstream": ["a"]}, "z": {"upstream": ["b"]}}))
    claimed = world.step()
    world.version({"new": {}, "a": {}, "b": {"upstream": ["a", "new"]}})
    planned = world.upgrade(run)
    assert (planned.new, planned.gone, planned.changed) == (("new",), ("z",), ("b",))
    assert world.states(run) == {"a": "started", "b": "waiting", "z": "removed", "new": "ready"}
    again = world.succeed(claimed)
    assert [item.task.task_id for item in again.claimed] == ["new"]
    last = world.succeed(again)
    assert [item.task.task_id for item in last.claimed] == ["b"]
    world.succeed(last)
    assert world.state(run) is RunState.SUCCESS


def test_what_has_finished_stays_finished(world: _World) -> None:
    run = world.run(world.version({"a": {}, "b": {"upstream": ["a"]}}))
    claimed = world.succeed(world.step())
    assert [item.task.task_id for item in claimed.claimed] == ["b"]
    world.version({"b": {"upstream": ["c"]}, "c": {}, "a": {}})
    world.upgrade(run)
    assert world.states(run) == {"a": "success", "b": "started", "c": "ready"}


def test_a_branch_that_has_chosen_keeps_its_choice_when_tasks_are_numbered_anew(world: _World) -> None:
    gate = {"gate": "branch", "gates": ["left", "right"]}
    tasks: dict[str, dict[str, Any]] = {
        "one": gate,
        "two": gate,
        "left": {"upstream": ["one", "two"]},
        "right": {"upstream": ["one", "two"]},
    }
    run = world.run(world.version(tasks))
    claimed = {item.task.task_id: item for item in world.step().claimed}
    world.step(End(claimed["one"].claim, Outcome.SUCCESS, None, world.now, chosen=["left"]))
    added = {"before": {}, **tasks, "nobodys": {"upstream": ["one"]}, "below": {"upstream": ["one", "left"]}}
    for name in ("one", "two"):
        gates = ["left", "right", "nobodys", "below"] if name == "one" else ["left", "right"]
        added[name] = {"gate": "branch", "gates": gates}
    world.version(added)
    world.upgrade(run)
    assert world.states(run)["nobodys"] == "skipped"
    world.step(End(claimed["two"].claim, Outcome.SUCCESS, None, world.now, chosen=["left", "right"]))
    assert world.states(run) | {"before": ""} == {
        "before": "", "one": "success", "two": "success", "left": "started", "right": "skipped",
        "nobodys": "skipped", "below": "waiting",
    }  # fmt: skip


@pytest.mark.parametrize(("is_open", "state"), [(False, "skipped"), (True, "started")])
def test_a_short_circuit_that_has_closed_closes_what_is_new_below_it(world: _World, is_open: bool, state: str) -> None:
    tasks: dict[str, dict[str, Any]] = {
        "slow": {},
        "door": {"gate": "short_circuit", "gates": ["after"]},
        "after": {"upstream": ["slow", "door"]},
    }
    run = world.run(world.version(tasks))
    claimed = {item.task.task_id: item for item in world.step().claimed}
    chosen = None if is_open else []
    world.step(End(claimed["door"].claim, Outcome.SUCCESS, None, world.now, chosen=chosen))
    tasks["door"]["gates"] = ["after", "new"]
    world.version({"before": {}, **tasks, "new": {"upstream": ["slow", "door"]}})
    world.upgrade(run)
    world.step(End(claimed["slow"].claim, Outcome.SUCCESS, None, world.now))
    assert (world.states(run)["after"], world.states(run)["new"]) == (state, state)


def test_an_attempt_that_cost_nothing_still_costs_nothing(world: _World) -> None:
    run = world.run(world.version({"a": {"retries": 1}}))
    (first,) = world.step().claimed
    (second,) = world.step(End(first.claim, Outcome.NEVER_LAUNCHED, "the launcher died", world.now)).claimed
    world.version({"a": {"retries": 1}, "b": {}})
    world.upgrade(run)
    world.step(End(second.claim, Outcome.FAILED, "by the test", world.now))
    assert world.states(run)["a"] == "retrying"


def test_what_has_not_begun_takes_the_limits_of_the_new_version_and_what_runs_keeps_its_own(world: _World) -> None:
    run = world.run(world.version({"a": {"pool": "none"}, "b": {}}))
    assert [item.task.task_id for item in world.step().claimed] == ["b"]  # nobody has made that pool
    world.version({"a": {"queue": "fast"}, "b": {"pool": "none", "pool_slots": 3}})
    world.upgrade(run)
    query = sa.select(task_instance.c.task_id, task_instance.c.queue, task_instance.c.pool_slots)
    rows = world.store.read(lambda connection: connection.execute(query).all())
    assert sorted(tuple(row) for row in rows) == [("a", "fast", 1), ("b", "default", 1)]
    assert [item.task.task_id for item in world.step().claimed] == ["a"]


def test_a_run_is_upgraded_as_often_as_one_likes(world: _World) -> None:
    """What an earlier upgrade took out keeps an index that no later one needs."""
    run = world.run(world.version({"a": {}, "b": {}, "z": {}}))
    for tasks in (("n", "a"), ("n", "a", "m"), ("a", "k"), ("m2", "k", "a")):
        world.version({name: {} for name in tasks})
        world.upgrade(run)
        states = world.states(run)
        assert {name for name, state in states.items() if state != State.REMOVED} == set(tasks)
    assert states.keys() == {"a", "b", "z", "n", "m", "k", "m2"}
    world.succeed(world.step())
    assert world.state(run) is RunState.SUCCESS


def test_a_task_that_comes_back_runs(world: _World) -> None:
    run = world.run(world.version({"a": {}, "b": {"upstream": ["a"]}}))
    claimed = world.step()
    world.version({"a": {}})
    world.upgrade(run)
    world.version({"a": {}, "b": {"upstream": ["a"]}, "c": {"upstream": ["b"]}})
    world.upgrade(run)
    assert world.states(run) == {"a": "started", "b": "waiting", "c": "waiting"}
    world.succeed(world.succeed(world.succeed(claimed)))
    assert world.states(run) == {"a": "success", "b": "success", "c": "success"}
    assert world.state(run) is RunState.SUCCESS


@pytest.mark.parametrize("was", ["ready", "retrying"])
def test_what_was_about_to_begin_waits_for_an_upstream_that_is_new(world: _World, was: str) -> None:
    run = world.run(world.version({"a": {"retries": 1, "retry_delay": 0.0}}))
    if was == "retrying":
        (claimed,) = world.step().claimed
        world.step(End(claimed.claim, Outcome.FAILED, "by the test", world.now))
    assert world.states(run) == {"a": was}
    world.version({"new": {}, "a": {"upstream": ["new"], "retries": 1, "retry_delay": 0.0}})
    world.upgrade(run)
    assert world.states(run) == {"a": "waiting", "new": "ready"}
    assert [item.task.task_id for item in world.succeed(world.step()).claimed] == ["a"]


def test_a_retry_keeps_its_time_when_nothing_above_it_is_new(world: _World) -> None:
    run = world.run(world.version({"a": {"retries": 1}}))
    (claimed,) = world.step().claimed
    world.step(End(claimed.claim, Outcome.FAILED, "by the test", world.now))
    world.version({"a": {"retries": 1}, "b": {"upstream": ["a"]}})
    world.upgrade(run)
    assert world.states(run) == {"a": "retrying", "b": "waiting"}


def test_the_room_of_what_has_to_wait_again_goes_to_others(world: _World) -> None:
    pooled = {"pool": "one"}
    version = world.version({"a": pooled, "b": pooled})
    world.store.write(lambda connection: pools.set(connection, "one", 1))
    run, other = world.run(version), world.run(version)
    (first,) = world.step().claimed
    # It ends while the executor has no room: the pool's room is kept for the best of those that wait for it.
    world.step(End(first.claim, Outcome.SUCCESS, None, world.now), room=0)
    world.version({"new": {}, "a": pooled, "b": {**pooled, "upstream": ["new"]}})
    world.upgrade(run)
    claimed = {(item.run.run_id, item.task.task_id) for item in world.step().claimed}
    assert claimed == {(run.run_id, "new"), (other.run_id, "a")}


def test_a_gone_task_that_runs_refuses_the_upgrade_and_nothing_moves(world: _World) -> None:
    run = world.run(world.version({"a": {}, "b": {"upstream": ["a"]}}))
    world.step()
    world.version({"b": {}})
    with pytest.raises(Refused, match="'a' is running"):
        world.upgrade(run)
    assert world.states(run) == {"a": "started", "b": "waiting"}


def test_a_run_that_is_over_is_refused(world: _World) -> None:
    run = world.run(world.version({"a": {}}))
    world.succeed(world.step())
    world.version({"a": {}, "b": {}})
    with pytest.raises(Refused, match="is over"):
        world.upgrade(run)
    assert world.states(run) == {"a": State.SUCCESS}


def test_a_run_of_the_newest_version_needs_none(world: _World) -> None:
    run = world.run(world.version({"a": {}}))
    assert not world.upgrade(run).is_needed
    assert world.states(run) == {"a": "ready"}

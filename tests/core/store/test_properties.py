"""Random DAGs and random events: after every step the invariants hold, and at the end everything comes to an end.

Hypothesis chooses what happens. The model is the rows themselves: `tests.store_engine.broken` computes every counter,
limit and reason to wait anew, so that a wrong one shows at the step that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from flux import graph
from flux.errors import Refused
from flux.states import Event, Outcome, RunKind, RunState, State
from flux.store import advance as advance_module
from flux.store import consistency, dags, pools, runs
from flux.store.advance import time_out
from flux.store.attempts import End
from flux.store.dags import DagVersion
from flux.store.engine import Store
from flux.store.runs import DagRun
from flux.store.schema import dag_run, task_instance
from flux.structure import SensorStructure
from flux.trigger_rules import TRIGGER_RULES
from tests.store_engine import Engine

SENSOR = SensorStructure(poke_interval=60.0, poke_timeout=10.0, timeout=3600.0)
POOLS = ("etl", "web")
ENDINGS = (
    Outcome.SUCCESS, Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILED, Outcome.SKIPPED, Outcome.LOST,
    Outcome.NEVER_LAUNCHED, Outcome.TIMED_OUT, Outcome.INTERRUPTED,
)  # fmt: skip


@st.composite
def task_sets(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Up to eight tasks with edges from earlier to later ones, gates, and every field the engine looks at."""
    names = [f"t{number}" for number in range(draw(st.integers(1, 8)))]
    tasks: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(names):
        above = draw(st.lists(st.sampled_from(names[:number]), unique=True, max_size=3)) if number else []
        tasks[name] = {
            "upstream": above,
            "trigger_rule": draw(st.sampled_from(("all_success",) * 6 + TRIGGER_RULES)),
            "retries": draw(st.integers(0, 2)),
            "retry_delay": 0.0,
            "priority_weight": draw(st.integers(0, 3)),
            "pool": draw(st.sampled_from((None, None, None, *POOLS))),
            "pool_slots": draw(st.integers(1, 3)),
            "max_active_tis_per_dag": draw(st.sampled_from((None, None, None, 1, 2))),
            "depends_on_past": draw(st.sampled_from((False, False, False, True))),
            "wait_for_downstream": draw(st.sampled_from((False, False, False, False, True))),
            "adhoc": draw(st.sampled_from((False,) * 9 + (True,))),
            **draw(st.sampled_from(({}, {}, {}, {}, {"inline": True}, {"sensor": SENSOR}))),
        }
    downstream = [[names.index(low) for low in names if name in tasks[low]["upstream"]] for name in names]
    for number, name in enumerate(names):
        kind = draw(st.sampled_from((None, None, None, "branch", "short_circuit")))
        if kind is not None and downstream[number] and not tasks[name].get("inline") and "sensor" not in tasks[name]:
            closes_all = kind == "short_circuit" and draw(st.booleans())
            gated = graph.reach([number], downstream) - {number} if closes_all else set(downstream[number])
            tasks[name] |= {"gate": kind, "gates": [names[index] for index in sorted(gated)]}
    return tasks


class Machine(RuleBasedStateMachine):
    """Two DAGs, two pools, one supervisor and people."""

    store: Store
    register: Callable[..., DagVersion]
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(self.store, self.register)
        self.told: list[End] = []
        self.versions: dict[str, DagVersion] = {}

    @initialize(
        sales=task_sets(), other=task_sets(), active_runs=st.integers(1, 3),
        active_tasks=st.sampled_from((None, 1, 2)), etl=st.integers(0, 4),
    )  # fmt: skip
    def make(
        self, sales: dict[str, Any], other: dict[str, Any], active_runs: int, active_tasks: int | None, etl: int
    ) -> None:
        self.versions["sales"] = self.engine.dag(sales, max_active_runs=active_runs, max_active_tasks=active_tasks)
        self.versions["other"] = self.engine.dag(other, dag_id="other", dagrun_timeout=60.0)
        self.set_pool("etl", etl)

    # --- what people do ----------------------------------------------------------------------------------------------

    @rule(
        target=runs, name=st.sampled_from(("sales", "sales", "other")), day=st.integers(1, 6),
        kind=st.sampled_from((RunKind.SCHEDULED, RunKind.MANUAL, RunKind.BACKFILL)),
    )  # fmt: skip
    def make_run(self, name: str, day: int, kind: RunKind) -> DagRun | None:
        try:
            return self.engine.run(self.versions[name], day if name == "sales" else day + 10, kind=kind)
        except Refused:
            return None

    @rule(tasks=task_sets(), active_tasks=st.sampled_from((None, 1, 3)), active_runs=st.integers(1, 3))
    def edit_the_file(self, tasks: dict[str, Any], active_tasks: int | None, active_runs: int) -> None:
        self.versions["sales"] = self.engine.dag(tasks, max_active_runs=active_runs, max_active_tasks=active_tasks)
        rows = self.engine.select(sa.text("SELECT id FROM task_limit"))  # type: ignore[arg-type]
        number = self.versions["sales"].dag_row
        self.engine.release(f"dag:{number}", f"runs:{number}", *(f"task:{row.id}" for row in rows), room=None)

    @rule(name=st.sampled_from(("sales", "other")), paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:
        number = self.versions[name].dag_row

        def work(connection: sa.Connection) -> None:
            if dags.set_paused(connection, number, paused) and not paused:
                advance_module.release(connection, [f"paused:{number}"], self.engine.now)

        self.store.write(work)

    @rule(name=st.sampled_from(POOLS), slots=st.integers(0, 4))
    def set_pool(self, name: str, slots: int) -> None:
        def work(connection: sa.Connection) -> None:
            pool = pools.set(connection, name, slots)
            advance_module.release(connection, [f"pool:{pool.id}"], self.engine.now)

        self.store.write(work)

    @rule(run=runs, data=st.data())
    def mark(self, run: DagRun | None, data: st.DataObject) -> None:
        """As `flux task mark` will: what no attempt holds and has none behind it, so that a mark stays a mark."""
        if run is None:
            return
        rows = [row for row in self.rows(run) if row.attempt == 0 and row.state in (State.WAITING, State.READY)]
        if rows:
            row = data.draw(st.sampled_from(rows))
            event = data.draw(st.sampled_from((Event.MARK_FAILED, Event.MARK_SUCCESS, Event.MARK_SKIPPED)))
            self.engine.advance(lambda advance: advance.mark([row.id], event, "by hand"), room=None)

    @rule(run=runs)
    def delete(self, run: DagRun | None) -> None:
        if run is None:
            return

        def work(connection: sa.Connection) -> None:
            for found in runs.by_rows(connection, [run.id]):
                if found.state is not RunState.RUNNING:
                    runs.delete(connection, found)

        self.store.write(work)

    # --- what happens ------------------------------------------------------------------------------------------------

    @rule(room=st.integers(0, 4))
    def claim(self, room: int) -> None:
        self.engine.advance(room=room)

    @rule(data=st.data(), room=st.sampled_from((None, 0, 1, 5)))
    def end(self, data: st.DataObject, room: int | None) -> None:
        if not self.engine.open:
            return
        keys = data.draw(st.lists(st.sampled_from(sorted(self.engine.open)), min_size=1, max_size=4, unique=True))
        ends = []
        for key in keys:
            claimed = self.engine.open.pop(key)
            outcome = data.draw(st.sampled_from(ENDINGS))
            chosen = data.draw(st.sampled_from((None, [], ["t1"], ["t1", "t3", "no_such_task"])))
            flags = {
                "must_retry": outcome is Outcome.INTERRUPTED,
                "may_retry": data.draw(st.booleans()),
                "not_before": data.draw(st.sampled_from((None, self.engine.now))),
            }
            ends.append(self.engine.end_of(claimed, outcome, chosen=chosen, **flags))
        self.engine.advance(lambda advance: advance.finish(ends), room=room)
        self.told += ends

    @rule(data=st.data())
    def tell_again(self, data: st.DataObject) -> None:
        if self.told:
            end = data.draw(st.sampled_from(self.told))
            outcomes = self.engine.advance(lambda advance: advance.finish([end]), room=None)
            assert (outcomes.fenced, outcomes.ended) == ([end.claim], 0)

    @rule(room=st.sampled_from((None, 0, 3)))
    def wake(self, room: int | None) -> None:
        self.engine.wake(room=room)

    @rule(run=runs)
    def time_passes(self, run: DagRun | None) -> None:
        self.engine.now += timedelta(seconds=61)
        if run is not None:
            self.store.write(lambda c: time_out(c, self.engine.structures.through(c), run.id, self.engine.now))

    # --- what holds --------------------------------------------------------------------------------------------------

    @invariant()
    def sound(self) -> None:
        if self.versions:
            self.engine.assert_sound()

    def teardown(self) -> None:
        """Whatever happened: with pools that are large enough and nothing paused, every run comes to its end."""
        if not self.versions:
            return
        for name in self.versions:
            self.pause(name, False)
        for name in POOLS:
            self.set_pool(name, 9)
        self.engine.drain()
        self.engine.assert_sound()
        repaired = self.store.write(
            lambda c: consistency.repair(c, self.engine.structures.through(c), self.engine.now + timedelta(hours=1))
        )
        assert repaired == []
        self.engine.advance()  # a repair has everything asked again that waits
        self.engine.assert_sound()
        left = self.engine.select(sa.select(task_instance).where(task_instance.c.state.in_(("waiting", "retrying"))))
        running = self.engine.select(sa.select(dag_run).where(dag_run.c.state.in_(("running", "queued"))))
        held_by_the_past = {row.dag_run_id for row in self.blocked()}
        queued_behind = {row.dag_row for row in running if row.id in held_by_the_past}
        for row in running:
            assert row.id in held_by_the_past or (row.state == "queued" and row.dag_row in queued_behind), row
        assert {row.dag_run_id for row in left} <= held_by_the_past

    def blocked(self) -> list[Any]:
        """Task instances whose past failed: they wait for a person, and rightly so."""
        rows = self.engine.select(sa.select(task_instance).where(task_instance.c.state == State.READY))
        found = [tuple(row) for row in rows if not row.blocked_on.startswith("past:")]
        assert not found, found
        return list(rows)

    def rows(self, run: DagRun) -> list[Any]:
        return list(self.engine.select(sa.select(task_instance).where(task_instance.c.dag_run_id == run.id)))


def play(store: Store, register: Callable[..., DagVersion], empty: Callable[[], None], examples: int) -> None:
    class Bound(Machine):
        def __init__(self) -> None:
            empty()
            self.store, self.register = store, register
            super().__init__()

    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate,),  # making it smaller takes minutes
        ),
    )  # fmt: skip


@pytest.mark.slow
def test_random_events_on_random_dags_leave_every_invariant_whole(
    store: Store, make_version: Callable[..., DagVersion], clear: Callable[[Store], None]
) -> None:
    play(store, make_version, lambda: clear(store), 60 if store.dialect == "sqlite" else 15)
    assert store.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(dag_run)).scalar_one()) >= 0

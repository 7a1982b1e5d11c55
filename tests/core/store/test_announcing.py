"""State changes are announced in the transaction that makes them, in order, and only while somebody listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import StaleState
from flux.states import TERMINAL, Event, Outcome, RunState, State
from flux.store import advance, announcing, dags, outbox, runs, transitions, upgrade
from flux.store.announcing import KINDS, RUN_STATE, TASK_STATE
from flux.store.engine import Store
from flux.store.runs import DagRun
from tests.store_engine import NOW, Engine, interleave

ALL = frozenset(KINDS)
#: `a` and `b` side by side, `c` below both, `d` below `c`; `e` is inline.
DIAMOND: dict[str, dict[str, Any]] = {
    "a": {"retries": 1, "retry_delay": 0.0},
    "b": {},
    "c": {"upstream": ["a", "b"]},
    "d": {"upstream": ["c"]},
    "e": {"upstream": ["c"], "inline": True},
}


@pytest.fixture(autouse=True)
def _afterwards_nobody_listens(store: Store) -> Iterator[None]:
    """The store of a server is shared."""
    yield
    store.announce(frozenset())


def told(store: Store, *kinds: str) -> list[outbox.Message]:
    """What waits in the outbox, oldest first."""
    return store.read(lambda c: outbox.due(c, kinds or KINDS, NOW + timedelta(days=9), limit=10_000))


def moves(store: Store) -> list[tuple[str, str, str]]:
    """(task_id or run_id, state before, state) of what waits, oldest first."""
    return [
        (one.payload.get("task_id", one.payload["run_id"]), one.payload["previous"], one.payload["state"])
        for one in told(store)
    ]


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """Collect the text of every statement meanwhile."""
    seen: list[str] = []
    engine = store._writer

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def test_a_run_is_announced_from_its_start_to_its_end_in_order(engine: Engine) -> None:
    engine.store.announce(ALL)
    run = engine.run(engine.dag({"load": {}, "report": {"upstream": ["load"]}}))
    engine.drain()
    assert moves(engine.store) == [
        (run.run_id, "queued", "running"),
        ("load", "ready", "started"),
        ("load", "started", "success"),
        ("report", "waiting", "ready"),
        ("report", "ready", "started"),
        ("report", "started", "success"),
        (run.run_id, "running", "success"),
    ]


def test_an_announcement_is_the_row_as_its_move_left_it(engine: Engine) -> None:
    engine.store.announce(ALL)
    run = engine.run(engine.dag({"load": {"retries": 1}}), conf={"depth": [1, None]})
    engine.claim()
    engine.now += timedelta(seconds=5)
    engine.end("load", Outcome.FAILED)
    first, started, ended = told(engine.store)
    assert first.payload == {
        "previous": "queued", "state": "running", "dag_id": "sales", "run_id": run.run_id, "kind": "scheduled",
        "logical_date": "2026-01-01T00:00:00+00:00", "interval_start": "2026-01-01T00:00:00+00:00",
        "interval_end": "2026-01-02T00:00:00+00:00", "conf": {"depth": [1, None]},
        "started_at": "2026-01-05T02:00:00+00:00", "ended_at": None,
    }  # fmt: skip
    assert {one.dag_run_id for one in (first, started, ended)} == {run.id}
    shared = {
        "dag_id": "sales", "run_id": run.run_id, "task_id": "load", "map_index": None, "attempt": 1, "max_attempts": 2,
        "started_at": "2026-01-05T02:00:00+00:00", "version": run.dag_version_id,
    }  # fmt: skip
    assert started.payload == {**shared, "previous": "ready", "state": "started", "ended_at": None, "reason": None}
    assert ended.payload == {
        **shared, "previous": "started", "state": "retrying", "ended_at": "2026-01-05T02:00:05+00:00",
        "reason": "failed by the test",
    }  # fmt: skip


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILED, Outcome.SKIPPED, Outcome.LOST])
def test_the_announcements_of_a_task_instance_are_a_chain_that_ends_in_its_row(
    engine: Engine, outcome: Outcome
) -> None:
    engine.store.announce(ALL)
    made = [engine.run(engine.dag(DIAMOND), day) for day in (1, 2)]
    engine.drain(lambda key: outcome if key[1] == "a" else Outcome.SUCCESS)
    for run in made:
        now = engine.rows(run)
        for task_id, row in now.items():
            chain = [
                (one.payload["previous"], one.payload["state"])
                for one in told(engine.store, TASK_STATE)
                if (one.payload["run_id"], one.payload["task_id"]) == (run.run_id, task_id)
            ]
            assert chain[0][0] in (State.WAITING, State.READY)
            assert [state for _, state in chain[:-1]] == [before for before, _ in chain[1:]]
            assert chain[-1][1] == row.state in TERMINAL
        closed = [one.payload["state"] for one in told(engine.store, RUN_STATE) if one.dag_run_id == run.id]
        assert closed == [RunState.RUNNING, engine.run_row(run).state]


def test_a_cause_comes_before_what_it_causes(engine: Engine) -> None:
    engine.store.announce(ALL)
    engine.run(engine.dag(DIAMOND))
    engine.drain()
    order = moves(engine.store)
    for above, below in (("a", "c"), ("b", "c"), ("c", "d"), ("c", "e")):
        assert order.index((above, "started", "success")) < order.index((below, "waiting", "ready"))
    assert order[-1][1:] == ("running", "success")


def test_what_many_share_is_read_once_for_all(engine: Engine) -> None:
    engine.store.announce(ALL)
    engine.run(engine.dag({f"t{number}": {} for number in range(40)}))
    with statements(engine.store) as seen:
        assert len(engine.claim()) == 40
    assert len(told(engine.store, TASK_STATE)) == 40
    assert sum("outbox" in statement for statement in seen) == 1


def test_without_a_listener_nothing_is_read_or_written_for_one(engine: Engine) -> None:
    engine.run(engine.dag(DIAMOND))
    with statements(engine.store) as silent:
        engine.drain()
    assert not any("outbox" in statement for statement in silent)
    assert told(engine.store) == []
    engine.store.announce(ALL)
    engine.run(engine.dag(DIAMOND), 2)
    with statements(engine.store) as heard:
        engine.drain()
    engine.store.announce(frozenset())
    engine.run(engine.dag(DIAMOND), 3)
    with statements(engine.store) as silent_again:
        engine.drain()
    assert set(silent_again) <= set(silent)
    assert any("outbox" in statement for statement in set(heard) - set(silent))


def test_only_what_somebody_listens_to_is_announced(engine: Engine) -> None:
    engine.store.announce(announcing.kinds_of(["flux_dag_run_state_changed", "flux_operators"]))
    engine.run(engine.dag(DIAMOND))
    engine.drain()
    assert [one.kind for one in told(engine.store)] == [RUN_STATE, RUN_STATE]


def test_a_move_that_is_taken_back_is_not_announced(engine: Engine) -> None:
    engine.store.announce(ALL)
    run = engine.run(engine.dag({"a": {}, "b": {"upstream": ["a"]}}))
    before = moves(engine.store)
    ids = [row.id for row in engine.rows(run).values()]
    with pytest.raises(StaleState):
        engine.store.write(lambda c: transitions.make_ready(c, Event.READY, ids, NOW))
    assert moves(engine.store) == before


def test_a_run_that_takes_too_long_and_one_that_is_upgraded_are_announced(engine: Engine) -> None:
    version = engine.dag({"a": {}, "b": {"upstream": ["a"]}}, dagrun_timeout=60.0)
    late, moved = engine.run(version, 1), engine.run(version, 2)
    engine.store.announce(ALL)
    engine.now += timedelta(seconds=61)
    engine.store.write(lambda c: advance.time_out(c, engine.structures.through(c), late.id, engine.now))
    assert moves(engine.store) == [
        ("a", "ready", "skipped"), ("b", "waiting", "skipped"), (late.run_id, "running", "failed"),
    ]  # fmt: skip
    engine.dag({"a": {}})
    engine.store.write(lambda c: upgrade.apply(c, upgrade.plan(c, _run(c, moved)), engine.now))
    assert moves(engine.store)[3:] == [("b", "waiting", "removed")]


def _run(connection: sa.Connection, run: DagRun) -> DagRun:
    return runs.by_rows(connection, [run.id])[0]


def test_a_run_that_a_command_makes_is_announced(engine: Engine) -> None:
    version = engine.dag({})
    engine.store.announce(ALL)
    run = engine.run(version)
    assert moves(engine.store) == [(run.run_id, "queued", "running"), (run.run_id, "running", "success")]
    assert engine.store.read(lambda c: dags.by_row(c, version.dag_row).active_runs) == 0


def test_two_transactions_that_overlap_announce_the_end_of_their_run_last(engine: Engine) -> None:
    engine.store.announce(ALL)
    run = engine.run(engine.dag({"a": {}, "b": {}}))
    engine.claim()
    first, second = ([engine.end_of(engine.open.pop((run.run_id, task_id)), Outcome.SUCCESS)] for task_id in ("a", "b"))

    def end_first(connection: sa.Connection) -> None:
        one = advance.Advance(connection, engine.structures.through(connection), engine.now, engine.holder)
        one.finish(first)
        one.write()

    interleave(engine.store, end_first, lambda: engine.advance(lambda one: one.finish(second)))
    order = moves(engine.store)
    assert sorted(order[-3:-1]) == [("a", "started", "success"), ("b", "started", "success")]
    assert order[-1] == (run.run_id, "running", "success")

"""Statements that are compiled once and run on the driver's own cursor, on every database."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import DatabaseUnavailable
from flux.states import RunState
from flux.store import runs
from flux.store.engine import Store
from flux.store.prepared import Prepared
from flux.store.schema import dag, dag_run, pool
from tests.databases import SESSION, end_session
from tests.store_engine import Engine

_INSERT = Prepared(
    sa.insert(pool).values({name: bindparam(name) for name in ("name", "slots", "used", "description")}).inline()
)
_BY_SLOTS = Prepared(
    sa.select(pool.c.name, pool.c.used).where(pool.c.slots >= bindparam("least")).order_by(pool.c.name)
)
_ADD = sa.update(pool).where(pool.c.name == bindparam("b_name")).values(used=pool.c.used + bindparam("b_change"))


@pytest.fixture
def pools(store: Store) -> Store:
    rows = [{"name": name, "slots": slots, "used": 0, "description": None} for name, slots in (("p1", 5), ("p2", 9))]
    assert store.write(lambda connection: _INSERT.run(connection, *rows)) == 2
    return store


def test_rows_come_as_tuples_in_the_order_of_the_columns(pools: Store) -> None:
    assert pools.read(lambda connection: _BY_SLOTS.rows(connection, {"least": 6})) == [("p2", 0)]
    assert pools.read(lambda connection: _BY_SLOTS.rows(connection, {"least": 1})) == [("p1", 0), ("p2", 0)]


def test_a_change_tells_how_many_rows_it_changed(pools: Store) -> None:
    add = Prepared(_ADD)
    assert pools.write(lambda connection: add.run(connection, {"b_name": "p1", "b_change": 2})) == 1
    assert pools.write(lambda connection: add.run(connection, {"b_name": "no", "b_change": 2})) == 0
    both = [{"b_name": "p1", "b_change": 1}, {"b_name": "p2", "b_change": 4}]
    assert pools.write(lambda connection: add.run(connection, *both)) == 2
    assert pools.read(lambda connection: _BY_SLOTS.rows(connection, {"least": 0})) == [("p1", 3), ("p2", 4)]


def test_a_change_may_give_back_what_it_made(pools: Store) -> None:
    if pools.dialect in ("mysql", "mariadb"):
        pytest.skip("MySQL and MariaDB have no UPDATE … RETURNING")
    add = Prepared(_ADD.returning(pool.c.used, pool.c.name))
    assert pools.write(lambda connection: add.rows(connection, {"b_name": "p1", "b_change": 7})) == [(7, "p1")]


def test_times_and_truth_values_go_in_and_come_out_as_through_sqlalchemy(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}}))
    moment = datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    set_started = Prepared(
        sa.update(dag_run).where(dag_run.c.id == bindparam("b_id")).values(started_at=bindparam("b_at"))
    )
    read = Prepared(
        sa.select(dag_run.c.started_at, dag.c.paused, dag_run.c.ended_at).join_from(dag_run, dag)
        .where(dag_run.c.id == bindparam("id"), dag.c.paused == bindparam("paused"))
    )  # fmt: skip

    def work(connection: sa.Connection) -> list[tuple[object, ...]]:
        assert set_started.run(connection, {"b_id": run.id, "b_at": moment}) == 1
        rows = read.rows(connection, {"id": run.id, "paused": False})
        assert rows == [tuple(row) for row in connection.execute(read.statement, {"id": run.id, "paused": False})]
        assert read.rows(connection, {"id": run.id, "paused": True}) == []
        return rows

    [(started_at, paused, ended_at)] = engine.store.write(work)
    assert (started_at, paused, ended_at) == (moment.astimezone(UTC), False, None)


def test_what_the_statement_itself_holds_is_given_too(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}}))
    in_state = {
        state: Prepared(sa.select(dag_run.c.id).where(dag_run.c.state == state, dag_run.c.id == bindparam("id")))
        for state in RunState
    }
    found = engine.store.read(
        lambda connection: [state for state, each in in_state.items() if each.rows(connection, {"id": run.id})]
    )
    assert found == [RunState.RUNNING]


def test_a_list_of_any_length_is_one_parameter(pools: Store) -> None:
    named = Prepared(
        sa.select(pool.c.slots).where(pool.c.name.in_(bindparam("names", expanding=True))).order_by(pool.c.name)
    )
    for names, slots in ((["p2"], [9]), (["p1", "p2", "p3"], [5, 9]), ([], [])):
        assert pools.read(lambda connection, names=names: named.rows(connection, {"names": names})) == [
            (number,) for number in slots
        ]  # fmt: skip


def test_a_parameter_that_is_not_given_is_an_error(pools: Store) -> None:
    with pytest.raises(KeyError, match="least"):
        pools.read(lambda connection: _BY_SLOTS.rows(connection))


def test_the_drivers_error_is_the_one_that_sqlalchemy_raises(pools: Store) -> None:
    again = {"name": "p1", "slots": 1, "used": 0, "description": None}
    with pytest.raises(sa.exc.IntegrityError) as raised:
        pools.write(lambda connection: _INSERT.run(connection, again))
    assert raised.value.statement == _INSERT._forms[pools.dialect].sql  # type: ignore[union-attr]
    missing = Prepared(sa.select(sa.table("no_such_table", sa.column("id"))))
    with pytest.raises(sa.exc.DBAPIError, match="no_such_table"):
        pools.read(lambda connection: missing.rows(connection))
    assert len(pools.read(lambda connection: _BY_SLOTS.rows(connection, {"least": 0}))) == 2


def test_a_broken_connection_is_replaced_and_the_work_done_again(remote_store: Store) -> None:
    others: list[int] = []

    def work(connection: sa.Connection) -> int:
        others.append(connection.scalar(sa.text(SESSION[remote_store.dialect])) or 0)
        if len(others) == 1:
            end_session(remote_store._writer.url, others[0])
        return len(_BY_SLOTS.rows(connection, {"least": 0}))

    assert remote_store.write(work) >= 0
    assert len(others) == 2
    assert others[0] != others[1]


def test_a_database_that_stays_busy_is_said_to_be(engine: Engine) -> None:
    if engine.store.dialect != "sqlite":
        pytest.skip("one writer at a time is SQLite's")
    with Store.open(f"sqlite:///{engine.store.path}", busy_seconds=0.05) as other:

        def hold(connection: sa.Connection) -> None:
            with pytest.raises(DatabaseUnavailable, match="busy"):
                other.write(lambda second: _BY_SLOTS.rows(second, {"least": 0}))

        engine.store.write(hold)


def test_a_run_is_read_with_every_field_in_its_place(engine: Engine) -> None:
    run = engine.run(engine.dag({"a": {}}))

    def work(connection: sa.Connection) -> None:
        [row] = connection.execute(runs._SELECT.where(dag_run.c.id == run.id)).mappings()
        [read] = runs.by_rows(connection, [run.id])
        assert [field.name for field in dataclasses.fields(read)] == list(row)
        assert {**dataclasses.asdict(read)} == {**row, "kind": read.kind, "state": read.state}

    engine.store.read(work)

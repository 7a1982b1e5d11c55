"""What reading a DAG file changes in the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import NotFound
from flux.schedule import DataInterval
from flux.store import dags, pools, schema
from flux.store.dags import DagFile, Reading, Registered
from flux.store.engine import Store
from flux.structure import DagStructure

MakeStructure = Callable[..., DagStructure]
MakeReading = Callable[..., Reading]


@pytest.fixture
def register(store: Store, now: datetime) -> Callable[[str, Reading], list[Registered]]:
    return lambda path, reading: store.write(lambda connection: dags.register(connection, path, reading, now))


@pytest.fixture
def file(store: Store) -> Callable[[str], DagFile]:
    return lambda path: next(item for item in store.read(dags.files) if item.path == path)


def count(store: Store, table: sa.Table) -> int:
    return store.read(lambda connection: connection.scalar(sa.select(sa.func.count()).select_from(table)))


def test_a_new_file_gives_a_dag_that_is_not_paused(
    store: Store, register: Any, now: datetime, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    structure = make_structure(max_active_runs=3, max_active_tasks=5)
    [found] = register("sales.py", make_reading(structure, content=b"code"))
    assert (found.is_new_dag, found.is_new_version, found.changed_limits) == (True, True, ())
    dag = store.read(lambda connection: dags.by_id(connection, "sales"))
    assert dag == found.dag
    assert (dag.paused, dag.first_seen_at, dag.max_active_runs, dag.max_active_tasks) == (False, now, 3, 5)
    version = store.read(lambda connection: dags.version(connection, found.version_id))
    assert (version.number, version.structure, version.dag_row) == (1, structure, dag.id)
    assert store.read(lambda c: dags.contents(c, version.sources.values())) == {version.sources["sales.py"]: b"code"}


def test_the_same_reading_again_changes_nothing(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    [first] = register("sales.py", make_reading(make_structure()))
    [second] = register("sales.py", make_reading(make_structure()))
    assert second.version_id == first.version_id
    assert (second.is_new_dag, second.is_new_version) == (False, False)
    assert (count(store, schema.dag_version), count(store, schema.source)) == (1, 1)


def test_another_source_is_another_version_though_the_structure_is_the_same(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    [first] = register("sales.py", make_reading(make_structure(), content=b"1"))
    [second] = register("sales.py", make_reading(make_structure(), content=b"2"))
    assert second.is_new_version
    versions = [store.read(lambda c, r=r: dags.version(c, r.version_id)) for r in (first, second)]
    assert [version.number for version in versions] == [1, 2]
    assert versions[0].hash != versions[1].hash


def test_going_back_to_an_older_source_is_its_version_again(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    [first] = register("sales.py", make_reading(make_structure(), content=b"1"))
    register("sales.py", make_reading(make_structure(), content=b"2"))
    [back] = register("sales.py", make_reading(make_structure(), content=b"1"))
    assert back.is_new_version
    assert back.dag.dag_version_id == first.version_id
    assert count(store, schema.dag_version) == 2


def test_a_broken_file_keeps_its_dags_and_says_so(
    store: Store, register: Any, file: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    [good] = register("sales.py", make_reading(make_structure()))
    error = {"message": "SyntaxError", "line": 3, "traceback": "…"}
    assert register("sales.py", Reading(hash="b" * 64, error=error)) == []
    assert store.read(lambda c: dags.by_id(c, "sales")) == good.dag
    assert file("sales.py").error == error
    assert [item.path for item in store.read(dags.errors)] == ["sales.py"]
    register("sales.py", make_reading(make_structure()))
    assert store.read(dags.errors) == []


def test_a_file_that_is_gone_leaves_its_dags_without_a_file(
    store: Store, register: Any, file: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    [good] = register("sales.py", make_reading(make_structure()))
    register("sales.py", Reading(hash="b" * 64, error={"message": "m", "line": None, "traceback": ""}))
    register("sales.py", Reading(hash=None))
    assert (file("sales.py").hash, file("sales.py").error) == (None, None)
    assert store.read(dags.every) == []
    [dag] = store.read(lambda connection: dags.every(connection, active=False))
    assert (dag.dag_file_id, dag.dag_version_id) == (None, good.version_id)


def test_a_file_that_comes_back_has_its_dag_and_history_again(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    [first] = register("sales.py", make_reading(make_structure()))
    register("sales.py", Reading(hash=None))
    [again] = register("moved/sales.py", make_reading(make_structure(file="moved/sales.py")))
    assert again.dag.id == first.dag.id
    assert again.is_new_version
    assert not again.is_new_dag


def test_an_unknown_file_that_is_gone_leaves_no_trace(store: Store, register: Any) -> None:
    assert register("never.py", Reading(hash=None)) == []
    assert store.read(dags.files) == []


def test_a_dag_that_the_file_no_longer_defines_has_no_file(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    both = [make_structure(dag_id=name, file="two.py") for name in ("a", "b")]
    assert [item.dag.dag_id for item in register("two.py", make_reading(*both))] == ["a", "b"]
    register("two.py", make_reading(both[0], content=b"less"))
    assert [dag.dag_id for dag in store.read(dags.every)] == ["a"]


def test_a_dag_id_of_another_file_is_an_error_of_the_second_file(
    store: Store, register: Any, file: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    [owner] = register("sales.py", make_reading(make_structure()))
    copies = [make_structure(dag_id="new", file="copy.py"), make_structure(file="copy.py", line=14)]
    assert register("copy.py", make_reading(*copies, content=b"copy")) == []
    error = file("copy.py").error
    assert "'sales'" in error["message"]
    assert "'sales.py'" in error["message"]
    assert error["line"] == 14
    assert store.read(lambda connection: dags.every(connection, active=False)) == [owner.dag]
    assert file("sales.py").error is None


def test_a_refused_file_is_to_be_read_again_when_the_dag_id_is_free(
    register: Any, file: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    copy = make_reading(make_structure(file="copy.py"), content=b"copy")
    register("sales.py", make_reading(make_structure()))
    register("copy.py", copy)
    assert file("copy.py").hash == copy.hash
    register("sales.py", Reading(hash=None))
    assert file("copy.py").hash == ""
    assert len(register("copy.py", copy)) == 1
    assert (file("copy.py").hash, file("copy.py").error) == (copy.hash, None)


def test_a_dag_id_twice_in_one_file_is_an_error(
    store: Store, register: Any, file: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    assert register("sales.py", make_reading(make_structure(), make_structure(line=9))) == []
    assert "defined twice" in file("sales.py").error["message"]
    assert register("sales.py", make_reading(make_structure(), make_structure())) == []
    assert "defined twice" in file("sales.py").error["message"]
    assert store.read(lambda connection: dags.every(connection, active=False)) == []


@pytest.mark.slow
def test_two_files_that_race_for_a_dag_id_end_with_one_owner(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    """A command reads the folder while the system does; and two supervisors may share a server."""
    for number in range(5):
        names = [f"a{number}", f"b{number}"]
        readings = {}
        for path, order in (("one.py", names), ("two.py", names[::-1])):
            structures = [make_structure(dag_id=name, file=path) for name in order]
            readings[path] = make_reading(*structures, content=str(number).encode())
        with ThreadPoolExecutor(4) as threads:
            done = list(threads.map(register, [*readings] * 2, [*readings.values()] * 2))
        [loser] = store.read(dags.errors)
        assert [bool(found) for found in done] == [path != loser.path for path in [*readings] * 2]
        owners = {dag.dag_file_id for dag in store.read(dags.every)}
        assert len(owners - {loser.id}) == len(owners) == 1
        for path in readings:
            register(path, Reading(hash=None))


def test_warnings_are_kept_with_the_file(
    register: Any, file: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    register("sales.py", dataclasses.replace(make_reading(make_structure()), warnings=["slow"]))
    assert file("sales.py").warnings == ["slow"]


def test_undecodable_text_of_an_author_can_be_stored(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    structure = make_structure(description="caf\udce9 \0 🌊")
    [found] = register("sales.py", make_reading(structure))
    assert store.read(lambda connection: dags.version(connection, found.version_id)).structure == structure


def test_every_pool_that_is_named_has_a_row(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    store.write(lambda connection: pools.set(connection, "hive", 4))
    register("sales.py", make_reading(make_structure({"a": {"pool": "hive"}, "b": {"pool": "new"}, "c": {}})))
    assert [(pool.name, pool.slots) for pool in store.read(pools.every)] == [("hive", 4)]
    assert [(pool.name, pool.slots) for pool in store.read(pools.missing)] == [("new", None)]


def test_changed_limits_are_told(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    def with_limits(task: int, dag: int | None) -> Reading:
        return make_reading(make_structure({"a": {"max_active_tis_per_dag": task}, "b": {}}, max_active_tasks=dag))

    [first] = register("sales.py", with_limits(1, None))
    assert first.changed_limits == ()
    [same] = register("sales.py", with_limits(1, None))
    assert same.changed_limits == ()
    [changed] = register("sales.py", with_limits(2, 7))
    limit = store.read(lambda connection: connection.execute(sa.select(schema.task_limit)).one())
    assert (limit.task_id, limit.slots, limit.used) == ("a", 2, 0)
    assert changed.changed_limits == (f"dag:{changed.dag.id}", f"task:{limit.id}")


def test_an_unknown_dag_is_not_found_and_the_nearest_named(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    register("sales.py", make_reading(make_structure()))
    with pytest.raises(NotFound, match=r"'sale' .*sales"):
        store.read(lambda connection: dags.by_id(connection, "sale"))


def test_pausing_twice_changes_something_once(
    store: Store, register: Any, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    [found] = register("sales.py", make_reading(make_structure()))
    steps = [(True, True), (True, False), (False, True), (False, False)]
    for paused, changes in steps:
        assert store.write(lambda c, paused=paused: dags.set_paused(c, found.dag.id, paused)) is changes
        assert store.read(lambda c: dags.by_row(c, found.dag.id)).paused is paused


def test_the_plan_moves_only_from_what_was_seen(
    store: Store, register: Any, now: datetime, make_structure: MakeStructure, make_reading: MakeReading
) -> None:
    [found] = register("sales.py", make_reading(make_structure()))
    hour = timedelta(hours=1)
    interval = DataInterval(now, now + hour)

    def plan(seen: datetime | None, due: datetime | None) -> bool:
        given = interval if due else None
        return store.write(lambda c: dags.plan(c, found.dag.id, seen_due=seen, interval=given, due_at=due))

    assert plan(None, now + hour)
    assert not plan(None, now + 2 * hour)
    assert not plan(now, now + 2 * hour)
    dag = store.read(lambda connection: dags.by_id(connection, "sales"))
    assert (dag.next_interval_start, dag.next_interval_end, dag.next_due_at) == (now, now + hour, now + hour)
    assert plan(now + hour, None)
    dag = store.read(lambda connection: dags.by_id(connection, "sales"))
    assert (dag.next_interval_start, dag.next_interval_end, dag.next_due_at) == (None, None, None)

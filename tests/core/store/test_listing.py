"""What people look at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import NotFound
from flux.schedule import DataInterval
from flux.store import dags, engine, jobs, listing, pools, schema
from flux.store.dags import DagVersion, Reading
from flux.store.engine import Store

DAY = timedelta(days=1)
TASKS = {"extract": {"pool": "hive"}, "load": {"operator": "BashOperator", "upstream": ["extract"]}}


@pytest.fixture
def version(store: Store, make_version: Callable[..., DagVersion]) -> DagVersion:
    store.write(lambda connection: pools.set(connection, "hive", 2))
    return store.write(lambda connection: make_version(connection, TASKS))


@pytest.fixture
def add_run(store: Store, now: datetime) -> Callable[..., int]:
    """Add a run of a version that began `days` after now, and return its row."""

    def add(version: DagVersion, run_id: str, days: int = 0, **values: Any) -> int:
        start = now + days * DAY
        row = {
            "dag_row": version.dag_row,
            "dag_version_id": version.id,
            "run_id": run_id,
            "kind": "scheduled",
            "state": "running",
            "logical_date": start,
            "interval_start": start,
            "interval_end": start + DAY,
            "created_at": now,
            **values,
        }
        return store.write(lambda connection: engine.insert_row(connection, schema.dag_run, row))

    return add


@pytest.fixture
def add_instance(store: Store) -> Callable[..., int]:
    def add(run: int, task_id: str, **values: Any) -> int:
        index = list(TASKS).index(task_id)
        row = {"dag_run_id": run, "task_id": task_id, "task_index": index, "state": "ready", **values}
        return store.write(lambda connection: engine.insert_row(connection, schema.task_instance, row))

    return add


@pytest.fixture
def add(store: Store) -> Callable[..., None]:
    def add(table: sa.Table, **values: Any) -> None:
        store.write(lambda connection: connection.execute(table.insert(), values))

    return add


def test_a_dag_is_shown_with_its_newest_run(
    store: Store, now: datetime, make_version: Callable[..., DagVersion], add_run: Callable[..., int]
) -> None:
    fields = {
        "description": "all of it",
        "schedule": {"kind": "cron", "expressions": ["0 2 * * *"], "day_or": True},
        "timezone": "Europe/Berlin",
        "tags": ("a", "b"),
        "owner": "ann",
    }
    version = store.write(lambda c: make_version(c, **fields))
    store.write(
        lambda c: dags.plan(c, version.dag_row, seen_due=None, interval=DataInterval(now, now + DAY), due_at=now + DAY)
    )
    add_run(version, "newer", days=2)
    add_run(version, "older", days=1)
    [row] = store.read(listing.dag_rows)
    assert (row.dag_id, row.description, row.schedule) == ("sales", "all of it", "0 2 * * *")
    assert (row.timezone, row.paused, row.file, row.owner) == ("Europe/Berlin", False, "sales.py", "ann")
    assert (row.tags, row.next_run_at) == (["a", "b"], now + DAY)
    assert row.latest_run is not None
    assert row.latest_run.run_id == "newer"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (None, None),
        ({"kind": "once"}, "@once"),
        ({"kind": "every", "seconds": 5400.0}, "every 1:30:00"),
        ({"kind": "cron", "expressions": ["0 2 * * *", "0 14 * * 1"], "day_or": True}, "0 2 * * *, 0 14 * * 1"),
    ],
)
def test_a_schedule_is_shown_as_the_author_thinks_of_it(
    store: Store, make_version: Callable[..., DagVersion], spec: dict[str, Any] | None, words: str | None
) -> None:
    store.write(lambda connection: make_version(connection, schedule=spec))
    [row] = store.read(listing.dag_rows)
    assert (row.schedule, row.latest_run, row.next_run_at) == (words, None, None)


def test_a_dag_without_a_file_is_shown_only_when_asked_for(
    store: Store, now: datetime, make_version: Callable[..., DagVersion]
) -> None:
    store.write(lambda connection: make_version(connection))
    store.write(lambda connection: make_version(connection, dag_id="stock"))
    store.write(lambda connection: dags.register(connection, "sales.py", Reading(hash=None), now))
    assert [row.dag_id for row in store.read(listing.dag_rows)] == ["stock"]
    [row] = store.read(lambda connection: listing.dag_rows(connection, dag_id="sales"))
    assert row.file == "sales.py"
    with pytest.raises(NotFound, match="'sale'"):
        store.read(lambda connection: listing.dag_rows(connection, dag_id="sale"))


def test_runs_are_listed_newest_first_and_by_what_is_asked(
    store: Store,
    now: datetime,
    version: DagVersion,
    make_version: Callable[..., DagVersion],
    add_run: Callable[..., int],
) -> None:
    other = store.write(lambda connection: make_version(connection, dag_id="stock"))
    add_run(version, "a")
    add_run(version, "b", days=1, state="failed", created_at=now + DAY)
    add_run(other, "c", days=2, kind="manual")

    def ids(**asked: Any) -> list[str]:
        return [row.run_id for row in store.read(lambda connection: listing.runs(connection, **asked))]

    assert ids() == ["b", "c", "a"]
    assert ids(limit=1) == ["b"]
    assert ids(dag_id="sales") == ["b", "a"]
    assert ids(state="running", dag_id="sales") == ["a"]
    assert ids(kind="manual") == ["c"]


def test_a_run_is_shown_whole(store: Store, now: datetime, version: DagVersion, add_run: Callable[..., int]) -> None:
    add_run(version, "a", started_at=now + DAY)
    row = store.read(lambda connection: listing.run(connection, "sales", "a"))
    assert (row.dag_id, row.kind, row.state, row.version) == ("sales", "scheduled", "running", 1)
    assert (row.logical_date, row.data_interval) == (now, DataInterval(now, now + DAY))
    assert (row.created_at, row.started_at, row.ended_at) == (now, now + DAY, None)


def test_an_unknown_run_is_not_found_and_the_nearest_named(
    store: Store, version: DagVersion, add_run: Callable[..., int]
) -> None:
    add_run(version, "manual__1")
    with pytest.raises(NotFound, match=r"'manual__2' .*manual__1"):
        store.read(lambda connection: listing.run(connection, "sales", "manual__2"))
    with pytest.raises(NotFound, match="DAG 'stock'"):
        store.read(lambda connection: listing.run(connection, "stock", "manual__1"))


def test_task_instances_are_shown_in_order_with_their_latest_attempt(
    store: Store,
    version: DagVersion,
    add_run: Callable[..., int],
    add_instance: Callable[..., int],
    add: Callable[..., None],
) -> None:
    run = add_run(version, "a")
    add_instance(run, "load", map_index=1)
    load = add_instance(run, "load", map_index=0, attempt=2, max_attempts=3, state="started")
    pool = store.read(lambda connection: pools.ids(connection, ["hive"]))["hive"]
    add_instance(run, "extract", state="success", pool_id=pool, reason="done")
    add(schema.attempt, task_instance_id=load, attempt=1, claim=1, host="old", pid=1)
    add(schema.attempt, task_instance_id=load, attempt=2, claim=2, host="here", pid=7)
    rows = store.read(lambda connection: listing.task_instances(connection, run))
    assert [(row.task_id, row.map_index, row.state, row.operator) for row in rows] == [
        ("extract", None, "success", "EmptyOperator"),
        ("load", 0, "started", "BashOperator"),
        ("load", 1, "ready", "BashOperator"),
    ]
    assert [(row.pool, row.reason, row.queue) for row in rows[:2]] == [
        ("hive", "done", "default"),
        (None, None, "default"),
    ]
    assert [(row.attempt, row.max_attempts, row.host, row.pid) for row in rows[1:]] == [
        (2, 3, "here", 7),
        (0, 1, None, None),
    ]


def test_attempts_are_listed_oldest_first(
    store: Store,
    version: DagVersion,
    add_run: Callable[..., int],
    add_instance: Callable[..., int],
    add: Callable[..., None],
) -> None:
    load = add_instance(add_run(version, "a"), "load")
    add(schema.attempt, task_instance_id=load, attempt=2, claim=2**62 - 1)
    add(schema.attempt, task_instance_id=load, attempt=1, claim=5, outcome="failed", exit_status=1, max_rss_bytes=2**33)
    rows = store.read(lambda connection: listing.attempts(connection, "sales", "a", "load"))
    assert [(row.attempt, row.claim, row.outcome, row.exit_status, row.max_rss_bytes) for row in rows] == [
        (1, 5, "failed", 1, 2**33),
        (2, 2**62 - 1, None, None, None),
    ]


def test_the_result_is_that_of_the_newest_successful_attempt(
    store: Store,
    tmp_path: Path,
    version: DagVersion,
    add_run: Callable[..., int],
    add_instance: Callable[..., int],
    add: Callable[..., None],
) -> None:
    load = add_instance(add_run(version, "a"), "load")
    for number, outcome in ((1, "success"), (2, "success"), (3, "failed")):
        add(schema.attempt, task_instance_id=load, attempt=number, claim=number, outcome=outcome)
        add(schema.task_result, task_instance_id=load, attempt=number, key="return_value", value=str(number))
    add(schema.task_result, task_instance_id=load, attempt=2, key="big", path="sales/2.0.result")
    (tmp_path / "sales").mkdir()
    (tmp_path / "sales" / "2.0.result").write_text('"big 🌊"', encoding="utf-8")

    def result(key: str) -> str:
        return store.read(lambda connection: listing.result(connection, "sales", "a", "load", key, tmp_path))

    assert result("return_value") == "2"
    assert result("big") == '"big 🌊"'
    with pytest.raises(NotFound, match=r"'rows' .*big, return_value"):
        result("rows")
    (tmp_path / "sales" / "2.0.result").unlink()
    with pytest.raises(NotFound, match=r"2\.0\.result"):
        result("big")


def test_the_rendered_fields_are_those_of_the_newest_attempt_that_has_some(
    store: Store,
    version: DagVersion,
    add_run: Callable[..., int],
    add_instance: Callable[..., int],
    add: Callable[..., None],
) -> None:
    load = add_instance(add_run(version, "a"), "load", attempt=3)

    def rendered() -> dict[str, str]:
        return store.read(lambda connection: listing.rendered(connection, "sales", "a", "load"))

    with pytest.raises(NotFound, match="'load'"):
        rendered()
    for number in (1, 2):
        add(schema.rendered_fields, task_instance_id=load, attempt=number, fields=f'{{"hql": "{number}"}}')
    assert rendered() == {"hql": "2"}


def test_a_task_instance_that_is_not_there_is_named_by_what_is_missing(
    store: Store, version: DagVersion, add_run: Callable[..., int], add_instance: Callable[..., int]
) -> None:
    run = add_run(version, "a")
    add_instance(run, "extract")
    add_instance(run, "load", map_index=0)
    for run_id, task_id, map_index, hint in (
        ("b", "load", None, "Run 'b'"),
        ("a", "lod", None, r"Task 'lod' .*load"),
        ("a", "load", None, "is mapped"),
        ("a", "load", 9, "map index 9"),
    ):
        with pytest.raises(NotFound, match=hint):
            store.read(lambda c, r=run_id, t=task_id, m=map_index: listing.attempts(c, "sales", r, t, map_index=m))


def test_jobs_are_listed_newest_first(store: Store, now: datetime) -> None:
    first = store.write(lambda connection: jobs.register(connection, "supervisor", "here", "boot", 7, now))
    second = store.write(lambda connection: jobs.register(connection, "ui", "here", "boot", 8, now))
    rows = store.read(listing.jobs)
    assert [(row.id, row.kind, row.pid, row.state) for row in rows] == [
        (second, "ui", 8, "starting"),
        (first, "supervisor", 7, "starting"),
    ]

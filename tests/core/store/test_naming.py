"""What people call a run or a task instance."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import NotFound, Refused
from flux.schedule import DataInterval
from flux.states import RunKind
from flux.store import dags, naming, runs
from flux.store.engine import Store
from flux.store.runs import DagRun
from flux.times import from_iso


def make_runs(
    connection: sa.Connection, make_version: Callable[..., Any], now: datetime, *starts: str, **fields: Any
) -> list[DagRun]:
    version = make_version(connection, **fields)
    dag = dags.by_row(connection, version.dag_row)
    intervals = [DataInterval(from_iso(start), from_iso(start) + timedelta(hours=1)) for start in starts]
    return [
        runs.create(connection, dag=dag, version=version, kind=RunKind.MANUAL, interval=interval, now=now)
        for interval in intervals
    ]


def test_run_is_found_by_run_id_by_moment_and_by_local_day(
    store: Store, make_version: Callable[..., Any], now: datetime
) -> None:
    def work(connection: sa.Connection) -> None:
        run, other = make_runs(
            connection, make_version, now, "2026-01-05T23:30:00+00:00", "2026-01-07T00:00:00+00:00",
            timezone="Europe/Berlin",
        )  # fmt: skip
        for name in (run.run_id, "2026-01-06T00:30", "2026-01-05T23:30:00+00:00", "2026-01-06"):
            assert naming.run(connection, "sales", name) == run, name
        assert naming.run(connection, "sales", "2026-01-07") == other

    store.write(work)


def test_date_that_names_several_runs_is_refused_listing_them_oldest_first(
    store: Store, make_version: Callable[..., Any], now: datetime
) -> None:
    def work(connection: sa.Connection) -> None:
        late, early = make_runs(connection, make_version, now, "2026-01-05T09:00:00+00:00", "2026-01-05T08:00:00+00:00")
        with pytest.raises(Refused) as refused:
            naming.run(connection, "sales", "2026-01-05")
        message = str(refused.value)
        assert 0 < message.index(early.run_id) < message.index(late.run_id)

    store.write(work)


@pytest.mark.parametrize("name", ["manual__2026", "2026-01-06", "2026-13-01", "2026-01-05T09:00", "", "2026-01-05 x"])
def test_name_of_no_run_is_answered_with_near_ones(
    store: Store, make_version: Callable[..., Any], now: datetime, name: str
) -> None:
    def work(connection: sa.Connection) -> None:
        (run,) = make_runs(connection, make_version, now, "2026-01-05T08:00:00+00:00")
        with pytest.raises(NotFound) as missing:
            naming.run(connection, "sales", name)
        assert run.run_id in str(missing.value)

    store.write(work)


def test_run_id_wins_over_the_date_it_looks_like(store: Store, make_version: Callable[..., Any], now: datetime) -> None:
    def work(connection: sa.Connection) -> None:
        make_runs(connection, make_version, now, "2026-01-05T08:00:00+00:00")
        dag = dags.by_id(connection, "sales")
        version = dags.version(connection, dag.dag_version_id or 0)
        interval = DataInterval(now, now)
        named = runs.create(
            connection, dag=dag, version=version, kind=RunKind.MANUAL, interval=interval, run_id="2026-01-05", now=now
        )
        assert naming.run(connection, "sales", "2026-01-05") == named

    store.write(work)


def test_unknown_dag_is_named(store: Store) -> None:
    with pytest.raises(NotFound, match="'sales'"):
        store.read(lambda connection: naming.run(connection, "sales", "x"))


def test_task_instance_is_found_by_task_id(store: Store, make_version: Callable[..., Any], now: datetime) -> None:
    def work(connection: sa.Connection) -> None:
        (run,) = make_runs(connection, make_version, now, "2026-01-05T08:00:00+00:00")
        row, state = naming.task_instance_row(connection, run, "load", None)
        assert (row > 0, state) == (True, "ready")
        with pytest.raises(NotFound, match=r"'laod'.*load"):
            naming.task_instance_row(connection, run, "laod", None)
        with pytest.raises(NotFound, match="Map index"):
            naming.task_instance_row(connection, run, "load", 3)

    store.write(work)

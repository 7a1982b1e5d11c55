from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flux import DAG
from flux.operators import EmptyOperator, LatestOnlyOperator
from flux.times import iso, utc_now
from tests.attempts import run


def task_of(**dag: Any) -> LatestOnlyOperator:
    with DAG("sales", **{"start_date": "2026-01-01", "schedule": "@daily", **dag}):
        latest = LatestOnlyOperator(task_id="latest")
        latest >> EmptyOperator(task_id="a") >> EmptyOperator(task_id="b")
    return latest


def chosen(task: LatestOnlyOperator, folder: Path, days_ago: int, **spec: Any) -> list[str] | None:
    """What it closes in a run whose daily interval ended that many days before today's midnight."""
    end = utc_now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days_ago)
    start = iso(end - timedelta(days=1))
    spec = {"logical_date": start, "interval_start": start, "interval_end": iso(end), **spec}
    return run(task, folder, **spec).chosen


@pytest.mark.parametrize(("days_ago", "closed"), [(0, None), (1, []), (400, [])])
def test_only_the_run_of_the_latest_complete_interval_goes_on(
    days_ago: int, closed: list[str] | None, tmp_path: Path
) -> None:
    assert chosen(task_of(start_date="2020-01-01"), tmp_path, days_ago) == closed


def test_a_backfilled_run_of_the_past_does_not_go_on(tmp_path: Path) -> None:
    assert chosen(task_of(start_date="2020-01-01"), tmp_path, 5, kind="backfill") == []


def test_a_run_by_hand_passes(tmp_path: Path) -> None:
    assert chosen(task_of(start_date="2020-01-01"), tmp_path, 5, kind="manual") is None


def test_the_last_interval_of_all_passes(tmp_path: Path) -> None:
    assert chosen(task_of(schedule=None), tmp_path, 5) is None


def test_it_gates_all_that_follows() -> None:
    task = task_of()
    assert task.dag is not None
    structure = task.dag.structure()
    assert len(structure.task("latest").gates) == 2

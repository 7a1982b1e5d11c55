from __future__ import annotations

from pathlib import Path

from flux import DAG
from flux.operators import EmptyOperator
from tests.attempts import run


def test_it_succeeds_without_a_process_and_without_a_result(tmp_path: Path) -> None:
    with DAG("sales", start_date="2026-01-01") as dag:
        task = EmptyOperator(task_id="joint")
    assert dag.structure().task("joint").inline
    end = run(task, tmp_path)
    assert (end.outcome, end.results) == ("success", {})

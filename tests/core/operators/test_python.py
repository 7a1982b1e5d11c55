from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flux import DAG, FluxError
from flux.errors import AuthoringError
from flux.operators import PythonOperator
from flux.results import encode
from tests.attempts import MemoryWorld, run, value_of


def result(tmp_path: Path, function: Any, **arguments: Any) -> Any:
    with DAG("sales", start_date="2026-01-01", timezone="Europe/Berlin"):
        task = PythonOperator(task_id="load", python_callable=function, **arguments)
    end = run(task, tmp_path)
    assert end.outcome == "success", end.reason
    return value_of(end)


def test_arguments_are_rendered_and_passed(tmp_path: Path) -> None:
    assert result(tmp_path, lambda a, *, b: [a, b], op_args=["{{ ds }}"], op_kwargs={"b": 2}) == ["2026-01-05", 2]


def test_context_variables_go_to_parameters_of_their_name(tmp_path: Path) -> None:
    assert result(tmp_path, lambda ds, ti: [ds, ti.attempt]) == ["2026-01-05", 1]


def test_an_explicit_argument_wins(tmp_path: Path) -> None:
    assert result(tmp_path, lambda ds: ds, op_kwargs={"ds": "mine"}) == "mine"
    assert result(tmp_path, lambda ds, **context: ds + context["run_id"][:1], op_args=("mine",)) == "mines"


def test_double_star_gets_the_whole_context(tmp_path: Path) -> None:
    got = result(tmp_path, lambda **context: sorted(context))
    assert {"ds", "dag_run", "conn", "macros", "results"} <= set(got)


def test_templates_dict_comes_rendered(tmp_path: Path) -> None:
    function = lambda templates_dict, ds: templates_dict["day"] == ds  # noqa: E731
    assert result(tmp_path, function, templates_dict={"day": "{{ ds }}"}) is True


def test_the_output_of_another_task_comes_as_its_value(tmp_path: Path) -> None:
    with DAG("sales", start_date="2026-01-01"):
        load = PythonOperator(task_id="load", python_callable=list)
        report = PythonOperator(task_id="report", python_callable=lambda rows: len(rows), op_args=[load.output])
    assert load.downstream_task_ids == {"report"}
    world = MemoryWorld(results={("load", "return_value"): encode([1, 2], limit_bytes=99)})
    assert value_of(run(report, tmp_path, world)) == 2


def test_what_is_no_function_is_refused_when_the_file_is_read() -> None:
    with DAG("sales", start_date="2026-01-01"), pytest.raises(AuthoringError, match="python_callable=3"):
        PythonOperator(task_id="load", python_callable=3)  # type: ignore[arg-type]


def test_an_error_keeps_its_class_and_text(tmp_path: Path) -> None:
    def fail() -> None:
        raise FluxError("no rows")

    with DAG("sales", start_date="2026-01-01"):
        task = PythonOperator(task_id="load", python_callable=fail)
    assert run(task, tmp_path).reason == "no rows"

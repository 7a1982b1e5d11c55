from __future__ import annotations

import time
from typing import Any

import pytest

from flux.dag import DAG
from flux.decorators import task
from flux.errors import AuthoringError, InvalidId, UnknownArgument
from flux.operator import TaskOutput
from flux.task_group import TaskGroup


@task
def extract() -> list[int]:
    """Read the rows."""
    return [1, 2]


@task(retries=2, pool="mysql")
def load(rows: Any, table: str = "sales", *, ds: Any) -> int:
    return len(rows)


def test_a_call_makes_a_task_named_like_the_function() -> None:
    with DAG("sales") as dag:
        rows = extract()
        done = load(rows["good"], table="x")
    assert isinstance(rows, TaskOutput)
    structure = dag.structure()
    assert [found.task_id for found in structure.tasks] == ["extract", "load"]
    assert structure.task("load").upstream == (0,)
    assert (structure.task("load").retries, structure.task("load").pool) == (2, "mysql")
    assert (done.task.op_args[0].key, done.task.op_kwargs) == ("good", {"table": "x"})  # type: ignore[attr-defined]


def test_what_a_call_gives_stands_in_edges_like_a_task() -> None:
    with DAG("sales") as dag:
        first, second = extract(), extract()
        second >> first
        [first, second] >> load([])
    assert dag.structure().task("load").upstream == (0, 1)
    assert first.output is first


def test_further_calls_are_numbered() -> None:
    with DAG("sales") as dag:
        for _ in range(3):
            extract()
        with TaskGroup("g"):
            extract()
            extract()
    assert list(dag.tasks) == ["extract", "extract__1", "extract__2", "g.extract", "g.extract__1"]


def test_numbers_pass_over_ids_that_are_taken() -> None:
    with DAG("sales") as dag:
        extract()
        extract.override(task_id="extract__1")()
        extract()
    assert list(dag.tasks) == ["extract", "extract__1", "extract__2"]


def test_numbers_begin_anew_in_another_dag() -> None:
    for _ in range(2):
        with DAG("sales") as dag:
            extract()
        assert list(dag.tasks) == ["extract"]


@pytest.mark.slow
def test_thousands_of_calls_are_numbered_without_a_search_for_each() -> None:
    with DAG("sales") as dag:
        started = time.process_time()
        for _ in range(5000):
            extract()
        assert time.process_time() - started < 5
    assert len(dag.tasks) == 5000


def test_override_changes_a_copy() -> None:
    with DAG("sales") as dag:
        load.override(task_id="load_eu", retries=5)([])
        load([])
    assert [(found.task_id, found.retries, found.pool) for found in dag.structure().tasks] == [
        ("load_eu", 5, "mysql"), ("load", 2, "mysql"),
    ]  # fmt: skip


def test_the_function_itself_stays_reachable() -> None:
    assert extract.function() == [1, 2]
    assert extract.__doc__ == "Read the rows."
    assert repr(extract) == "<task function extract>"


def test_a_dag_may_be_named_instead_of_entered() -> None:
    dag = DAG("sales")
    by_name = extract.override(dag=dag)
    by_name()
    by_name()
    assert list(dag.tasks) == ["extract", "extract__1"]


def test_a_call_outside_any_dag_can_be_joined_later() -> None:
    rows = extract()
    with DAG("sales") as dag:
        load(rows)
    assert list(dag.tasks) == ["load", "extract"]


def test_an_unknown_option_is_refused_where_it_is_written() -> None:
    with pytest.raises(UnknownArgument, match=r"test_decorators\.py:\d+: @task takes no argument 'retires'.*retries"):
        task(retires=2)
    with pytest.raises(UnknownArgument, match="python_callable"):
        extract.override(python_callable=len)


def test_a_wrong_value_is_refused_at_the_call() -> None:
    with pytest.raises(AuthoringError, match=r"test_decorators\.py:\d+: Task 'extract': retries = 'two'"):
        extract.override(retries="two")()


@pytest.mark.parametrize(
    ("args", "kwargs", "fault"),
    [
        ((), {}, "called without 'rows'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"rows": 2}, "multiple values"),
        ((1,), {"tables": 2}, "tables"),
    ],
)
def test_a_call_that_the_function_cannot_take_is_refused_with_its_line(
    args: tuple[Any, ...], kwargs: dict[str, Any], fault: str
) -> None:
    with DAG("sales") as dag, pytest.raises(AuthoringError, match=rf"test_decorators\.py:\d+: load\(.*{fault}"):
        load(*args, **kwargs)
    assert dag.tasks == {}


def test_what_the_context_gives_need_not_be_passed() -> None:
    @task
    def report(ds: str, ti: Any, *rest: Any, **context: Any) -> None:
        """Say something."""

    with DAG("sales") as dag:
        report()
    assert list(dag.tasks) == ["report"]


def test_a_task_itself_is_no_argument() -> None:
    with DAG("sales"):
        rows = extract()
        with pytest.raises(AuthoringError, match=r"load\(\) was given task 'extract' itself. Pass its .output"):
            load(rows.task)


def test_what_is_no_plain_function_is_refused() -> None:
    async def later() -> None:
        """Never awaited."""

    with pytest.raises(AuthoringError, match="'later' is async"):
        task(later)
    with pytest.raises(AuthoringError, match="not a function"):
        task("load")  # type: ignore[call-overload]


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(InvalidId, match="<lambda>"):
        task(lambda: 1)()
    assert task(task_id="one")(lambda: 1)().task_id == "one"

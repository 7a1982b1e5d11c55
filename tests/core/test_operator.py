from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from flux.dag import DAG
from flux.errors import AuthoringError, BadDate, InvalidId, UnknownArgument
from flux.operator import BaseOperator
from flux.structure import TaskStructure


class Load(BaseOperator):
    template_fields: Sequence[str] = ("sql", "options")
    template_ext: Sequence[str] = (".sql",)

    def __init__(self, *, sql: Any = "", options: Any = None, table: str = "t", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.options = options

    def execute(self, context: Any) -> None:
        """Do nothing."""


class Strict(BaseOperator):
    """Takes nothing but what it names."""

    def __init__(self, *, task_id: str, size: int) -> None:
        super().__init__(task_id=task_id)
        self.size = size

    def execute(self, context: Any) -> None:
        """Do nothing."""


class Preset(Load):
    """Gives its parent's argument itself and takes another."""

    def __init__(self, *, day: str, **kwargs: Any) -> None:
        super().__init__(sql=f"select {day}", **kwargs)
        self.day = day


def dag(**arguments: Any) -> DAG:
    return DAG("sales", **arguments)


def structure(task: BaseOperator) -> TaskStructure:
    assert task.dag is not None
    return task.dag.structure().task(task.task_id)


def here() -> int:
    """The line of the caller."""
    return sys._getframe(1).f_lineno


# Arguments


class TestRailOperator(Load):
    """Called like a class of tests, which pytest would collect, or warn of, in every module that imports it."""


def test_an_operator_that_is_called_like_a_test_is_none() -> None:
    assert TestRailOperator.__test__ is False
    assert TestRailOperator(task_id="t").task_id == "t"


def test_an_unknown_argument_is_refused_with_the_line_of_the_call_and_near_names() -> None:
    with pytest.raises(UnknownArgument) as caught:
        Load(task_id="a", sqll="x", retires=2)
    assert caught.value.line == here() - 1
    assert caught.value.file == __file__
    fault = "Load 'a' takes no argument 'retires' (nor 'sqll'). Did you mean retries?"
    assert str(caught.value).endswith(f"test_operator.py:{caught.value.line}: {fault}")


def test_an_unknown_argument_is_a_type_error_as_in_any_python_call() -> None:
    with pytest.raises(TypeError):
        Load(task_id="a", colour="red")


def test_an_argument_that_a_subclass_keeps_to_itself_is_unknown() -> None:
    with pytest.raises(UnknownArgument, match="'retries'"):
        Strict(task_id="a", size=1, retries=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("kind", "arguments", "name"),
    [(Load, {}, "task_id"), (Strict, {"task_id": "a"}, "size"), (Preset, {"day": "x"}, "task_id")],
)
def test_a_missing_argument_is_named_with_the_line(kind: Any, arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(AuthoringError, match=rf"test_operator\.py:\d+: {kind.__name__}.*missing.*'{name}'"):
        kind(**arguments)


def test_arguments_go_by_name_only() -> None:
    with pytest.raises(AuthoringError, match="by name only"):
        Load("a")  # type: ignore[misc]


def test_a_type_error_of_the_operators_own_code_is_left_as_it_is() -> None:
    class Broken(Load):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.size = len(3)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="has no len") as caught:
        Broken(task_id="a")
    assert not isinstance(caught.value, AuthoringError)


def test_an_operator_without_execute_cannot_be_used() -> None:
    class Idle(BaseOperator):
        pass

    with pytest.raises(AuthoringError, match=r"Idle 'a'.*execute\(\)"):
        Idle(task_id="a")  # type: ignore[abstract]


def test_an_init_that_forgets_its_parent_is_named() -> None:
    class Forgetful(BaseOperator):
        def __init__(self, **kwargs: Any) -> None:
            self.kwargs = kwargs

        def execute(self, context: Any) -> None:
            """Do nothing."""

    with pytest.raises(AuthoringError, match=r"Forgetful 'a'.*super"):
        Forgetful(task_id="a")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("retries", "two"),
        ("retries", True),
        ("retries", -1),
        ("retries", 1.5),
        ("retry_delay", "5m"),
        ("retry_delay", -5),
        ("max_retry_delay", None),
        ("retry_exponential_backoff", 1),
        ("execution_timeout", 0),
        ("execution_timeout", "1h"),
        ("kill_grace", -1),
        ("trigger_rule", "all_sucess"),
        ("trigger_rule", ["all_done"]),
        ("depends_on_past", "yes"),
        ("wait_for_downstream", None),
        ("pool", ""),
        ("pool", 3),
        ("pool_slots", 0),
        ("pool_slots", "1"),
        ("priority_weight", 1.5),
        ("weight_rule", "sideways"),
        ("queue", None),
        ("queue", ""),
        ("max_active_tis_per_dag", 0),
        ("store_result", "no"),
        ("params", ["n"]),
        ("adhoc", 1),
        ("owner", 5),
        ("on_failure_callback", "mail me"),
        ("doc_md", b"x"),
        ("resources", [1]),
        ("run_as_user", 0),
        ("dag", "sales"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_naming_task_and_argument(argument: str, value: Any) -> None:
    with pytest.raises(AuthoringError, match=rf"test_operator\.py:\d+: Task 'a': {argument} = "):
        Load(task_id="a", **{argument: value})


@pytest.mark.parametrize("task_id", ["", ".a", "a b", "ä", "a/b", "a\n", "x" * 201, None, 5])
def test_task_ids_that_are_not_allowed_are_refused(task_id: Any) -> None:
    with pytest.raises(InvalidId, match="task_id"):
        Load(task_id=task_id)


@pytest.mark.parametrize("task_id", ["a", "A-b_c.d:e+f", "0", "-", "x" * 200])
def test_task_ids_that_are_allowed_stay_as_they_are(task_id: str) -> None:
    assert Load(task_id=task_id).task_id == task_id


def test_every_argument_is_an_attribute() -> None:
    task = Load(
        task_id="a", sql="x", table="sales", email="a@b", resources={"cpus": 2}, retry_delay=timedelta(minutes=1)
    )
    assert (task.sql, task.table, task.email, task.resources) == ("x", "sales", "a@b", {"cpus": 2})
    assert task.retry_delay == timedelta(minutes=1)


def test_template_fields_must_be_a_list_of_attributes() -> None:
    with pytest.raises(AuthoringError, match=r"Wrong in .*test_operator\.py: template_fields = 'sql' is a text"):

        class Wrong(Load):
            template_fields = "sql"

    class Lost(Load):
        template_fields = ("query",)

    with pytest.raises(AuthoringError, match="template field 'query'"):
        Lost(task_id="a")


# Default arguments


def test_default_args_go_to_the_operators_that_take_them() -> None:
    with dag(default_args={"retries": 2, "table": "sales", "size": 5}) as sales:
        load, strict = Load(task_id="load"), Strict(task_id="strict")  # type: ignore[call-arg]
        own = Load(task_id="own", retries=0)
    assert (load.retries, load.table, strict.size, own.retries) == (2, "sales", 5, 0)  # type: ignore[attr-defined]
    assert sales.structure().task("load").retries == 2


def test_a_default_argument_that_no_task_takes_is_refused_once_the_dag_is_whole() -> None:
    with dag(default_args={"retires": 2}) as sales:
        Load(task_id="a")
    with pytest.raises(UnknownArgument, match=r"No task of DAG 'sales' takes the default argument 'retires'.*retries"):
        sales.structure()


def test_a_subclass_that_gives_its_parents_argument_needs_only_its_own() -> None:
    assert Preset(task_id="a", day="monday").sql == "select monday"


# Structure


def test_a_task_becomes_a_record_of_plain_values() -> None:
    with dag():
        task = Load(
            task_id="a", retries=3, retry_delay=timedelta(minutes=1), execution_timeout=timedelta(hours=1),
            kill_grace=2.5, trigger_rule="all_done", pool="mysql", pool_slots=2, queue="big", max_active_tis_per_dag=1,
            adhoc=True, owner="ann", run_as_user="etl", resources={"cpus": 1}, doc_md="# Load", sql="{{ ds }}",
        )  # fmt: skip
    found = structure(task)
    assert found == TaskStructure(
        index=0, task_id="a", operator="Load", module=Load.__module__, trigger_rule="all_done", retries=3,
        retry_delay=60.0, execution_timeout=3600.0, kill_grace=2.5, pool="mysql", pool_slots=2, queue="big",
        max_active_tis_per_dag=1, adhoc=True, owner="ann", run_as_user="etl", resources={"cpus": 1}, doc_md="# Load",
        templated=True, template_fields=("sql", "options"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "templated"),
    [
        ("select 1", False),
        ("{{ ds }}", True),
        ("load.sql", True),
        ("cat load.sql", False),
        ({"a": ["x", ("{% if 1 %}",)]}, True),
        ({"{{ key }}": 1}, False),
        (5, False),
    ],
)
def test_a_task_is_templated_if_a_field_holds_a_brace_or_names_a_file(sql: Any, templated: bool) -> None:
    with dag():
        task = Load(task_id="a", sql=sql)
    assert structure(task).templated is templated


def test_wait_for_downstream_implies_depends_on_past() -> None:
    with dag():
        task = Load(task_id="a", wait_for_downstream=True)
    assert (structure(task).depends_on_past, structure(task).wait_for_downstream) == (True, True)


def test_a_tasks_dates_are_kept_where_they_are_narrower_than_the_dags() -> None:
    with dag(start_date="2026-01-01", end_date="2026-12-31", timezone="Europe/Berlin"):
        inside = Load(task_id="inside", start_date="2026-02-01", end_date="2026-03-01")
        outside = Load(task_id="outside", start_date="2025-01-01", end_date="2027-01-01")
    assert structure(inside).start_date == "2026-01-31T23:00:00+00:00"
    assert structure(inside).end_date == "2026-03-01T22:59:59.999999+00:00"
    assert (structure(outside).start_date, structure(outside).end_date) == (None, None)


def test_a_tasks_date_that_does_not_exist_is_refused_with_the_tasks_line() -> None:
    with dag(timezone="Europe/Berlin") as sales:
        Load(task_id="a", start_date="2026-03-29T02:30")
        line = here() - 1
    with pytest.raises(BadDate, match=r"Task 'a': start_date: .*does not exist") as caught:
        sales.structure()
    assert caught.value.line == line


def test_a_tasks_dates_in_the_wrong_order_are_refused() -> None:
    with dag() as sales:
        Load(task_id="a", start_date="2026-03-02", end_date="2026-03-01")
    with pytest.raises(BadDate, match=r"Task 'a' has end_date .* before start_date"):
        sales.structure()


def test_a_subclass_of_an_inline_operator_that_executes_something_is_not_inline() -> None:
    class Inline(BaseOperator):
        inline = True

        def execute(self, context: Any) -> None:
            """Do nothing."""

    class Named(Inline):
        ui_color = "#123456"

    class Working(Inline):
        def post_execute(self, context: Any, result: Any) -> None:
            """Do something."""

    with dag():
        tasks = [Inline(task_id="a"), Named(task_id="b"), Working(task_id="c")]
    assert [structure(task).inline for task in tasks] == [True, True, False]


def test_downstream_task_ids_resolve_groups() -> None:
    from flux.task_group import TaskGroup

    with dag():
        a = Load(task_id="a")
        with TaskGroup("g") as group:
            Load(task_id="b") >> Load(task_id="c")
        a >> group
    assert a.downstream_task_ids == {"g.b"}
    assert Load(task_id="lonely").downstream_task_ids == set()

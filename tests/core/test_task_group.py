from __future__ import annotations

from typing import Any

import pytest

from flux.dag import DAG
from flux.errors import AuthoringError, DuplicateTask, InvalidId
from flux.operator import BaseOperator
from flux.task_group import TaskGroup


class Step(BaseOperator):
    def execute(self, context: Any) -> None:
        """Do nothing."""


def test_ids_inside_carry_those_of_the_groups_around() -> None:
    with DAG("sales") as dag, TaskGroup("load", tooltip="Loads all") as load:
        first = Step(task_id="first")
        with TaskGroup("eu") as eu:
            second = Step(task_id="second")
        third = Step(task_id="third")
    after = Step(task_id="after", dag=dag)
    assert [task.task_id for task in (first, second, third, after)] == [
        "load.first", "load.eu.second", "load.third", "after",
    ]  # fmt: skip
    assert (load.group_id, eu.group_id) == ("load", "load.eu")
    structure = dag.structure()
    assert structure.groups == {"load": "Loads all", "load.eu": ""}
    assert structure.task("load.eu.second").groups == ("load", "load.eu")


def test_a_group_may_be_entered_again() -> None:
    with DAG("sales") as dag:
        with TaskGroup("g") as group:
            Step(task_id="a")
        with group:
            Step(task_id="b")
    assert list(dag.tasks) == ["g.a", "g.b"]


def test_a_dag_inside_a_group_is_not_in_it() -> None:
    with DAG("outer"), TaskGroup("g"), DAG("inner") as inner:
        Step(task_id="a")
    assert list(inner.tasks) == ["a"]


def test_a_task_for_another_dag_is_not_in_the_group() -> None:
    other = DAG("other")
    with DAG("sales"), TaskGroup("g"):
        Step(task_id="a", dag=other)
    assert list(other.tasks) == ["a"]


def test_a_group_outside_any_dag_is_refused() -> None:
    with pytest.raises(AuthoringError, match=r"test_task_group\.py:\d+: TaskGroup 'g' is outside any DAG"):
        TaskGroup("g")


@pytest.mark.parametrize("group_id", ["", ".g", "a b", None, "x" * 201])
def test_group_ids_that_are_not_allowed_are_refused(group_id: Any) -> None:
    with DAG("sales"), pytest.raises(InvalidId, match="group_id"):
        TaskGroup(group_id)


def test_an_id_that_groups_make_too_long_is_refused() -> None:
    with DAG("sales"), TaskGroup("g" * 150), pytest.raises(InvalidId, match="At most 200"):
        Step(task_id="t" * 60)


def test_a_group_and_a_task_cannot_share_an_id() -> None:
    with DAG("sales"):
        Step(task_id="load")
        with pytest.raises(DuplicateTask, match="TaskGroup 'load' is already in DAG 'sales'"):
            TaskGroup("load")
        TaskGroup("eu")
        with pytest.raises(DuplicateTask, match="Task 'eu'"):
            Step(task_id="eu")
        with pytest.raises(DuplicateTask, match="TaskGroup 'eu'"):
            TaskGroup("eu")


def test_an_unknown_argument_and_a_wrong_tooltip_are_refused() -> None:
    with DAG("sales"):
        with pytest.raises(AuthoringError, match=r"'tooltipp'.*tooltip"):
            TaskGroup("g", tooltipp="x")  # type: ignore[call-arg]
        with pytest.raises(AuthoringError, match="tooltip = 5"):
            TaskGroup("g", tooltip=5)  # type: ignore[arg-type]

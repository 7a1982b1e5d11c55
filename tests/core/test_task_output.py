from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flux.dag import DAG
from flux.errors import AuthoringError
from flux.operator import BaseOperator
from flux.task_output import outputs_in


class Load(BaseOperator):
    template_fields: Sequence[str] = ("sql", "options")

    def __init__(self, *, sql: Any = "", options: Any = None, table: Any = "t", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.options = options

    def execute(self, context: Any) -> None:
        """Do nothing."""


def test_an_output_as_an_argument_makes_the_edge() -> None:
    with DAG("sales") as sales:
        a, b = Load(task_id="a"), Load(task_id="b")
        Load(task_id="c", sql=a.output, options={"deep": [1, ({"x": b.output["rows"]},)]})
    assert sales.structure().task("c").upstream == (0, 1)


def test_an_output_by_default_args_makes_the_edge_too() -> None:
    with DAG("sales") as sales:
        a = Load(task_id="a")
    sales.default_args["sql"] = a.output
    Load(task_id="b", dag=sales)
    assert sales.structure().task("b").upstream == (0,)


def test_an_output_outside_template_fields_is_refused() -> None:
    a = Load(task_id="a")
    with pytest.raises(AuthoringError, match=r"argument 'table' cannot take <output 'return_value' of task 'a'>"):
        Load(task_id="b", table=a.output)


def test_an_argument_that_holds_itself_is_searched_once() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert Load(task_id="a", options=loop).options is loop


def test_an_output_takes_one_key() -> None:
    output = Load(task_id="a").output
    assert (output.key, output["rows"].key, output["rows"].task_id) == ("return_value", "rows", "a")
    with pytest.raises(AuthoringError, match="takes one key"):
        output["rows"]["first"]
    with pytest.raises(AuthoringError, match="key = 0"):
        output[0]  # type: ignore[index]


def test_an_output_is_no_value_while_the_file_is_read() -> None:
    """Without this `for x in task.output` would never end, and an f-string would hold a Python object's text."""
    output = Load(task_id="a").output
    with pytest.raises(AuthoringError, match="looped over"):
        list(output)
    with pytest.raises(AuthoringError, match="searched"):
        assert "x" in output
    with pytest.raises(AuthoringError, match=r"put into a text.*results\['a'\]"):
        f"select {output}"


def test_outputs_are_found_through_lists_tuples_sets_and_values_of_dicts() -> None:
    a, b, c = (Load(task_id=name).output for name in "abc")
    assert {output.task_id for output in outputs_in([a, ({"key": b}, {c}), "text", None])} == {"a", "b", "c"}
    assert list(outputs_in({"a": 1})) == []

from __future__ import annotations

import json
import math
from datetime import date
from typing import Any

import pytest

from flux.errors import AuthoringError, BadParam
from flux.params import Param, declare, from_specs, resolve


@pytest.mark.parametrize(
    ("param", "value"),
    [
        (Param(type="string"), "x"),
        (Param(type=str), ""),
        (Param(type=int), 3),
        (Param(type="integer"), 3.0),
        (Param(type="number"), 3),
        (Param(type=float), 2.5),
        (Param(type=bool), True),
        (Param(type=list), [1, {"a": None}]),
        (Param(type="object"), {}),
        (Param(type=["string", "null"]), None),
        (Param(type=[int, None]), None),
        (Param(minimum=1, maximum=3), 3),
        (Param(minimum=1, type=str), "x"),
        (Param(enum=["a", 1, None]), None),
        (Param(), [1, "any", None]),
    ],
)
def test_values_that_keep_the_declaration_pass(param: Param, value: Any) -> None:
    assert param.check("p", value) == value


@pytest.mark.parametrize(
    ("param", "value", "fault"),
    [
        (Param(type=str), 1, "not of type string"),
        (Param(type=int), True, "not of type integer"),
        (Param(type=int), 2.5, "not of type integer"),
        (Param(type="number"), True, "not of type number"),
        (Param(type=bool), 1, "not of type boolean"),
        (Param(type=["string", "null"]), 1, "not of type string or null"),
        (Param(minimum=1), 0, "below the minimum 1"),
        (Param(maximum=3), 3.5, "above the maximum 3"),
        (Param(maximum=2), "abc", "above the maximum 2"),
        (Param(enum=[1, 2]), True, "not one of 1, 2"),
        (Param(enum=["a"]), "b", "not one of 'a'"),
        (Param(), date(2026, 1, 1), "not a JSON value"),
        (Param(), math.nan, "not a JSON value"),
        (Param(), [math.inf], "not a JSON value"),
        (Param(), {"a": {1, 2}}, "not a JSON value"),
        (Param(description="tables to load", type=list), 5, "tables to load"),
    ],
)
def test_values_that_break_it_are_refused_by_name(param: Param, value: Any, fault: str) -> None:
    with pytest.raises(BadParam, match="Param 'p' = ") as caught:
        param.check("p", value)
    assert fault in str(caught.value)


def test_an_unknown_type_is_refused_where_it_is_declared() -> None:
    with pytest.raises(BadParam, match=r"'text'.*string"):
        Param(type="text")


@pytest.mark.parametrize(
    "param", [Param(), Param(None), Param(""), Param(0, type=int, minimum=0, maximum=9, enum=[0, 1], description="n")]
)
def test_a_declaration_survives_json(param: Param) -> None:
    again = Param.from_spec(json.loads(json.dumps(param.to_spec())))
    assert vars(again) == vars(param)


def test_a_default_must_keep_its_own_declaration() -> None:
    with pytest.raises(BadParam, match=r"DAG 'sales': Param 'n' = 'x'"):
        declare({"n": Param("x", type=int)}, "DAG 'sales'")


@pytest.mark.parametrize("values", [["n"], {1: "x"}, "n"])
def test_params_are_a_dict_by_name(values: Any) -> None:
    with pytest.raises(AuthoringError, match="params"):
        declare(values, "DAG 'sales'")


def test_the_task_wins_over_the_dag_and_conf_over_both() -> None:
    dag = {"a": 1, "b": 1, "c": 1}
    assert resolve(dag, {"b": 2, "c": 2, "d": 2}, {"c": 3, "d": 3, "other": 3}) == {"a": 1, "b": 2, "c": 3, "d": 3}


def test_undeclared_conf_is_left_out() -> None:
    assert resolve({}, None, {"x": 1}) == {}


def test_conf_is_checked() -> None:
    with pytest.raises(BadParam, match="'n' = 'two'"):
        resolve({"n": Param(1, type=int)}, {}, {"n": "two"})


def test_a_tasks_plain_value_is_checked_by_the_dags_declaration() -> None:
    with pytest.raises(BadParam, match="'n' = 9"):
        resolve({"n": Param(1, maximum=5)}, {"n": 9}, None)


def test_a_tasks_own_declaration_replaces_the_dags() -> None:
    assert resolve({"n": Param(1, maximum=5)}, {"n": Param(9)}, None) == {"n": 9}


def test_a_param_without_default_has_to_be_given() -> None:
    with pytest.raises(BadParam, match="'n' has no default"):
        resolve({"n": Param(type=int)}, None, {})
    assert resolve({"n": Param(type=int)}, None, {"n": 4}) == {"n": 4}


def test_what_a_dag_version_kept_resolves_like_the_authors_params() -> None:
    params = declare({"n": Param(1, maximum=5), "s": "x"}, "DAG 'sales'")
    stored = from_specs({name: param.to_spec() for name, param in params.items()})
    assert resolve(stored, None, {"n": 3}) == {"n": 3, "s": "x"}
    with pytest.raises(BadParam):
        resolve(stored, None, {"n": 6})


def test_defaults_are_not_shared_between_runs() -> None:
    params = declare({"tables": ["a"]}, "DAG 'sales'")
    resolve(params, None, None)["tables"].append("b")
    assert resolve(params, None, None) == {"tables": ["a"]}

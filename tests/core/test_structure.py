"""The structure of a DAG version and its JSON: what goes in comes out, equal ones are equal text."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.structure import DagStructure, SensorStructure, TaskStructure

TASK = TaskStructure(0, "a", "EmptyOperator", "flux.operators")
SENSOR = SensorStructure(60.0, 10.0, 3600.0, soft_fail=True, isolated=True)
FULL = DagStructure(
    "sales", "x/sales.py", 3,
    (
        dataclasses.replace(TASK, downstream=(1, 2), gate="branch", gates=(1, 2), resources={"cpu": 2}, groups=("g",)),
        TaskStructure(1, "b", "S", "m", upstream=(0,), sensor=SENSOR, pool="etl", pool_slots=2, retries=3, adhoc=True),
        TaskStructure(2, "c", "O", "m", upstream=(0,), trigger_rule="all_done", template_fields=("sql", "bash")),
    ),
    schedule={"cron": "@daily"}, timezone="Europe/Berlin", catchup=True, params={"p": {"default": None}},
    tags=("x", "ü"), fork=False, groups={"g": "tooltip"}, max_active_tasks=4, dagrun_timeout=1.5,
)  # fmt: skip

texts = st.text(max_size=5)
maybe = lambda strategy: st.none() | strategy  # noqa: E731
numbers = st.floats(0, 1e9) | st.integers(0, 10**9).map(float)
sensors = st.builds(
    SensorStructure, poke_interval=numbers, poke_timeout=numbers, timeout=numbers, soft_fail=st.booleans(),
    max_poke_interval=numbers,
)  # fmt: skip
indices = st.lists(st.integers(0, 50), unique=True, max_size=4).map(tuple)
tasks = st.builds(
    TaskStructure, index=st.integers(0, 9), task_id=texts, operator=texts, module=texts, upstream=indices,
    downstream=indices, gates=indices, retries=st.integers(0, 9), retry_delay=numbers, execution_timeout=maybe(numbers),
    pool=maybe(texts), pool_slots=st.integers(0, 9), priority_weight=st.integers(-9, 9), sensor=maybe(sensors),
    groups=st.lists(texts, max_size=3).map(tuple), template_fields=st.lists(texts, max_size=2).map(tuple),
    doc_md=maybe(texts), resources=maybe(st.dictionaries(texts, st.integers())), inline=st.booleans(),
)  # fmt: skip
structures = st.builds(
    DagStructure, dag_id=texts, file=texts, line=maybe(st.integers(1, 9)),
    tasks=st.lists(tasks, max_size=3).map(tuple), schedule=maybe(st.dictionaries(texts, texts)), catchup=st.booleans(),
    fork=st.booleans(), tags=st.lists(texts, max_size=3).map(tuple), params=st.dictionaries(texts, st.integers()),
    max_active_tasks=maybe(st.integers(0, 9)), groups=st.dictionaries(texts, texts), doc_md=maybe(texts),
)  # fmt: skip


def test_a_structure_with_everything_in_it_is_read_as_it_was_written() -> None:
    assert DagStructure.from_json(FULL.to_json()) == FULL


@given(structures)
def test_any_structure_is_read_as_it_was_written(structure: DagStructure) -> None:
    again = DagStructure.from_json(structure.to_json())
    assert again == structure
    assert again.to_json() == structure.to_json()


def test_defaults_are_left_out_so_that_a_new_field_makes_no_new_version() -> None:
    plain = DagStructure("sales", "sales.py", 1, (TASK,))
    assert json.loads(plain.to_json()) == {
        "dag_id": "sales", "file": "sales.py", "line": 1,
        "tasks": [{"index": 0, "task_id": "a", "operator": "EmptyOperator", "module": "flux.operators"}],
    }  # fmt: skip


def test_equal_structures_are_equal_text_whatever_the_order_of_their_dicts() -> None:
    one = dataclasses.replace(FULL, params={"a": 1, "b": 2}, groups={"x": "", "y": ""})
    two = dataclasses.replace(FULL, params={"b": 2, "a": 1}, groups={"y": "", "x": ""})
    assert one.to_json() == two.to_json()


@pytest.mark.parametrize("place", ["dag", "task"])
def test_keys_of_a_newer_version_are_ignored(place: str) -> None:
    data: dict[str, Any] = json.loads(FULL.to_json())
    (data if place == "dag" else data["tasks"][1])["of_next_year"] = 1
    assert DagStructure.from_json(json.dumps(data)) == FULL


def test_tasks_are_found_by_name_and_gates_are_counted() -> None:
    assert FULL.task("c").index == 2
    assert FULL.gates_above == (0, 1, 1)
    with pytest.raises(KeyError):
        FULL.task("nothing")

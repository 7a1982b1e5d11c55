"""Drawings show every task and every edge of a DAG."""

from __future__ import annotations

from xml.etree import ElementTree

from flux.drawing import svg, tree
from flux.structure import DagStructure, TaskStructure


def _structure(edges: dict[str, str]) -> DagStructure:
    """From {"a": "b c", "b": "d"}: each task to its downstreams, in topological order."""
    names = list(edges)
    place = {name: index for index, name in enumerate(names)}
    down = {name: tuple(place[other] for other in edges[name].split()) for name in names}
    up: dict[int, list[int]] = {index: [] for index in place.values()}
    for name in names:
        for index in down[name]:
            up[index].append(place[name])
    tasks = tuple(
        TaskStructure(
            index=index, task_id=name, operator="EmptyOperator", module="m", downstream=down[name],
            upstream=tuple(up[index]),
        )
        for index, name in enumerate(names)
    )  # fmt: skip
    return DagStructure(dag_id="<sales>", file="sales.py", line=1, tasks=tasks)


def test_a_tree_opens_each_task_once() -> None:
    lines = tree(_structure({"a": "b c", "b": "d", "c": "d", "d": "e", "e": "", "f": ""}))
    assert [line.replace(" (EmptyOperator)", "") for line in lines] == [
        "a", "├─ b", "│  └─ d", "│     └─ e", "└─ c", "   └─ d …", "f",
    ]  # fmt: skip


def test_a_chain_of_thousands_is_a_tree_too() -> None:
    names = [f"t{number}" for number in range(1500)]
    after = dict(zip(names, [*names[1:], ""], strict=True))
    assert len(tree(_structure(after))) == 1500


def test_an_svg_has_a_box_for_each_task_and_a_curve_for_each_edge() -> None:
    root = ElementTree.fromstring(svg(_structure({"a": "b c", "b": "d", "c": "d", "d": ""})))
    boxes = {g[0].text: g[1] for g in root.iter("{http://www.w3.org/2000/svg}g")}
    assert [str(name).split()[0] for name in boxes] == ["a", "b", "c", "d"]
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) == 4
    lefts = [int(box.attrib["x"]) for box in boxes.values()]
    assert lefts[0] < lefts[1] == lefts[2] < lefts[3]


def test_an_svg_escapes_names_and_an_empty_dag_has_one() -> None:
    root = ElementTree.fromstring(svg(_structure({})))
    assert root[0].text == "<sales>"

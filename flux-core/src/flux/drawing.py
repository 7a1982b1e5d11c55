"""Drawings of a DAG's structure: a tree of text for a terminal, an SVG for a page or a notebook. Pure."""

from __future__ import annotations

from html import escape

from flux.structure import DagStructure, TaskStructure

_BOX_HEIGHT = 26
_ROW = 40
_GAP = 46
_MARGIN = 8
_CHARACTER = 7


class Drawing:
    """A DAG to look at: prints as a tree, shows as SVG in a notebook."""

    def __init__(self, structure: DagStructure) -> None:
        self.structure = structure

    def __str__(self) -> str:
        return "\n".join([self.structure.dag_id, *tree(self.structure)])

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        return svg(self.structure)


def tree(structure: DagStructure) -> list[str]:
    """Return the tasks as lines of a tree, each below its upstream; a task met again is named and not opened again."""
    lines: list[str] = []
    shown: set[int] = set()
    # A stack, not recursion: a chain may be thousands of tasks long.
    stack = [(task, "", "", "") for task in reversed(structure.tasks) if not task.upstream]
    while stack:
        task, lead, elbow, below = stack.pop()
        again = task.index in shown and bool(task.downstream)
        lines.append(f"{lead}{elbow}{task.task_id} ({task.operator}){' …' if again else ''}")
        if again:
            continue
        shown.add(task.index)
        last = task.downstream[-1] if task.downstream else None
        for index in reversed(task.downstream):
            corner = ("└─ ", "   ") if index == last else ("├─ ", "│  ")
            stack.append((structure.tasks[index], lead + below, *corner))
    return lines


def svg(structure: DagStructure) -> str:
    """Return the tasks as boxes from left to right, each right of all that is upstream of it; the edges as curves."""
    columns = _columns(structure)
    places: dict[int, tuple[int, int, int]] = {}
    left, height = _MARGIN, 0
    for column in columns:
        width = max(len(task.task_id) for task in column) * _CHARACTER + 2 * _MARGIN
        for row, task in enumerate(column):
            places[task.index] = (left, _MARGIN + row * _ROW, width)
        left += width + _GAP
        height = max(height, len(column) * _ROW)
    width = max(left - _GAP + _MARGIN, 2 * _MARGIN)
    parts = [_curve(places[task.index], places[index]) for task in structure.tasks for index in task.downstream]
    parts += [_box(task, *places[task.index]) for task in structure.tasks]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + _MARGIN}" '
        f'font-family="sans-serif" font-size="12"><title>{escape(structure.dag_id)}</title>{"".join(parts)}</svg>'
    )


def _columns(structure: DagStructure) -> list[list[TaskStructure]]:
    """The tasks by the number of edges on the longest way to them."""
    depth = [0] * len(structure.tasks)
    for task in structure.tasks:
        for index in task.downstream:
            depth[index] = max(depth[index], depth[task.index] + 1)
    columns: list[list[TaskStructure]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for task in structure.tasks:
        columns[depth[task.index]].append(task)
    return columns


def _box(task: TaskStructure, x: int, y: int, width: int) -> str:
    return (
        f"<g><title>{escape(task.task_id)} ({escape(task.operator)})</title>"
        f'<rect x="{x}" y="{y}" width="{width}" height="{_BOX_HEIGHT}" rx="4" fill="{escape(task.ui_color)}" '
        f'stroke="#667"/><text x="{x + _MARGIN}" y="{y + 17}">{escape(task.task_id)}</text></g>'
    )


def _curve(start: tuple[int, int, int], end: tuple[int, int, int]) -> str:
    x1, y1 = start[0] + start[2], start[1] + _BOX_HEIGHT // 2
    x2, y2 = end[0], end[1] + _BOX_HEIGHT // 2
    bend = _GAP // 2
    return f'<path d="M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}" fill="none" stroke="#99a"/>'

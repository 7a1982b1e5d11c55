"""Edges as an author draws them, with `>>`, lists, groups and `chain`, and what they mean for single tasks.

A node is a task or a task group. An edge to or from a group is kept as drawn and means its first or last tasks as
they are when the DAG's structure is built, so that it does not matter whether it is drawn before the group is full.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from flux.arguments import located
from flux.errors import AuthoringError, Cycle

if TYPE_CHECKING:
    from flux.dag import DAG
    from flux.operator import BaseOperator
    from flux.task_group import TaskGroup

_T = TypeVar("_T")


class Drawable(ABC):
    """What may stand beside `>>` and `<<`; on the other side also a list of such."""

    def __rshift__(self, other: _T) -> _T:
        self.set_downstream(other)
        return other

    def __lshift__(self, other: _T) -> _T:
        self.set_upstream(other)
        return other

    def __rrshift__(self, other: Any) -> Any:
        self.set_upstream(other)
        return self

    def __rlshift__(self, other: Any) -> Any:
        self.set_downstream(other)
        return self

    def set_downstream(self, other: Any) -> None:
        """Make `other`, one or a list, depend on this. Drawing an edge twice is the same as once."""
        for node in nodes(self):
            for after in nodes(other):
                _draw(node, after)

    def set_upstream(self, other: Any) -> None:
        """Make this depend on `other`, one or a list."""
        for node in nodes(self):
            for before in nodes(other):
                _draw(before, node)

    @abstractmethod
    def edge_node(self) -> Node:
        """Return the task or group that an edge to this is drawn to."""


class Node(Drawable):
    """A task or a task group: it belongs to at most one DAG and knows the edges drawn at it."""

    #: The group around it; None: directly in the DAG.
    task_group: TaskGroup | None = None

    def __init__(self) -> None:
        self._dag: DAG | None = None
        #: Drawn edges, in order of drawing.
        self.drawn_before: dict[Node, None] = {}
        self.drawn_after: dict[Node, None] = {}

    def edge_node(self) -> Node:
        return self

    @property
    @abstractmethod
    def label(self) -> str:
        """The id, full: with those of the groups around it."""


def nodes(value: Any) -> Iterator[Node]:
    """Yield the nodes of what stands beside `>>`: one, or a list of lists of them."""
    if isinstance(value, Drawable):
        yield value.edge_node()
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from nodes(item)
    else:
        name = getattr(value, "__name__", None)
        hint = f" Call it: {name}(…)." if callable(value) and name else ""
        raise located(AuthoringError(f"{value!r} beside >> or << is not a task, a group or a list of them.{hint}"))


def _draw(before: Node, after: Node) -> None:
    if before is after:
        raise located(Cycle(f"Task {before.label!r} would depend on itself. Remove this dependency."))
    if before._dag is not None and after._dag is not None and before._dag is not after._dag:
        raise located(
            AuthoringError(
                f"{before.label!r} is in DAG {before._dag.dag_id!r} and {after.label!r} in DAG {after._dag.dag_id!r}: "
                "tasks of two DAGs cannot depend on each other. Use a sensor on the other DAG."
            )
        )
    before.drawn_after[after] = None
    after.drawn_before[before] = None
    dag = before._dag or after._dag
    if dag is not None and before._dag is not after._dag:
        dag.adopt(after if before._dag is dag else before)


def chain(*tasks: Any) -> None:
    """Draw edges from each to the next: tasks, groups, or lists. Two lists in a row are joined pair by pair.

    Raises:
        AuthoringError: two lists in a row have different lengths.
    """
    for left, right in pairwise(tasks):
        if isinstance(left, list | tuple) and isinstance(right, list | tuple):
            if len(left) != len(right):
                raise located(
                    AuthoringError(
                        f"chain: a list of {len(left)} is followed by one of {len(right)}; pairs need equal lengths."
                    )
                )
            pairs: Iterable[tuple[Any, Any]] = zip(left, right, strict=True)
        else:
            pairs = [(left, right)]
        for before, after in pairs:
            for node in nodes(before):
                for follower in nodes(after):
                    _draw(node, follower)


def expand(tasks: Sequence[BaseOperator], groups: Iterable[TaskGroup]) -> list[list[int]]:
    """Return the downstream of every task, as positions in `tasks`, ascending and each once.

    An edge at a group is one to each of its first tasks, or from each of its last: those without an edge from, or
    to, another task of the group. What goes into an empty group comes out of it again.

    Raises:
        AuthoringError: an edge between a group and something inside it.
    """
    position = {task: index for index, task in enumerate(tasks)}
    downstream: list[set[int]] = [set() for _ in tasks]
    group_list = list(groups)
    if not any(group.drawn_before or group.drawn_after for group in group_list):
        for task, after in zip(tasks, downstream, strict=True):
            after.update(position[node] for node in task.drawn_after)  # type: ignore[index]
        return [sorted(after) for after in downstream]
    ends = _Ends(tasks)
    for before, after_node in sorted(_passed_through(tasks, group_list, ends), key=lambda edge: -_meeting(*edge)):
        depth = _meeting(before, after_node)
        lasts, firsts = ends.last(before), ends.first(after_node)
        for last in lasts:
            downstream[position[last]].update(position[first] for first in firsts)
        ends.join(lasts, firsts, depth)
    return [sorted(after) for after in downstream]


class _Ends:
    """The first and last tasks of groups, as far as the edges joined so far tell.

    Edges must be joined from the innermost to the outermost group in which they meet: then, whenever a group's ends
    are asked for, every edge inside it is known.
    """

    def __init__(self, tasks: Sequence[BaseOperator]) -> None:
        self.members: dict[Node, list[BaseOperator]] = {}
        for task in tasks:
            for group in _around(task):
                self.members.setdefault(group, []).append(task)
        # Depth of the innermost group in which an edge from, or to, another member meets the task; 0 is the DAG.
        self._entered: dict[BaseOperator, int] = {}
        self._left: dict[BaseOperator, int] = {}

    def first(self, node: Node) -> list[BaseOperator]:
        return self._ends(node, self._entered)

    def last(self, node: Node) -> list[BaseOperator]:
        return self._ends(node, self._left)

    def _ends(self, node: Node, met: dict[BaseOperator, int]) -> list[BaseOperator]:
        if node not in self.members:
            return [node]  # type: ignore[list-item]
        depth = len(_around(node)) + 1
        return [task for task in self.members[node] if met.get(task, -1) < depth]

    def join(self, lasts: list[BaseOperator], firsts: list[BaseOperator], depth: int) -> None:
        for met, tasks in ((self._left, lasts), (self._entered, firsts)):
            for task in tasks:
                met[task] = max(met.get(task, -1), depth)


def _around(node: Node) -> list[TaskGroup]:
    """The groups around a node, outermost first."""
    around = []
    group = node.task_group
    while group is not None:
        around.append(group)
        group = group.task_group
    return around[::-1]


def _meeting(before: Node, after: Node) -> int:
    """How many groups are around both ends of an edge."""
    common = 0
    for left, right in zip(_around(before), _around(after), strict=False):
        if left is not right:
            break
        common += 1
    return common


def _passed_through(tasks: Sequence[Node], groups: Sequence[Node], ends: _Ends) -> list[tuple[Node, Node]]:
    """All drawn edges, those at an empty group replaced by edges from what is before it to what is after it."""
    edges = {(node, after): None for node in (*tasks, *groups) for after in node.drawn_after}
    for before, after in edges:
        if before in _around(after) or after in _around(before):
            raise AuthoringError(
                f"{before.label!r} >> {after.label!r} joins a group to something inside it. Remove this dependency."
            )
    for empty in groups:
        if empty not in ends.members:
            into = [before for before, after in edges if after is empty]
            out = [after for before, after in edges if before is empty]
            edges = {edge: None for edge in edges if empty not in edge}
            edges |= {(before, after): None for before in into for after in out}
    return list(edges)

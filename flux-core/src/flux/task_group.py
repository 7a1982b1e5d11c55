"""Task groups: tasks that belong together, named and drawn as one."""

from __future__ import annotations

from contextvars import Token
from types import TracebackType
from typing import Any, Literal

from flux.arguments import AuthoringType, call_site, check_id
from flux.dag import current_dag, current_group, enter_block, leave_block
from flux.edges import Node
from flux.errors import AuthoringError


class TaskGroup(Node, metaclass=AuthoringType):
    """A group of tasks. Tasks made inside `with group:` get ids "group_id.task_id"; groups nest.

    An edge to a group is one to each of its first tasks, an edge from it one from each of its last.

    Args:
        tooltip: a sentence about the group, shown where it is drawn.
    """

    def __init__(self, group_id: str, *, tooltip: str = "") -> None:
        super().__init__()
        dag = current_dag()
        if dag is None:
            raise AuthoringError(f"TaskGroup {group_id!r} is outside any DAG. Put it inside 'with DAG(…):'.")
        if not isinstance(tooltip, str):
            raise AuthoringError(f"TaskGroup {group_id!r}: tooltip = {tooltip!r} is not a text.")
        self.site = call_site()
        self.task_group = current_group(dag)
        check_id(group_id, "group_id")
        #: Full: with the ids of the groups around it.
        self.group_id = check_id(full_id(self.task_group, group_id), "group_id")
        self.tooltip = tooltip
        dag.refuse_taken(self.group_id, "TaskGroup")
        self._dag = dag
        dag.groups[self.group_id] = self
        self._tokens: list[Token[Any]] = []

    @property
    def label(self) -> str:
        return self.group_id

    def __enter__(self) -> TaskGroup:
        assert self._dag is not None
        self._tokens.append(enter_block(self._dag, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        leave_block(self._tokens.pop())
        return False

    def __repr__(self) -> str:
        return f"<TaskGroup {self.group_id}>"


def full_id(group: TaskGroup | None, name: str) -> str:
    """Return the id of something called `name` inside `group`."""
    return name if group is None else f"{group.group_id}.{name}"

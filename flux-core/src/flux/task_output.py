"""Outputs: what a task will return, as an argument of other tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flux.arguments import check_text, located
from flux.edges import Drawable
from flux.errors import AuthoringError

if TYPE_CHECKING:
    from flux.edges import Node
    from flux.operator import BaseOperator
    from flux.times import DateLike


class TaskOutput(Drawable):
    """What a task will leave under a key, as an argument of another task: using it draws the edge.

    `output["rows"]` takes another key. Its value exists only while the task that got it runs.
    """

    def __init__(self, task: BaseOperator, key: str = "return_value") -> None:
        self.task = task
        self.key = key

    @property
    def task_id(self) -> str:
        return self.task.task_id

    @property
    def output(self) -> TaskOutput:
        """Itself: what a task function's call gives can be used like a task."""
        return self

    def __getitem__(self, key: str) -> TaskOutput:
        try:
            check_text(key, f"Output of task {self.task_id!r}: key")
        except AuthoringError as error:
            raise located(error) from None
        if self.key != "return_value":
            raise located(
                AuthoringError(
                    f"{self!r} takes one key. Look into the value in the task that gets it: it does not exist yet."
                )
            )
        return TaskOutput(self.task, key)

    def __iter__(self) -> Iterator[Any]:
        raise located(self._too_early("looped over"))

    def __contains__(self, item: object) -> bool:
        raise located(self._too_early("searched"))

    def __format__(self, spec: str) -> str:
        raise located(self._too_early("put into a text", f' Or write "{{{{ results[{self.task_id!r}] }}}}".'))

    def _too_early(self, what: str, hint: str = "") -> AuthoringError:
        return AuthoringError(
            f"The output of task {self.task_id!r} cannot be {what} while the DAG file is read: it does not exist yet. "
            f"Pass it to a task as an argument.{hint}"
        )

    def edge_node(self) -> Node:
        return self.task

    def run(self, start: DateLike, end: DateLike | None = None, *, params: Mapping[str, Any] | None = None) -> Any:
        """Run the task alone; see `BaseOperator.run`."""
        return self.task.run(start, end, params=params)

    def render(self, date: DateLike) -> dict[str, str]:
        """Return the task's template fields; see `BaseOperator.render`."""
        return self.task.render(date)

    def dry_run(self, date: DateLike) -> Any:
        """Try the task without effects; see `BaseOperator.dry_run`."""
        return self.task.dry_run(date)

    def __repr__(self) -> str:
        return f"<output {self.key!r} of task {self.task_id!r}>"


def outputs_in(value: Any) -> Iterator[TaskOutput]:
    """Yield the task outputs in a value, through lists, tuples, sets and the values of dicts."""
    todo, seen = [value], set()
    while todo:
        item = todo.pop()
        if isinstance(item, TaskOutput):
            yield item
        elif isinstance(item, list | tuple | set | frozenset | dict) and id(item) not in seen:
            seen.add(id(item))
            todo += item.values() if isinstance(item, dict) else item

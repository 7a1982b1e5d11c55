"""Operators whose result decides which of the tasks below them run."""

from __future__ import annotations

from typing import Any, ClassVar

from flux.operators.python import PythonOperator

__all__ = ["BranchPythonOperator", "ShortCircuitOperator"]


class BranchPythonOperator(PythonOperator):
    """Call a function that returns the task_id, or a list of them, of the direct downstream tasks that run.

    The others are skipped, except where they are also downstream of a chosen one. A group_id stands for the direct
    downstream tasks in that group; an empty list chooses none.
    """

    gate: ClassVar[str | None] = "branch"


class ShortCircuitOperator(PythonOperator):
    """Call a function; when what it returns is false, skip what follows.

    Args:
        ignore_downstream_trigger_rules: skip all descendants, whatever their trigger rules; False: only the direct
            downstream tasks, and the others by their rules.
    """

    gate: ClassVar[str | None] = "short_circuit"

    def __init__(self, *, ignore_downstream_trigger_rules: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_downstream_trigger_rules = ignore_downstream_trigger_rules
        self.gates_all_descendants = ignore_downstream_trigger_rules

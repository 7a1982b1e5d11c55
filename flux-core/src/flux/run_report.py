"""What a run in this process left: states, results and reasons, made to be looked at in a shell or a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, overload

from flux import results
from flux.context import RETURN_VALUE
from flux.errors import NotFound
from flux.schedule import DataInterval
from flux.states import RunState, State


@dataclass(frozen=True, slots=True)
class TaskReport:
    """How one task ended."""

    task_id: str
    #: Class name.
    operator: str
    state: State
    #: How many there were; 0 if it did not run.
    attempts: int = 0
    #: One line; None when there is nothing to say.
    reason: str | None = None
    #: From its first attempt to its last; None if it did not run.
    seconds: float | None = None


@dataclass(frozen=True, repr=False)
class RunReport:
    """One run: its state, that of each task, and what the tasks returned."""

    dag_id: str
    run_id: str
    #: In the DAG's time zone.
    data_interval: DataInterval
    state: RunState
    #: In topological order; without those that were not part of the run.
    tasks: tuple[TaskReport, ...]
    #: Typed JSON by task_id and key.
    left: Mapping[tuple[str, str], str]

    @property
    def logical_date(self) -> datetime:
        return self.data_interval.start

    @property
    def ok(self) -> bool:
        """The run ended in success."""
        return self.state is RunState.SUCCESS

    @property
    def states(self) -> dict[str, State]:
        """Maps task_id to state, in topological order."""
        return {task.task_id: task.state for task in self.tasks}

    @property
    def results(self) -> dict[str, Any]:
        """Maps task_id to what the task returned, without those that returned nothing."""
        return {task_id: results.decode(text) for (task_id, key), text in self.left.items() if key == RETURN_VALUE}

    def result(self, task_id: str, key: str = RETURN_VALUE) -> Any:
        """Return what a task left under `key`, None if it left nothing.

        Raises:
            NotFound: the run has no such task.
        """
        if task_id not in self.states:
            raise NotFound.named("Task", task_id, self.states)
        text = self.left.get((task_id, key))
        return None if text is None else results.decode(text)

    def __str__(self) -> str:
        width = max((len(task.task_id) for task in self.tasks), default=0)
        lines = [f"DAG {self.dag_id}, {self.data_interval.start.isoformat()}: {self.state}"]
        lines += [f"  {task.task_id:<{width}}  {task.state:<15}  {_notes(task)}".rstrip() for task in self.tasks]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(task.task_id)}</td><td>{task.state}</td><td>{html.escape(_notes(task))}</td></tr>"
            for task in self.tasks
        )
        title = f"{html.escape(self.dag_id)}, {self.data_interval.start.isoformat()}: <b>{self.state}</b>"
        return f"<table><caption>{title}</caption><tr><th>task</th><th>state</th><th></th></tr>{rows}</table>"


@dataclass(frozen=True, repr=False)
class RangeReport(Sequence[RunReport]):
    """The runs of several data intervals, oldest first."""

    dag_id: str
    runs: tuple[RunReport, ...]

    @property
    def state(self) -> RunState:
        """Success when every run ended so."""
        return RunState.SUCCESS if self.ok else RunState.FAILED

    @property
    def ok(self) -> bool:
        """Every run ended in success."""
        return all(run.ok for run in self.runs)

    @overload
    def __getitem__(self, index: int) -> RunReport: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[RunReport]: ...

    def __getitem__(self, index: int | slice) -> RunReport | Sequence[RunReport]:
        return self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[RunReport]:
        return iter(self.runs)

    def __str__(self) -> str:
        return "\n".join(str(run) for run in self.runs)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(run._repr_html_() for run in self.runs)


def _notes(task: TaskReport) -> str:
    notes = [] if task.seconds is None else [f"{task.seconds:.2f} s"]
    notes += [f"{task.attempts} attempts"] if task.attempts > 1 else []
    notes += [task.reason] if task.reason else []
    return ", ".join(notes)

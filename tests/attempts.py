"""An attempt without processes: its spec with defaults, and a world in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux.attempt import AttemptEnd, AttemptSpec, execute
from flux.errors import NotFound
from flux.results import decode


@dataclass
class MemoryWorld:
    """What a task can reach, as dicts."""

    results: dict[tuple[str, str], str] = field(default_factory=dict)
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    previous: dict[bool, dict[str, Any]] = field(default_factory=dict)
    #: The questions that were asked, in order.
    asked: list[str] = field(default_factory=list)

    def result(self, task_id: str, key: str = "return_value", map_index: int = -1) -> str | None:
        self.asked.append(f"result {task_id} {key}")
        return self.results.get((task_id, key))

    def connection(self, conn_id: str) -> dict[str, Any]:
        self.asked.append(f"connection {conn_id}")
        if conn_id not in self.connections:
            raise NotFound.named("Connection", conn_id, self.connections)
        return self.connections[conn_id]

    def variable(self, name: str) -> str | None:
        self.asked.append(f"variable {name}")
        return self.variables.get(name)

    def task_state(self, dag_id: str, run_id: str, task_id: str) -> str | None:
        return self.states.get(task_id)

    def previous_run(self, successful: bool) -> dict[str, Any] | None:
        self.asked.append(f"previous_run {successful}")
        return self.previous.get(successful)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None, logical_date: str | None) -> str:
        return f"manual__{logical_date}"

    def progress(self, text: str) -> None:
        self.asked.append(f"progress {text}")


def spec_of(task: Any, folder: Path, **changes: Any) -> AttemptSpec:
    """Return the spec of the first attempt of `task` for 5 January 2026 in Berlin, its files in `folder`."""
    values: dict[str, Any] = {
        "claim": 7,
        "dag_id": task.dag.dag_id,
        "run_id": "scheduled__2026-01-04T23:00:00+00:00",
        "task_id": task.task_id,
        "map_index": -1,
        "attempt": 1,
        "max_attempts": 1,
        "kind": "scheduled",
        "logical_date": "2026-01-04T23:00:00+00:00",
        "interval_start": "2026-01-04T23:00:00+00:00",
        "interval_end": "2026-01-05T23:00:00+00:00",
        "conf": None,
        "run_started_at": None,
        "first_seen_at": None,
        "log": str(folder / "1.log"),
        "result_file": str(folder / "7.json"),
        "rendered_file": str(folder / "1.rendered.json"),
        "endpoint": "",
        "log_max_bytes": 1_000_000,
        "kill_grace": 4.0,
        "run_as_user": None,
    }
    return AttemptSpec(**{**values, **changes})


def run(task: Any, folder: Path, world: MemoryWorld | None = None, **changes: Any) -> AttemptEnd:
    """Execute one attempt of `task` in this process."""
    return execute(task, spec_of(task, folder, **changes), world or MemoryWorld())


def value_of(end: AttemptEnd, key: str = "return_value") -> Any:
    """Return what the attempt left under `key`, None if nothing."""
    return decode(end.results[key]) if key in end.results else None

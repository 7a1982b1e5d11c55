"""What surrounds a task in a test: what it can ask for, and the outside that its work changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux.connection import Connection
from flux.context import RETURN_VALUE
from flux.errors import NotFound

__all__ = ["FakeWorld", "FolderWorld"]


@dataclass
class FakeWorld:
    """What a running task can ask a supervisor for (`flux.attempt.World`), from memory."""

    #: By conn_id.
    connections: Mapping[str, Connection] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    #: Typed JSON by (task_id, key).
    results: Mapping[tuple[str, str], str] = field(default_factory=dict)
    #: A State's value by (dag_id, run_id, task_id).
    states: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    #: logical_date, interval_start and interval_end, ISO 8601, of the previous run, by whether it was successful.
    previous: Mapping[bool, dict[str, Any]] = field(default_factory=dict)
    #: dag_id, conf and logical date of each run that was asked for.
    triggered: list[tuple[str, dict[str, Any] | None, str | None]] = field(default_factory=list)
    #: What was told of progress.
    told: list[str] = field(default_factory=list)

    def result(self, task_id: str, key: str = RETURN_VALUE, map_index: int = -1) -> str | None:
        return self.results.get((task_id, key))

    def connection(self, conn_id: str) -> dict[str, Any]:
        if conn_id not in self.connections:
            raise NotFound.named("Connection", conn_id, self.connections)
        return self.connections[conn_id].to_message()

    def variable(self, name: str) -> str | None:
        return self.variables.get(name)

    def task_state(self, dag_id: str, run_id: str, task_id: str) -> str | None:
        return self.states.get((dag_id, run_id, task_id))

    def previous_run(self, successful: bool) -> dict[str, Any] | None:
        return self.previous.get(successful)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None, logical_date: str | None) -> str:
        self.triggered.append((dag_id, conf, logical_date))
        return f"manual__{logical_date or len(self.triggered)}"

    def progress(self, text: str) -> None:
        self.told.append(text)


class FolderWorld:
    """An outside that is one folder: enough for tasks whose work is files, and for those that need no outside at all.

    A fixture `world` of your own may be a subclass, or any object that has some of these attributes.
    """

    #: By conn_id: a URI, or a `flux.connection.Connection`.
    connections: Mapping[str, str | Connection] = {}
    variables: Mapping[str, str] = {}

    def __init__(self, tmp: Path) -> None:
        #: A folder that is empty at the start; `{tmp}` in arguments stands for it.
        self.tmp = tmp

    def snapshot(self) -> Any:
        """Return everything that is there, to be compared before and after: here, path to content below `tmp`."""
        return {
            str(path.relative_to(self.tmp)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.tmp.rglob("*"))
        }

    def running(self) -> Collection[Any]:
        """Return ids of the work that goes on elsewhere on behalf of a task; empty when none does."""
        return ()

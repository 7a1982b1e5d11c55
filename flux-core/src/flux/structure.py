"""What a DAG file says, as plain records: the structure of a DAG version, and its JSON.

The DAG host makes it from the author's objects (`dag_file`), the store keeps it, and everything that does not run
author code (scheduler, supervisor, CLI, UI) works with it alone. Tasks are in topological order and refer to each
other by their index in it. Durations are seconds; instants are ISO 8601 in UTC; None means "not given".
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True)
class SensorStructure:
    """The arguments of a sensor that the engine needs."""

    poke_interval: float
    poke_timeout: float
    timeout: float
    soft_fail: bool = False
    exponential_backoff: bool = False
    max_poke_interval: float = 3600.0
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class TaskStructure:
    """One task: everything the engine and the CLI know of it."""

    index: int
    task_id: str
    #: Class name of the operator, and the module it comes from.
    operator: str
    module: str
    #: Indices of the direct neighbours, ascending.
    upstream: tuple[int, ...] = ()
    downstream: tuple[int, ...] = ()
    trigger_rule: str = "all_success"
    retries: int = 0
    retry_delay: float = 300.0
    retry_exponential_backoff: bool = False
    max_retry_delay: float = 86_400.0
    execution_timeout: float | None = None
    kill_grace: float = 4.0
    depends_on_past: bool = False
    wait_for_downstream: bool = False
    pool: str | None = None
    pool_slots: int = 1
    #: Effective: after the weight rule.
    priority_weight: int = 1
    queue: str = "default"
    max_active_tis_per_dag: int | None = None
    #: Bounds of the logical date, inclusive, narrower than the DAG's.
    start_date: str | None = None
    end_date: str | None = None
    adhoc: bool = False
    owner: str | None = None
    run_as_user: str | None = None
    resources: dict[str, Any] | None = None
    #: "branch": its result chooses among its direct downstreams. "short_circuit": it may close what `gates` names.
    gate: str | None = None
    #: Indices of the tasks that take no verdict before this gate has ended.
    gates: tuple[int, ...] = ()
    #: The supervisor records it as done without a process.
    inline: bool = False
    #: A template field holds a brace or names a template file.
    templated: bool = False
    template_fields: tuple[str, ...] = ()
    sensor: SensorStructure | None = None
    #: Titles of the groups around it, outermost first, as group_id.
    groups: tuple[str, ...] = ()
    ui_color: str = "#ffffff"
    doc_md: str | None = None


@dataclass(frozen=True)
class DagStructure:
    """One DAG as one reading of its file gave it."""

    dag_id: str
    #: Relative to the DAGs folder, with "/"; and the line of the `DAG(...)` call.
    file: str
    line: int | None
    tasks: tuple[TaskStructure, ...]
    #: As `schedule.to_spec` writes it; None: by hand only.
    schedule: dict[str, Any] | None = None
    timezone: str = "UTC"
    start_date: str | None = None
    end_date: str | None = None
    catchup: bool = False
    catchup_window: float | None = None
    max_active_runs: int = 16
    max_active_tasks: int | None = None
    dagrun_timeout: float | None = None
    #: {name: {"default", "type", "minimum", "maximum", "enum", "description"}}
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    tags: tuple[str, ...] = ()
    owner: str | None = None
    description: str | None = None
    doc_md: str | None = None
    on_interrupt: str = "fail"
    fork: bool = True
    #: {group_id: tooltip}
    groups: dict[str, str] = dataclasses.field(default_factory=dict)

    @cached_property
    def index_of(self) -> Mapping[str, int]:
        """Maps task_id to index."""
        return {task.task_id: task.index for task in self.tasks}

    @cached_property
    def gates_above(self) -> tuple[int, ...]:
        """For each task, how many gates it waits for."""
        counts = [0] * len(self.tasks)
        for task in self.tasks:
            for index in task.gates:
                counts[index] += 1
        return tuple(counts)

    def task(self, task_id: str) -> TaskStructure:
        """Return the task of that id; KeyError if there is none."""
        return self.tasks[self.index_of[task_id]]

    def to_json(self) -> str:
        """Return the JSON the store keeps: without defaults, keys sorted, so equal structures are equal text."""
        return json.dumps(_sparse(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> DagStructure:
        """Read what `to_json` wrote. Keys of a newer version are ignored."""
        data = json.loads(text)
        tasks = tuple(_task(item) for item in data.pop("tasks"))
        data["tags"] = tuple(data.get("tags", ()))
        return cls(tasks=tasks, **{key: value for key, value in data.items() if key in _DAG_FIELDS})


def _sparse(record: Any) -> dict[str, Any]:
    """A record as a dict without the fields that have their default."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.default is not dataclasses.MISSING and value == field.default:
            continue
        if field.default_factory is not dataclasses.MISSING and not value:
            continue
        if isinstance(value, SensorStructure):
            value = _sparse(value)
        elif value and isinstance(value, tuple) and isinstance(value[0], TaskStructure):
            value = [_sparse(task) for task in value]
        out[field.name] = value
    return out


def _task(data: dict[str, Any]) -> TaskStructure:
    known = {key: value for key, value in data.items() if key in _TASK_FIELDS}
    for key in ("upstream", "downstream", "gates", "template_fields", "groups"):
        if key in known:
            known[key] = tuple(known[key])
    if known.get("sensor"):
        sensor = {key: value for key, value in known["sensor"].items() if key in _SENSOR_FIELDS}
        known["sensor"] = SensorStructure(**sensor)
    return TaskStructure(**known)


_SENSOR_FIELDS = frozenset(field.name for field in dataclasses.fields(SensorStructure))
_TASK_FIELDS = frozenset(field.name for field in dataclasses.fields(TaskStructure))
_DAG_FIELDS = frozenset(field.name for field in dataclasses.fields(DagStructure)) - {"tasks"}

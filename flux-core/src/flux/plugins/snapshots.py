"""What listeners are told: frozen records of one moment, without a way back to the store. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """A task instance as it was committed. Moments are aware UTC."""

    dag_id: str
    run_id: str
    task_id: str
    #: None: not mapped.
    map_index: int | None
    #: A value of `flux.states.State`.
    state: str
    #: From 1; 0: no attempt has begun.
    attempt: int
    max_attempts: int
    #: The operator's class name.
    operator: str
    started_at: datetime | None
    ended_at: datetime | None
    #: Why it is in this state, as people are shown it; None: nothing to say.
    reason: str | None


@dataclass(frozen=True, slots=True)
class DagRun:
    """A DAG run as it was committed. Moments are aware UTC."""

    dag_id: str
    run_id: str
    #: scheduled, manual or backfill.
    kind: str
    #: A value of `flux.states.RunState`.
    state: str
    logical_date: datetime
    interval_start: datetime
    interval_end: datetime
    #: None: the run was made without one.
    conf: Mapping[str, Any] | None
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Component:
    """A long-lived process of Flux."""

    #: hypervisor, launcher, supervisor, listener, worker or ui.
    kind: str
    pid: int
    host: str
    started_at: datetime

"""Attempts as the transaction that moves runs forward takes and gives them: who opens one, what it opened, its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from flux.states import Outcome
from flux.store.runs import DagRun
from flux.structure import TaskStructure


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended, as the supervisor learned it."""

    claim: int
    outcome: Outcome
    #: One line for people; None after success.
    reason: str | None
    ended_at: datetime
    #: When its process began; None: not known, the time of the claim stands.
    started_at: datetime | None = None
    #: False: no further attempt, whatever `retries` says.
    may_retry: bool = True
    #: True: try again even when no retries are left (`on_interrupt="retry"`).
    must_retry: bool = False
    #: Of one that was never launched: not before this moment, with its slots free until then; None: at once.
    not_before: datetime | None = None
    pid: int | None = None
    exit_status: int | None = None
    signal: int | None = None
    max_rss_bytes: int | None = None
    #: key -> typed JSON, and key -> path of a file relative to the logs folder.
    results: dict[str, str] = field(default_factory=dict)
    result_files: dict[str, str] = field(default_factory=dict)
    #: What a branch chose; [] of a short-circuit: it closes all it gates; None: closes nothing.
    chosen: list[str] | None = None
    #: JSON {field: text}.
    rendered: str | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who opens attempts: a job row, the launcher it uses, and its host's name."""

    job_id: int
    launcher: str
    host: str
    #: Attempts are given to an executor that begins them when and where it likes; False: they begin at once, here.
    queues: bool = False


@dataclass(frozen=True, slots=True)
class Claimed:
    """An attempt that this transaction opened; it is to be launched after the commit."""

    claim: int
    task_instance_id: int
    run: DagRun
    version_id: int
    task: TaskStructure
    map_index: int
    attempt: int
    max_attempts: int
    started_at: datetime
    #: Of a sensor.
    deadline_at: datetime | None
    #: What Ctrl-C makes of it: "fail" or "retry".
    on_interrupt: str


def log_path(run: DagRun, task_id: str, map_index: int, attempt: int) -> str:
    """Return the path of an attempt's log, relative to the logs folder."""
    mapped = "-" if map_index < 0 else str(map_index)
    return f"{run.dag_id}/{run.run_id}/{task_id}/{mapped}/{attempt}.log"

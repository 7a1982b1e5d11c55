"""Jobs: the long-lived processes of Flux, and their signs of life. A row is never used again by another process."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.store import schema
from flux.store.engine import insert_row

#: States of a job that has not ended.
ALIVE = ("starting", "running", "stopping")


@dataclass(frozen=True, slots=True)
class Job:
    """A row of table `job`."""

    id: int
    #: supervisor, hypervisor, launcher, worker, ui or backfill.
    kind: str
    host: str
    boot_id: str | None
    pid: int
    #: starting, running, stopping, stopped or lost.
    state: str
    #: Counts up while the process lives; observers compare it, never the time.
    beat: int
    started_at: datetime
    last_beat_at: datetime | None
    ended_at: datetime | None


_job = schema.job
_JOBS = sa.select(*(_job.c[field.name] for field in dataclasses.fields(Job)))
_BY_ROW = _JOBS.where(_job.c.id == bindparam("job_id"))
_ALIVE = _JOBS.where(_job.c.state.in_(ALIVE), _job.c.kind.in_(bindparam("kinds", expanding=True))).order_by(_job.c.id)
_NEWEST = _JOBS.order_by(_job.c.id.desc()).limit(bindparam("limit", type_=sa.Integer()))
_OPEN = _job.update().where(_job.c.id == bindparam("job_id"), _job.c.state.in_(ALIVE))
_BEAT = _OPEN.values(beat=_job.c.beat + 1, last_beat_at=bindparam("now"))
_SET_STATE = _OPEN.values(state=bindparam("new_state"))
_END = _OPEN.values(state=bindparam("new_state"), ended_at=bindparam("now"))


def register(connection: sa.Connection, kind: str, host: str, boot_id: str | None, pid: int, now: datetime) -> int:
    """Add a job in state starting and return its row number."""
    values = {
        "kind": kind,
        "host": host,
        "boot_id": boot_id,
        "pid": pid,
        "state": "starting",
        "beat": 0,
        "started_at": now,
        "last_beat_at": now,
    }
    return insert_row(connection, _job, values)


def beat(connection: sa.Connection, job_id: int, now: datetime) -> bool:
    """Give a sign of life. False: others have ended this job, and whoever asks must stop what it holds."""
    return connection.execute(_BEAT, {"job_id": job_id, "now": now}).rowcount == 1


def set_state(connection: sa.Connection, job_id: int, state: str) -> bool:
    """Move a job that has not ended to starting, running or stopping; False if it has ended."""
    return connection.execute(_SET_STATE, {"job_id": job_id, "new_state": state}).rowcount == 1


def end(connection: sa.Connection, job_id: int, state: str, now: datetime) -> bool:
    """End a job as stopped or lost; False if it has ended already, which changes nothing."""
    return connection.execute(_END, {"job_id": job_id, "new_state": state, "now": now}).rowcount == 1


def by_row(connection: sa.Connection, job_id: int) -> Job:
    """Return the job of that row number, which must exist."""
    return Job(*connection.execute(_BY_ROW, {"job_id": job_id}).one())


def every(connection: sa.Connection, *, limit: int = 1000) -> list[Job]:
    """Return the newest jobs, newest first."""
    return [Job(*row) for row in connection.execute(_NEWEST, {"limit": limit})]


def running(connection: sa.Connection, kinds: Sequence[str]) -> list[Job]:
    """Return the jobs of these kinds that have not ended, oldest first."""
    return [Job(*row) for row in connection.execute(_ALIVE, {"kinds": list(kinds)})]

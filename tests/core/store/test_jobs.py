"""Jobs and their signs of life."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from flux.store import jobs
from flux.store.engine import Store


@pytest.fixture
def job_id(store: Store, now: datetime) -> int:
    return store.write(lambda connection: jobs.register(connection, "supervisor", "here", "boot", 7, now))


def test_a_new_job_is_starting(store: Store, job_id: int, now: datetime) -> None:
    job = store.read(lambda connection: jobs.by_row(connection, job_id))
    assert (job.kind, job.host, job.boot_id, job.pid) == ("supervisor", "here", "boot", 7)
    assert (job.state, job.beat, job.started_at, job.ended_at) == ("starting", 0, now, None)


def test_every_beat_counts_up(store: Store, job_id: int, now: datetime) -> None:
    for seconds in (1, 2):
        assert store.write(lambda c, s=seconds: jobs.beat(c, job_id, now + timedelta(seconds=s)))
    job = store.read(lambda connection: jobs.by_row(connection, job_id))
    assert (job.beat, job.last_beat_at) == (2, now + timedelta(seconds=2))


def test_an_ended_job_neither_beats_nor_lives_again(store: Store, job_id: int, now: datetime) -> None:
    assert store.write(lambda connection: jobs.end(connection, job_id, "lost", now))
    assert not store.write(lambda connection: jobs.beat(connection, job_id, now))
    assert not store.write(lambda connection: jobs.set_state(connection, job_id, "running"))
    assert not store.write(lambda connection: jobs.end(connection, job_id, "stopped", now))
    job = store.read(lambda connection: jobs.by_row(connection, job_id))
    assert (job.state, job.beat, job.ended_at) == ("lost", 0, now)


def test_running_ones_are_those_of_the_kinds_that_have_not_ended(store: Store, job_id: int, now: datetime) -> None:
    def more(connection: sa.Connection) -> tuple[int, int]:
        other = jobs.register(connection, "ui", "here", None, 8, now)
        ended = jobs.register(connection, "supervisor", "here", None, 9, now)
        jobs.end(connection, ended, "stopped", now)
        return other, ended

    other, ended = store.write(more)
    store.write(lambda connection: jobs.set_state(connection, job_id, "running"))
    assert [job.id for job in store.read(lambda c: jobs.running(c, ["supervisor"]))] == [job_id]
    assert [job.id for job in store.read(lambda c: jobs.running(c, ["supervisor", "ui"]))] == [job_id, other]
    assert [job.id for job in store.read(jobs.every)] == [ended, other, job_id]
    assert [job.id for job in store.read(lambda c: jobs.every(c, limit=1))] == [ended]

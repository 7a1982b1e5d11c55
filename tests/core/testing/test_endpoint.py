"""Where programs that an executor starts report."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from flux import process
from flux.executor import Assignment
from flux.testing import FakeEndpoint


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    endpoint = FakeEndpoint()
    yield endpoint
    endpoint.close()


def start(assignment: Assignment) -> int:
    """Do what an executor must cause."""
    return process.spawn(assignment.argv, env={**os.environ, **assignment.env})


def test_a_program_reports_what_it_was_started_with(endpoint: FakeEndpoint) -> None:
    assignment = endpoint.assignment("two words", "")
    pid = start(assignment)
    report = endpoint.await_running(assignment.claim, 10)
    assert report is not None
    assert (report.pid, report.argv) == (pid, ("two words", ""))
    assert report.env["FLUX_CLAIM"] == process.claim_text(assignment.claim)
    endpoint.release(assignment.claim)
    assert endpoint.await_gone(assignment.claim, 10)
    assert process.wait(pid).exit_status == 0


def test_a_program_that_is_killed_is_gone(endpoint: FakeEndpoint) -> None:
    kept, killed = endpoint.assignment(), endpoint.assignment()
    pids = [start(each) for each in (kept, killed)]
    for each in (kept, killed):
        assert endpoint.await_running(each.claim, 10)
    process.send(pids[1], signal.SIGTERM)
    assert endpoint.await_gone(killed.claim, 10)
    assert endpoint.running(kept.claim)
    endpoint.close()
    assert [process.wait(pid).signal for pid in pids] == [signal.SIGKILL, signal.SIGTERM]


def test_nothing_that_was_not_started_is_waited_for_longer_than_asked(endpoint: FakeEndpoint) -> None:
    assert endpoint.await_running(1, 0.05) is None
    assert endpoint.await_gone(1, 0.05)

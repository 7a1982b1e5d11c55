"""The executors of core, by the interface any executor has."""

from __future__ import annotations

import pytest

from flux.errors import Refused
from flux.executor import Assignment
from flux.executors.local import LocalExecutor, SequentialExecutor

ASSIGNMENT = Assignment(claim=7, dag_id="sales", run_id="manual__1", task_id="load", map_index=-1, attempt=1)


def test_local_executor_passes_starts_and_kills_to_the_launcher() -> None:
    started: list[Assignment] = []
    killed: list[int] = []
    executor = LocalExecutor(4)
    executor.bind(launch=started.append, kill=killed.append)
    executor.start(ASSIGNMENT)
    executor.cancel(7)
    assert (started, killed) == ([ASSIGNMENT], [7])
    assert executor.parallelism == 4


def test_stopped_executor_starts_and_kills_nothing() -> None:
    killed: list[int] = []
    executor = LocalExecutor(4)
    executor.bind(launch=lambda assignment: None, kill=killed.append)
    executor.stop()
    with pytest.raises(Refused, match="7"):
        executor.start(ASSIGNMENT)
    executor.cancel(7)
    assert killed == []


def test_sequential_executor_runs_one_at_a_time_whatever_the_option_says() -> None:
    assert SequentialExecutor(32).parallelism == 1


def test_parallelism_of_none_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="lets nothing run"):
        LocalExecutor(0)

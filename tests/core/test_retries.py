from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flux.retries import decide, delay_seconds
from flux.structure import TaskStructure

NOW = datetime(2026, 1, 5, 2, tzinfo=UTC)


def task(**fields: Any) -> TaskStructure:
    return TaskStructure(index=0, task_id="load", operator="BashOperator", module="flux.operators.bash", **fields)


@pytest.mark.parametrize("attempt", [1, 2, 30, 10_000])
def test_without_backoff_the_delay_is_always_the_same(attempt: int) -> None:
    assert delay_seconds(task(retry_delay=90.5), attempt, seed=7) == 90.5


def test_a_fixed_delay_is_not_cut_at_the_backoffs_limit() -> None:
    assert delay_seconds(task(retry_delay=172_800.0), 1, seed=7) == 172_800.0


@pytest.mark.parametrize("attempt", [1, 2, 3, 4, 5])
def test_backoff_doubles_and_adds_at_most_a_tenth(attempt: int) -> None:
    full = 10 * 2 ** (attempt - 1)
    for seed in range(200):
        delay = delay_seconds(task(retry_delay=10.0, retry_exponential_backoff=True), attempt, seed)
        assert full <= delay <= full * 1.1


def test_backoff_spreads_task_instances_and_repeats_exactly() -> None:
    backoff = task(retry_delay=100.0, retry_exponential_backoff=True)
    delays = [delay_seconds(backoff, 1, seed) for seed in range(100)]
    assert len(set(delays)) > 90
    assert delays == [delay_seconds(backoff, 1, seed) for seed in range(100)]


@pytest.mark.parametrize("attempt", [20, 31, 1000, 2**63])
def test_backoff_never_leaves_its_limit_or_overflows(attempt: int) -> None:
    backoff = task(retry_delay=3e9, retry_exponential_backoff=True, max_retry_delay=3600.0)
    assert delay_seconds(backoff, attempt, seed=3) == 3600.0


def test_a_delay_below_a_second_backs_off_too() -> None:
    delay = delay_seconds(task(retry_delay=0.001, retry_exponential_backoff=True), 3, seed=1)
    assert 0.004 <= delay <= 0.0044


def test_a_retry_waits_for_its_delay() -> None:
    found = decide(task(retry_delay=60.0), 1, 3, 7, NOW, allowed=True)
    assert found == NOW + timedelta(seconds=60)


@pytest.mark.parametrize(
    ("attempt", "max_attempts", "allowed"), [(3, 3, True), (4, 3, True), (1, 1, True), (1, 3, False)]
)
def test_the_last_attempt_and_one_that_rules_it_out_are_not_tried_again(
    attempt: int, max_attempts: int, allowed: bool
) -> None:
    assert decide(task(), attempt, max_attempts, 7, NOW, allowed=allowed) is None


def test_a_clear_that_raised_the_limit_gives_further_attempts() -> None:
    """The declared number of retries is in max_attempts, not in the task."""
    assert decide(task(retries=0), 3, 5, 7, NOW, allowed=True) is not None

"""Clocks: the machine's, and the one that tests set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flux.testing import VirtualClock
from flux.times import Clock, SystemClock

CLOCKS = {"system": SystemClock, "virtual": VirtualClock}


@pytest.mark.parametrize("kind", CLOCKS)
def test_now_is_aware_and_in_utc(kind: str) -> None:
    clock: Clock = CLOCKS[kind]()
    assert clock.now().utcoffset() == timedelta(0)


@pytest.mark.parametrize("kind", CLOCKS)
def test_monotonic_never_goes_back(kind: str) -> None:
    clock: Clock = CLOCKS[kind]()
    first = clock.monotonic()
    assert clock.monotonic() >= first


def test_a_virtual_clock_stands_still_until_it_is_advanced() -> None:
    clock = VirtualClock(datetime(2026, 3, 29, 0, 59, tzinfo=UTC))
    assert clock.now() == clock.now()
    clock.advance(90)
    assert clock.now() == datetime(2026, 3, 29, 1, 0, 30, tzinfo=UTC)
    assert clock.monotonic() == 90


def test_a_virtual_clock_that_is_put_back_goes_on_in_monotonic() -> None:
    clock = VirtualClock()
    clock.advance(5)
    clock.set(datetime(2020, 1, 1, tzinfo=UTC))
    assert (clock.now().year, clock.monotonic()) == (2020, 5)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_a_naive_moment_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        VirtualClock().set(datetime(2026, 1, 5))

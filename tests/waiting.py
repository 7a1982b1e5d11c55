"""Waiting in tests: for a condition, with a deadline, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two looks.
_PAUSE = 0.005


def until(predicate: Callable[[], T], seconds: float = 20, what: str = "") -> T:
    """Call `predicate` every few milliseconds until it returns something true, and return that.

    Args:
        seconds: the deadline; the predicate is called at least once, and once more after it.
        what: the condition in words, for the failure's message.

    Raises:
        AssertionError: it did not come true in time; names `what` and the last value.
    """
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline
        value = predicate()
        if value:
            return value
        if late:
            name = what or getattr(predicate, "__name__", "the condition")
            raise AssertionError(f"Waited {seconds:g} s for {name}; last value: {value!r}")
        time.sleep(_PAUSE)

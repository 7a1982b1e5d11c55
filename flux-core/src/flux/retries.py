"""When a failed attempt is tried again, or that it is not. Pure: reads no clock, writes nothing.

With exponential backoff the delay after attempt n is `retry_delay * 2 ** (n - 1)`, up to a tenth more, at most
`max_retry_delay`: computed in whole microseconds and clamped before any timedelta is built, so that no number of
attempts overflows. The tenth is taken from the task instance and the attempt, so that it spreads task instances
that failed together and yet is the same whoever computes it.
"""

from __future__ import annotations

import zlib
from datetime import datetime, timedelta

from flux.structure import TaskStructure

#: Doubling ends here: 2**30 times a second is 34 years.
_MOST_DOUBLINGS = 30
#: The largest addition is one part in this many.
_SPREAD = 10


def delay_seconds(task: TaskStructure, attempt: int, seed: int) -> float:
    """Return how long to wait after `attempt` (from 1) failed. `seed` is the task instance's row number."""
    base = round(task.retry_delay * 1_000_000)
    if not task.retry_exponential_backoff:
        return base / 1_000_000
    delay = base << min(max(attempt, 1) - 1, _MOST_DOUBLINGS)
    delay += delay * zlib.crc32(f"{seed}:{attempt}".encode()) // (_SPREAD << 32)
    return min(delay, round(task.max_retry_delay * 1_000_000)) / 1_000_000


def decide(
    task: TaskStructure, attempt: int, max_attempts: int, seed: int, now: datetime, *, allowed: bool
) -> datetime | None:
    """Return when the next attempt may begin; None: there is none, the task instance fails.

    `allowed` is False when the attempt itself ruled out another (FailTask, a kill by hand).
    """
    if not allowed or attempt >= max_attempts:
        return None
    return now + timedelta(seconds=delay_seconds(task, attempt, seed))

"""What becomes of attempts that their executor says will not begin: they come again, a while later, and not for ever.

An attempt that is refused costs its task instance none, and gives its slots back: it is put off, for a second and with
each refusal for twice as long, up to a twentieth of `queued_timeout_seconds`, half a minute at least. Once its task
instance has been refused for `queued_timeout_seconds`, the next refusal is the attempt's failure, in the executor's
words, and the task's `retries` decide. The count is this supervisor's own; another begins anew.

An executor may refuse everything, and each slot that is given back is taken by the next. So after a number of refusals
in a row with nothing begun between, whatever their tasks, slots come back one after the other at a fixed pace.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import timedelta

from flux.states import Outcome
from flux.store.attempts import Claimed, End
from flux.times import Clock

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 30.0
#: Of the time in which an attempt must begin.
_LONGEST_SHARE = 1 / 20
#: Refusals in a row that give their slots back at once, and between those that follow.
_FREE = 16
_PACE_SECONDS = 0.1
#: Of what an executor says, this much is kept.
_LONGEST_WORDS = 1000


@dataclass(slots=True)
class _Series:
    """The refusals of one task instance with nothing begun between."""

    #: By the clock that only goes forward.
    since: float
    last_at: float
    times: int = 0


class Refusals:
    """Counts them, and says how each attempt ends.

    Args:
        limit_seconds: how long a task instance may be refused.
    """

    def __init__(self, clock: Clock, limit_seconds: float) -> None:
        self._clock = clock
        self._limit = limit_seconds
        #: By task instance.
        self._series: dict[int, _Series] = {}
        self._in_a_row = 0
        self._last_at = 0.0
        self._said = ""

    def end(self, claimed: Claimed, words: str) -> End:
        """Return the end of an attempt that was refused, and say it once in the log.

        Args:
            words: what the executor did, as the rest of a sentence; anything between its words counts as one space.
        """
        words = _short(" ".join(words.split()))
        series = self._one_more(claimed.task_instance_id)
        seconds = series.last_at - series.since
        if seconds >= self._limit:
            self.forget(claimed)
            reason = f"never began: tried {series.times} times in {seconds:.0f} s; the last time {words}"
            return End(claimed.claim, Outcome.FAILED, reason, self._clock.now())
        if words != self._said:
            self._said = words
            name = f"{claimed.run.dag_id}.{claimed.task.task_id}, run {claimed.run.run_id}"
            print(f"supervisor: {name} was never launched: {words}. It is tried again.", file=sys.stderr, flush=True)
        longest = max(_LONGEST_SECONDS, self._limit * _LONGEST_SHARE)
        pause = min(_FIRST_SECONDS * 2 ** min(series.times - 1, 30), longest, self._limit - seconds)
        now = self._clock.now()
        return End(
            claimed.claim, Outcome.NEVER_LAUNCHED, f"never launched: {words}", now,
            not_before=now + timedelta(seconds=pause),
        )  # fmt: skip

    def _one_more(self, task_instance: int) -> _Series:
        """Count a refusal; one that comes long after the last, as when it was cleared by hand since, is a first."""
        now = self._clock.monotonic()
        series = self._series.get(task_instance)
        if series is None or now - series.last_at > max(self._limit, 2 * _LONGEST_SECONDS):
            series = self._series[task_instance] = _Series(now, now)
        series.times += 1
        series.last_at = now
        return series

    def pause(self) -> float:
        """Count one more in the row, and return for how many seconds it keeps its slots."""
        self._in_a_row += 1
        now = self._clock.monotonic()
        if self._in_a_row <= _FREE:
            self._last_at = now
            return 0.0
        self._last_at = max(now, self._last_at + _PACE_SECONDS)
        return self._last_at - now

    def began(self, claimed: Claimed) -> None:
        """Something has begun: the executor refuses not everything, and this task instance no longer."""
        self._in_a_row = 0
        self._said = ""
        self.forget(claimed)

    def forget(self, claimed: Claimed) -> None:
        """Its attempt ended otherwise."""
        self._series.pop(claimed.task_instance_id, None)


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST_WORDS else f"{words[: _LONGEST_WORDS - 1]}…"

"""A clock that a test sets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["VirtualClock"]


class VirtualClock:
    """A `flux.times.Clock` that stands still until it is told to go on. For one thread.

    Args:
        now: where it stands first, aware.
    """

    def __init__(self, now: datetime = datetime(2026, 1, 5, 2, tzinfo=UTC)) -> None:
        self._now = _aware(now)
        self._passed = 0.0

    def now(self) -> datetime:
        """Return where it stands, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds that have passed on it; setting it changes nothing here."""
        return self._passed

    def advance(self, seconds: float) -> None:
        """Go on by so many seconds, at once: what code that sleeps is given in place of `time.sleep`."""
        if seconds < 0:
            raise ValueError(f"A clock does not go back: seconds = {seconds}. Use set() for a clock that was put back.")
        self._passed += seconds
        self._now += timedelta(seconds=seconds)

    def set(self, now: datetime) -> None:
        """Put it to an aware moment, forward or back, as an administrator may a machine's."""
        self._now = _aware(now)


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone. Give an aware datetime, for example with tzinfo=UTC.")
    return moment.astimezone(UTC)

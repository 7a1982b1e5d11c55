"""Sensors that wait for a moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from flux.context import Context
from flux.errors import BadDate
from flux.sensor import BaseSensor
from flux.times import at_local, moment, seconds, utc_now

__all__ = ["DateTimeSensor", "TimeDeltaSensor", "TimeSensor"]


class TimeSensor(BaseSensor):
    """Wait for a time of day, on the local day on which the run's data interval ends.

    So it never depends on when the task began, and for a run of the past the time is over.

    Args:
        target_time: a `time` or an ISO time such as "07:30"; naive means the DAG's time zone.
    """

    ui_color = "#e6f1f2"

    def __init__(self, *, target_time: str | time, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_time = target_time
        self._time = _time(target_time)

    def poke(self, context: Context) -> bool:
        """Return whether it is that time or later. A time that the clock leaves out that day is when the gap ends."""
        zone = self._time.tzinfo or context["dag"].zone
        day = context["data_interval_end"].astimezone(zone).date()
        return utc_now() >= at_local(datetime.combine(day, self._time.replace(tzinfo=None)), zone)


class TimeDeltaSensor(BaseSensor):
    """Wait until `delta` (seconds or timedelta) after the end of the run's data interval."""

    ui_color = "#e6f1f2"

    def __init__(self, *, delta: float | timedelta, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.delta = delta
        self._seconds = seconds(delta, "delta")

    def poke(self, context: Context) -> bool:
        """Return whether that much time has passed."""
        passed: timedelta = utc_now() - context["data_interval_end"]
        return passed.total_seconds() >= self._seconds


class DateTimeSensor(BaseSensor):
    """Wait for a moment.

    Args:
        target_time: a datetime, or a template that gives an ISO one; naive means the DAG's time zone.
    """

    template_fields: Sequence[str] = ("target_time",)
    ui_color = "#e6f1f2"

    def __init__(self, *, target_time: str | date, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_time = target_time

    def poke(self, context: Context) -> bool:
        """Return whether it is that moment or later."""
        return utc_now() >= moment(self.target_time, context["dag"].zone)


def _time(value: str | time) -> time:
    if isinstance(value, time):
        return value
    try:
        return time.fromisoformat(value)
    except (ValueError, TypeError) as error:
        raise BadDate(f"target_time={value!r} is not a time of day. Write it as '07:30'.") from error

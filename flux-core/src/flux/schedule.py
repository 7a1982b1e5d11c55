"""Schedules: the rule by which a DAG gets its data intervals.

An author writes a preset, a cron expression, a `timedelta`, or one of `Cron`, `Every`. `from_value` gives the object,
`to_spec` its JSON for the DAG version, and `bind` joins it with time zone and dates to a `BoundSchedule`, the only
thing that answers questions about intervals. Everything here is pure: no clock is read.

The rules: an interval is half-open `[start, end)`; a run is due at its end and named by its start, the logical date.
`start_date` and `end_date` bound the logical date, both included. Cron intervals lie between two neighbouring due
instants (see `cron` for days on which clocks change) and touch without gap or overlap. `Every` counts from start_date
in real time. `@once` is one interval `[T, T)`. Without a schedule every moment T has `[T, T)`, made by hand only.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import groupby, islice, pairwise, takewhile
from typing import Any, ClassVar, TypeAlias

from flux import cron, times
from flux.errors import BadDate, BadSchedule

PRESETS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}

_SMALLEST = timedelta(microseconds=1)
#: How far back a cron schedule's previous due instant is looked for.
_LONGEST_PAUSE = timedelta(days=366 * 60)


@dataclass(frozen=True, slots=True)
class DataInterval:
    """The half-open `[start, end)` that a DAG run covers; both aware, equal for a run made by hand at a moment."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not isinstance(value, datetime) or value.utcoffset() is None:
                raise BadDate(f"DataInterval has {name}={value!r}, which is no datetime with a time zone.")
        # By instants: two times of one zone compare by the wall clock, which is set back once a year.
        if self.start.astimezone(UTC) > self.end.astimezone(UTC):
            raise BadDate(f"DataInterval starts at {self.start}, after its end {self.end}.")

    def __str__(self) -> str:
        return f"[{self.start.isoformat()}, {self.end.isoformat()})"


class Cron:
    """A schedule of one or more cron expressions on the DAG's wall clock; due whenever one of them is.

    Args:
        expressions: five fields each (minute, hour, day of month, month, day of week); `H` spreads DAGs.
        day_or: with both day fields restricted, a day needs to match one of them (cron's habit), not both.
    """

    __slots__ = ("day_or", "expressions")

    def __init__(self, *expressions: str, day_or: bool = True) -> None:
        if not expressions:
            raise BadSchedule("Cron() has no expression. Give at least one, for example Cron('0 2 * * *').")
        for expression in expressions:
            if not isinstance(expression, str):
                raise BadSchedule(f"Cron was given {expression!r}, which is no text. Write it as '0 2 * * *'.")
        self.expressions = tuple(cron.check(expression, day_or=day_or) for expression in expressions)
        self.day_or = day_or

    def to_spec(self) -> dict[str, Any]:
        """Return the schedule as JSON-ready data."""
        return {"kind": "cron", "expressions": list(self.expressions), "day_or": self.day_or}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cron) and self.to_spec() == other.to_spec()

    def __hash__(self) -> int:
        return hash((self.expressions, self.day_or))

    def __repr__(self) -> str:
        arguments = [repr(expression) for expression in self.expressions]
        return f"Cron({', '.join(arguments if self.day_or else [*arguments, 'day_or=False'])})"


class Every:
    """A schedule of equal steps of real time, counted from the DAG's start_date.

    Args:
        delta: the step; or give days, hours, minutes and seconds. At least one second.
    """

    __slots__ = ("delta",)

    def __init__(
        self,
        delta: timedelta | None = None,
        /,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        if delta is not None and not isinstance(delta, timedelta):
            raise BadSchedule(f"Every was given {delta!r}, which is no timedelta. Write Every(seconds={delta!r}).")
        try:
            total = (delta or timedelta()) + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadSchedule(f"Every has a step that is no duration: {error}.") from error
        if total < timedelta(seconds=1):
            raise BadSchedule(f"Every has a step of {total.total_seconds():g} s. Give at least 1 second.")
        self.delta = total

    def to_spec(self) -> dict[str, Any]:
        """Return the schedule as JSON-ready data."""
        return {"kind": "every", "seconds": self.delta.total_seconds()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Every) and self.delta == other.delta

    def __hash__(self) -> int:
        return hash(self.delta)

    def __repr__(self) -> str:
        return f"Every(seconds={self.delta.total_seconds():g})"


@dataclass(frozen=True, slots=True)
class Once:
    """The schedule `@once`: one run, at start_date or else when the DAG is first seen."""

    def to_spec(self) -> dict[str, Any]:
        """Return the schedule as JSON-ready data."""
        return {"kind": "once"}


Schedule: TypeAlias = Cron | Every | Once


def from_value(value: object) -> Schedule | None:
    """Return the schedule that an author's `schedule=` argument means; None means by hand only.

    Raises:
        BadSchedule: it means none.
    """
    if value is None or isinstance(value, (Cron, Every, Once)):
        return value
    if isinstance(value, timedelta):
        return Every(value)
    if not isinstance(value, str):
        raise BadSchedule(
            f"Schedule {value!r} is a {type(value).__name__}. Give a preset ('@daily'), "
            "a cron expression ('0 2 * * *'), a timedelta, Cron(…), Every(…) or None."
        )
    name = value.strip().lower()
    if name == "@once":
        return Once()
    if name in PRESETS:
        return Cron(PRESETS[name])
    if name.startswith("@"):
        raise BadSchedule(f"Preset {value!r} does not exist. Known: @once, {', '.join(PRESETS)}.")
    return Cron(value)


def bind(
    spec: dict[str, Any] | None,
    *,
    timezone: str,
    start_date: str | None,
    end_date: str | None,
    dag_id: str,
    first_seen: datetime | None = None,
) -> BoundSchedule:
    """Join a schedule's spec with a DAG's time zone and dates.

    Args:
        spec: what `to_spec` gave; None for a DAG that runs by hand only.
        start_date: ISO instant; None means unbounded.
        end_date: ISO instant, included.
        first_seen: when the DAG was first stored; the moment of `@once` without a start_date.

    Raises:
        BadSchedule: the spec is of a kind that this version does not know.
        BadDate: an `Every` without a start_date.
    """
    first = None if start_date is None else times.from_iso(start_date)
    last = None if end_date is None else times.from_iso(end_date)
    where = _Bounds(dag_id, times.zone(timezone), first, last)
    if spec is None:
        return _ByHand(where)
    match spec["kind"]:
        case "cron":
            rules = [
                cron.CronRule(expression, day_or=spec["day_or"], zone=where.zone, hash_id=dag_id)
                for expression in spec["expressions"]
            ]
            return _BoundCron(where, rules)
        case "every":
            if first is None:
                raise BadDate(
                    f"DAG {dag_id!r} has a schedule of equal steps and no start_date to count from. Give one."
                )
            return _BoundEvery(where, first, timedelta(seconds=spec["seconds"]))
        case "once":
            return _BoundOnce(where, first or first_seen)
    raise BadSchedule(
        f"DAG {dag_id!r} has a schedule of kind {spec['kind']!r}, which this version of Flux does not know."
    )


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Whose schedule it is, and between which logical dates."""

    dag_id: str
    zone: tzinfo
    first: datetime | None
    last: datetime | None


class BoundSchedule(ABC):
    """A DAG's data intervals, oldest first; all instants given and returned are aware, those returned in UTC."""

    #: No interval comes by itself.
    is_manual: ClassVar[bool] = False

    def __init__(self, bounds: _Bounds) -> None:
        self._dag_id = bounds.dag_id
        self._zone = bounds.zone
        self._first = bounds.first
        self._last = bounds.last

    @abstractmethod
    def _ascending(self, moment: datetime) -> Iterator[DataInterval]:
        """Yield the rule's intervals with start >= moment, oldest first, whatever the DAG's dates."""

    @abstractmethod
    def _descending(self, moment: datetime) -> Iterator[DataInterval]:
        """Yield the rule's intervals with start <= moment, newest first, whatever the DAG's dates."""

    @abstractmethod
    def describe(self) -> str:
        """Return the schedule in words, such as "at 02:00 every day (Europe/Berlin)"."""

    def first_from(self, moment: datetime) -> DataInterval | None:
        """Return the first interval that starts at or after `moment`, None if there is none."""
        return next(self.intervals(moment, None), None)

    def latest_complete(self, now: datetime) -> DataInterval | None:
        """Return the latest interval that has ended by `now`, None if none has."""
        latest_start = now if self._last is None else min(now, self._last)
        for interval in self._descending(latest_start):
            if not self._is_within(interval.start):
                return None
            if interval.end <= now:
                return interval
        return None

    def due_after(self, moment: datetime) -> Iterator[DataInterval]:
        """Yield the intervals that end after `moment`, oldest first; endless where the schedule is."""
        latest = self.latest_complete(moment)
        return self.intervals((self._first or moment) if latest is None else latest.start + _SMALLEST, None)

    def intervals(self, first: datetime, last: datetime | None) -> Iterator[DataInterval]:
        """Yield the intervals that start in [first, last], oldest first; without `last` up to the DAG's end_date."""
        start = first if self._first is None else max(first, self._first)
        for interval in self._ascending(start):
            if (last is not None and interval.start > last) or not self._is_within(interval.start):
                return
            yield interval

    def starting_at(self, moment: datetime) -> DataInterval:
        """Return the interval that starts exactly at `moment`.

        Raises:
            BadDate: none does, or it is outside the DAG's dates; the message names the neighbours.
        """
        found = next(self.intervals(moment, moment), None)
        if found is not None:
            return found
        neighbours = [
            self._local(item.start)
            for item in (self._last_before(moment), self.first_from(moment + _SMALLEST))
            if item is not None
        ]
        nearest = f" The nearest start at {' and '.join(neighbours)}." if neighbours else ""
        raise BadDate(
            f"DAG {self._dag_id!r} has no data interval that starts at {self._local(moment)}.{nearest}{self._dates()}"
        )

    def starting_on(self, day: date) -> list[DataInterval]:
        """Return the intervals that start on the local day `day`, oldest first; empty if none does."""
        text = day.isoformat()
        return list(self.intervals(times.moment(text, self._zone), times.moment(text, self._zone, end_of_day=True)))

    def next(self, interval: DataInterval) -> DataInterval | None:
        """Return the interval after `interval`, None at the end. `interval` need not be one of the schedule's."""
        return self.first_from(interval.start + _SMALLEST)

    def previous(self, interval: DataInterval) -> DataInterval | None:
        """Return the interval before `interval`, None at the start. `interval` need not be one of the schedule's."""
        return self._last_before(interval.start)

    def _last_before(self, moment: datetime) -> DataInterval | None:
        latest = moment - _SMALLEST
        found = next(self._descending(latest if self._last is None else min(latest, self._last)), None)
        return found if found is not None and self._is_within(found.start) else None

    def _is_within(self, start: datetime) -> bool:
        return (self._first is None or self._first <= start) and (self._last is None or start <= self._last)

    def _local(self, instant: datetime) -> str:
        return instant.astimezone(self._zone).isoformat()

    def _dates(self) -> str:
        dates = [f"from {self._local(self._first)}"] if self._first else []
        dates += [f"to {self._local(self._last)}"] if self._last else []
        return f" Its dates go {' '.join(dates)}." if dates else ""


class _ByHand(BoundSchedule):
    """A DAG without a schedule: a run is made for any moment T, as [T, T)."""

    is_manual = True

    def _ascending(self, moment: datetime) -> Iterator[DataInterval]:
        return iter(())

    _descending = _ascending

    def starting_at(self, moment: datetime) -> DataInterval:
        if not self._is_within(moment):
            raise BadDate(f"DAG {self._dag_id!r} has no run at {self._local(moment)}.{self._dates()}")
        return _at(moment)

    def starting_on(self, day: date) -> list[DataInterval]:
        return [self.starting_at(times.moment(day.isoformat(), self._zone))]

    def describe(self) -> str:
        return "by hand only"


class _BoundOnce(BoundSchedule):
    """`@once`. Its moment is None until the DAG has been seen: then there is no interval yet."""

    def __init__(self, bounds: _Bounds, at: datetime | None) -> None:
        super().__init__(bounds)
        self._intervals = [] if at is None else [_at(at)]

    def _ascending(self, moment: datetime) -> Iterator[DataInterval]:
        return (interval for interval in self._intervals if interval.start >= moment)

    def _descending(self, moment: datetime) -> Iterator[DataInterval]:
        return (interval for interval in self._intervals if interval.start <= moment)

    def describe(self) -> str:
        return f"once, at {self._local(self._intervals[0].start)}" if self._intervals else "once, when first seen"


class _BoundEvery(BoundSchedule):
    """Steps of real time from `anchor` on."""

    def __init__(self, bounds: _Bounds, anchor: datetime, step: timedelta) -> None:
        super().__init__(bounds)
        self._anchor = anchor
        self._step = step

    def _ascending(self, moment: datetime) -> Iterator[DataInterval]:
        number = max(0, -((self._anchor - moment) // self._step))
        while True:
            yield self._interval(number)
            number += 1

    def _descending(self, moment: datetime) -> Iterator[DataInterval]:
        number = (moment - self._anchor) // self._step
        while number >= 0:
            yield self._interval(number)
            number -= 1

    def _interval(self, number: int) -> DataInterval:
        start = self._anchor + number * self._step
        return DataInterval(start, start + self._step)

    def describe(self) -> str:
        return f"every {self._step} from {self._local(self._anchor)}"


class _BoundCron(BoundSchedule):
    """The times between the due instants of one or more cron rules."""

    def __init__(self, bounds: _Bounds, rules: list[cron.CronRule]) -> None:
        super().__init__(bounds)
        self._rules = rules

    def _ascending(self, moment: datetime) -> Iterator[DataInterval]:
        return (DataInterval(start, end) for start, end in pairwise(self._fires(moment)))

    def _descending(self, moment: datetime) -> Iterator[DataInterval]:
        for end, start in pairwise(self._fires_back(moment)):
            yield DataInterval(start, end)

    def _fires(self, moment: datetime) -> Iterator[datetime]:
        merged = heapq.merge(*(rule.fires(moment) for rule in self._rules))
        return (fire for fire, _ in groupby(merged))

    def _fires_back(self, moment: datetime) -> Iterator[datetime]:
        """Yield the first due instant after `moment`, then those at or before it, newest first."""
        yield from islice(self._fires(moment + _SMALLEST), 1)
        high, span = moment, timedelta(hours=1)
        while span < _LONGEST_PAUSE and high.year > _LONGEST_PAUSE.days // 366:
            yield from reversed(self._fires_between(high - span, high))
            high, span = high - span - _SMALLEST, span * 4

    def _fires_between(self, low: datetime, high: datetime) -> list[datetime]:
        return list(takewhile(lambda fire: fire <= high, self._fires(low)))

    def describe(self) -> str:
        return f"{'; '.join(rule.describe() for rule in self._rules)} ({self._zone})"


def _at(moment: datetime) -> DataInterval:
    instant = moment.astimezone(UTC)
    return DataInterval(instant, instant)

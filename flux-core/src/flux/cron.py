"""Cron expressions: what is accepted, when they are due in a time zone, and how they read in words.

Croniter parses expressions and finds matching *days*, always on naive dates; the clock changes are ours, by the rule
of cron(8) as `schedule` states it. A fixed-time expression (minute and hour do not begin with `*`) is due once for
every matching local time: at the first of two, and where the clock jumps over it at the end of the gap, unless the
jump is over that whole day. Any other expression is due in every real minute whose local reading matches.
"""

from __future__ import annotations

import calendar
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from flux.errors import BadSchedule

if TYPE_CHECKING:
    from croniter import croniter

#: Two changes of one zone's offset are never closer than 167 hours (tz database 2026): a probe this far misses none.
_PROBE = timedelta(days=3)
#: Longer than any time a clock was ever set back (Manila and Alaska: a whole day).
_LONGEST_REPEAT = timedelta(hours=26)
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
#: Before this, offsets would leave the calendar.
_EARLIEST = datetime(1, 1, 8)  # noqa: DTZ001 - naive UTC
#: A start for questions that do not depend on it; local.
_SOME_DAY = datetime(2000, 3, 1)  # noqa: DTZ001

_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_LARGEST = (59, 23, 31, 12, 7)
_RANGE = re.compile(r"([a-z0-9]+)-([a-z0-9]+)(?:/.*)?")


def check(expression: str, *, day_or: bool = True) -> str:
    """Return `expression` in lower case with single spaces.

    Raises:
        BadSchedule: it is no cron expression of five fields, means something else than it seems to, or is never due.
    """
    fields = expression.lower().split()
    text = " ".join(fields)
    if len(fields) != len(_FIELDS):
        seconds = " For seconds use Every(seconds=10)." if len(fields) == 6 else ""
        raise _bad(text, f"has {len(fields)} fields, not 5 ({', '.join(_FIELDS)}).{seconds}")
    for name, largest, field in zip(_FIELDS, _LARGEST, fields, strict=True):
        for part in field.split(","):
            _check_part(text, name, largest, part)
    from croniter import CroniterBadDateError, croniter

    try:
        possible = croniter.is_valid(text, strict=True, hash_id=b"flux")
        rule = croniter(text, _SOME_DAY, day_or=day_or, hash_id=b"flux")
        rule.get_next(datetime)
    except CroniterBadDateError:
        possible = False
    except ValueError as error:
        raise _bad(text, f"is not valid: {error}. Give five fields: {', '.join(_FIELDS)}.") from error
    if day_or and possible and _is_tangled(rule):
        raise _bad(
            text,
            "has # or W in one day field and limits the other: cron libraries disagree on what that means. "
            "Give two expressions, Cron(a, b), or day_or=False for days that match both.",
        )
    if not possible:
        raise _bad(text, "names a day that never exists. Give a day that its months have; L is the last one.")
    return text


def _check_part(text: str, name: str, largest: int, part: str) -> None:
    bounds = _RANGE.fullmatch(part)
    if bounds and bounds[1] == bounds[2]:
        raise _bad(text, f"has {part!r} as {name}, which cron libraries read as every {name}. Write {bounds[1]!r}.")
    if re.match(r"r(\(|/|$)", part):
        raise _bad(text, f"has a random {name} ('R'), different each time it is read. Use 'H': fixed for each DAG.")
    base, _, step = part.partition("/")
    if base in ("*", "h") and step.isdecimal() and int(step) > largest:
        raise _bad(text, f"has a step of {step} as {name}, more than its largest value {largest}. Use Every(…).")


def _is_tangled(rule: croniter) -> bool:
    special = rule.nth_weekday_of_month or rule.nearest_weekday
    return bool(special) and rule.expressions[2] not in "*?" and rule.expressions[4] not in "*?"


def _bad(text: str, problem: str) -> BadSchedule:
    return BadSchedule(f"Cron expression {text!r} {problem}")


class CronRule:
    """One checked expression in one time zone.

    Args:
        expression: as `check` returned it.
        day_or: days match that match day of month *or* day of week, when both are restricted.
        zone: whose wall clock the expression is about.
        hash_id: what `H` is computed from; the dag_id.
    """

    def __init__(self, expression: str, *, day_or: bool, zone: tzinfo, hash_id: str) -> None:
        fields = expression.split()
        self._days = " ".join(["0", "0", *fields[2:]])
        self._day_or = day_or
        self._hash_id = hash_id.encode()
        self._zone = zone
        self._fixed = not (fields[0].startswith("*") or fields[1].startswith("*"))
        self._parsed = self._croniter(expression, _SOME_DAY)
        self._times = [
            timedelta(hours=hour, minutes=minute)
            for hour in _values(self._parsed.expanded[1], 24)
            for minute in _values(self._parsed.expanded[0], 60)
        ]

    def fires(self, moment: datetime) -> Iterator[datetime]:
        """Yield the instants (UTC) at or after `moment` at which the rule is due, oldest first, each once."""
        try:
            for fire in self._fires(max(moment.astimezone(UTC).replace(tzinfo=None), _EARLIEST)):
                yield fire.replace(tzinfo=UTC)
        except OverflowError:
            return  # the end of the calendar

    def describe(self) -> str:
        """Return the rule in words, such as "at 02:00 every day"."""
        times, days = _times_in_words(self._parsed), _days_in_words(self._parsed, self._day_or)
        return times if times.startswith("every") and days == "every day" else f"{times} {days}"

    def _croniter(self, expression: str, start: datetime) -> croniter:
        from croniter import croniter

        return croniter(expression, start, day_or=self._day_or, hash_id=self._hash_id)

    def _fires(self, start: datetime) -> Iterator[datetime]:
        """`fires` in naive UTC. Goes from one change of the zone's offset to the next.

        `reached` is the latest wall clock reading so far: what is read again after a clock was set back is below it.
        """
        last = start - timedelta(microseconds=1)
        now = start - _SECOND  # so that a change at `start` itself is seen
        offset = self._offset(now)
        reached = self._reached(now, offset)
        while True:
            known, change = now, None
            for local in self._matching(max(now + offset, reached) if self._fixed else now + offset):
                fire = local - offset
                if change is None and fire > known:
                    until = max(fire, known + _PROBE)
                    change = self._change(known, until)
                    known = until
                if change is not None and fire >= change:
                    break
                if fire > last:
                    yield fire
                    last = fire
            else:
                return
            assert change is not None
            reached = max(reached, change + offset)
            offset = self._offset(change)
            now = change
            if self._fixed and now > last and self._is_missed(reached, now + offset):
                yield now
                last = now

    def _matching(self, local: datetime) -> Iterator[datetime]:
        """Yield matching wall clock times at or after `local`, ascending."""
        from croniter import CroniterBadDateError

        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        days = self._croniter(self._days, midnight - _SECOND)
        first = bisect_left(self._times, local - midnight)
        while True:
            try:
                day: datetime = days.get_next(datetime)
            except CroniterBadDateError:
                return
            for time in self._times[first:] if day == midnight else self._times:
                yield day + time

    def _is_missed(self, start: datetime, end: datetime) -> bool:
        """Whether the clock jumped over a matching time in [start, end), of a day that it did not leave out whole."""
        for local in self._matching(start):
            if local >= end:
                return False
            day = local.replace(hour=0, minute=0)
            if day < start or end < day + _DAY:
                return True
        return False

    def _reached(self, now: datetime, offset: timedelta) -> datetime:
        """The latest wall clock reading up to `now`: above the present one after the clock was set back."""
        change = self._change(now - _LONGEST_REPEAT, now)
        return now + offset if change is None else max(now + offset, change + self._offset(change - _SECOND))

    def _offset(self, instant: datetime) -> timedelta:
        return self._zone.fromutc(instant.replace(tzinfo=self._zone)).utcoffset() or timedelta()

    def _change(self, start: datetime, end: datetime) -> datetime | None:
        """The first instant in (start, end] with another offset than at `start`; None if there is none."""
        offset = self._offset(start)
        low = start
        while low < end:
            high = min(low + _PROBE, end)
            if self._offset(high) != offset:
                return self._bisected(low, high, offset)
            low = high
        return None

    def _bisected(self, low: datetime, high: datetime, offset: timedelta) -> datetime:
        low, high = low.replace(microsecond=0), high.replace(microsecond=0)
        while high - low > _SECOND:
            middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
            if self._offset(middle) == offset:
                low = middle
            else:
                high = middle
        return high


def _values(field: Sequence[int | str], count: int) -> list[int]:
    return list(range(count)) if field[0] == "*" else sorted(int(value) for value in field)


def _times_in_words(rule: croniter) -> str:
    minute_text, hour_text = rule.expressions[:2]
    minutes, hours = _values(rule.expanded[0], 60), _values(rule.expanded[1], 24)
    every_hour = len(hours) == 24
    if len(minutes) == 60 and every_hour:
        return "every minute"
    if every_hour and (step := re.fullmatch(r"\*/(\d+)", minute_text)) and 60 % int(step[1]) == 0:
        return f"every {step[1]} minutes"
    if every_hour:
        return "every hour" if minutes == [0] else f"every hour at {_numbered('minute', minutes)}"
    if minutes == [0] and (step := re.fullmatch(r"\*/(\d+)", hour_text)) and 24 % int(step[1]) == 0:
        return f"every {step[1]} hours"
    if len(minutes) * len(hours) <= 6:
        return "at " + _joined([f"{hour:02}:{minute:02}" for hour in hours for minute in minutes])
    at = "every minute" if len(minutes) == 60 else f"at {_numbered('minute', minutes)}"
    return f"{at} of {_numbered('hour', hours)}"


def _days_in_words(rule: croniter, day_or: bool) -> str:
    days, months, weekdays = rule.expanded[2], rule.expanded[3], rule.expanded[4]
    parts = []
    if rule.nearest_weekday:
        parts.append(f"on the weekday nearest to {_numbered('day', sorted(rule.nearest_weekday))} of the month")
    elif days[0] != "*":
        names = [
            "the last day" if day == "l" else f"day {day}" for day in sorted(days, key=lambda day: (day == "l", day))
        ]
        parts.append(f"on {_joined(names)} of the month")
    if weekdays[0] != "*":
        parts.append(f"on {_joined(_weekday_names(rule, weekdays))}")
    words = (" or " if day_or else " and ").join(parts) or "every day"
    if months[0] != "*":
        words += f" in {_joined([calendar.month_name[int(month)] for month in sorted(months)])}"
    return words


def _weekday_names(rule: croniter, weekdays: Sequence[int | str]) -> list[str]:
    names = []
    for weekday in sorted((int(day) for day in weekdays), key=lambda day: (day - 1) % 7):
        name = calendar.day_name[(weekday - 1) % 7]
        nth = sorted(rule.nth_weekday_of_month.get(weekday, ()), key=str)
        names += [f"the {_ordinal(n)} {name} of the month" for n in nth] or [name]
    return names


def _ordinal(n: int | str) -> str:
    return {"1": "1st", "2": "2nd", "3": "3rd", "l": "last"}.get(str(n), f"{n}th")


def _numbered(noun: str, values: Sequence[int]) -> str:
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{noun}s {values[0]} to {values[-1]}"
    return f"{noun}{'s' if len(values) > 1 else ''} {_joined([str(value) for value in values])}"


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

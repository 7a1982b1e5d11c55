"""Instants, durations and clocks: everything inside Flux is aware UTC, and this is where it becomes so.

An author's date is a wall-clock reading in the DAG's time zone. A reading that the zone's clock never shows, or
shows twice, is refused here rather than guessed; a bare date means its whole local day, whose first moment always
exists even where midnight does not.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from datetime import time as clock_time
from typing import TYPE_CHECKING, Protocol

from flux.errors import AuthoringError, BadDate

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

#: What authors may write for a duration (a number is seconds) and for a date.
Duration = float | timedelta
DateLike = str | date | datetime

#: Longer durations are slips of the pen and would leave the calendar.
LONGEST_SECONDS = 100 * 366 * 86_400.0

_MICROSECOND = timedelta(microseconds=1)
_MIDNIGHT = clock_time()


class Clock(Protocol):
    """Where the time comes from; tests pass their own."""

    def now(self) -> datetime:
        """Return the present instant in UTC. May jump when the machine's clock is set."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; never goes back."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return utc_now()

    def monotonic(self) -> float:
        return time.monotonic()


def utc_now() -> datetime:
    """Return the present instant, aware, in UTC."""
    return datetime.now(UTC)


def seconds(value: Duration, what: str) -> float:
    """Return a duration in seconds. `what` names it in the message, such as "retry_delay".

    Raises:
        AuthoringError: not a number or timedelta, negative, not finite, or over a century.
    """
    given: object = value
    if isinstance(given, timedelta):
        number = given.total_seconds()
    elif isinstance(given, int | float) and not isinstance(given, bool):
        number = float(given) if abs(given) <= LONGEST_SECONDS else math.inf
    else:
        number = math.nan
    if not 0 <= number <= LONGEST_SECONDS:
        raise AuthoringError(
            f"{what} = {value!r} is not a duration. Give a number of seconds from 0 to a century, or a timedelta."
        )
    return number


def zone(name: str) -> ZoneInfo:
    """Return the time zone of that name of the IANA database, such as "Europe/Berlin".

    Raises:
        BadDate: there is no such zone; the message lists near names.
    """
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, TypeError, OSError) as error:
        hint = _near_zones(name)
        raise BadDate(f"Time zone {name!r} does not exist. {hint}") from error


def _near_zones(name: object) -> str:
    import difflib
    from zoneinfo import available_timezones

    by_lower = {known.lower(): known for known in sorted(available_timezones())}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.6)
    if near:
        return f"Nearest: {', '.join(by_lower[match] for match in near)}."
    return 'Give a name of the IANA database, for example "Europe/Berlin".'


def moment(value: DateLike, zone: tzinfo, *, end_of_day: bool = False) -> datetime:
    """Return the instant an author means, in UTC. What is naive is local time in `zone`.

    A bare date is the first moment of that local day, or with `end_of_day` its last microsecond.

    Raises:
        BadDate: malformed; or the local time or day does not exist or exists twice in its zone (a datetime with
            an explicit offset is never ambiguous).
    """
    parsed = _parse(value) if isinstance(value, str) else value
    if not isinstance(parsed, date):
        raise BadDate(f"{value!r} is not a date. Give an ISO date such as '2026-01-31', a date or a datetime.")
    try:
        if not isinstance(parsed, datetime):
            return _day_end(parsed, zone) if end_of_day else _day_start(parsed, zone)
        if isinstance(parsed.tzinfo, timezone):
            return parsed.astimezone(UTC)
        return _once(parsed.replace(tzinfo=None, fold=0), parsed.tzinfo or zone)
    except OverflowError as error:
        raise BadDate(f"{value!r} is too near to an end of the calendar.") from error


def _parse(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise BadDate(
            f"{text!r} is not a date: {error}. Write ISO 8601, for example '2026-01-31' or '2026-01-31T02:00'."
        ) from error


def at_local(local: datetime, zone: tzinfo) -> datetime:
    """Return the instant in UTC at which a clock in `zone` first reaches the naive time `local`.

    The first of two when it exists twice; when it does not exist, the instant at which the gap ends. This is the
    rule of cron(8) for fixed times.
    """
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == local:
        return first
    # A gap: with fold=1 the later offset is used, which gives an instant before it, with fold=0 one after it.
    low, high = local.replace(tzinfo=zone, fold=1).astimezone(UTC), first
    offset = low.astimezone(zone).utcoffset()
    while high - low > _MICROSECOND:
        middle = low + (high - low) // 2
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high


def _once(local: datetime, zone: tzinfo) -> datetime:
    """The instant of a naive local time that exists exactly once."""
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    instant = first.astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None, fold=0) != local:
        raise BadDate(
            f"{local.isoformat()} does not exist in {zone}: the clock is put forward over it. "
            f"The next moment is {at_local(local, zone).astimezone(zone).isoformat()}."
        )
    if first.utcoffset() != second.utcoffset():
        raise BadDate(
            f"{local.isoformat()} exists twice in {zone}: the clock is put back. "
            f"Give the offset: '{first.isoformat()}' or '{second.isoformat()}'."
        )
    return instant


def _day_start(day: date, zone: tzinfo) -> datetime:
    start = at_local(datetime.combine(day, _MIDNIGHT), zone)
    if start.astimezone(zone).date() != day:
        raise BadDate(f"{day.isoformat()} does not exist in {zone}: the calendar there leaves that day out.")
    return start


def _day_end(day: date, zone: tzinfo) -> datetime:
    _day_start(day, zone)
    return at_local(datetime.combine(day + timedelta(days=1), _MIDNIGHT), zone) - _MICROSECOND


def iso(moment: datetime | None) -> str | None:
    """Return an aware instant as the store keeps it: "2026-01-05T02:00:00+00:00", always UTC; None stays None."""
    return None if moment is None else moment.astimezone(UTC).isoformat()


def from_iso(text: str) -> datetime:
    """Read what `iso` wrote; the result is in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)

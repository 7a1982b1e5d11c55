from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from flux.errors import AuthoringError, BadDate
from flux.times import SystemClock, at_local, from_iso, iso, moment, seconds, utc_now, zone

BERLIN = ZoneInfo("Europe/Berlin")
SANTIAGO = ZoneInfo("America/Santiago")
HAVANA = ZoneInfo("America/Havana")
APIA = ZoneInfo("Pacific/Apia")
SAO_PAULO = ZoneInfo("America/Sao_Paulo")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0.0),
        (5, 5.0),
        (0.25, 0.25),
        (timedelta(minutes=2), 120.0),
        (timedelta(0), 0.0),
        (86_400 * 36_600, 3.16224e9),
    ],
)
def test_a_duration_is_seconds_or_a_timedelta(value: float | timedelta, expected: float) -> None:
    assert seconds(value, "retry_delay") == expected


@pytest.mark.parametrize(
    "value",
    [-1, -0.001, timedelta(seconds=-1), math.nan, math.inf, -math.inf, True, "5", None, 10**400, 1e300, timedelta.max],
)
def test_what_is_no_duration_is_refused_by_name(value: object) -> None:
    with pytest.raises(AuthoringError, match="retry_delay = "):
        seconds(value, "retry_delay")  # type: ignore[arg-type]


def test_a_zone_that_does_not_exist_is_refused_with_near_names() -> None:
    with pytest.raises(BadDate, match=r"'europe/berlin'.*Europe/Berlin"):
        zone("europe/berlin")


@pytest.mark.parametrize("name", ["", "../etc/passwd", "/etc/passwd", "Europe", "Berlin/\0", 7, "x" * 5000])
def test_hostile_zone_names_are_refused(name: object) -> None:
    with pytest.raises(BadDate, match="does not exist"):
        zone(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-05", utc(2026, 1, 4, 23)),
        (date(2026, 7, 5), utc(2026, 7, 4, 22)),
        ("2026-01-05T02:00", utc(2026, 1, 5, 1)),
        ("2026-01-05 02:00:00.5", utc(2026, 1, 5, 1, 0, 0, 500_000)),
        (datetime(2026, 1, 5, 2), utc(2026, 1, 5, 1)),
        ("2026-01-05T02:00Z", utc(2026, 1, 5, 2)),
        ("2026-01-05T02:00+05:30", utc(2026, 1, 4, 20, 30)),
        (datetime(2026, 1, 5, 2, tzinfo=ZoneInfo("Asia/Tokyo")), utc(2026, 1, 4, 17)),
        (datetime(2026, 1, 5, 2, tzinfo=timezone(timedelta(hours=-3))), utc(2026, 1, 5, 5)),
    ],
)
def test_what_is_naive_means_the_zone(value: str | date, expected: datetime) -> None:
    found = moment(value, BERLIN)
    assert found == expected
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "value", ["", "yesterday", "2026-02-30", "2026-13-01T00:00", "2026-01-05T25:00", 20260105, None]
)
def test_malformed_dates_are_refused(value: object) -> None:
    with pytest.raises(BadDate):
        moment(value, BERLIN)  # type: ignore[arg-type]


def test_a_time_in_a_gap_is_refused_with_the_next_moment() -> None:
    with pytest.raises(BadDate, match=r"does not exist in Europe/Berlin.*2026-03-29T03:00:00\+02:00"):
        moment("2026-03-29T02:30", BERLIN)


def test_a_time_that_exists_twice_is_refused_with_both_offsets() -> None:
    with pytest.raises(BadDate, match=r"exists twice.*02:30:00\+02:00.*02:30:00\+01:00"):
        moment("2026-10-25T02:30", BERLIN)


def test_an_offset_settles_which_of_two_is_meant() -> None:
    assert moment("2026-10-25T02:30+02:00", BERLIN) == utc(2026, 10, 25, 0, 30)
    assert moment("2026-10-25T02:30+01:00", BERLIN) == utc(2026, 10, 25, 1, 30)


def test_an_aware_time_by_zone_rules_is_checked_in_its_own_zone() -> None:
    with pytest.raises(BadDate, match="does not exist"):
        moment(datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN), ZoneInfo("UTC"))


def test_the_moments_around_a_gap_and_a_fold_are_accepted() -> None:
    assert moment("2026-03-29T01:59:59", BERLIN) == utc(2026, 3, 29, 0, 59, 59)
    assert moment("2026-03-29T03:00", BERLIN) == utc(2026, 3, 29, 1)
    assert moment("2026-10-25T01:59:59", BERLIN) == utc(2026, 10, 24, 23, 59, 59)
    assert moment("2026-10-25T03:00", BERLIN) == utc(2026, 10, 25, 2)


def test_a_day_without_midnight_begins_at_its_first_moment() -> None:
    """Santiago puts the clock from 24:00 to 01:00 on 6 September 2026."""
    assert moment("2026-09-06", SANTIAGO) == utc(2026, 9, 6, 4)
    assert moment("2026-09-06", SANTIAGO).astimezone(SANTIAGO).hour == 1


def test_a_day_with_two_midnights_begins_at_the_first() -> None:
    """Havana puts the clock from 01:00 back to 00:00 on 1 November 2026."""
    assert moment("2026-11-01", HAVANA) == utc(2026, 11, 1, 4)


@pytest.mark.parametrize(
    ("day", "where"),
    [
        ("2026-01-05", BERLIN),
        ("2026-03-29", BERLIN),
        ("2026-10-25", BERLIN),
        ("2026-09-05", SANTIAGO),
        ("2026-04-04", SANTIAGO),
        ("2026-10-31", HAVANA),
        ("2018-02-17", SAO_PAULO),
        ("2011-12-29", APIA),
    ],
)
def test_the_end_of_a_day_is_the_last_microsecond_that_shows_it(day: str, where: ZoneInfo) -> None:
    last = moment(day, where, end_of_day=True)
    assert last.astimezone(where).date().isoformat() == day
    assert (last + timedelta(microseconds=1)).astimezone(where).date().isoformat() > day


def test_a_time_of_day_is_itself_also_at_the_end_of_the_day() -> None:
    assert moment("2026-01-05T02:00", BERLIN, end_of_day=True) == utc(2026, 1, 5, 1)


@pytest.mark.parametrize("end_of_day", [False, True])
def test_a_day_that_a_zone_never_had_is_refused(end_of_day: bool) -> None:
    with pytest.raises(BadDate, match="2011-12-30 does not exist in Pacific/Apia"):
        moment("2011-12-30", APIA, end_of_day=end_of_day)


@pytest.mark.parametrize(
    ("value", "end"), [("0001-01-01", False), ("9999-12-31T23:59-12:00", False), ("9999-12-31", True)]
)
def test_dates_at_an_end_of_the_calendar_are_refused(value: str, end: bool) -> None:
    with pytest.raises(BadDate, match="end of the calendar"):
        moment(value, BERLIN, end_of_day=end)


@pytest.mark.parametrize(
    ("local", "where", "expected"),
    [
        (datetime(2026, 3, 29, 2, 30), BERLIN, utc(2026, 3, 29, 1)),
        (datetime(2026, 3, 29, 2), BERLIN, utc(2026, 3, 29, 1)),
        (datetime(2026, 3, 29, 2, 59, 59, 999_999), BERLIN, utc(2026, 3, 29, 1)),
        (datetime(2026, 10, 25, 2, 30), BERLIN, utc(2026, 10, 25, 0, 30)),
        (datetime(2011, 12, 30, 17), APIA, utc(2011, 12, 30, 10)),
        (datetime(2026, 1, 5, 2), BERLIN, utc(2026, 1, 5, 1)),
    ],
)
def test_a_wall_clock_reaches_a_time_first_or_at_the_end_of_its_gap(
    local: datetime, where: ZoneInfo, expected: datetime
) -> None:
    assert at_local(local, where) == expected


def test_every_hour_of_a_year_is_found_again_or_refused() -> None:
    """Whatever `moment` accepts reads as the same wall-clock time in the zone."""
    refused = 0
    for hour in range(365 * 24):
        local = datetime(2026, 1, 1, 0, 30) + timedelta(hours=hour)
        try:
            instant = moment(local, BERLIN)
        except BadDate:
            refused += 1
        else:
            assert instant.astimezone(BERLIN).replace(tzinfo=None) == local
    assert refused == 2


def test_instants_are_kept_in_utc_and_read_back() -> None:
    assert iso(datetime(2026, 1, 5, 3, tzinfo=BERLIN)) == "2026-01-05T02:00:00+00:00"
    assert from_iso("2026-01-05T03:00:00+01:00") == utc(2026, 1, 5, 2)
    assert from_iso("2026-01-05T03:00:00+01:00").tzinfo is UTC
    assert iso(None) is None


def test_the_clock_is_aware_and_its_monotonic_side_never_goes_back() -> None:
    clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    assert abs(utc_now() - clock.now()) < timedelta(minutes=1)
    assert clock.monotonic() <= clock.monotonic()

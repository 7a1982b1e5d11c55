"""Data intervals: which there are, which is complete, which come next to each other."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.errors import BadDate, BadSchedule
from flux.schedule import BoundSchedule, Cron, DataInterval, Every, Once, bind, from_value

_BERLIN = ZoneInfo("Europe/Berlin")
_HOUR = timedelta(hours=1)


def _bound(schedule: object = "@daily", **arguments: Any) -> BoundSchedule:
    chosen = from_value(schedule)
    spec = None if chosen is None else json.loads(json.dumps(chosen.to_spec()))
    return bind(spec, **{"timezone": "UTC", "start_date": None, "end_date": None, "dag_id": "sales", **arguments})


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _day(text: str) -> DataInterval:
    return DataInterval(_utc(text), _utc(text) + timedelta(days=1))


# What an author writes


@pytest.mark.parametrize(
    ("value", "schedule"),
    [
        (None, None),
        ("@once", Once()),
        ("@daily", Cron("0 0 * * *")),
        ("@Hourly", Cron("0 * * * *")),
        ("@weekly", Cron("0 0 * * 0")),
        ("@monthly", Cron("0 0 1 * *")),
        ("@yearly", Cron("0 0 1 1 *")),
        ("0  2 * * MON", Cron("0 2 * * mon")),
        (_HOUR, Every(hours=1)),
        (Every(days=1, minutes=1), Every(timedelta(days=1, seconds=60))),
        (Cron("0 2 * * *", "0 14 * * 1", day_or=False), Cron("0 2 * * *", "0 14 * * 1", day_or=False)),
    ],
)
def test_a_value_means_a_schedule(value: object, schedule: object) -> None:
    assert from_value(value) == schedule


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("@reboot", "Known: @once, @hourly"),
        ("daily", "1 fields"),
        ("", "0 fields"),
        (3600, "timedelta"),
        (True, "timedelta"),
        (timedelta(0), "at least 1 second"),
        (timedelta(days=-1), "at least 1 second"),
    ],
)
def test_a_value_that_means_none_is_refused(value: object, hint: str) -> None:
    with pytest.raises(BadSchedule, match=hint):
        from_value(value)


def test_schedules_read_as_an_author_writes_them() -> None:
    assert repr(Cron("0 2 * * *", day_or=False)) == "Cron('0 2 * * *', day_or=False)"
    assert repr(Every(minutes=5)) == "Every(seconds=300)"
    assert len({Cron("0 2 * * *"), Cron("0  2 * * *"), Every(hours=1), Every(_HOUR)}) == 2


@pytest.mark.parametrize("make", [Cron, lambda: Cron(5), lambda: Every(5), lambda: Every(hours="x"), Every])
def test_arguments_that_are_no_schedule_are_refused(make: Any) -> None:
    with pytest.raises(BadSchedule):
        make()


def test_a_spec_of_a_newer_flux_is_refused() -> None:
    with pytest.raises(BadSchedule, match="'moon'"):
        bind({"kind": "moon"}, timezone="UTC", start_date=None, end_date=None, dag_id="sales")


# Intervals


def test_an_interval_needs_aware_times_in_order() -> None:
    with pytest.raises(BadDate, match="time zone"):
        DataInterval(datetime(2026, 1, 1), _utc("2026-01-02"))
    with pytest.raises(BadDate, match="after its end"):
        DataInterval(_utc("2026-01-02"), _utc("2026-01-01"))


def test_an_interval_within_the_repeated_hour_is_no_error() -> None:
    """Its end has the smaller wall clock reading."""
    start = datetime(2026, 10, 25, 2, 45, tzinfo=_BERLIN)
    end = datetime(2026, 10, 25, 2, 15, tzinfo=_BERLIN, fold=1)
    assert DataInterval(start, end).end.astimezone(UTC) - start.astimezone(UTC) == timedelta(minutes=30)


def test_cron_intervals_lie_between_neighbouring_due_instants() -> None:
    """The day of the change to summer time has 23 hours."""
    bound = _bound("0 0 * * *", timezone="Europe/Berlin")
    days = list(bound.intervals(_utc("2026-03-27T23:00"), _utc("2026-03-29T22:00")))
    assert [day.end - day.start for day in days] == [24 * _HOUR, 23 * _HOUR, 24 * _HOUR]
    assert all(before.end == after.start for before, after in pairwise(days))
    assert days[0].start.tzinfo is UTC


def test_several_expressions_are_one_schedule() -> None:
    bound = _bound(Cron("0 2 * * *", "0 14 * * 1", "0 2 1 * *"))
    starts = [i.start.strftime("%a %H") for i in islice(bound.intervals(_utc("2026-01-31"), None), 4)]
    assert starts == ["Sat 02", "Sun 02", "Mon 02", "Mon 14"]


def test_the_latest_complete_interval_has_ended() -> None:
    bound = _bound()
    assert bound.latest_complete(_utc("2026-01-05T23:59")) == _day("2026-01-04")
    assert bound.latest_complete(_utc("2026-01-06T00:00")) == _day("2026-01-05")


def test_start_and_end_date_bound_the_logical_date_both_included() -> None:
    bound = _bound(start_date="2026-01-03T00:00:00+00:00", end_date="2026-01-05T23:59:59.999999+00:00")
    every = bound.intervals(_utc("2020-01-01"), None)
    assert [i.start.day for i in every] == [3, 4, 5]
    assert bound.first_from(_utc("2025-01-01")) == _day("2026-01-03")
    assert bound.first_from(_utc("2026-01-05T00:00:01")) is None
    assert bound.latest_complete(_utc("2026-01-03T23:00")) is None
    assert bound.latest_complete(_utc("2027-01-01")) == _day("2026-01-05")


def test_a_start_date_between_two_due_instants_waits_for_the_next() -> None:
    bound = _bound(start_date="2026-01-03T12:00:00+00:00")
    assert bound.first_from(_utc("2026-01-01")) == _day("2026-01-04")
    assert bound.latest_complete(_utc("2026-01-04T12:00")) is None


def test_next_and_previous_end_at_the_bounds() -> None:
    bound = _bound(start_date="2026-01-03T00:00:00+00:00", end_date="2026-01-04T23:59:59.999999+00:00")
    assert bound.next(_day("2026-01-03")) == _day("2026-01-04")
    assert bound.next(_day("2026-01-04")) is None
    assert bound.previous(_day("2026-01-04")) == _day("2026-01-03")
    assert bound.previous(_day("2026-01-03")) is None


def test_neighbours_of_an_interval_of_an_older_schedule_are_found() -> None:
    noon = _utc("2026-01-05T12:00")
    assert _bound().next(DataInterval(noon, noon)) == _day("2026-01-06")
    assert _bound().previous(DataInterval(noon, noon)) == _day("2026-01-05")


def test_a_moment_that_is_no_start_is_refused_with_its_neighbours_in_local_time() -> None:
    bound = _bound("0 2 * * *", timezone="Europe/Berlin")
    assert bound.starting_at(_utc("2026-01-05T01:00")).end == _utc("2026-01-06T01:00")
    with pytest.raises(BadDate) as caught:
        bound.starting_at(_utc("2026-01-05T02:00"))
    assert "'sales'" in str(caught.value)
    assert "2026-01-05T02:00:00+01:00 and 2026-01-06T02:00:00+01:00" in str(caught.value)


def test_a_moment_outside_the_dates_is_refused_with_the_one_neighbour_there_is() -> None:
    with pytest.raises(BadDate, match="nearest start at 2026-01-03T00:00") as caught:
        _bound(start_date="2026-01-03T00:00:00+00:00").starting_at(_utc("2026-01-01"))
    assert "dates go from 2026-01-03" in str(caught.value)


def test_a_bare_day_names_the_intervals_that_start_on_it() -> None:
    bound = _bound("0 */12 * * *", timezone="Europe/Berlin")
    assert [i.start.hour for i in bound.starting_on(date(2026, 1, 5))] == [23, 11]
    assert _bound("0 0 * * mon").starting_on(date(2026, 1, 6)) == []
    assert len(_bound("@hourly", timezone="Europe/Berlin").starting_on(date(2026, 10, 25))) == 25


# Every, once, by hand


def test_every_counts_real_time_from_the_start_date() -> None:
    bound = _bound(timedelta(days=1), timezone="Europe/Berlin", start_date="2026-03-27T12:30:00+00:00")
    starts = [i.start for i in bound.intervals(_utc("2026-03-28T12:31"), _utc("2026-03-31"))]
    assert starts == [_utc("2026-03-29T12:30"), _utc("2026-03-30T12:30")]
    assert bound.first_from(_utc("2020-01-01")) == bound.starting_at(_utc("2026-03-27T12:30"))
    assert bound.previous(bound.starting_at(_utc("2026-03-27T12:30"))) is None
    assert bound.latest_complete(_utc("2026-03-28T12:30")) == bound.starting_at(_utc("2026-03-27T12:30"))
    assert bound.latest_complete(_utc("2026-03-28T12:29")) is None


def test_every_without_a_start_date_is_refused() -> None:
    with pytest.raises(BadDate, match="start_date"):
        _bound(_HOUR)


def test_once_is_one_moment() -> None:
    at = _utc("2026-01-05T10:00")
    for bound in (_bound("@once", start_date=at.isoformat()), _bound("@once", first_seen=at)):
        assert bound.first_from(_utc("2026-01-01")) == DataInterval(at, at)
        assert bound.first_from(at + _HOUR) is None
        assert bound.latest_complete(at) == DataInterval(at, at)
        assert bound.latest_complete(at - _HOUR) is None
        assert bound.next(DataInterval(at, at)) is None
        assert not bound.is_manual


def test_once_has_no_moment_before_the_dag_was_seen() -> None:
    assert _bound("@once").first_from(_utc("2000-01-01")) is None
    assert _bound("@once").describe() == "once, when first seen"


def test_without_a_schedule_every_moment_is_a_run_by_hand() -> None:
    bound = _bound(None, timezone="Europe/Berlin")
    at = _utc("2026-01-05T10:17")
    assert bound.is_manual
    assert bound.starting_at(at) == DataInterval(at, at)
    assert bound.starting_on(date(2026, 1, 5)) == [bound.starting_at(_utc("2026-01-04T23:00"))]
    assert bound.first_from(at) is None
    assert bound.latest_complete(at) is None
    assert bound.next(DataInterval(at, at)) is None
    assert bound.previous(DataInterval(at, at)) is None


def test_dates_bound_runs_by_hand_too() -> None:
    with pytest.raises(BadDate, match="to 2026-01-05"):
        _bound(None, end_date="2026-01-05T23:59:59.999999+00:00").starting_at(_utc("2026-01-06"))


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("0 2 * * *", "at 02:00 every day (Europe/Berlin)"),
        (Cron("0 2 * * *", "0 14 * * 1"), "at 02:00 every day; at 14:00 on Monday (Europe/Berlin)"),
        (Every(hours=2), "every 2:00:00 from 2026-01-01T00:00:00+01:00"),
        ("@once", "once, at 2026-01-01T00:00:00+01:00"),
        (None, "by hand only"),
    ],
)
def test_a_schedule_reads_in_words(schedule: object, words: str) -> None:
    assert _bound(schedule, timezone="Europe/Berlin", start_date="2025-12-31T23:00:00+00:00").describe() == words


# Whatever the schedule and the zone

_schedules = st.sampled_from(
    ["*/20 * * * *", "30 2 * * *", "0 0 * * *", "0 9-17/2 * * mon-fri", "0 0 1 * *", "0 0 29 2 *", "H H * * 5#2",
     Cron("0 2 * * *", "0 14 * * 1"), Every(minutes=7), Every(days=1)]
)  # fmt: skip
_zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Lord_Howe", "America/St_Johns",
     "Africa/Casablanca", "Asia/Kathmandu", "Pacific/Apia", "Antarctica/Troll"]
)  # fmt: skip
_moments = st.datetimes(datetime(2009, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(schedule=_schedules, zone=_zones, moment=_moments)
def test_intervals_touch_and_every_question_agrees(schedule: object, zone: str, moment: datetime) -> None:
    bound = _bound(schedule, timezone=zone, start_date="2008-02-29T10:00:00+00:00")
    forward = list(islice(bound.intervals(moment, None), 4))
    assert forward[0].start >= moment
    assert all(before.end == after.start and before.start < before.end for before, after in pairwise(forward))
    for before, after in pairwise(forward):
        assert bound.next(before) == after
        assert bound.previous(after) == before
        assert bound.starting_at(before.start) == before
        assert bound.latest_complete(before.end) == before
        assert bound.latest_complete(after.end - timedelta(microseconds=1)) == before
        assert before in bound.starting_on(before.start.astimezone(ZoneInfo(zone)).date())

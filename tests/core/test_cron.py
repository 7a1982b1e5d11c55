"""When a cron expression is due, on days on which clocks change and on all others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.cron import CronRule, check
from flux.errors import BadSchedule

_NEW_YORK = "America/New_York"
_MINUTE = timedelta(minutes=1)


def _rule(expression: str, zone: str = "UTC", *, day_or: bool = True, hash_id: str = "sales") -> CronRule:
    return CronRule(check(expression, day_or=day_or), day_or=day_or, zone=ZoneInfo(zone), hash_id=hash_id)


def _local(expression: str, zone: str, first: str, days: int) -> list[str]:
    """The due instants from the local midnight of `first` on, for `days` days, as local "day hour:minute+offset"."""
    start = datetime.fromisoformat(first).replace(tzinfo=ZoneInfo(zone))
    end = start + timedelta(days=days)
    fires = takewhile(lambda fire: fire < end.astimezone(UTC), _rule(expression, zone).fires(start))
    return [fire.astimezone(ZoneInfo(zone)).strftime("%d %H:%M%z")[:-2] for fire in fires]


@pytest.mark.parametrize(
    ("expression", "zone", "first", "days", "due"),
    [
        # scenario 66: exactly one a local day, in both directions
        ("30 2 * * *", _NEW_YORK, "2026-03-07", 3, ["07 02:30-05", "08 03:00-04", "09 02:30-04"]),
        ("30 1 * * *", _NEW_YORK, "2026-03-07", 3, ["07 01:30-05", "08 01:30-05", "09 01:30-04"]),
        ("30 2 * * *", _NEW_YORK, "2026-10-31", 3, ["31 02:30-04", "01 02:30-05", "02 02:30-05"]),
        ("30 1 * * *", _NEW_YORK, "2026-10-31", 3, ["31 01:30-04", "01 01:30-04", "02 01:30-05"]),
        # scenario 67
        ("0 */4 * * *", _NEW_YORK, "2026-03-08", 1, ["08 00:00-05", *(f"08 {h:02}:00-04" for h in (4, 8, 12, 16, 20))]),
        ("0 */4 * * *", _NEW_YORK, "2026-11-01", 1, ["01 00:00-04", *(f"01 {h:02}:00-05" for h in (4, 8, 12, 16, 20))]),
        ("20 */4 * * *", _NEW_YORK, "2026-03-08", 1, ["08 00:20-05", *(f"08 {h:02}:20-04" for h in range(4, 24, 4))]),
        ("0 7,9 * * *", _NEW_YORK, "2026-03-08", 2, ["08 07:00-04", "08 09:00-04", "09 07:00-04", "09 09:00-04"]),
        ("0 9-16 * * *", _NEW_YORK, "2026-11-01", 1, [f"01 {hour:02}:00-05" for hour in range(9, 17)]),
        # the gap merges what it swallows with what is due at its end
        ("0 1-3 * * *", _NEW_YORK, "2026-03-08", 1, ["08 01:00-05", "08 03:00-04"]),
        ("0,30 2 * * *", _NEW_YORK, "2026-03-08", 1, ["08 03:00-04"]),
        # wildcards go on in real time, and make nothing up
        ("0 */2 * * *", _NEW_YORK, "2026-03-08", 1, ["08 00:00-05", *(f"08 {h:02}:00-04" for h in range(4, 24, 2))]),
        ("*/30 1-2 * * *", _NEW_YORK, "2026-03-08", 1, ["08 01:00-05", "08 01:30-05"]),
        ("*/30 1 * * *", _NEW_YORK, "2026-11-01", 1, ["01 01:00-04", "01 01:30-04", "01 01:00-05", "01 01:30-05"]),
        # a gap at midnight, one of half an hour, and a zone that is set back in the south
        ("0 0 * * *", "America/Santiago", "2026-09-05", 3, ["05 00:00-04", "06 01:00-03", "07 00:00-03"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03", 2, ["03 02:15+10", "04 02:30+11"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04", 2, ["04 01:45+11", "05 01:45+11"]),
        # a day that never was
        ("0 12 * * *", "Pacific/Apia", "2011-12-28", 5, ["28 12:00-10", "29 12:00-10", "31 12:00+14", "01 12:00+14"]),
        ("0 */12 * * *", "Pacific/Apia", "2011-12-29", 3, ["29 00:00-10", "29 12:00-10", "31 00:00+14", "31 12:00+14"]),
        # the clock is set back over midnight: 00:01 becomes 23:01 of the day before
        ("50 23 * * *", "America/St_Johns", "2010-11-06", 3, ["06 23:50-02", "07 23:50-03", "08 23:50-03"]),
        ("0 0 * * *", "America/St_Johns", "2010-11-06", 3, ["06 00:00-02", "07 00:00-02", "08 00:00-03"]),
    ],
)
def test_days_on_which_clocks_change(expression: str, zone: str, first: str, days: int, due: list[str]) -> None:
    assert _local(expression, zone, first, days) == due


def test_the_week_after_a_change_is_not_shifted() -> None:
    for expression in ("0 */4 * * *", "20 */4 * * *", "0 7,9 * * *", "0 9-16 * * *"):
        for changed in ("2026-03-08", "2026-11-01"):
            after = datetime.fromisoformat(changed) + timedelta(days=1)
            naive = _rule(expression).fires(after.replace(tzinfo=UTC))
            local = _rule(expression, _NEW_YORK).fires(after.replace(tzinfo=ZoneInfo(_NEW_YORK)))
            for expected, fire in islice(zip(naive, local, strict=False), 60):
                assert fire.astimezone(ZoneInfo(_NEW_YORK)).replace(tzinfo=None) == expected.replace(tzinfo=None)


def _by_hand(expression: str, zone: ZoneInfo, start: datetime, minutes: int) -> list[datetime]:
    """The rule of cron(8) minute by minute: slow, and obviously right."""
    parts = [field.split(",") for field in expression.split()[:2]]
    wildcard = parts[0][0] == "*" or parts[1][0] == "*"

    def matches(local: datetime) -> bool:
        values = (local.minute, local.hour)
        return all("*" in part or str(value) in part for part, value in zip(parts, values, strict=True))

    due = []
    reached = (start - _MINUTE).astimezone(zone).replace(tzinfo=None)
    for number in range(minutes):
        fire = start + number * _MINUTE
        local = fire.astimezone(zone).replace(tzinfo=None)
        if wildcard:
            if matches(local):
                due.append(fire)
        elif local > reached:
            skipped = [reached + n * _MINUTE for n in range(1, (local - reached) // _MINUTE)]
            left_out = {day for day in {s.date() for s in skipped} if day not in (reached.date(), local.date())}
            if matches(local) or any(matches(s) for s in skipped if s.date() not in left_out):
                due.append(fire)
        reached = max(reached, local)
    return due


_CHANGES = [
    (_NEW_YORK, "2026-03-08"), (_NEW_YORK, "2026-11-01"), ("Europe/Dublin", "2026-03-29"),
    ("Europe/Dublin", "2026-10-25"),
    ("America/Santiago", "2026-09-06"), ("America/Santiago", "2026-04-05"), ("Australia/Lord_Howe", "2026-10-04"),
    ("Australia/Lord_Howe", "2026-04-05"), ("Africa/Casablanca", "2026-02-15"), ("Africa/Casablanca", "2026-03-22"),
    ("Pacific/Apia", "2011-12-30"), ("America/St_Johns", "2010-11-07"), ("America/St_Johns", "2010-03-14"),
    ("Asia/Kathmandu", "2026-06-01"), ("Antarctica/Troll", "2026-03-29"), ("Antarctica/Troll", "2026-10-25"),
    ("America/Caracas", "2016-05-01"), ("Asia/Pyongyang", "2018-05-04"), ("America/Nuuk", "2026-03-28"),
    ("Pacific/Kwajalein", "1993-08-21"), ("Asia/Gaza", "2026-03-28"), ("Europe/Volgograd", "2020-12-27"),
]  # fmt: skip
_field = st.just("*") | st.sets(st.integers(0, 23), min_size=1, max_size=4).map(
    lambda values: ",".join(str(value) for value in sorted(values))
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(minute=_field, hour=_field, change=st.sampled_from(_CHANGES), back=st.integers(0, 60 * 48))
def test_it_agrees_with_a_minute_by_minute_reading_of_the_rule(
    minute: str, hour: str, change: tuple[str, str], back: int
) -> None:
    zone = ZoneInfo(change[0])
    expression = f"{minute} {hour} * * *"
    start = datetime.fromisoformat(change[1]).replace(tzinfo=UTC) - timedelta(minutes=back)
    # By hand the memory of what the clock has shown needs a day before.
    expected = [fire for fire in _by_hand(expression, zone, start - timedelta(days=2), 60 * 24 * 5) if fire >= start]
    end = start + timedelta(days=3)
    assert list(takewhile(lambda fire: fire < end, _rule(expression, zone.key).fires(start))) == expected


@settings(max_examples=60, deadline=None)
@given(
    expression=st.sampled_from(
        ["*/7 * * * *", "5 4 * * *", "0 */3 * * mon-fri", "0 0 l * *", "30 1,13 1-7 * sun", "H H * * *"]
    ),
    change=st.sampled_from(_CHANGES),
    minutes=st.integers(-100_000, 100_000),
)
def test_where_one_starts_to_look_changes_nothing(expression: str, change: tuple[str, str], minutes: int) -> None:
    rule = _rule(expression, change[0])
    start = datetime.fromisoformat(change[1]).replace(tzinfo=UTC) + timedelta(minutes=minutes)
    fires = list(islice(rule.fires(start), 5))
    assert fires == sorted(set(fires))
    for number, fire in enumerate(fires):
        assert next(rule.fires(fire)) == fire
        if number:
            assert next(rule.fires(fires[number - 1] + timedelta(microseconds=1))) == fire


def test_h_spreads_dags_and_stays_the_same_for_one() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    firsts = {dag_id: next(_rule("H H * * *", hash_id=dag_id).fires(start)) for dag_id in ("a", "b", "c", "d")}
    assert len(set(firsts.values())) > 1
    assert firsts["a"] == next(_rule("h  H * * *", hash_id="a").fires(start))


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("5-5 * * * *", "Write '5'"),
        ("0 0 * Jan-Jan *", "Write 'jan'"),
        ("0 0-0/2 * * *", "as hour"),
        ("0 0 * * 1,3-3", "as day of week"),
        ("*/10 * * * * *", r"Every\(seconds=10\)"),
        ("0 0 * *", "4 fields"),
        ("", "0 fields"),
        ("R * * * *", "Use 'H'"),
        ("0 R(1-5) * * *", "Use 'H'"),
        ("0 0 31 2 *", "never exists"),
        ("0 0 30,31 2 *", "never exists"),
        ("0 0 31 4,6 *", "never exists"),
        ("0 0 30 2 1", "never exists"),
        ("*/90 * * * *", "more than its largest value 59"),
        ("0 */24 * * *", "more than its largest value 23"),
        ("60 * * * *", "not valid"),
        ("0 0 0 * *", "not valid"),
        ("0 0 * * 8", "not valid"),
        ("0 0 * * mon#6", "not valid"),
        ("*/0 * * * *", "not valid"),
        ("0 0 * 13 *", "not valid"),
        ("a b c d e", "not valid"),
        ("٣ * * * *", "not valid"),
        ("0 0 15w * 1", "Give two expressions"),
    ],
)
def test_what_means_something_else_than_it_seems_is_refused(expression: str, hint: str) -> None:
    with pytest.raises(BadSchedule, match=hint) as caught:
        check(expression)
    assert repr(" ".join(expression.lower().split())) in str(caught.value)


def test_an_impossible_day_is_refused_also_when_both_day_fields_must_match() -> None:
    with pytest.raises(BadSchedule, match="never exists"):
        check("0 0 29 2 mon#1", day_or=False)
    assert check("0 0 29 2 mon", day_or=False)


def test_day_or_false_asks_for_days_that_match_both_fields() -> None:
    rule = _rule("0 0 13 * fri", day_or=False)
    days = [fire.date().isoformat() for fire in islice(rule.fires(datetime(2026, 1, 1, tzinfo=UTC)), 3)]
    assert days == ["2026-02-13", "2026-03-13", "2026-11-13"]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 2 * * *", "at 02:00 every day"),
        ("* * * * *", "every minute"),
        ("*/15 * * * *", "every 15 minutes"),
        ("*/7 * * * *", "every hour at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56"),
        ("0 * * * *", "every hour"),
        ("5 * * * *", "every hour at minute 5"),
        ("0 */4 * * *", "every 4 hours"),
        ("0 8,20 * * mon", "at 08:00 and 20:00 on Monday"),
        ("*/15 9-17 * * 1-3", "at minutes 0, 15, 30 and 45 of hours 9 to 17 on Monday, Tuesday and Wednesday"),
        ("* 9 * * sun", "every minute of hour 9 on Sunday"),
        ("0 0 1 * 1", "at 00:00 on day 1 of the month or on Monday"),
        ("0 0 1,l jan,jul *", "at 00:00 on day 1 and the last day of the month in January and July"),
        ("0 0 * * fri#2", "at 00:00 on the 2nd Friday of the month"),
        ("0 0 * * L5", "at 00:00 on the last Friday of the month"),
        ("0 12 15w * *", "at 12:00 on the weekday nearest to day 15 of the month"),
    ],
)
def test_an_expression_reads_in_words(expression: str, words: str) -> None:
    assert _rule(expression).describe() == words


def test_days_that_must_match_both_fields_read_with_and() -> None:
    assert _rule("0 0 13 * fri", day_or=False).describe() == "at 00:00 on day 13 of the month and on Friday"


@pytest.mark.parametrize("moment", [datetime(1, 1, 1, tzinfo=UTC), datetime(1847, 12, 1, tzinfo=UTC)])
def test_the_first_years_of_the_calendar_have_due_times_too(moment: datetime) -> None:
    assert next(_rule("0 0 * * *", "Europe/London").fires(moment)) - moment < timedelta(days=9)


def test_the_end_of_the_calendar_ends_the_due_times() -> None:
    assert len(list(_rule("0 0 * * *", "Asia/Tokyo").fires(datetime(9999, 12, 30, tzinfo=UTC)))) <= 2

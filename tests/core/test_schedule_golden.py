"""What 500 schedules give must not change unnoticed: an upgrade of croniter or of the zone data shows here.

After a change that is meant: `python tests/core/test_schedule_golden.py > tests/core/golden_schedules.txt`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from flux.schedule import bind, from_value

_GOLDEN = Path(__file__).with_name("golden_schedules.txt")

_EXPRESSIONS = (
    "* * * * *", "*/15 * * * *", "*/7 * * * *", "59/15 * * * *", "5,50 * * * *", "0 * * * *", "0 */2 * * *",
    "20 */4 * * *", "0 0 * * *", "30 1 * * *", "30 2 * * *", "0 1-3 * * *", "0 7,9 * * *", "0 9-16 * * *",
    "15 22-2 * * *", "0 0 * * 0", "0 6 * * mon-fri", "0 0 * * 7,3", "0 0 1 * *", "0 0 l * *", "0 12 15w * *",
    "0 0 1 * 1", "0 0 * * fri#2", "0 0 29 2 *", "h h * * *",
)  # fmt: skip
#: A zone, and the day before its clock is set; what is due is taken from 25 hours after that day began.
_PLACES = (
    ("UTC", "2026-01-01"), ("America/New_York", "2026-03-07"), ("America/New_York", "2026-10-31"),
    ("Europe/Berlin", "2026-03-28"), ("Europe/Berlin", "2026-10-24"), ("Europe/Dublin", "2026-10-24"),
    ("America/Santiago", "2025-09-06"), ("America/Santiago", "2025-04-05"), ("Australia/Lord_Howe", "2025-10-04"),
    ("Australia/Lord_Howe", "2025-04-05"), ("Pacific/Apia", "2011-12-29"), ("Pacific/Kwajalein", "1993-08-20"),
    ("America/St_Johns", "2010-03-13"), ("America/St_Johns", "2010-11-06"), ("Africa/Casablanca", "2025-02-22"),
    ("Asia/Kathmandu", "2026-01-01"), ("Antarctica/Troll", "2025-03-29"), ("America/Caracas", "2016-04-30"),
    ("Asia/Pyongyang", "2018-05-04"), ("Asia/Kolkata", "2026-01-01"),
)  # fmt: skip


def _lines() -> list[str]:
    return [_line(expression, zone, day) for zone, day in _PLACES for expression in _EXPRESSIONS]


def _line(expression: str, zone: str, day: str) -> str:
    schedule = from_value(expression)
    assert schedule is not None
    bound = bind(schedule.to_spec(), timezone=zone, start_date=None, end_date=None, dag_id="golden")
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    intervals = islice(bound.intervals(start + timedelta(hours=25), None), 4)
    starts = [interval.start.astimezone(ZoneInfo(zone)) for interval in intervals]
    return f"{zone} | {expression} | {' '.join(f'{moment:%Y-%m-%dT%H:%M%z}' for moment in starts)}"


@pytest.mark.slow
def test_schedules_give_what_they_always_gave() -> None:
    lines = _lines()
    assert len(lines) == 500
    assert lines == _GOLDEN.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    print("\n".join(_lines()))

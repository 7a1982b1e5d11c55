"""Which runs are made and when: exactly those the schedule asks for, each once, whatever happens in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import StoreError
from flux.running.scheduler import Plan, Scheduler, bound_schedule, describe_next, make_due_runs, next_interval
from flux.schedule import DataInterval
from flux.states import RunKind
from flux.store import dags, runs
from flux.store.dags import DagVersion, Reading
from flux.store.runs import DagRun
from flux.store.schema import dag as dag_table
from flux.times import from_iso, iso
from tests.parts import Parts


def cron(*expressions: str) -> dict[str, Any]:
    return {"kind": "cron", "expressions": list(expressions), "day_or": True}


DAILY = cron("0 0 * * *")
HOURLY = cron("0 * * * *")
ONCE = {"kind": "once"}
CATCHUP = {"start_date": "01-01", "catchup": True}


def every(seconds: float) -> dict[str, Any]:
    return {"kind": "every", "seconds": seconds}


def at(text: str) -> datetime:
    """An instant of 2026 in UTC: "01-05 02:00" or "01-05"."""
    day, _, clock = text.partition(" ")
    return from_iso(f"2026-{day}T{clock or '00:00'}:00+00:00")


def short(instant: datetime | None) -> str | None:
    return None if instant is None else instant.strftime("%m-%d %H:%M")


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path / "home")
    parts.clock.instant = at("01-05 02:00")
    yield parts
    parts.close()


def due(parts: Parts, now: str | datetime, dag_id: str = "sales") -> Plan:
    """Do what the scheduler does for one DAG at that moment."""
    instant = at(now) if isinstance(now, str) else now
    return parts.write(lambda connection: make_due_runs(connection, dags.by_id(connection, dag_id), instant))


def made(plan: Plan) -> list[str | None]:
    return [short(run.logical_date) for run in plan.made]


def finish_runs(parts: Parts, dag_id: str = "sales") -> None:
    """End every running run of a DAG."""
    from flux.states import Event
    from flux.store.advance import Advance
    from flux.store.schema import task_instance

    def work(connection: sa.Connection) -> None:
        ids = connection.execute(sa.select(task_instance.c.id).where(task_instance.c.state == "ready")).scalars().all()
        advance = Advance(connection, parts.structures.through(connection), parts.clock.now())
        advance.mark(ids, Event.MARK_SUCCESS, None)
        advance.write()

    parts.write(work)


# --- next_interval, pure ------------------------------------------------------------------------------------------


@dataclass
class Last:
    """The newest scheduled run, as far as `next_interval` looks at it."""

    interval_start: datetime
    interval_end: datetime


@pytest.mark.parametrize(
    ("fields", "last", "now", "expected"),
    [
        # first seen
        ({"schedule": DAILY}, None, "01-05 02:00", "01-04 00:00"),
        ({"schedule": DAILY, "start_date": "01-01"}, None, "01-05 02:00", "01-04 00:00"),
        ({"schedule": DAILY, **CATCHUP}, None, "01-05 02:00", "01-01 00:00"),
        ({"schedule": DAILY, "start_date": "01-05"}, None, "01-05 02:00", "01-05 00:00"),
        ({"schedule": DAILY, "start_date": "02-01"}, None, "01-05 02:00", "02-01 00:00"),
        # exactly at the end of an interval it is due
        ({"schedule": DAILY}, None, "01-05 00:00", "01-04 00:00"),
        # going on
        ({"schedule": DAILY}, ("01-04", "01-05"), "01-05 02:00", "01-05 00:00"),
        ({"schedule": DAILY, **CATCHUP}, ("01-02", "01-03"), "01-05 02:00", "01-03 00:00"),
        # an outage
        ({"schedule": DAILY}, ("01-01", "01-02"), "01-09 02:00", "01-08 00:00"),
        ({"schedule": DAILY, **CATCHUP}, ("01-01", "01-02"), "01-09 02:00", "01-02 00:00"),
        # the schedule changed: never again what was covered
        ({"schedule": HOURLY}, ("01-04", "01-05"), "01-05 00:30", "01-05 00:00"),
        ({"schedule": HOURLY, **CATCHUP}, ("01-04", "01-05"), "01-05 09:30", "01-05 00:00"),
        ({"schedule": DAILY}, ("01-05 01:00", "01-05 02:00"), "01-06 03:00", "01-06 00:00"),
        ({"schedule": DAILY, **CATCHUP}, ("01-05 01:00", "01-05 02:00"), "01-09", "01-06 00:00"),
        # the wall clock was set back
        ({"schedule": HOURLY}, ("01-05 01:00", "01-05 02:00"), "01-04 12:00", "01-05 02:00"),
        # the end
        ({"schedule": DAILY, "end_date": "01-03"}, ("01-03", "01-04"), "01-09", None),
        ({"schedule": DAILY, "end_date": "01-03"}, None, "01-09", "01-03 00:00"),
        ({"schedule": DAILY, **CATCHUP, "end_date": "01-02"}, ("01-02", "01-03"), "01-09", None),
        # catchup_window
        (
            {"schedule": DAILY, **CATCHUP, "catchup_window": 2 * 86_400.0},
            None, "01-09 12:00", "01-08 00:00",
        ),
        (
            {"schedule": DAILY, **CATCHUP, "catchup_window": 3 * 86_400.0},
            ("01-01", "01-02"), "01-09", "01-06 00:00",
        ),
        # steps of real time
        ({"schedule": every(3600), "start_date": "01-05 00:15"}, None, "01-05 02:00", "01-05 00:15"),
        (
            {"schedule": every(3600), "start_date": "01-05 00:15"},
            ("01-05 00:15", "01-05 01:15"), "01-05 02:00", "01-05 01:15",
        ),
        # once
        ({"schedule": ONCE, "start_date": "01-03"}, None, "01-05", "01-03 00:00"),
        ({"schedule": ONCE, "start_date": "02-03"}, None, "01-05", "02-03 00:00"),
        ({"schedule": ONCE, "start_date": "01-03"}, ("01-03", "01-03"), "01-05", None),
        ({"schedule": ONCE}, None, "01-06", "01-05 02:00"),
    ],
)  # fmt: skip
def test_next_interval(
    parts: Parts, fields: dict[str, Any], last: tuple[str, str] | None, now: str, expected: str | None
) -> None:
    given = {key: iso(at(value)) if key.endswith("_date") else value for key, value in fields.items()}
    version = parts.define(**given)
    schedule = bound_schedule(parts.dag(), version.structure)
    before: Any = None if last is None else Last(at(last[0]), at(last[1]))
    interval = next_interval(schedule, version.structure, before, at(now))
    assert short(interval and interval.start) == expected


# --- make_due_runs ------------------------------------------------------------------------------------------------


def test_catchup_makes_every_interval_oldest_first_and_plans_the_next(parts: Parts) -> None:
    parts.define(schedule=DAILY, start_date=iso(at("01-01")), catchup=True)
    plan = due(parts, "01-05 02:00")
    assert made(plan) == ["01-01 00:00", "01-02 00:00", "01-03 00:00", "01-04 00:00"]
    assert short(plan.due_at) == "01-06 00:00"
    assert parts.runs()[0].run_id == "scheduled__2026-01-01T00:00:00+00:00"
    assert {run.kind for run in parts.runs()} == {RunKind.SCHEDULED}
    assert short(parts.dag().next_interval_start) == "01-05 00:00"


def test_without_catchup_one_run_is_made_for_the_latest_complete_interval(parts: Parts) -> None:
    parts.define(schedule=HOURLY, start_date=iso(at("01-01")))
    plan = due(parts, "01-05 02:30")
    assert made(plan) == ["01-05 01:00"]
    assert short(plan.due_at) == "01-05 03:00"


def test_a_run_is_made_when_it_is_due_and_not_a_moment_earlier(parts: Parts) -> None:
    parts.define(schedule=HOURLY, start_date=iso(at("01-05 01:00")))
    assert made(due(parts, from_iso("2026-01-05T01:59:59.999999+00:00"))) == []
    assert short(parts.dag().next_due_at) == "01-05 02:00"
    assert made(due(parts, "01-05 02:00")) == ["01-05 01:00"]


def test_looking_again_makes_nothing_twice(parts: Parts) -> None:
    parts.define(schedule=HOURLY, start_date=iso(at("01-04")), catchup=True)
    assert len(due(parts, "01-05 02:00").made) == 16
    for now in ("01-05 02:00", "01-05 02:00", "01-04 12:00"):
        assert due(parts, now).made == ()
    assert len(parts.runs()) == 16


def test_catchup_goes_on_in_batches_when_many_are_due(parts: Parts) -> None:
    parts.define(schedule=HOURLY, start_date=iso(at("01-01")), catchup=True, max_active_runs=1000)
    first = due(parts, "01-05 00:00")
    assert len(first.made) == 32
    assert first.due_at is not None
    assert first.due_at <= at("01-05 00:00")
    assert [len(due(parts, "01-05 00:00").made) for _ in range(3)] == [32, 32, 0]
    starts = [run.logical_date for run in parts.runs()]
    assert starts == sorted(set(starts))


def test_catchup_never_has_more_runs_than_max_active_runs(parts: Parts) -> None:
    parts.define(schedule=DAILY, start_date=iso(at("01-01")), catchup=True, max_active_runs=2)
    plan = due(parts, "01-09")
    assert made(plan) == ["01-01 00:00", "01-02 00:00"]
    assert plan.due_at is None
    assert short(parts.dag().next_due_at) == "01-04 00:00"
    assert due(parts, "01-09").made == ()
    finish_runs(parts)
    assert made(due(parts, "01-09")) == ["01-03 00:00", "01-04 00:00"]


def test_without_catchup_runs_beyond_max_active_runs_are_made_and_queue(parts: Parts) -> None:
    parts.define(schedule=HOURLY, start_date=iso(at("01-01")), max_active_runs=1)
    for hour in (2, 3, 4):
        due(parts, f"01-05 0{hour}:00")
    assert [run.state for run in parts.runs()] == ["running", "queued", "queued"]


def test_a_paused_dag_gets_no_runs_and_the_latest_one_when_it_goes_on(parts: Parts) -> None:
    version = parts.define(schedule=HOURLY, start_date=iso(at("01-01")))
    due(parts, "01-05 02:00")
    parts.write(lambda connection: dags.set_paused(connection, version.dag_row, True))
    assert due(parts, "01-05 07:30") == Plan(version.dag_row, None)
    parts.write(lambda connection: dags.set_paused(connection, version.dag_row, False))
    assert made(due(parts, "01-05 07:30")) == ["01-05 06:00"]


def test_catchup_fills_the_time_it_was_paused(parts: Parts) -> None:
    version = parts.define(schedule=HOURLY, start_date=iso(at("01-05")), catchup=True)
    due(parts, "01-05 02:00")
    parts.write(lambda connection: dags.set_paused(connection, version.dag_row, True))
    due(parts, "01-05 04:00")
    parts.write(lambda connection: dags.set_paused(connection, version.dag_row, False))
    assert made(due(parts, "01-05 05:30")) == ["01-05 02:00", "01-05 03:00", "01-05 04:00"]


def test_a_dag_whose_file_is_gone_gets_no_runs(parts: Parts) -> None:
    parts.define(schedule=DAILY, start_date=iso(at("01-01")))
    parts.write(lambda connection: dags.register(connection, "sales.py", Reading(None), at("01-05")))
    assert due(parts, "01-05") == Plan(parts.dag().id, None)


def test_a_dag_without_schedule_gets_no_runs_and_forgets_its_plan(parts: Parts) -> None:
    parts.define(schedule=DAILY)
    due(parts, "01-05 02:00")
    parts.define(schedule=None)
    assert due(parts, "01-09") == Plan(parts.dag().id, None)
    assert parts.dag().next_due_at is None


def test_once_runs_once(parts: Parts) -> None:
    parts.define(schedule=ONCE)
    plan = due(parts, "01-05 02:00")
    assert (len(plan.made), plan.due_at) == (1, None)
    assert plan.made[0].logical_date == parts.dag().first_seen_at
    assert due(parts, "01-09").made == ()


def test_after_the_end_date_there_is_no_plan(parts: Parts) -> None:
    parts.define(schedule=DAILY, start_date=iso(at("01-01")), end_date=iso(at("01-02")), catchup=True)
    plan = due(parts, "01-05")
    assert (made(plan), plan.due_at) == (["01-01 00:00", "01-02 00:00"], None)


def test_a_changed_schedule_goes_on_where_the_last_run_ended(parts: Parts) -> None:
    parts.define(schedule=DAILY, start_date=iso(at("01-01")), catchup=True)
    due(parts, "01-03 12:00")
    parts.define(schedule=cron("0 */12 * * *"), start_date=iso(at("01-01")), catchup=True)
    assert made(due(parts, "01-04 12:00")) == ["01-03 00:00", "01-03 12:00", "01-04 00:00"]


def test_intervals_that_a_backfill_made_are_not_made_again(parts: Parts) -> None:
    version = parts.define(schedule=DAILY, start_date=iso(at("01-01")), catchup=True)

    def backfill(connection: sa.Connection) -> DagRun:
        return runs.create(
            connection, dag=dags.by_row(connection, version.dag_row), version=version, kind=RunKind.BACKFILL,
            interval=DataInterval(at("01-02"), at("01-03")), now=at("01-03"),
        )  # fmt: skip

    parts.write(backfill)
    assert made(due(parts, "01-04 12:00")) == ["01-01 00:00", "01-03 00:00"]


@pytest.mark.parametrize(
    ("day", "hours"),
    [("2026-03-08", 23), ("2026-11-01", 25), ("2026-03-07", 24)],
)
def test_a_day_on_which_the_clock_changes_is_one_interval(parts: Parts, day: str, hours: int) -> None:
    zone = "America/Los_Angeles"
    start = from_iso(f"{day}T{'07' if day == '2026-11-01' else '08'}:00:00+00:00")
    parts.define(schedule=DAILY, timezone=zone, start_date=iso(start), catchup=True)
    plan = due(parts, from_iso("2026-12-01T00:00:00+00:00"))
    first, second = plan.made[:2]
    assert (first.interval_end - first.interval_start).total_seconds() == hours * 3600
    assert second.interval_start == first.interval_end


def test_a_local_time_that_occurs_twice_is_due_once(parts: Parts) -> None:
    start = from_iso("2026-10-31T08:30:00+00:00")
    parts.define(schedule=cron("30 1 * * *"), timezone="America/Los_Angeles", start_date=iso(start), catchup=True)
    plan = due(parts, from_iso("2026-11-03T00:00:00+00:00"))
    assert [iso(run.interval_end) for run in plan.made] == ["2026-11-01T08:30:00+00:00", "2026-11-02T09:30:00+00:00"]


def test_two_schedulers_that_race_make_each_run_once(parts: Parts) -> None:
    parts.define(schedule=HOURLY, start_date=iso(at("01-01")), catchup=True, max_active_runs=1000)
    found: list[Plan] = []
    start = threading.Barrier(2)

    def schedule() -> None:
        start.wait()
        for _ in range(4):
            found.append(due(parts, "01-05 00:00"))

    threads = [threading.Thread(target=schedule) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(plan.made) for plan in found) == len(parts.runs()) == 96


def test_a_plan_that_another_scheduler_moved_is_not_overwritten(parts: Parts) -> None:
    """What was read is old: the whole transaction begins again."""
    parts.define(schedule=HOURLY, start_date=iso(at("01-01")))
    due(parts, "01-05 02:00")
    old = parts.dag()
    due(parts, "01-05 03:00")
    with pytest.raises(StoreError, match="another scheduler"):
        parts.write(lambda connection: make_due_runs(connection, old, at("01-05 04:00")))
    assert len(parts.runs()) == 2
    assert short(parts.dag().next_due_at) == "01-05 04:00"


def test_describe_next_lists_what_is_due_from_now_on(parts: Parts) -> None:
    version = parts.define(schedule=DAILY, end_date=iso(at("01-06")))
    schedule = bound_schedule(parts.dag(), version.structure)
    found = describe_next(schedule, at("01-05 02:00"), 5)
    assert [(short(item.start), short(item.end)) for item in found] == [
        ("01-05 00:00", "01-06 00:00"),
        ("01-06 00:00", "01-07 00:00"),
    ]


# --- in the loop --------------------------------------------------------------------------------------------------


def test_runs_come_as_the_clock_reaches_them(parts: Parts) -> None:
    parts.define(schedule=every(1), start_date=iso(at("01-05 02:00")), catchup=True)
    scheduler = Scheduler(parts.loop, parts.clock, parts.writer(claims=False))
    scheduler.refresh()
    parts.until(lambda: parts.dag().next_due_at)
    assert parts.runs() == []
    for count in (1, 2, 3):
        parts.clock.pass_time(seconds=1)
        scheduler.rearm()
        parts.until(lambda count=count: len(parts.runs()) == count)


def test_a_clock_that_was_set_forward_is_noticed_by_a_refresh(parts: Parts) -> None:
    parts.define(schedule=DAILY, start_date=iso(at("01-05")))
    writer = parts.writer(claims=False)
    scheduler = Scheduler(parts.loop, parts.clock, writer)
    scheduler.refresh()
    parts.until(lambda: parts.dag().next_due_at)
    parts.clock.instant = at("01-07 00:30")
    scheduler.refresh()
    parts.until(lambda: parts.runs())
    assert [short(run.logical_date) for run in parts.runs()] == ["01-06 00:00"]


def test_runs_that_were_made_are_claimed_at_once(parts: Parts) -> None:
    parts.define(schedule=DAILY)
    scheduler = Scheduler(parts.loop, parts.clock, parts.writer())
    scheduler.refresh()
    assert parts.until(lambda: parts.claimed)[0].task.task_id == "t0"


def broken(parts: Parts, version: DagVersion) -> None:
    """Damage the schedule of a stored version."""
    from flux.store.schema import dag_version

    text = version.structure.to_json().replace('"cron"', '"lunar"')
    parts.write(lambda connection: connection.execute(
        sa.update(dag_version).where(dag_version.c.id == version.id).values(structure=text)
    ))  # fmt: skip


def test_one_dags_trouble_is_not_the_others(parts: Parts, capfd: pytest.CaptureFixture[str]) -> None:
    broken(parts, parts.define("bad", schedule=DAILY))
    parts.define("good", schedule=DAILY)
    scheduler = Scheduler(parts.loop, parts.clock, parts.writer(claims=False))
    scheduler.refresh()
    parts.until(lambda: parts.runs("good"))
    assert "DAG 'bad'" in capfd.readouterr().err


def test_a_defect_in_one_dag_is_not_the_others(parts: Parts, capfd: pytest.CaptureFixture[str]) -> None:
    version = parts.define("bad", schedule=DAILY)
    for number in range(3):
        parts.define(f"good{number}", schedule=DAILY)
    query = sa.update(dag_table).where(dag_table.c.id == version.dag_row).values(dag_version_id=None)
    parts.write(lambda connection: connection.execute(query))
    from flux.store.schema import dag_version

    spoil = sa.update(dag_version).where(dag_version.c.id == version.id).values(structure="not JSON")
    back = sa.update(dag_table).where(dag_table.c.id == version.dag_row).values(dag_version_id=version.id)
    parts.write(lambda connection: (connection.execute(spoil), connection.execute(back)))
    scheduler = Scheduler(parts.loop, parts.clock, parts.writer(claims=False))
    scheduler.refresh()
    parts.until(lambda: all(parts.runs(f"good{number}") for number in range(3)))
    assert "scheduler: DAG 'bad': DamagedVersion" in capfd.readouterr().err


def test_a_day_of_many_dags_is_planned(parts: Parts) -> None:
    for number in range(120):
        parts.define(f"d{number}", schedule=DAILY)
    scheduler = Scheduler(parts.loop, parts.clock, parts.writer(claims=False))
    scheduler.refresh()
    parts.until(lambda: all(len(parts.runs(f"d{number}")) == 1 for number in (0, 60, 119)))
    assert short(parts.dag("d119").next_due_at) == "01-06 00:00"

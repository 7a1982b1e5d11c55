from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from flux import DAG, BaseSensor
from flux.attempt import poke
from flux.errors import AuthoringError, BadDate, FluxError
from flux.sensors import DateTimeSensor, FileSensor, PythonSensor, TimeDeltaSensor, TimeSensor
from flux.times import iso, utc_now
from tests.attempts import MemoryWorld, spec_of


def holds(folder: Path, make: Callable[..., BaseSensor], *, ended: datetime | None = None, **arguments: Any) -> bool:
    """Poke once, in a run of Berlin's 5 January 2026 or whose data interval ended at `ended`."""
    with DAG("sales", start_date="2026-01-01", timezone="Europe/Berlin"):
        task = make(task_id="wait", **arguments)
    spec = {} if ended is None else {"interval_start": iso(ended - timedelta(hours=1)), "interval_end": iso(ended)}
    return poke(task, spec_of(task, folder, **spec), MemoryWorld())


class TestFile:
    def test_it_waits_for_the_path_of_the_day(self, tmp_path: Path) -> None:
        path = str(tmp_path / "{{ ds }}.csv")
        assert not holds(tmp_path, FileSensor, filepath=path)
        (tmp_path / "2026-01-05.csv").touch()
        assert holds(tmp_path, FileSensor, filepath=path)

    def test_a_folder_counts_and_a_path_object_is_taken(self, tmp_path: Path) -> None:
        assert holds(tmp_path, FileSensor, filepath=tmp_path)

    def test_a_pattern_stands_for_any_name(self, tmp_path: Path) -> None:
        pattern = str(tmp_path / "in" / "**" / "*.csv")
        assert not holds(tmp_path, FileSensor, filepath=pattern)
        (tmp_path / "in" / "a").mkdir(parents=True)
        (tmp_path / "in" / "a" / "b.csv").touch()
        assert holds(tmp_path, FileSensor, filepath=pattern)

    def test_a_name_with_brackets_is_found_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "a[1].csv").touch()
        assert holds(tmp_path, FileSensor, filepath=str(tmp_path / "a[1].csv"))

    def test_a_file_in_place_of_a_folder_is_no_error(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        assert not holds(tmp_path, FileSensor, filepath=str(tmp_path / "a" / "b"))

    def test_a_path_that_cannot_be_looked_at_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="too long"):
            holds(tmp_path, FileSensor, filepath=str(tmp_path / ("x" * 300)))

    def test_an_empty_path_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FluxError, match="filepath of task 'wait' is empty"):
            holds(tmp_path, FileSensor, filepath="{{ '' }}")


class TestPython:
    def test_what_the_function_returns_decides(self, tmp_path: Path) -> None:
        assert holds(tmp_path, PythonSensor, python_callable=lambda ds: ds == "2026-01-05")
        assert not holds(tmp_path, PythonSensor, python_callable=lambda n: n - 1, op_args=[1])
        assert holds(tmp_path, PythonSensor, python_callable=lambda *, n: n, op_kwargs={"n": "{{ ds }}"})

    def test_what_is_no_function_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(AuthoringError, match="python_callable"):
            holds(tmp_path, PythonSensor, python_callable=None)


class TestTime:
    def test_the_time_is_on_the_day_on_which_the_interval_ends(self, tmp_path: Path) -> None:
        now = utc_now()
        assert holds(tmp_path, TimeSensor, ended=now - timedelta(days=2), target_time="23:59:59")
        assert not holds(tmp_path, TimeSensor, ended=now + timedelta(days=2), target_time=time(0))

    def test_the_time_is_one_of_the_zone_of_the_dag(self, tmp_path: Path) -> None:
        from zoneinfo import ZoneInfo

        local = utc_now().astimezone(ZoneInfo("Europe/Berlin"))
        if local.hour == 23 or local.hour == 0:
            pytest.skip("an hour from now, or before, is another day in Berlin")
        before, after = (local + timedelta(hours=hours) for hours in (-1, 1))
        assert holds(tmp_path, TimeSensor, ended=local, target_time=before.time())
        assert not holds(tmp_path, TimeSensor, ended=local, target_time=after.time().isoformat())

    def test_a_time_with_a_zone_keeps_it(self, tmp_path: Path) -> None:
        now = datetime.now(UTC)
        assert holds(tmp_path, TimeSensor, ended=now, target_time=time(0, tzinfo=UTC))

    @pytest.mark.parametrize("value", ["25:00", "soon", 7])
    def test_what_is_no_time_is_refused_when_the_file_is_read(self, value: Any, tmp_path: Path) -> None:
        with pytest.raises(BadDate, match="target_time"):
            holds(tmp_path, TimeSensor, target_time=value)


class TestTimeDelta:
    @pytest.mark.parametrize(("delta", "expected"), [(60, True), (timedelta(minutes=50), True), (4000, False)])
    def test_it_counts_from_the_end_of_the_interval(self, delta: Any, expected: bool, tmp_path: Path) -> None:
        assert holds(tmp_path, TimeDeltaSensor, ended=utc_now() - timedelta(hours=1), delta=delta) is expected

    def test_a_negative_delta_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(AuthoringError, match="delta"):
            holds(tmp_path, TimeDeltaSensor, delta=-1)


class TestDateTime:
    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            ("2026-01-05", True),
            ("{{ data_interval_end }}", True),
            ("{{ data_interval_end + macros.timedelta(days=365000) }}", False),
            (datetime(2026, 1, 5), True),
            (datetime(2999, 1, 5, tzinfo=UTC), False),
        ],
    )
    def test_it_waits_for_a_moment(self, target: Any, expected: bool, tmp_path: Path) -> None:
        assert holds(tmp_path, DateTimeSensor, target_time=target) is expected

    def test_a_time_that_does_not_exist_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(BadDate, match="does not exist"):
            holds(tmp_path, DateTimeSensor, target_time="2026-03-29T02:30")

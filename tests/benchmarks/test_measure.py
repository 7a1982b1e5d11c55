"""The table says what the samples say."""

from __future__ import annotations

import pytest

from tests.benchmarks.measure import Row, number, percentile, table


@pytest.mark.parametrize(("part", "expected"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_the_sample_that_so_many_do_not_exceed(part: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), part) == expected


def test_a_time_reaches_its_bound_when_median_and_worst_do() -> None:
    samples = [3.0] * 98 + [50.0] * 2
    assert Row("hop", "ms", samples, must=12, must_p99=60, aim=3, aim_p99=15).verdict() == "must"
    assert Row("hop", "ms", samples, must=12, must_p99=40, aim=3).verdict() == "aim"
    assert Row("hop", "ms", samples, must=12, must_p99=40, aim=3, aim_p99=15).verdict() == "MISSED"
    assert Row("floor", "ms", samples).verdict() == ""


def test_a_rate_reaches_its_bound_from_above() -> None:
    assert Row("tasks", "/s", [200], must=150, aim=450).verdict() == "must"
    assert Row("tasks", "/s", [140, 149, 500], must=150, aim=450).verdict() == "MISSED"
    assert Row("tasks", "/s", [451, 1, 460], must=150, aim=450).p99 == 1


def test_the_table_has_a_line_for_each_row_with_its_figures() -> None:
    lines = table([Row("hop", "ms", [7.812, 8.1], 1.5, must=12, aim=3), Row("floor", "ms", [0.5])]).splitlines()
    assert lines[1].split() == ["hop", "7.81", "8.10", "ms", "2", "1.50", "12", "3", "must"]
    assert lines[2].split() == ["floor", "0.50", "ms", "1"]


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.12"), (12.34, "12.3"), (1234.5, "1,234"), (0, "0")])
def test_a_number_has_the_figures_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text

from __future__ import annotations

import pytest

from flux import macros


@pytest.mark.parametrize(
    ("ds", "days", "expected"),
    [("2026-01-05", 1, "2026-01-06"), ("2026-01-05", -5, "2025-12-31"), ("2024-02-28", 1, "2024-02-29")],
)
def test_ds_add_counts_calendar_days(ds: str, days: int, expected: str) -> None:
    assert macros.ds_add(ds, days) == expected


def test_ds_add_refuses_what_is_no_date() -> None:
    with pytest.raises(ValueError, match="month"):
        macros.ds_add("2026-13-01", 1)


def test_ds_format_reads_one_form_and_writes_the_other() -> None:
    assert macros.ds_format("2026-01-05", "%Y-%m-%d", "%d.%m.%y") == "05.01.26"


def test_every_name_offered_is_there() -> None:
    assert all(hasattr(macros, name) for name in macros.__all__)

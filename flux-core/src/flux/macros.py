"""The functions that every template finds under `macros`. Standard library only; providers add theirs by a hook."""

from __future__ import annotations

import uuid
from datetime import date, datetime, timedelta
from random import random

__all__ = ["datetime", "ds_add", "ds_format", "random", "timedelta", "uuid"]


def ds_add(ds: str, days: int) -> str:
    """Return the date `days` calendar days after `ds` (before it, if negative), as YYYY-MM-DD.

    Raises:
        ValueError: `ds` is no date.
    """
    return (date.fromisoformat(ds) + timedelta(days=days)).isoformat()


def ds_format(ds: str, input_format: str, output_format: str) -> str:
    """Return `ds`, written as `input_format`, in `output_format`; both as strftime(3) has them.

    Raises:
        ValueError: `ds` is not written as `input_format`.
    """
    return datetime.strptime(ds, input_format).strftime(output_format)  # noqa: DTZ007

"""Rows of the table: what was measured, what it must reach, and how the table looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure with its samples, all in `unit`.

    For rates ("/s") more is better, and the worst one in a hundred is the lowest.
    """

    name: str
    unit: str
    samples: Sequence[float]
    #: CPU seconds of all Flux processes while it was measured; None: nothing of Flux ran.
    cpu_seconds: float | None = None
    #: What design.md 9 asks of the median, and of the 99th percentile.
    must: float | None = None
    aim: float | None = None
    must_p99: float | None = None
    aim_p99: float | None = None

    @property
    def median(self) -> float:
        return percentile(self.samples, 0.5)

    @property
    def p99(self) -> float:
        return percentile(self.samples, 0.01 if self.more_is_better else 0.99)

    @property
    def more_is_better(self) -> bool:
        return self.unit == "/s"

    def verdict(self) -> str:
        """Say how it stands: "aim", "must", "MISSED"; nothing where nothing is asked."""
        if self.must is None:
            return ""
        if self._reaches(self.aim, self.aim_p99):
            return "aim"
        return "must" if self._reaches(self.must, self.must_p99) else "MISSED"

    def _reaches(self, median: float | None, p99: float | None) -> bool:
        if median is None:
            return False
        if self.more_is_better:
            return self.median >= median
        return self.median <= median and (p99 is None or self.p99 <= p99)


def percentile(samples: Sequence[float], part: float) -> float:
    """Return the smallest sample that at least `part` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(math.ceil(len(ordered) * part) - 1, 0)]


_HEAD = ("", "median", "p99", "unit", "samples", "CPU s", "must", "aim", "reached")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text in columns."""
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 3, 8) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    cpu = "" if row.cpu_seconds is None else f"{row.cpu_seconds:.2f}"
    p99 = number(row.p99) if len(row.samples) > 1 else ""
    must, aim = _bound(row.must, row.must_p99), _bound(row.aim, row.aim_p99)
    return (row.name, number(row.median), p99, row.unit, str(len(row.samples)), cpu, must, aim, row.verdict())


def _bound(median: float | None, p99: float | None) -> str:
    if median is None:
        return ""
    return number(median) if p99 is None else f"{number(median)} / {number(p99)}"


def number(value: float) -> str:
    """Three figures that mean something."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

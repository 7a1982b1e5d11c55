"""What commands print: JSON documents for programs, tables and times for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, TypeVar

import click

from flux.errors import printable
from flux.times import iso

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: How people see a state: colour by name, only on a terminal.
COLOURS = {
    "success": "green", "up": "green", "ok": "green", "running": "cyan", "started": "cyan", "failed": "red",
    "upstream_failed": "red", "error": "red", "down": "red", "lost": "red", "skipped": "magenta", "retrying": "yellow",
    "deferred": "yellow", "degraded": "yellow", "warning": "yellow", "queued": "blue", "ready": "blue", "broken": "red",
    "incompatible": "red", "conflict": "red", "disabled": "magenta",
}  # fmt: skip


def json_option(function: _Function) -> _Function:
    """Add `--json`, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(function)


def plain(value: Any) -> Any:
    """Return `value` as JSON has it: records become objects, instants ISO 8601 in UTC, sequences arrays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def document(value: Any) -> None:
    """Print `value` as the one JSON document on stdout."""
    text = json.dumps(plain(value), ensure_ascii=False, indent=2)
    # Half of a surrogate pair, as in names of files that are no UTF-8, stays as JSON escapes it.
    click.echo(text.encode(errors="backslashreplace").decode())


def note(text: str) -> None:
    """Tell a person something that is no part of the answer; on stderr."""
    click.echo(text, err=True)


def complain(message: str) -> None:
    """Tell a person why the command fails; on stderr."""
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {message}", err=True)


def local(moment: datetime | None, zone: tzinfo) -> str:
    """Return an instant as people read it, with the zone's name; empty for None."""
    return "" if moment is None else f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def styled(state: str) -> str:
    """Return a state in its colour; click drops the colour when stdout is no terminal."""
    return click.style(state, fg=COLOURS[state]) if state in COLOURS else state


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under headings, in aligned columns; `empty` in their place, on stderr, when there is no row."""
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        note(empty)
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    click.echo(click.style(_line(headings, widths), bold=True))
    for row in cells:
        click.echo(_line(row, widths))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = "  ".join(styled(cell) + " " * (width - len(cell)) for cell, width in zip(cells, widths, strict=True))
    return padded.rstrip()


def details(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line, values aligned; pairs without a value are left out."""
    lines = [(name, printable(str(value), keep="\n")) for name, value in pairs if value not in (None, "", [], ())]
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {styled(value)}")

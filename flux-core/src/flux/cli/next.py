"""`flux next`"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from flux.cli import output, session

if TYPE_CHECKING:
    from flux.schedule import BoundSchedule, DataInterval


@click.command("next")
@click.argument("dag_id", metavar="DAG")
@click.option("-n", "count", type=click.IntRange(1), default=5, show_default=True, help="How many.")
@click.option("--after", metavar="T", help="Only runs due after T, in place of after now.")
@output.json_option
def next_command(dag_id: str, count: int, after: str | None, as_json: bool) -> None:
    """Say when the next runs of a DAG are due, by its schedule.

    \b
    Example:
      flux next sales -n 3
      flux next sales --after 2026-03-28 --json
    """
    from flux.cli import structures
    from flux.running.scheduler import bound_schedule
    from flux.store import dags
    from flux.times import from_iso, moment, utc_now, zone

    with session.opened(dags=True) as flux:
        found = flux.store.read(lambda c: (dags.by_id(c, dag_id), structures.version(c, dag_id).structure))
    structure = found[1]
    place = zone(structure.timezone)
    then = utc_now() if after is None else moment(after, place)
    first = None if structure.start_date is None else from_iso(structure.start_date)
    intervals = list(islice(_due_after(bound_schedule(*found), then, first), count))
    if as_json:
        output.document([_row(interval, place) for interval in intervals])
        return
    cells = [(output.local(interval.start, place), output.local(interval.end, place)) for interval in intervals]
    output.table(("LOGICAL DATE", "DUE"), cells, empty=f"No further run of DAG {dag_id!r} is due by its schedule.")


def _due_after(bound: BoundSchedule, then: datetime, first: datetime | None) -> Iterator[DataInterval]:
    """Yield the intervals that are due after `then`, oldest first; `first` is the DAG's start_date."""
    latest = bound.latest_complete(then)
    interval = bound.next(latest) if latest is not None else bound.first_from(first or then)
    while interval is not None:
        if interval.end > then:
            yield interval
        interval = bound.next(interval)


def _row(interval: DataInterval, place: Any) -> dict[str, Any]:
    return {
        "logical_date": interval.start,
        "data_interval": interval,
        "due_at": interval.end,
        "local": interval.end.astimezone(place).isoformat(),
    }

"""Makes the runs that a schedule asks for: each exactly when it is due, none twice.

Theory. The next run of a DAG and the instant it is due are kept in the store (`dag.next_…`). Whoever makes that run
moves them on in the same transaction, by compare-and-set, and the run's interval is unique; so two schedulers, a
restart at the wrong moment or a clock set back cannot make one twice. In memory there is only a heap of due instants.

`catchup=True` makes every interval since the start date, oldest first, and never more runs at once than
max_active_runs. `catchup=False` makes one run for the latest complete interval when the DAG is first seen, unpaused or
after an outage, and from then on each as it becomes due. A changed schedule goes on from the end of the last interval
that was run, so it never asks for the past again.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from flux.errors import DatabaseUnavailable, FluxError, StaleState, StoreError
from flux.loop import Loop, Timer
from flux.schedule import BoundSchedule, DataInterval, bind
from flux.states import RunKind
from flux.store import dags, runs
from flux.store.dags import Dag
from flux.store.runs import DagRun, Structures
from flux.store.structures import StructureCache
from flux.times import Clock

if TYPE_CHECKING:
    import sqlalchemy as sa

    from flux.running.writer import Writer
    from flux.structure import DagStructure

_LONG_AGO = datetime(1900, 1, 1, tzinfo=UTC)
_SMALLEST = timedelta(microseconds=1)
#: Runs of one DAG made in one transaction; the rest follows at once.
_BATCH = 32
#: DAGs looked at in one transaction.
_DAGS = 50
#: After a transaction that failed (the database is away, a defect), the same DAGs are looked at again.
_TRY_AGAIN_SECONDS = 5.0
#: Longest sleep, so that a clock that is set is noticed even without the supervisor's own watch.
_LONGEST_SLEEP = 3600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What making a DAG's due runs left: when to look again, and the runs that were made."""

    dag_row: int
    #: None: nothing is due by itself (paused, no schedule, at its end, or max_active_runs is reached).
    due_at: datetime | None
    made: tuple[DagRun, ...] = ()
    #: A run is due and max_active_runs holds it back.
    waits_for_room: bool = False


def bound_schedule(dag: Dag, structure: DagStructure) -> BoundSchedule:
    """Join a DAG's schedule with its dates."""
    return bind(
        structure.schedule,
        timezone=structure.timezone,
        start_date=structure.start_date,
        end_date=structure.end_date,
        dag_id=dag.dag_id,
        first_seen=dag.first_seen_at,
    )


def next_interval(
    schedule: BoundSchedule, structure: DagStructure, last: DagRun | None, now: datetime
) -> DataInterval | None:
    """Return the interval of the next scheduled run, due at its end; None when there is none. Pure.

    Args:
        last: the newest scheduled run.
    """
    after = _LONG_AGO if last is None else max(last.interval_end, last.interval_start + _SMALLEST)
    if structure.catchup:
        if structure.catchup_window is not None:
            after = max(after, now - timedelta(seconds=structure.catchup_window))
        return schedule.first_from(after)
    latest = schedule.latest_complete(now)
    if latest is None:
        return schedule.first_from(after)
    return latest if latest.start >= after else schedule.first_from(max(after, latest.start + _SMALLEST))


def make_due_runs(connection: sa.Connection, dag: Dag, now: datetime, structures: Structures | None = None) -> Plan:
    """Make the runs of `dag` that are due by `now`, and store when the next one is."""
    if dag.paused or dag.dag_file_id is None or dag.dag_version_id is None:
        return Plan(dag.id, None)
    structure = (structures or StructureCache().through(connection))(dag.dag_version_id)
    schedule = bound_schedule(dag, structure)
    if schedule.is_manual:
        _store_plan(connection, dag, None)
        return Plan(dag.id, None)
    made: list[DagRun] = []
    last = runs.newest_scheduled(connection, dag.id)
    while True:
        interval = next_interval(schedule, structure, last, now)
        if interval is None or interval.end > now or len(made) == _BATCH:
            break
        if structure.catchup and dags.by_row(connection, dag.id).active_runs >= dag.max_active_runs:
            _store_plan(connection, dag, interval)
            return Plan(dag.id, None, tuple(made), waits_for_room=True)
        existing = runs.by_interval(connection, dag.id, interval.start)
        last = existing or runs.create(
            connection,
            dag=dag,
            version=dags.version(connection, dag.dag_version_id),
            kind=RunKind.SCHEDULED,
            interval=interval,
            now=now,
        )
        if existing is None:
            made.append(last)
    _store_plan(connection, dag, interval)
    return Plan(dag.id, None if interval is None else interval.end, tuple(made))


def _store_plan(connection: sa.Connection, dag: Dag, interval: DataInterval | None) -> None:
    due_at = None if interval is None else interval.end
    if (due_at, interval and interval.start) == (dag.next_due_at, dag.next_interval_start):
        return
    if not dags.plan(connection, dag.id, seen_due=dag.next_due_at, interval=interval, due_at=due_at):
        raise StaleState(f"The next run of DAG {dag.dag_id!r} was planned by another scheduler.")


class Scheduler:
    """Keeps the due instants of all DAGs and has their runs made. Lives in the supervisor's loop."""

    def __init__(self, loop: Loop, clock: Clock, writer: Writer, structures: StructureCache | None = None) -> None:
        self._loop = loop
        self._clock = clock
        self._writer = writer
        self._structures = structures or StructureCache()
        self._due: list[tuple[datetime, int]] = []
        #: The one valid entry of each DAG in the heap.
        self._planned: dict[int, datetime] = {}
        #: DAGs with a run that max_active_runs holds back.
        self._waiting: set[int] = set()
        self._timer: Timer | None = None

    def refresh(self) -> None:
        """Look at every DAG again: at the start, and after others changed DAGs (unpause)."""

        def failed(error: Exception) -> None:
            _show("DAGs", error)
            self._loop.call_later(_TRY_AGAIN_SECONDS, self.refresh)

        self._writer.call(
            lambda connection: [dag.id for dag in dags.every(connection)], self.consider, failed=failed, reads_only=True
        )

    def consider(self, dag_rows: Sequence[int]) -> None:
        """Make the due runs of these DAGs now, and plan their next ones."""
        for start in range(0, len(dag_rows), _DAGS):
            self._consider(dag_rows[start : start + _DAGS])

    def made_room(self, dag_rows: Iterable[int]) -> None:
        """Runs of these DAGs have ended: make those that were held back by max_active_runs."""
        self.consider(sorted(self._waiting.intersection(dag_rows)))

    def _consider(self, dag_rows: Sequence[int]) -> None:
        def failed(error: Exception) -> None:
            if len(dag_rows) > 1 and not isinstance(error, DatabaseUnavailable):
                for row in dag_rows:  # one DAG's trouble is not the others'
                    self._consider([row])
                return
            _show(f"DAG rows {list(dag_rows)}", error)
            self._loop.call_later(_TRY_AGAIN_SECONDS, lambda: self.consider(dag_rows))

        self._writer.call(lambda connection: self._plan(connection, dag_rows), self._planned_again, failed=failed)

    def rearm(self) -> None:
        """Set the timer anew, after the wall clock was set."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        while self._due and self._planned.get(self._due[0][1]) != self._due[0][0]:
            heapq.heappop(self._due)
        if self._due:
            seconds = (self._due[0][0] - self._clock.now()).total_seconds()
            self._timer = self._loop.call_later(min(max(seconds, 0.0), _LONGEST_SLEEP), self._tick)

    def _plan(self, connection: sa.Connection, dag_rows: Sequence[int]) -> list[Plan]:
        now = self._clock.now()
        plans = []
        for row in dag_rows:
            dag = dags.by_row(connection, row)
            try:
                with connection.begin_nested():
                    plans.append(make_due_runs(connection, dag, now, self._structures.through(connection)))
            except StoreError:
                raise
            except FluxError as error:  # one DAG's trouble is not the others'
                _show(f"DAG {dag.dag_id!r}", error)
                plans.append(Plan(row, None))
        return plans

    def _planned_again(self, plans: Sequence[Plan]) -> None:
        for plan in plans:
            self._planned.pop(plan.dag_row, None)
            self._waiting.discard(plan.dag_row)
            if plan.waits_for_room:
                self._waiting.add(plan.dag_row)
            if plan.due_at is not None:
                self._planned[plan.dag_row] = plan.due_at
                heapq.heappush(self._due, (plan.due_at, plan.dag_row))
            for run in plan.made:
                print(f"scheduler: DAG {run.dag_id!r}: run {run.run_id!r} made", file=sys.stderr, flush=True)
        if any(plan.made for plan in plans):
            self._writer.look()
        self.rearm()

    def _tick(self) -> None:
        self._timer = None
        now = self._clock.now()
        rows = []
        while self._due and self._due[0][0] <= now:
            due_at, row = heapq.heappop(self._due)
            if self._planned.get(row) == due_at:
                del self._planned[row]
                rows.append(row)
        if rows:
            self.consider(rows)
        else:
            self.rearm()


def _show(what: str, error: Exception) -> None:
    print(f"scheduler: {what}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def describe_next(schedule: BoundSchedule, after: datetime, count: int) -> list[DataInterval]:
    """Return the next `count` intervals that are due after `after`, oldest first."""
    latest = schedule.latest_complete(after)
    interval = schedule.first_from(_LONG_AGO if latest is None else latest.start + _SMALLEST)
    found: list[DataInterval] = []
    while interval is not None and len(found) < count:
        if interval.end > after:
            found.append(interval)
        interval = schedule.next(interval)
    return found

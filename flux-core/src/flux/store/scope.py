"""What one write transaction knows: task instances as it read them, their runs, structures, limits and facts.

Everything is read once. `Advance` moves things, `reasons` explains them; both ask the same `Scope.facts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.dependencies import Facts, Past
from flux.states import State
from flux.store import runs
from flux.store.keyed import Keyed
from flux.store.limits import Key, Ledger
from flux.store.prepared import Prepared, Record
from flux.store.runs import DagRun, Structures
from flux.store.schema import dag, task_instance
from flux.structure import DagStructure, TaskStructure


class Row(NamedTuple):
    """A task instance as the transaction read it."""

    id: int
    dag_run_id: int
    task_id: str
    task_index: int
    map_index: int
    state: str
    attempt: int
    max_attempts: int
    losses: int
    claim: int | None
    needs_slot: bool
    pool_id: int | None
    pool_slots: int
    task_limit_id: int | None
    holds: int
    upstream_total: int
    upstream_ok: int
    upstream_bad: int
    upstream_skipped: int
    gates_open: int
    gates_closed: int
    blocked_on: str


_COLUMNS = [task_instance.c[name] for name in Row._fields]
#: The columns of `Row`; add a WHERE.
ROWS = sa.select(*_COLUMNS)
#: The task instances of run `run` by their indices.
NEIGHBOURS = Keyed(ROWS.where(task_instance.c.dag_run_id == bindparam("run")), task_instance.c.task_index)
_LOCK_PAUSED = sa.select(dag.c.paused).where(dag.c.id == bindparam("id")).with_for_update(key_share=True)
_LOCK_STATE = (
    sa.select(task_instance.c.state).where(task_instance.c.id == bindparam("id")).with_for_update(key_share=True)
)
#: What the task instances of the previous run may be.
_PASSED = (State.SUCCESS, State.SKIPPED, State.REMOVED)


class Scope:
    """What one transaction knows.

    Args:
        locks: a condition that is not met is read again under a lock that lasts until the commit. Whoever makes it
            true then comes before, and it is met, or after, and finds who waits for it. SQLite, which has one writer,
            needs none.
    """

    def __init__(
        self, connection: sa.Connection, structures: Structures, now: datetime, *, locks: bool = False
    ) -> None:
        self.connection = connection
        self.structures = structures
        self.now = now
        self._locks = locks and connection.dialect.name != "sqlite"
        self.ledger = Ledger(connection, locks=self._locks)
        self.runs: dict[int, DagRun] = {}

    def rows(self, statement: Prepared, **values: Any) -> list[Row]:
        """Read task instances, and the runs they belong to."""
        return self.known(statement.rows(self.connection, values))

    def rows_of(self, statement: Keyed, keys: Sequence[Any], **values: Any) -> list[Row]:
        """Read the task instances of these keys, however many, and the runs they belong to."""
        return self.known(statement.rows(self.connection, keys, **values))

    def known(self, records: Iterable[Record]) -> list[Row]:
        """Take task instances that a statement gave back, and read the runs they belong to."""
        rows = [Row._make(record) for record in records]
        self.load_runs(row.dag_run_id for row in rows)
        return rows

    def load_runs(self, ids: Iterable[int]) -> None:
        """Read the runs of these row numbers that are not known yet."""
        missing = sorted({number for number in ids if number not in self.runs})
        self.runs.update((run.id, run) for run in runs.by_rows(self.connection, missing))

    def structure(self, row: Row) -> DagStructure:
        return self.structures(self.runs[row.dag_run_id].dag_version_id)

    def task(self, row: Row) -> TaskStructure:
        return self.structure(row).tasks[row.task_index]

    def keys(self, row: Row) -> list[Key]:
        """Return the limits a task instance counts against while an attempt is open; what needs no slot counts
        only where its author named a pool or a limit."""
        keys: list[Key] = []
        if row.needs_slot:
            keys.append(("dag", self.runs[row.dag_run_id].dag_row))
        if row.task_limit_id is not None:
            keys.append(("task", row.task_limit_id))
        if row.pool_id is not None:
            keys.append(("pool", row.pool_id))
        return keys

    def load_limits(self, rows: Iterable[Row]) -> None:
        """Read the counters of every limit these rows count against."""
        self.ledger.load(key for row in rows for key in self.keys(row))

    def facts(self, row: Row) -> Facts:
        """Gather what `dependencies.unmet` needs to know of a ready task instance."""
        keys = dict(self.keys(row))
        self.ledger.load(keys.items())
        run, task = self.runs[row.dag_run_id], self.task(row)
        return Facts(
            dag_id=run.dag_id,
            paused_key=f"paused:{run.dag_row}" if self._is_paused(run) else None,
            past=self._past(run, task) if task.depends_on_past or task.wait_for_downstream else None,
            dag_limit=self.ledger.limit(("dag", keys["dag"])) if "dag" in keys else None,
            task_limit=self.ledger.limit(("task", keys["task"])) if "task" in keys else None,
            pool=self.ledger.limit(("pool", keys["pool"]), row.pool_slots) if "pool" in keys else None,
        )

    def _is_paused(self, run: DagRun) -> bool:
        return run.dag_paused and not self._has_moved(_LOCK_PAUSED, run.dag_row, True)

    def _past(self, run: DagRun, task: TaskStructure) -> Past | None:
        """The first task instance of the previous run that keeps `task` from running."""
        # One that is queued was made after this one had begun: waiting for it could be waiting for each other.
        before = runs.previous(self.connection, run.dag_row, run.logical_date, begun=True)
        if before is None:
            return None
        structure = self.structures(before.dag_version_id)
        index = structure.index_of.get(task.task_id)
        if index is None:
            return None
        indices = [index, *(structure.tasks[index].downstream if task.wait_for_downstream else ())]
        for row in self.rows_of(NEIGHBOURS, indices, run=before.id):
            if row.state not in _PASSED:
                if self._has_moved(_LOCK_STATE, row.id, row.state):
                    return self._past(run, task)
                return Past(f"past:{row.id}", row.task_id, before.run_id, row.state)
        return None

    def _has_moved(self, lock: sa.Select[Any], number: int, seen: Any) -> bool:
        """Lock a row, and say whether it is no longer as it was read."""
        return self._locks and self.connection.execute(lock, {"id": number}).scalar_one_or_none() != seen

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
from flux.states import RunState, State
from flux.store import runs
from flux.store.limits import Key, Ledger
from flux.store.runs import DagRun, Structures
from flux.store.schema import dag, task_instance
from flux.structure import DagStructure, TaskStructure

#: Most row numbers in one IN list.
_CHUNK = 500


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
NEIGHBOURS = ROWS.where(
    task_instance.c.dag_run_id == bindparam("run"),
    task_instance.c.task_index.in_(bindparam("indices", expanding=True)),
)
_PAUSED = sa.select(dag.c.paused).where(dag.c.id == bindparam("id"))


def chunks(items: Sequence[int], size: int = _CHUNK) -> Iterable[Sequence[int]]:
    """Cut a sequence into parts that fit an IN list."""
    return (items[start : start + size] for start in range(0, len(items), size))


class Scope:
    """What one transaction knows."""

    def __init__(self, connection: sa.Connection, structures: Structures, now: datetime) -> None:
        self.connection = connection
        self.structures = structures
        self.now = now
        self.ledger = Ledger(connection)
        self.runs: dict[int, DagRun] = {}
        self._paused: dict[int, bool] = {}

    def rows(self, statement: sa.Select[Any], **values: Any) -> list[Row]:
        """Read task instances, and the runs they belong to."""
        rows = [Row._make(row) for row in self.connection.execute(statement, values)]
        self.load_runs(row.dag_run_id for row in rows)
        return rows

    def load_runs(self, ids: Iterable[int]) -> None:
        """Read the runs of these row numbers that are not known yet."""
        missing = sorted({number for number in ids if number not in self.runs})
        for chunk in chunks(missing):
            self.runs.update((run.id, run) for run in runs.by_rows(self.connection, list(chunk)))

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
            paused_key=f"paused:{run.dag_row}" if self._is_paused(run.dag_row) else None,
            past=self._past(run, task) if task.depends_on_past or task.wait_for_downstream else None,
            dag_limit=self.ledger.limit(("dag", keys["dag"])) if "dag" in keys else None,
            task_limit=self.ledger.limit(("task", keys["task"])) if "task" in keys else None,
            pool=self.ledger.limit(("pool", keys["pool"]), row.pool_slots) if "pool" in keys else None,
        )

    def _is_paused(self, dag_row: int) -> bool:
        if dag_row not in self._paused:
            self._paused[dag_row] = self.connection.execute(_PAUSED, {"id": dag_row}).scalar_one()
        return self._paused[dag_row]

    def _past(self, run: DagRun, task: TaskStructure) -> Past | None:
        """The first task instance of the previous run that keeps `task` from running."""
        before = runs.previous(self.connection, run.dag_row, run.logical_date)
        if before is None:
            return None
        if before.state is RunState.QUEUED:
            return Past(f"run:{before.id}", task.task_id, before.run_id, before.state)
        structure = self.structures(before.dag_version_id)
        index = structure.index_of.get(task.task_id)
        if index is None:
            return None
        indices = [index, *(structure.tasks[index].downstream if task.wait_for_downstream else ())]
        for chunk in chunks(indices):
            for row in self.rows(NEIGHBOURS, run=before.id, indices=chunk):
                if row.state not in (State.SUCCESS, State.SKIPPED, State.REMOVED):
                    return Past(f"past:{row.id}", row.task_id, before.run_id, row.state)
        return None

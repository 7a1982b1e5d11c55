"""Moves a run to the newest version of its DAG: what that changes, and doing it.

A run keeps the version it was made with. To upgrade one, its task instances are matched with the new version's tasks by
task_id: those of tasks that are gone are removed, new tasks get one that waits, and the counters of all are computed
anew, because edges and trigger rules may be others. Finished work stays finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import Refused
from flux.states import Event, RunState, State
from flux.store import consistency, dags, runs, transitions
from flux.store.advance import Advance
from flux.store.dags import DagVersion
from flux.store.runs import DagRun
from flux.store.schema import dag_run, task_instance
from flux.store.structures import StructureCache
from flux.structure import DagStructure, TaskStructure

#: Added to every index while the rows are renumbered, so that none meets another's.
_ASIDE = 1_000_000

_ROWS = sa.select(task_instance.c.id, task_instance.c.task_id, task_instance.c.map_index, task_instance.c.state).where(
    task_instance.c.dag_run_id == bindparam("run")
)
_SET_ASIDE = (
    sa.update(task_instance)
    .where(task_instance.c.dag_run_id == bindparam("b_run"))
    .values(task_index=task_instance.c.task_index + _ASIDE)
)
_RENUMBER = (
    sa.update(task_instance)
    .where(task_instance.c.id == bindparam("b_id"))
    .values(
        task_index=bindparam("b_index"),
        max_attempts=bindparam("b_max_attempts"),
        priority_weight=bindparam("b_weight"),
    )
)
_SET_VERSION = (
    sa.update(dag_run).where(dag_run.c.id == bindparam("b_run")).values(dag_version_id=bindparam("b_version"))
)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What moving a run to the newest version changes: task_ids, sorted."""

    run: DagRun
    to: DagVersion
    #: Version number the run has now.
    number: int
    new: tuple[str, ...]
    gone: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def is_needed(self) -> bool:
        return self.run.dag_version_id != self.to.id


def plan(connection: sa.Connection, run: DagRun) -> Upgrade:
    """Compare a run's version with the newest one of its DAG.

    Raises:
        Refused: the run is over.
    """
    if run.state.is_terminal:
        raise Refused(f"Run {run.run_id!r} of DAG {run.dag_id!r} is over. Trigger another run for the newest version.")
    newest = dags.by_row(connection, run.dag_row).dag_version_id
    old = dags.version(connection, run.dag_version_id)
    to = old if newest is None else dags.version(connection, newest)
    before = {task.task_id: task for task in old.structure.tasks}
    after = {task.task_id: task for task in to.structure.tasks}
    changed = (
        name
        for name in before.keys() & after.keys()
        if _meaning(before[name], old.structure) != _meaning(after[name], to.structure)
    )
    return Upgrade(
        run=run,
        to=to,
        number=old.number,
        new=tuple(sorted(after.keys() - before.keys())),
        gone=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(changed)),
    )


def apply(connection: sa.Connection, upgrade: Upgrade, now: datetime) -> None:
    """Move the run as planned.

    Raises:
        Refused: a task that is gone has an open attempt.
    """
    if not upgrade.is_needed:
        return
    run, structure = upgrade.run, upgrade.to.structure
    connection.execute(_SET_VERSION, {"b_run": run.id, "b_version": upgrade.to.id})
    if run.state is RunState.RUNNING:
        _move_rows(connection, run, structure, now)
        structures = StructureCache().through(connection)
        consistency.recount(connection, structures, run.id)
        advance = Advance(connection, structures, now)
        advance.judge_again(run.id, range(len(structure.tasks)))
        advance.write()


def _move_rows(connection: sa.Connection, run: DagRun, structure: DagStructure, now: datetime) -> None:
    rows = connection.execute(_ROWS, {"run": run.id}).all()
    held = sorted({row.task_id for row in rows if row.task_id not in structure.index_of and State(row.state).is_held})
    if held:
        raise Refused(f"Task {held[0]!r} is running and not in the newest version. Wait for its end, then upgrade.")
    gone = [row.id for row in rows if row.task_id not in structure.index_of and row.state != State.REMOVED]
    transitions.mark(connection, Event.REMOVE, gone, "its task is not in the version that the run was moved to", now)
    connection.execute(_SET_ASIDE, {"b_run": run.id})
    kept = [row for row in rows if row.task_id in structure.index_of]
    moves = [_renumbered(row.id, structure.task(row.task_id)) for row in kept]
    if moves:
        connection.execute(_RENUMBER, moves)
    there = {row.task_id for row in kept}
    missing = [row for row in runs.task_instance_rows(connection, run, structure, now) if row["task_id"] not in there]
    transitions.insert_task_instances(connection, [{**row, "state": State.WAITING} for row in missing])


def _renumbered(row: int, task: TaskStructure) -> dict[str, int]:
    return {
        "b_id": row,
        "b_index": task.index,
        "b_max_attempts": task.retries + 1,
        "b_weight": task.priority_weight,
    }


def _meaning(task: TaskStructure, structure: DagStructure) -> dict[str, object]:
    """What a task is apart from its place in the list: neighbours by name instead of by index."""
    fields = {name: getattr(task, name) for name in TaskStructure.__slots__ if name != "index"}
    for name in ("upstream", "downstream", "gates"):
        fields[name] = frozenset(structure.tasks[index].task_id for index in fields[name])
    return fields

"""Moves a run to the newest version of its DAG: what that changes, and doing it.

A run keeps the version it was made with. To upgrade one, its task instances are matched with the new version's tasks by
task_id: those of tasks that are gone are removed, new tasks get one that waits, and the counters of all are computed
anew, because edges and trigger rules may be others. Finished work stays finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux import graph
from flux.errors import Refused
from flux.states import Event, RunState, State
from flux.store import consistency, dags, runs, transitions
from flux.store.advance import Advance
from flux.store.dags import DagVersion
from flux.store.limits import key_text
from flux.store.prepared import Prepared
from flux.store.resolving import verdict_of
from flux.store.runs import DagRun
from flux.store.schema import dag_run, task_instance
from flux.store.scope import ROWS, Row
from flux.store.structures import StructureCache
from flux.structure import DagStructure, TaskStructure
from flux.trigger_rules import Verdict

#: Where the indices begin that rows have while they are renumbered, and that those of tasks that are gone keep.
_ASIDE = 1_000_000

#: What a task instance that no attempt holds takes over from the new version, and in which states that is.
_FREE = frozenset({State.WAITING, State.READY, State.RETRYING, State.REMOVED})
_LIMITS = ("queue", "needs_slot", "pool_id", "pool_slots", "task_limit_id")
_READ = ("id", "task_id", "task_index", "state", "attempt", "max_attempts", "closes", *_LIMITS)
_ROWS = sa.select(*(task_instance.c[name] for name in _READ)).where(task_instance.c.dag_run_id == bindparam("run"))
_ABOUT_TO_BEGIN = Prepared(
    ROWS.where(task_instance.c.dag_run_id == bindparam("run"), transitions.state_is(State.READY, State.RETRYING))
)
_SET_ASIDE = (
    sa.update(task_instance)
    .where(task_instance.c.dag_run_id == bindparam("b_run"), task_instance.c.task_index < _ASIDE)
    .values(task_index=task_instance.c.task_index + bindparam("b_offset", type_=sa.Integer()))
)
_RENUMBER = (
    sa.update(task_instance)
    .where(task_instance.c.id == bindparam("b_id"))
    .values(
        task_index=bindparam("b_index"),
        max_attempts=bindparam("b_max_attempts"),
        priority_weight=bindparam("b_weight"),
        closes=bindparam("b_closes"),
        queue=bindparam("b_queue"),
        needs_slot=bindparam("b_needs_slot"),
        pool_id=bindparam("b_pool_id"),
        pool_slots=bindparam("b_pool_slots"),
        task_limit_id=bindparam("b_task_limit_id"),
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
        promised = _move_rows(connection, run, structure, now)
        structures = StructureCache().through(connection)
        consistency.recount(connection, structures, run.id)
        _rewind(connection, run, structure)
        advance = Advance(connection, structures, now)
        advance.judge_again(run.id, range(len(structure.tasks)))
        advance.release(promised)
        advance.write()


def _move_rows(connection: sa.Connection, run: DagRun, structure: DagStructure, now: datetime) -> set[str]:
    """Give the rows of a run the new version; return the keys of limits whose room was kept for what was ready."""
    rows = connection.execute(_ROWS, {"run": run.id}).all()
    before = dags.version(connection, run.dag_version_id).structure
    held = sorted({row.task_id for row in rows if row.task_id not in structure.index_of and State(row.state).is_held})
    if held:
        raise Refused(f"Task {held[0]!r} is running and not in the newest version. Wait for its end, then upgrade.")
    gone = [row.id for row in rows if row.task_id not in structure.index_of and row.state != State.REMOVED]
    transitions.mark(connection, Event.REMOVE, gone, "its task is not in the version that the run was moved to", now)
    # Beyond those that earlier upgrades have left there, so that none meets another's.
    offset = max([_ASIDE, *(row.task_index + 1 for row in rows)])
    connection.execute(_SET_ASIDE, {"b_run": run.id, "b_offset": offset})
    kept = [row for row in rows if row.task_id in structure.index_of]
    made = {row["task_id"]: row for row in runs.task_instance_rows(connection, run, structure, now)}
    moves = [_renumbered(row, before, structure, made.get(row.task_id)) for row in kept]
    if moves:
        connection.execute(_RENUMBER, moves)
    transitions.rewind(connection, [row.id for row in kept if row.state == State.REMOVED])
    # What it was blocked on may be a limit of the old version.
    transitions.block(connection, {row.id: "" for row in kept if row.state == State.READY})
    there = {row.task_id for row in kept}
    missing = [row for task_id, row in made.items() if task_id not in there]
    transitions.insert_task_instances(connection, [{**row, "state": State.WAITING} for row in missing])
    ready = [row for row in rows if row.state == State.READY]
    limits = [("dag", run.dag_row if ready else None)]
    limits += [pair for row in ready for pair in (("pool", row.pool_id), ("task", row.task_limit_id))]
    return {key_text((kind, number)) for kind, number in limits if number is not None}


def _rewind(connection: sa.Connection, run: DagRun, structure: DagStructure) -> None:
    """Have those wait again that were about to begin, and wait for more in the new version."""
    rows = [Row._make(record) for record in _ABOUT_TO_BEGIN.rows(connection, {"run": run.id})]
    early = [row.id for row in rows if verdict_of(row, structure.tasks[row.task_index]) is not Verdict.RUN]
    transitions.rewind(connection, early)


def _renumbered(
    row: sa.Row[Any], before: DagStructure, after: DagStructure, made: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The values that a kept task instance gets. What is held or has ended keeps the limits that it was counted in.

    Args:
        made: what its row would be in a run that begins now; None: there would be none.
    """
    task = after.task(row.task_id)
    retries = before.task(row.task_id).retries if row.task_id in before.index_of else None
    if retries is None or row.state == State.REMOVED:
        most = row.attempt + task.retries + 1
    else:  # attempts that cost nothing have raised it
        most = row.max_attempts + task.retries - retries
    is_free = made is not None and State(row.state) in _FREE
    limits = made if made is not None and is_free else row._mapping
    return {
        "b_id": row.id,
        "b_index": task.index,
        "b_max_attempts": most,
        "b_weight": task.priority_weight,
        "b_closes": _closes(row, before, after),
        **{f"b_{name}": limits[name] for name in _LIMITS},
    }


def _closes(row: sa.Row[Any], before: DagStructure, after: DagStructure) -> str | None:
    """Return, as JSON in indices of the new version, what a gate that has ended closes; None: nothing.

    Tasks that are new below it take part: nobody has chosen them.
    """
    if row.state != State.SUCCESS or row.task_id not in before.index_of:
        return None
    old, new = before.task(row.task_id), after.task(row.task_id)
    closed = set(json.loads(row.closes or "[]"))
    found: Iterable[int]
    if old.gate == new.gate == "branch":
        names = [before.tasks[index].task_id for index in old.downstream if index not in closed]
        kept = {after.index_of[name] for name in names if name in after.index_of}
        kept |= graph.reach(kept, [task.downstream for task in after.tasks])
        found = [index for index in new.downstream if index not in kept]
    elif old.gate == new.gate:
        found = new.gates if closed else ()
    else:
        names = [before.tasks[index].task_id for index in closed]
        found = sorted(after.index_of[name] for name in names if name in after.index_of)
    return json.dumps(list(found)) if found else None


def _meaning(task: TaskStructure, structure: DagStructure) -> dict[str, object]:
    """What a task is apart from its place in the list: neighbours by name instead of by index."""
    fields = {name: getattr(task, name) for name in TaskStructure.__slots__ if name != "index"}
    for name in ("upstream", "downstream", "gates"):
        fields[name] = frozenset(structure.tasks[index].task_id for index in fields[name])
    return fields

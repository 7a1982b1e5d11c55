"""What lies below task instances that ended: their counters, and the verdict of their trigger rule.

A task instance carries how many of its upstream ended how, and how many gates above it are still to end. The end of one
adds to the counters of its direct downstream and of what it gates, in one statement for all that get the same; those
that wait then take their verdict. Cost follows the out-degree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.states import Event, State
from flux.store import transitions
from flux.store.keyed import Keyed
from flux.store.prepared import Record
from flux.store.schema import task_instance
from flux.store.scope import ROWS, Row, Scope
from flux.structure import TaskStructure
from flux.trigger_rules import Verdict, verdict


@dataclass(frozen=True, slots=True)
class Ended:
    """A task instance that became terminal in this transaction."""

    row: Row
    state: State
    #: Of a gate: the indices it closes.
    closes: tuple[int, ...] = ()


_WAITING = Keyed(
    ROWS.where(task_instance.c.dag_run_id == bindparam("run"), transitions.state_is(State.WAITING)),
    task_instance.c.task_index,
)
_COUNT = (
    sa.update(task_instance)
    .where(task_instance.c.dag_run_id == bindparam("b_run"))
    .values(
        upstream_ok=task_instance.c.upstream_ok + bindparam("b_ok"),
        upstream_bad=task_instance.c.upstream_bad + bindparam("b_bad"),
        upstream_skipped=task_instance.c.upstream_skipped + bindparam("b_skipped"),
        gates_open=task_instance.c.gates_open - bindparam("b_opened"),
        gates_closed=task_instance.c.gates_closed + bindparam("b_closed"),
    )
)
_COUNT_UPSTREAM = Keyed(_COUNT, task_instance.c.task_index)
_COUNT_UPSTREAM_RETURNING = Keyed(_COUNT.returning(*ROWS.selected_columns), task_instance.c.task_index)
_CAUSES = {
    State.SUCCESS: "succeeded",
    State.FAILED: "failed",
    State.UPSTREAM_FAILED: "did not run because of a failure",
    State.SKIPPED: "was skipped",
}


@dataclass(slots=True)
class _Change:
    """What ends of one level do to one task instance below them."""

    ok: int = 0
    bad: int = 0
    skipped: int = 0
    #: Gates above it that ended, and those of them that closed it.
    gates: int = 0
    closed: int = 0

    @property
    def numbers(self) -> tuple[int, ...]:
        return self.ok, self.bad, self.skipped, self.gates, self.closed


def level(scope: Scope, ended: Sequence[Ended]) -> tuple[list[Row], list[Ended]]:
    """Count these ends below them; return what became ready, still to be made so, and what ended by its rule."""
    changes: dict[int, dict[int, _Change]] = {}
    causes: dict[int, dict[int, str]] = {}
    for item in ended:
        run, task = item.row.dag_run_id, scope.task(item.row)
        _count(changes.setdefault(run, {}), task, item)
        cause = f"task {task.task_id!r} {_CAUSES[item.state]}"
        causes.setdefault(run, {}).update((index, cause) for index in task.downstream)
    ready: list[Row] = []
    below: list[Ended] = []
    for run, changed in changes.items():
        waiting = _add(scope, run, changed)
        run_ready, run_ended = _judged(scope, waiting, causes[run])
        ready += run_ready
        below += run_ended
    return ready, below


def judge(scope: Scope, run: int, indices: Sequence[int]) -> tuple[list[Row], list[Ended]]:
    """Let the waiting ones among these task instances of a run take their verdict; see `level`."""
    return _judged(scope, scope.rows_of(_WAITING, sorted(indices), run=run), {})


def _judged(scope: Scope, waiting: Sequence[Row], causes: Mapping[int, str]) -> tuple[list[Row], list[Ended]]:
    """Let these take their verdict; `causes` is what was the last to end above each, for the reason people see."""
    ready: list[Row] = []
    ended: list[Ended] = []
    skipped: dict[int, str] = {}
    failed: dict[int, str] = {}
    for row in waiting:
        task = scope.task(row)
        decided = verdict_of(row, task)
        reason = _reason(row, task, causes.get(row.task_index))
        if decided is Verdict.RUN:
            ready.append(row)
        elif decided is Verdict.SKIP:
            skipped[row.id] = reason
            ended.append(Ended(row, State.SKIPPED))
        elif decided is Verdict.FAIL:
            failed[row.id] = reason
            ended.append(Ended(row, State.UPSTREAM_FAILED))
    transitions.apply_rule(scope.connection, Event.RULE_SKIP, skipped, scope.now)
    transitions.apply_rule(scope.connection, Event.RULE_FAIL, failed, scope.now)
    return ready, ended


def verdict_of(row: Row, task: TaskStructure) -> Verdict:
    """Return the verdict of a task instance by the counters it has."""
    return verdict(
        task.trigger_rule,
        total=row.upstream_total,
        ok=row.upstream_ok,
        bad=row.upstream_bad,
        skipped=row.upstream_skipped,
        gates_open=row.gates_open,
        gates_closed=row.gates_closed,
    )


def _reason(row: Row, task: TaskStructure, cause: str | None) -> str:
    if row.gates_open == 0 and row.gates_closed > 0:
        return "closed by a branch or short-circuit"
    rule = f"trigger rule {task.trigger_rule} cannot hold"
    return rule if cause is None else f"{cause}: {rule}"


def _count(changes: dict[int, _Change], task: TaskStructure, item: Ended) -> None:
    """Add to `changes` (by index) what one end does below."""
    for index in task.downstream:
        change = changes.setdefault(index, _Change())
        if item.state is State.SUCCESS:
            change.ok += 1
        elif item.state is State.SKIPPED:
            change.skipped += 1
        else:
            change.bad += 1
    closes = frozenset(item.closes)
    for index in task.gates:
        change = changes.setdefault(index, _Change())
        change.gates += 1
        change.closed += index in closes


def _add(scope: Scope, run: int, changes: Mapping[int, _Change]) -> list[Row]:
    """Add the increments to the counters, one statement for all rows that get the same; return those that wait."""
    counted: list[Record] = []
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, change in changes.items():
        alike.setdefault(change.numbers, []).append(index)
    for (ok, bad, skipped, gates, closed), indices in alike.items():
        numbers = {"b_ok": ok, "b_bad": bad, "b_skipped": skipped, "b_opened": gates, "b_closed": closed}
        if scope.connection.dialect.update_returning:
            counted += _COUNT_UPSTREAM_RETURNING.rows(scope.connection, sorted(indices), b_run=run, **numbers)
        else:
            _COUNT_UPSTREAM.run(scope.connection, sorted(indices), b_run=run, **numbers)
    if not scope.connection.dialect.update_returning:
        return scope.rows_of(_WAITING, sorted(changes), run=run)
    rows = [row for row in scope.known(counted) if row.state == State.WAITING]
    return sorted(rows, key=lambda row: row.task_index)

"""Runs in the calling process: what dates, params and names mean there; `one_run` runs what was meant.

Nothing here sets a signal handler or configures logging, so it works in any thread; Ctrl-C calls the task's `on_kill`
and comes out as KeyboardInterrupt.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flux import attempt, providers_here
from flux import params as param_values
from flux.context import Context, running
from flux.errors import AuthoringError, BadDate, BadParam, NotFound
from flux.one_run import Run
from flux.run_report import RangeReport, RunReport
from flux.schedule import BoundSchedule, DataInterval, Once, bind
from flux.times import DateLike, iso, moment, utc_now

if TYPE_CHECKING:
    from flux.dag import DAG
    from flux.operator import BaseOperator
    from flux.structure import DagStructure

__all__ = [
    "bound_schedule",
    "checked_conf",
    "data_interval",
    "dry_run_task",
    "render_task",
    "run_dag",
    "run_task",
]

T = TypeVar("T")

#: More intervals than this are counted, not listed, in a message.
_LISTED = 5


def run_dag(
    dag: DAG,
    start: DateLike | None,
    end: DateLike | None = None,
    *,
    conf: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    task: str | None = None,
) -> RunReport | RangeReport:
    """Run the data interval of `start`, or with `end` all whose logical date is in [start, end], oldest first. Blocks.

    Args:
        start: a moment, or a day on which one interval starts; None: the latest complete interval.
        conf: JSON; what a trigger would give the run.
        params: values of declared params, over those in `conf`.
        task: a regular expression: only tasks whose id has a match of it run, as if there were no others.

    Returns:
        RunReport, or RangeReport when `end` is given. A task that fails raises nothing.

    Raises:
        AuthoringError: the DAG, a date or a param is wrong.
        NotFound: no task matches.
        KeyboardInterrupt: Ctrl-C; on_kill has been called, and what ended so far is printed.
    """
    structure = dag.structure()
    return _runs(dag, structure, start, end, checked_conf(dag, conf, params), _matching(structure, task))


def run_task(
    task: BaseOperator, start: DateLike, end: DateLike | None = None, *, params: Mapping[str, Any] | None = None
) -> RunReport | RangeReport:
    """Run one task alone, whatever is above it, for one interval or for all in [start, end]; else as `run_dag`."""
    dag = _dag_of(task)
    structure = dag.structure()
    conf = checked_conf(dag, None, params, own=task.params)
    return _runs(dag, structure, start, end, conf, {structure.index_of[task.task_id]})


def render_task(task: BaseOperator, date: DateLike) -> dict[str, str]:
    """Return the template fields of a task as they are for the data interval of `date`, as text, secrets masked.

    Raises:
        TemplateError: a field cannot be rendered.
    """
    return _with_rendered(task, date, lambda _task, _context, fields: fields)


def dry_run_task(task: BaseOperator, date: DateLike) -> Any:
    """Render the template fields of a task and return what its `execute_dry` returns."""
    return _with_rendered(task, date, lambda rendered, context, _fields: rendered.execute_dry(context))


def bound_schedule(dag: DAG) -> BoundSchedule:
    """Return a DAG's data intervals. `@once` without a start_date is one that runs by hand: nothing has seen it yet."""
    by_hand = isinstance(dag.schedule, Once) and dag.start_date is None
    return bind(
        None if dag.schedule is None or by_hand else dag.schedule.to_spec(),
        timezone=dag.timezone,
        start_date=iso(dag.start_date),
        end_date=iso(dag.end_date),
        dag_id=dag.dag_id,
    )


# What to run


def _dag_of(task: BaseOperator) -> DAG:
    if task.dag is None:
        raise AuthoringError(f"Task {task.task_id!r} belongs to no DAG. Make it inside `with DAG(...):`.")
    return task.dag


def _matching(structure: DagStructure, pattern: str | None) -> set[int]:
    """The tasks that a pattern names; without one all but those that are adhoc."""
    if pattern is None:
        return {task.index for task in structure.tasks if not task.adhoc}
    try:
        found = {task.index for task in structure.tasks if re.search(pattern, task.task_id)}
    except re.error as error:
        raise AuthoringError(f"task={pattern!r} is no regular expression: {error}.") from error
    if not found:
        raise NotFound.named(f"Task of DAG {structure.dag_id!r}", pattern, structure.index_of)
    return found


def checked_conf(
    dag: DAG,
    conf: Mapping[str, Any] | None,
    params: Mapping[str, Any] | None,
    *,
    own: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The run's conf with `params` in it, as JSON gives it back; `own` are the params of a task that runs alone."""
    declared = _all_params(dag) if own is None else {*dag.params, *own}
    for name in params or ():
        if name not in declared:
            raise BadParam(str(NotFound.named("Param", name, declared)))
    merged = {**(conf or {}), **(params or {})}
    try:
        copied: dict[str, Any] = json.loads(json.dumps(merged, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadParam(f"conf and params must be JSON: {error}.") from error
    param_values.resolve(dag.params, own, copied)
    return copied


def _all_params(dag: DAG) -> set[str]:
    return set(dag.params).union(*(task.params or () for task in dag.tasks.values()))


def _is_day(value: DateLike) -> bool:
    """A bare date, and no moment."""
    if isinstance(value, str):
        try:
            date.fromisoformat(value)
        except ValueError:
            return False
        return True
    return not isinstance(value, datetime)


def data_interval(dag: DAG, bound: BoundSchedule, start: DateLike | None) -> DataInterval:
    """Return the one data interval that `start` means: a moment or a day on which it starts; None: the latest.

    Raises:
        BadDate: there is none, or several on that day.
    """
    if start is None:
        now = utc_now()
        found = bound.starting_at(now) if bound.is_manual else bound.latest_complete(now)
        if found is None:
            raise BadDate(f"DAG {dag.dag_id!r} has no complete data interval yet. Give the logical date of one.")
        return found
    at = moment(start, dag.zone)
    if not _is_day(start):
        return bound.starting_at(at)
    on_day = bound.starting_on(at.astimezone(dag.zone).date())
    if len(on_day) > 1:
        starts = [interval.start.astimezone(dag.zone).isoformat() for interval in on_day]
        more = f" and {len(starts) - _LISTED} more" if len(starts) > _LISTED else ""
        raise BadDate(
            f"On {start} start {len(starts)} data intervals of DAG {dag.dag_id!r}: "
            f"{', '.join(starts[:_LISTED])}{more}. Name one of them, or give the day as start and end to run all."
        )
    return on_day[0] if on_day else bound.starting_at(at)


def _range(dag: DAG, bound: BoundSchedule, start: DateLike, end: DateLike) -> list[DataInterval]:
    first, last = moment(start, dag.zone), moment(end, dag.zone, end_of_day=True)
    if last < first:
        raise BadDate(f"The end {end} is before the start {start}.")
    if bound.is_manual:
        raise BadDate(
            f"DAG {dag.dag_id!r} has no schedule, so no data intervals from {start} to {end}. Give one moment."
        )
    found = list(bound.intervals(first, last))
    if not found:
        raise BadDate(f"DAG {dag.dag_id!r} has no data interval that starts from {start} to {end}: {bound.describe()}.")
    return found


def _runs(
    dag: DAG,
    structure: DagStructure,
    start: DateLike | None,
    end: DateLike | None,
    conf: dict[str, Any],
    chosen: Collection[int],
) -> RunReport | RangeReport:
    bound = bound_schedule(dag)
    if start is None or end is None:
        return Run(dag, structure, bound, data_interval(dag, bound, start), conf, ()).to_the_end(chosen)
    done: list[RunReport] = []
    for interval in _range(dag, bound, start, end):
        done.append(Run(dag, structure, bound, interval, conf, done).to_the_end(chosen))
    return RangeReport(dag.dag_id, tuple(done))


def _with_rendered(task: BaseOperator, date: DateLike, use: Callable[[BaseOperator, Context, dict[str, str]], T]) -> T:
    """Call `use` with a rendered copy of a task, the context of its first attempt, and the fields as text."""
    dag = _dag_of(task)
    structure, bound = dag.structure(), bound_schedule(dag)
    run = Run(
        dag, structure, bound, data_interval(dag, bound, date), checked_conf(dag, None, None, own=task.params), ()
    )
    rendered = copy.copy(task)
    spec = run.spec(structure.task(task.task_id), 1, Path())
    context = Context(rendered, spec, run.world, macro_source=providers_here.macro)
    with running(context):
        return use(rendered, context, attempt.render(rendered, context))

"""What people do to the system: the CLI and the UI act through these functions and through nothing else.

Each change is one transaction that also writes its audit row; after the commit a running system is told, so that it
reacts at once. Everything works without a running system too: it finds the change when it starts.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flux import params, providers, wire
from flux.arguments import ID_LENGTH
from flux.builtin import core_verdict
from flux.dependencies import Reason
from flux.errors import BadDate, FluxError, NotFound, PluginError, Refused
from flux.executor import BaseExecutor
from flux.plugins.catalogue import Catalogue
from flux.running.scheduler import bound_schedule
from flux.schedule import BoundSchedule, DataInterval
from flux.states import RunKind, RunState, State
from flux.store import advance, audit, dags, naming, pools, reasons, runs, upgrade, variables
from flux.store.dags import Dag
from flux.store.engine import check_text
from flux.store.runs import DagRun
from flux.store.structures import StructureCache
from flux.store.upgrade import Upgrade
from flux.structure import DagStructure
from flux.times import iso, moment, utc_now, zone

if TYPE_CHECKING:
    import sqlalchemy as sa

    from flux.app import Flux
    from flux.config import Config

#: How long a command waits for a running system's answer; one that takes longer finds the change by itself.
ANSWER_SECONDS = 2.0
#: The same for reading the DAGs folder, which takes as long as the slowest changed file.
SYNC_SECONDS = 60.0
POLL_SECONDS = 0.2
#: How long an executor may take to be made: less than a supervisor may be without a sign of life.
_EXECUTOR_SECONDS = 8.0
#: States that only a running system ends.
_WAITING = frozenset({RunState.QUEUED, State.WAITING, State.READY, State.RETRYING, State.DEFERRED})

_Answer = TypeVar("_Answer")


# --- the running system ----------------------------------------------------------------------------------------------


class NotRunning(Exception):
    """No system answers on this home's endpoint."""


class NotAnswering(NotRunning):
    """A system is there, but its answer did not come in time."""


def ask_system(flux: Flux, request: Mapping[str, Any], *, seconds: float | None = ANSWER_SECONDS) -> dict[str, Any]:
    """Return what the running system answers to `request`; `seconds=None` waits without limit.

    Raises:
        NotRunning: there is none; NotAnswering: it did not answer in time.
        FluxError: it refused.
    """
    try:
        return wire.request(flux.config.run_folder / "endpoint", dict(request), seconds)
    except TimeoutError as error:
        raise NotAnswering(f"no answer in {seconds} s") from error
    except OSError as error:
        raise NotRunning(str(error)) from error


def is_running(flux: Flux) -> bool:
    """Say whether a system answers on this home."""
    try:
        ask_system(flux, {"verb": "status"})
    except NotRunning:
        return False
    return True


def poke_system(flux: Flux, *, dag_rows: Iterable[int] = ()) -> None:
    """Tell a running system that something was written to the store; without one, do nothing.

    `dag_rows` are the DAGs that may have scheduled runs due since.
    """
    with contextlib.suppress(NotRunning):
        ask_system(flux, {"verb": "wake", "dags": list(dag_rows)})


def sync_folder(flux: Flux) -> None:
    """Bring the store up to the files in the DAGs folder: by the running system, or here when none runs.

    A system that does not answer in time reads them by itself, a little later.
    """
    try:
        ask_system(flux, {"verb": "sync"}, seconds=SYNC_SECONDS)
        return
    except NotAnswering:
        return
    except NotRunning:
        pass  # outside of this block, so that an error of the reading does not come with this one
    from flux.running import folder_sync

    folder_sync.sync_here(flux)


def wait_run(flux: Flux, run: DagRun) -> DagRun:
    """Return the run as it is when it has ended. Blocks as long as that takes, also across restarts of the system."""
    import time

    while True:
        now = flux.store.read(lambda connection: runs.by_rows(connection, [run.id]))
        if not now:
            raise NotFound(f"Run {run.run_id!r} of DAG {run.dag_id!r} was deleted while it was waited for.")
        if now[0].state.is_terminal:
            return now[0]
        try:
            ask_system(flux, {"verb": "wait_run", "dag_id": run.dag_id, "run_id": run.run_id}, seconds=None)
        except NotRunning:
            time.sleep(POLL_SECONDS)


# --- DAGs and runs ---------------------------------------------------------------------------------------------------


def pause(flux: Flux, dag_id: str, *, who: str) -> bool:
    """Let nothing of a DAG start any more; what runs goes on. Return False when it was paused already."""
    return _set_paused(flux, dag_id, True, who)


def unpause(flux: Flux, dag_id: str, *, who: str) -> bool:
    """Let a paused DAG go on. Return False when it was not paused."""
    return _set_paused(flux, dag_id, False, who)


def _set_paused(flux: Flux, dag_id: str, paused: bool, who: str) -> bool:
    rows: set[int] = set()

    def work(connection: sa.Connection, now: datetime) -> bool:
        dag = dags.by_id(connection, dag_id)
        rows.add(dag.id)
        changed = dags.set_paused(connection, dag.id, paused)
        if changed and not paused:
            advance.release(connection, [f"paused:{dag.id}"], now)
        return changed

    action = "dag.pause" if paused else "dag.unpause"
    return _change(flux, work, who=who, action=action, object=f"dag {dag_id}", dag_rows=rows)


def trigger(
    flux: Flux,
    dag_id: str,
    *,
    logical_date: str | None = None,
    conf: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    who: str,
) -> DagRun:
    """Make a manual run and return it.

    Args:
        logical_date: an interval's start, or the local day on which one starts; None takes the latest complete
            interval, or this moment where the DAG has no schedule.

    Raises:
        NotFound: no such DAG, or no file defines it any more.
        BadDate: `logical_date` names no interval, or several.
        BadParam: `conf` does not suit the DAG's params.
        Refused: the run_id is taken or cannot be used; or no interval is complete yet.
    """
    if run_id is not None:
        runs.check_run_id(run_id)

    def work(connection: sa.Connection, now: datetime) -> DagRun:
        return make_manual_run(connection, dag_id, logical_date=logical_date, conf=conf, run_id=run_id, now=now)

    detail = {"logical_date": logical_date, "conf": conf, "run_id": run_id}
    return _change(flux, work, who=who, action="run.trigger", object=f"dag {dag_id}", detail=detail)


def make_manual_run(
    connection: sa.Connection,
    dag_id: str,
    *,
    logical_date: str | None,
    conf: Mapping[str, Any] | None,
    now: datetime,
    run_id: str | None = None,
) -> DagRun:
    """Make a manual run in the caller's transaction; see `trigger`."""
    dag = dags.by_id(connection, dag_id)
    if dag.dag_version_id is None or dag.dag_file_id is None:
        raise NotFound(f"No file in the DAGs folder defines DAG {dag_id!r} any more.")
    version = dags.version(connection, dag.dag_version_id)
    params.resolve(params.from_specs(version.structure.params), None, conf)
    return runs.create(
        connection,
        dag=dag,
        version=version,
        kind=RunKind.MANUAL,
        interval=_interval(dag, version.structure, logical_date, now),
        run_id=run_id,
        conf=conf,
        now=now,
    )


def _interval(dag: Dag, structure: DagStructure, logical_date: str | None, now: datetime) -> DataInterval:
    bound = bound_schedule(dag, structure)
    if logical_date is not None:
        return _named_interval(bound, structure, logical_date)
    if bound.is_manual:
        return bound.starting_at(now)
    latest = bound.latest_complete(now)
    if latest is None:
        first = bound.first_from(now)
        when = f"The first ends {iso(first.end)}. Name it" if first else "Name one"
        raise Refused(f"DAG {dag.dag_id!r} has no complete data interval yet. {when} with --logical-date.")
    return latest


def _named_interval(bound: BoundSchedule, structure: DagStructure, text: str) -> DataInterval:
    day = naming.bare_date(text)
    if day is None or bound.is_manual:
        return bound.starting_at(moment(text, zone(structure.timezone)))
    found = bound.starting_on(day)
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadDate(f"No data interval of DAG {structure.dag_id!r} starts on {text}. See `flux next`.")
    starts = ", ".join(iso(interval.start) or "" for interval in found)
    raise BadDate(f"{len(found)} data intervals of DAG {structure.dag_id!r} start on {text}: {starts}. Name one.")


def delete_run(flux: Flux, dag_id: str, name: str, *, who: str) -> DagRun:
    """Delete an ended or queued run with its task instances, results and logs, and return what it was.

    Raises:
        Refused: it is running.
    """

    def work(connection: sa.Connection, now: datetime) -> DagRun:
        run = naming.run(connection, dag_id, name)
        runs.delete(connection, run)
        return run

    run = _change(flux, work, who=who, action="run.delete", object=f"run {dag_id} {name}")
    _delete_logs(flux.config.logs_folder / run.dag_id / run.run_id)
    return run


def plan_upgrade(flux: Flux, dag_id: str, name: str) -> Upgrade:
    """Say what moving a run to the newest version of its DAG would change; changes nothing.

    Raises:
        Refused: the run is over.
    """
    return flux.store.read(lambda connection: upgrade.plan(connection, naming.run(connection, dag_id, name)))


def upgrade_run(flux: Flux, planned: Upgrade, *, who: str) -> None:
    """Move a run to a newer version of its DAG, as planned.

    Raises:
        Refused: the plan is stale, or a task that is gone has an open attempt.
    """
    run = planned.run

    def work(connection: sa.Connection, now: datetime) -> None:
        fresh = upgrade.plan(connection, naming.run(connection, run.dag_id, run.run_id))
        if (fresh.run.dag_version_id, fresh.to.id) != (run.dag_version_id, planned.to.id):
            raise Refused(f"Run {run.run_id!r} or its DAG has changed since the list was made. Look at the new list.")
        upgrade.apply(connection, fresh, now)

    detail = {"from": planned.number, "to": planned.to.number}
    _change(flux, work, who=who, action="run.upgrade", object=f"run {run.dag_id} {run.run_id}", detail=detail)


def _delete_logs(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def executor_of(
    config: Config, catalogue: Catalogue | None = None, *, seconds: float = _EXECUTOR_SECONDS
) -> BaseExecutor:
    """Return a new executor as configured.

    Args:
        catalogue: where it is looked up; None: what a supervisor saved last, else core's own.
        seconds: how long it may take to be made.

    Raises:
        FluxError: there is none of that name, or it cannot be made.
    """
    offered = catalogue or providers.saved(config) or Catalogue([core_verdict()])
    made: list[BaseExecutor | BaseException] = []

    def make() -> None:
        try:
            made.append(_made_executor(offered.executor(config.executor), config))
        except BaseException as error:
            made.append(error)

    # Its import and its constructor are a stranger's code, which may never return.
    maker = threading.Thread(target=make, name="executor", daemon=True)
    maker.start()
    maker.join(seconds)
    result = made[0] if made else TimeoutError(f"it is not there after {seconds:g} s")
    if isinstance(result, BaseExecutor):
        return result
    source = config.sources["executor"]
    if isinstance(result, NotFound):
        lost = [providers.problem(verdict) for verdict in offered.verdicts if not verdict.is_ok]
        raise NotFound(" ".join([f"{result} It is named by {source}.", *lost])) from result
    reason = str(result) if isinstance(result, FluxError) else f"{type(result).__name__}: {result}"
    raise PluginError(
        f"Executor {config.executor!r} (from {source}) cannot be made: {reason.rstrip(': .')}."
    ) from result


def _made_executor(kind: Any, config: Config) -> BaseExecutor:
    """An executor of that class, if it is one."""
    if not (isinstance(kind, type) and issubclass(kind, BaseExecutor)):
        raise TypeError(f"{kind!r} is no subclass of flux.executor.BaseExecutor")
    made = kind(config.parallelism)
    parallelism = getattr(made, "parallelism", None)
    if not isinstance(parallelism, int) or parallelism < 1:
        raise TypeError(f"its parallelism is {parallelism!r}; hand the number to super().__init__()")
    return made


def parallelism_of(config: Config) -> int:
    """Return how many attempts the configured executor takes at once; of a provider's, what the option says."""
    try:
        return executor_of(config, Catalogue([core_verdict()])).parallelism
    except NotFound:
        return config.parallelism


@dataclass(frozen=True, slots=True)
class Answer:
    """Why a task instance is not running now."""

    #: Of the task instance; of its run while it has none.
    state: str
    #: In the order in which they will be met; empty when it is running or done.
    reasons: Sequence[Reason]


def why(flux: Flux, dag_id: str, name: str, task_id: str, *, map_index: int | None = None) -> Answer:
    """Say what keeps a task instance from running, by the scheduler's own rules; changes nothing.

    Raises:
        NotFound: no such DAG, run or task.
    """

    def read(connection: sa.Connection) -> Answer:
        run = naming.run(connection, dag_id, name)
        waits = reasons.run_reason(run, dags.by_id(connection, dag_id).max_active_runs)
        if waits is not None:
            return Answer(run.state, [waits])
        row, state = naming.task_instance_row(connection, run, task_id, map_index)
        structures = StructureCache().through(connection)
        config = flux.config
        found = reasons.reasons(
            connection, row, structures, utc_now(), executor=config.executor, parallelism=parallelism_of(config)
        )
        return Answer(state, found)

    answer = flux.store.read(read)
    if answer.state in _WAITING:
        return replace(answer, reasons=[*answer.reasons, *_of_system(flux)])
    return answer


def _of_system(flux: Flux) -> list[Reason]:
    """What is wrong with the system, as it says itself; that there is none."""
    home = str(flux.config.home)
    try:
        trouble = ask_system(flux, {"verb": "status"}).get("trouble")
    except NotRunning:
        return [Reason("no_system", f"No system runs on {home}: nothing starts. Run `flux up`.", home)]
    return [] if trouble is None else [Reason("trouble", trouble, home)]


# --- pools and variables ---------------------------------------------------------------------------------------------


def set_pool(flux: Flux, name: str, slots: int, *, description: str | None = None, who: str) -> None:
    """Make a pool or change its size; fewer slots than are used only keep further task instances from starting."""

    def work(connection: sa.Connection, now: datetime) -> None:
        pool = pools.set(connection, name, slots, description)
        advance.release(connection, [f"pool:{pool.id}"], now)

    detail = {"slots": slots, "description": description}
    _change(flux, work, who=who, action="pool.set", object=f"pool {name}", detail=detail)


def delete_pool(flux: Flux, name: str, *, who: str) -> None:
    """Delete a pool.

    Raises:
        NotFound: there is none.
        Refused: task instances are in it.
    """
    _change(flux, lambda c, now: pools.delete(c, name), who=who, action="pool.delete", object=f"pool {name}")


def set_variable(flux: Flux, name: str, value: str, *, who: str) -> None:
    """Set a variable. Its value is not audited."""
    set_variables(flux, {name: value}, who=who)


def set_variables(flux: Flux, values: Mapping[str, str], *, who: str) -> None:
    """Set several variables, all or none. Their values are not audited.

    Raises:
        Refused: a name is empty or too long, or a text cannot be stored.
    """
    for name, value in values.items():
        if not 0 < len(name) <= ID_LENGTH:
            raise Refused(f"Variable {name[:40]!r} has {len(name)} characters in its name. It needs 1 to {ID_LENGTH}.")
        check_text(f"Variable {name!r}", name, value)

    def work(connection: sa.Connection, now: datetime) -> None:
        for name, value in values.items():
            variables.set(connection, name, value)

    names = ", ".join(sorted(values))
    _change(flux, work, who=who, action="variable.set", object=f"variable {names}")


def delete_variable(flux: Flux, name: str, *, who: str) -> None:
    """Delete a variable.

    Raises:
        NotFound: there is none.
    """
    _change(
        flux, lambda c, now: variables.delete(c, name), who=who, action="variable.delete", object=f"variable {name}"
    )


def _change(
    flux: Flux,
    work: Callable[[sa.Connection, datetime], _Answer],
    *,
    who: str,
    action: str,
    object: str,  # noqa: A002
    detail: Mapping[str, Any] | None = None,
    dag_rows: Iterable[int] = (),
) -> _Answer:
    """Do `work` and write its audit row in one transaction, then tell the running system.

    `dag_rows`, which `work` may fill, are the DAGs that may have scheduled runs due since.
    """

    def transaction(connection: sa.Connection) -> _Answer:
        now = utc_now()
        answer = work(connection, now)
        given = {key: value for key, value in (detail or {}).items() if value is not None}
        audit.add(connection, who, action, object, given or None, now)
        return answer

    answer = flux.store.write(transaction)
    poke_system(flux, dag_rows=dag_rows)
    return answer

"""What a running attempt knows and may ask for: the context, its names, and how code far below finds it.

A context is made for one attempt. Names that cost a question to the supervisor (`prev_logical_date`, a variable, a
result) are asked for when somebody reads them, never before.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from flux import params, results
from flux.connection import Connection
from flux.errors import NotFound, OutsideTask, ResultError, UnknownName
from flux.schedule import BoundSchedule, DataInterval, bind
from flux.times import from_iso, iso

if TYPE_CHECKING:
    from flux.attempt import AttemptSpec, World
    from flux.dag import DAG
    from flux.operator import BaseOperator

__all__ = ["Context", "DagRun", "MacroSource", "TaskInstance", "get_connection", "get_variable"]

#: Finds the macro `name` of `provider`: called as `source(provider, name)`; raises NotFound.
MacroSource = Callable[[str, str], Any]

RETURN_VALUE = "return_value"
#: In the flags of a code object: it has a parameter like `**kwargs`. As `inspect.CO_VARKEYWORDS`.
_TAKES_ALL = 0x08


class Context(Mapping[str, Any]):
    """The names of one attempt: a mapping whose names are also attributes. Each value is made when it is first read.

    Args:
        task: what runs; it belongs to a DAG.
        spec: the attempt.
        world: what answers its questions.
        macro_source: finds the macros of providers; None: no provider has any.
    """

    def __init__(
        self, task: BaseOperator, spec: AttemptSpec, world: World, *, macro_source: MacroSource | None = None
    ) -> None:
        self.spec = spec
        self.world = world
        #: Typed JSON by key: what the attempt leaves besides its return value.
        self.kept: dict[str, str] = {}
        self._task = task
        self._macro_source = macro_source
        self._values: dict[str, Any] = {}

    # A context is itself: comparing values would ask the supervisor for every one of them.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            self._values[name] = _MAKERS[name](self)
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in _MAKERS:
            raise AttributeError(f"The context has no name {name!r}. {hint(name, NAMES)}".rstrip())
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in _MAKERS

    def __iter__(self) -> Iterator[str]:
        return iter(_MAKERS)

    def __len__(self) -> int:
        return len(_MAKERS)

    def __repr__(self) -> str:
        spec = self.spec
        return f"<Context of {spec.dag_id}.{spec.task_id} in {spec.run_id}, attempt {spec.attempt}>"

    @property
    def _dag(self) -> DAG:
        dag = self._task.dag
        assert dag is not None, "a task that runs belongs to a DAG"
        return dag

    def _local(self, text: str) -> datetime:
        """An instant of the spec on the DAG's wall clock."""
        return from_iso(text).astimezone(self._dag.zone)

    def _dag_run(self) -> DagRun:
        spec = self.spec
        started = from_iso(spec.run_started_at) if spec.run_started_at else None
        return DagRun(
            spec.dag_id, spec.run_id, spec.kind, self["logical_date"], self["data_interval"], spec.conf or {}, started
        )

    def _task_instance(self) -> TaskInstance:
        spec = self.spec
        return TaskInstance(
            spec.dag_id, spec.task_id, spec.run_id, spec.map_index, spec.attempt, spec.max_attempts,
            self["logical_date"], spec.pool, spec.queue, spec.host, self["results"],
        )  # fmt: skip

    def _previous(self, key: str, *, successful: bool = False) -> datetime | None:
        previous = self.world.previous_run(successful)
        return self._local(previous[key]) if previous else None

    def _next_logical_date(self) -> datetime | None:
        following = None if self._dag.schedule is None else schedule_of(self).next(self["data_interval"])
        return following.start.astimezone(self._dag.zone) if following else None

    def _params(self) -> dict[str, Any]:
        return params.resolve(self._dag.params, self._task.params, self.spec.conf)

    def _variable(self, name: str) -> str:
        text = self.world.variable(name)
        if text is None:
            raise _no_variable(name)
        return text

    def _variables(self) -> Variables:
        return Variables(_Names(self._variable), _Names(lambda name: json.loads(self._variable(name))))

    def _connections(self) -> _Names:
        return _Names(functools.cache(lambda conn_id: Connection.from_message(self.world.connection(conn_id))))

    def _macro(self, name: str) -> Any:
        return _macro(name, self._macro_source)


@dataclass(frozen=True, slots=True)
class DagRun:
    """The run that the attempt belongs to."""

    dag_id: str
    run_id: str
    #: scheduled, manual or backfill.
    kind: str
    logical_date: datetime
    data_interval: DataInterval
    #: What the run was triggered with; empty if nothing.
    conf: dict[str, Any]
    #: None before the first task began.
    started_at: datetime | None


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """The task instance that the attempt belongs to."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    attempt: int
    max_attempts: int
    logical_date: datetime
    pool: str | None
    queue: str
    host: str
    _results: ResultNames = field(repr=False, compare=False)

    def result(self, task_id: str | None = None, key: str = RETURN_VALUE, map_index: int = -1) -> Any:
        """Return what another task of this run left under `key`, or this one in the attempt that succeeded last.

        None if the task did not run or returned nothing.

        Raises:
            UnknownName: the DAG has no such task, or it succeeded without leaving that key.
        """
        return read_result(self._results, task_id or self.task_id, key, map_index)


class ResultNames:
    """`results`: what the other tasks of the run left, by task_id, and where this one leaves more.

    A task_id wins over the name of a method, so it can always be reached.
    """

    __slots__ = ("_context", "_task_ids")

    def __init__(self, context: Context, task_ids: Collection[str]) -> None:
        self._context = context
        self._task_ids = task_ids

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name not in object.__getattribute__(self, "_task_ids"):
            return object.__getattribute__(self, name)
        return read_result(self, name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return read_result(self, name)

    def __getitem__(self, task_id: str) -> Any:
        return read_result(self, task_id)

    def get(self, task_id: str, key: str = RETURN_VALUE, default: Any = None) -> Any:
        """Return what `task_id` left under `key`, `default` if there is none."""
        text = self._context.world.result(task_id, key)
        return default if text is None else results.decode(text)

    def set(self, key: str, value: Any) -> None:
        """Leave `value` under `key` for downstream tasks; kept only if this attempt succeeds.

        Raises:
            ResultError: it is too large or of a type that is not kept, or `key` is no short text.
        """
        if not 0 < len(key) <= 200:
            raise ResultError(f"Result key {key!r} must be a text of 1 to 200 characters.")
        self._context.kept[key] = results.encode(value, limit_bytes=results.RESULT_LIMIT)


def read_result(names: ResultNames, task_id: str, key: str = RETURN_VALUE, map_index: int = -1) -> Any:
    """Return what `task_id` left under `key`; see `TaskInstance.result`."""
    known = names._task_ids
    if task_id not in known:
        raise UnknownName(str(NotFound.named("Task", task_id, known)))
    context = names._context
    text = context.world.result(task_id, key, map_index)
    if text is not None:
        return results.decode(text)
    spec = context.spec
    if key != RETURN_VALUE and context.world.task_state(spec.dag_id, spec.run_id, task_id) == "success":
        raise UnknownName(
            f"Task {task_id!r} left no result {key!r}. Set it there with `context.results.set({key!r}, …)`, "
            f"or read it with `results.get({task_id!r}, {key!r})` if it may be missing."
        )
    return None


class _Names:
    """Names that are looked up when they are read, as attributes or items."""

    __slots__ = ("_find",)

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        try:
            return self._find(name)
        except UnknownName:
            raise
        except NotFound as error:
            raise UnknownName(str(error)) from error

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name`, `default` if it does not exist."""
        try:
            return self[name]
        except UnknownName:
            return default


class _ProviderMacros(_Names):
    """`macros.<provider>`; used as if it were a macro, it is one that does not exist."""

    __slots__ = ("_unknown",)

    def __init__(self, find: Callable[[str], Any], unknown: NotFound) -> None:
        super().__init__(find)
        self._unknown = unknown

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise UnknownName(str(self._unknown))

    def __str__(self) -> str:
        raise UnknownName(str(self._unknown))


@dataclass(frozen=True, slots=True)
class Variables:
    """`var`: the stored variables, as text and as JSON."""

    value: _Names
    json: _Names


_current: ContextVar[Context] = ContextVar("flux_context")
#: By identity; several when one process pokes several sensors.
_running: dict[int, Context] = {}


@contextmanager
def running(context: Context) -> Iterator[Context]:
    """Make `context` the one that `current` gives, until the block ends."""
    token = _current.set(context)
    _running[id(context)] = context
    try:
        yield context
    finally:
        del _running[id(context)]
        _current.reset(token)


def current() -> Context:
    """Return the context of the attempt that runs here.

    A thread that the task started itself gets it too, as long as one attempt alone runs in the process.

    Raises:
        OutsideTask: no attempt runs here.
    """
    context = _current.get(None)
    if context is not None:
        return context
    alone = list(_running.values())
    if len(alone) == 1:
        return alone[0]
    raise OutsideTask(
        "This works inside a running task only: there it asks for values that a DAG file must not depend on. "
        "Move the call into the task, or use a template such as {{ var.value.name }}."
    )


def get_connection(conn_id: str) -> Connection:
    """Return the connection `conn_id`, asked for through the task's own channel.

    Raises:
        NotFound: it is not defined.
        OutsideTask: called where no task runs.
    """
    return Connection.from_message(current().world.connection(conn_id))


_REQUIRED: Any = object()


def get_variable(name: str, default: Any = _REQUIRED) -> Any:
    """Return the text of the stored variable `name`, `default` if it is not set.

    Raises:
        NotFound: it is not set and there is no default.
        OutsideTask: called where no task runs.
    """
    text = current().world.variable(name)
    if text is not None:
        return text
    if default is not _REQUIRED:
        return default
    raise _no_variable(name)


def environment_name(variable: str) -> str:
    """Return the environment variable that defines a stored one: upper case, what is no letter or digit is `_`."""
    import re

    return "FLUX_VAR_" + re.sub(r"[^A-Z0-9]", "_", variable.upper())


def _no_variable(name: str) -> UnknownName:
    return UnknownName(
        f"Variable {name!r} is not set. Set it with `flux variable set {name} VALUE`, or {environment_name(name)}."
    )


_MAKERS: Mapping[str, Callable[[Context], Any]] = {
    "ds": lambda context: context["logical_date"].strftime("%Y-%m-%d"),
    "ds_nodash": lambda context: context["logical_date"].strftime("%Y%m%d"),
    "ts": lambda context: context["logical_date"].isoformat(),
    "ts_nodash": lambda context: context["logical_date"].strftime("%Y%m%dT%H%M%S"),
    "logical_date": lambda context: context._local(context.spec.logical_date),
    "data_interval": lambda context: DataInterval(context["data_interval_start"], context["data_interval_end"]),
    "data_interval_start": lambda context: context._local(context.spec.interval_start),
    "data_interval_end": lambda context: context._local(context.spec.interval_end),
    "yesterday_ds": lambda context: (context["logical_date"].date() - timedelta(days=1)).isoformat(),
    "tomorrow_ds": lambda context: (context["logical_date"].date() + timedelta(days=1)).isoformat(),
    "prev_logical_date": lambda context: context._previous("logical_date"),
    "next_logical_date": lambda context: context._next_logical_date(),
    "prev_data_interval_start_success": lambda context: context._previous("interval_start", successful=True),
    "prev_data_interval_end_success": lambda context: context._previous("interval_end", successful=True),
    "dag": lambda context: context._dag,
    "dag_run": lambda context: context._dag_run(),
    "run_id": lambda context: context.spec.run_id,
    "task": lambda context: context._task,
    "task_instance": lambda context: context._task_instance(),
    "ti": lambda context: context["task_instance"],
    "params": lambda context: context._params(),
    "var": lambda context: context._variables(),
    "conn": lambda context: context._connections(),
    "results": lambda context: ResultNames(context, context._dag.tasks),
    "claim": lambda context: context.spec.claim,
    "macros": lambda context: _Names(context._macro),
}
#: Every name of a context, in the order of the documentation.
NAMES = tuple(_MAKERS)


def schedule_of(context: Context) -> BoundSchedule:
    """Return the schedule of the context's DAG."""
    dag, spec = context["dag"], context.spec
    return bind(
        None if dag.schedule is None else dag.schedule.to_spec(),
        timezone=dag.timezone,
        start_date=iso(dag.start_date),
        end_date=iso(dag.end_date),
        dag_id=dag.dag_id,
        first_seen=from_iso(spec.first_seen_at) if spec.first_seen_at else None,
    )


def _macro(name: str, source: MacroSource | None) -> Any:
    from flux import macros as core_macros

    if name in core_macros.__all__:
        return getattr(core_macros, name)
    unknown = NotFound.named("Macro", name, core_macros.__all__, hint="Providers' macros are macros.<provider>.<name>.")
    if source is None:
        raise unknown
    return _ProviderMacros(lambda macro: source(name, macro), unknown)


def call(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    context: Context,
    templates_dict: Mapping[str, Any] | None = None,
) -> Any:
    """Call `function` with its arguments and with the names of the context that it asks for.

    A parameter named like a context variable gets it unless `args` or `kwargs` fill it; `**anything` gets all others.
    `templates_dict`, if there is one, counts as such a name.

    Raises:
        TypeError: `args` and `kwargs` do not fit.
    """
    offered: Mapping[str, Any] = context
    if templates_dict is not None:
        offered = ChainMap({"templates_dict": templates_dict}, context)  # type: ignore[arg-type]
    return function(*args, **_keywords(function, args, kwargs or {}, offered))


def _keywords(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], offered: Mapping[str, Any]
) -> dict[str, Any]:
    parameters = _of_code(function) or _of_signature(function)
    filled = dict(kwargs)
    wanted = {*parameters.by_keyword}
    if parameters.takes_all:
        wanted |= offered.keys() - parameters.by_position
    wanted.difference_update(parameters.by_position[: len(args)], kwargs)
    filled.update((name, offered[name]) for name in wanted if name in offered)
    return filled


class _Parameters(NamedTuple):
    """What a function can be given."""

    #: Names in order; those that may come either way are in both.
    by_position: Sequence[str]
    by_keyword: Sequence[str]
    #: Any other keyword, as by `**kwargs`.
    takes_all: bool


def _of_code(function: Callable[..., Any]) -> _Parameters | None:
    """Read a plain function's parameters from its code; None: it is another callable, or says that it has others.

    Nearly every task calls a plain function, and `inspect.signature` alone takes as long as the rest of an attempt.
    """
    if type(function) is not FunctionType or function.__dict__:
        return None
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return _Parameters(
        names[: code.co_argcount], names[code.co_posonlyargcount :], bool(code.co_flags & _TAKES_ALL)
    )  # fmt: skip


def _of_signature(function: Callable[..., Any]) -> _Parameters:
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a function of C code that does not tell
        return _Parameters((), (), False)
    return _Parameters(
        [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)],
        [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)],
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


#: Names that other schedulers have, and what to write here.
ELSEWHERE: Mapping[str, str] = {
    "execution_date": "logical_date",
    "next_execution_date": "next_logical_date",
    "prev_execution_date": "prev_logical_date",
    "prev_execution_date_success": "prev_data_interval_start_success",
    "prev_start_date_success": "prev_data_interval_start_success",
    "next_ds": "next_logical_date.strftime('%Y-%m-%d')",
    "next_ds_nodash": "next_logical_date.strftime('%Y%m%d')",
    "prev_ds": "prev_logical_date.strftime('%Y-%m-%d')",
    "prev_ds_nodash": "prev_logical_date.strftime('%Y%m%d')",
    "yesterday_ds_nodash": "yesterday_ds.replace('-', '')",
    "tomorrow_ds_nodash": "tomorrow_ds.replace('-', '')",
    "ts_nodash_with_tz": "ts",
    "interval_start": "data_interval_start",
    "interval_end": "data_interval_end",
    "start_date": "data_interval_start",
    "end_date": "data_interval_end",
    "END_DATE": "ds",
    "latest_date": "ds",
    "schedule_interval": "dag.schedule",
    "task_instance_key_str": "dag.dag_id ~ '__' ~ task.task_id ~ '__' ~ ds_nodash",
    "try_number": "ti.attempt",
    "max_tries": "ti.max_attempts",
    "conf": "dag_run.conf",
    "xcom": "results",
    "xcom_pull": "results",
    "xcom_push": "results.set",
    "variables": "var.value",
    "connection": "conn",
}


def hint(name: str, known: Iterable[str] = ()) -> str:
    """Return a sentence with our name for one known from other schedulers, or the nearest of `known`; or nothing."""
    if name in ELSEWHERE:
        return f"Here it is `{ELSEWHERE[name]}`."
    near = difflib.get_close_matches(name, known, n=2)
    return f"Did you mean {' or '.join(near)}?" if near else ""

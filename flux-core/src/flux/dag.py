"""A DAG as its author writes it, and the structure that everything else works with.

Constructing a DAG has one effect: whoever collects (`collecting`) learns of it. Tasks join it inside `with dag:`, by
an edge to one of its tasks, or by `dag=`. `structure()` checks what only the whole can show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from datetime import datetime
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from flux import edges, graph
from flux.arguments import (
    AuthoringType,
    accepted,
    check_callable,
    check_choice,
    check_flag,
    check_id,
    check_mapping,
    check_text,
    check_texts,
    check_whole,
    located,
    module_site,
    refuse_unknown,
    shown,
)
from flux.errors import AuthoringError, BadDate, BadParam, BadSchedule, Cycle, DuplicateTask
from flux.params import declare
from flux.times import DateLike, Duration, iso, moment, seconds, zone

if TYPE_CHECKING:
    from collections.abc import Callable

    from flux.edges import Node
    from flux.operator import BaseOperator
    from flux.schedule import Cron, Every, Once
    from flux.structure import DagStructure, TaskStructure
    from flux.task_group import TaskGroup

#: The store keeps weights as 32-bit numbers.
_LARGEST_WEIGHT = 2**31 - 1

#: The `with` blocks around the running code, innermost last; and whoever collects DAGs.
_blocks: ContextVar[tuple[tuple[DAG, TaskGroup | None], ...]] = ContextVar("flux_blocks", default=())
_collected: ContextVar[list[DAG] | None] = ContextVar("flux_collected", default=None)


class DAG(metaclass=AuthoringType):
    """A named set of tasks, their dependencies and their schedule.

    Args:
        schedule: a preset, a cron expression, a timedelta, Cron, Every; None: by hand only.
        start_date, end_date: bounds of the logical date, both included; a bare end_date includes that whole day.
        catchup: run the intervals missed since start_date; `catchup_window` limits how far back.
        default_args: arguments for every operator that takes them and was not given them.
        on_interrupt: "fail" or "retry": what becomes of task instances that Ctrl-C ends.
        fork: False if attempts must not be forked from a process that imported the file.
    """

    def __init__(
        self,
        dag_id: str,
        *,
        schedule: Any = None,
        start_date: DateLike | None = None,
        end_date: DateLike | None = None,
        timezone: str = "UTC",
        catchup: bool = False,
        catchup_window: Duration | None = None,
        max_active_runs: int = 16,
        max_active_tasks: int | None = None,
        dagrun_timeout: Duration | None = None,
        default_args: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        owner: str | None = None,
        description: str | None = None,
        doc_md: str | None = None,
        template_searchpath: str | Sequence[str] = (),
        user_defined_macros: Mapping[str, Any] | None = None,
        user_defined_filters: Mapping[str, Callable[..., Any]] | None = None,
        on_success_callback: Callable[..., Any] | None = None,
        on_failure_callback: Callable[..., Any] | None = None,
        on_interrupt: str = "fail",
        fork: bool = True,
    ) -> None:
        self.dag_id = check_id(dag_id, "dag_id")
        name = self._name
        site = module_site()
        #: The file whose module level was running, absolute, and its line then; None when there is none.
        self.file: str | None = site[0] if site else None
        self.line: int | None = site[1] if site else None
        self.tasks: dict[str, BaseOperator] = {}
        self.groups: dict[str, TaskGroup] = {}
        self._tokens: list[Token[Any]] = []

        self.timezone = check_text(timezone, f"{name}: timezone")
        self.zone = zone(self.timezone)
        self.schedule: Cron | Every | Once | None = self._read_schedule(schedule)
        self.start_date = self._read_date("start_date", start_date)
        self.end_date = self._read_date("end_date", end_date)
        self.catchup = check_flag(catchup, f"{name}: catchup")
        self.catchup_window = self._read_duration("catchup_window", catchup_window)
        self.max_active_runs = check_whole(max_active_runs, f"{name}: max_active_runs", minimum=1)
        self.max_active_tasks = max_active_tasks
        if max_active_tasks is not None:
            check_whole(max_active_tasks, f"{name}: max_active_tasks", minimum=1)
        self.dagrun_timeout = self._read_duration("dagrun_timeout", dagrun_timeout)
        self.default_args = check_mapping(default_args, f"{name}: default_args")
        own_params = check_mapping(params, f"{name}: params")
        self.params = declare(check_mapping(self.default_args.pop("params", None), "params") | own_params, name)
        self.tags = check_texts(tags, f"{name}: tags")
        self.owner = owner
        self.description = description
        self.doc_md = doc_md
        for argument in ("owner", "description", "doc_md"):
            if getattr(self, argument) is not None:
                check_text(getattr(self, argument), f"{name}: {argument}")
        path = [template_searchpath] if isinstance(template_searchpath, str) else template_searchpath
        self.template_searchpath = check_texts(path, f"{name}: template_searchpath")
        self.user_defined_macros = check_mapping(user_defined_macros, f"{name}: user_defined_macros")
        self.user_defined_filters = check_mapping(user_defined_filters, f"{name}: user_defined_filters")
        self.on_success_callback = check_callable(on_success_callback, f"{name}: on_success_callback")
        self.on_failure_callback = check_callable(on_failure_callback, f"{name}: on_failure_callback")
        self.on_interrupt = check_choice(on_interrupt, f"{name}: on_interrupt", ("fail", "retry"))
        self.fork = check_flag(fork, f"{name}: fork")

        self._check_dates()
        self._check_params()
        self._untaken = set(self.default_args)
        self._numbers: dict[str, int] = {}
        if "task_id" in self.default_args:
            raise AuthoringError(f"{name}: default_args has 'task_id', but every task needs its own. Remove it.")
        collected = _collected.get()
        if collected is not None:
            collected.append(self)

    @property
    def _name(self) -> str:
        return f"DAG {self.dag_id!r}"

    # Arguments

    def _read_schedule(self, value: Any) -> Cron | Every | Once | None:
        if value is None:
            return None
        from flux.schedule import from_value

        try:
            return from_value(value)
        except BadSchedule as error:
            raise BadSchedule(f"{self._name}: {error}") from error

    def _read_date(self, argument: str, value: DateLike | None) -> datetime | None:
        if value is None:
            return None
        return self.resolve_date(value, f"{self._name}: {argument}", end_of_day=argument == "end_date")

    def resolve_date(self, value: DateLike, what: str, *, end_of_day: bool = False) -> datetime:
        """Return an author's date as an instant in UTC. `what` begins the error message."""
        try:
            return moment(value, self.zone, end_of_day=end_of_day)
        except BadDate as error:
            raise BadDate(f"{what}: {error}") from error

    def _read_duration(self, argument: str, value: Duration | None) -> float | None:
        return None if value is None else seconds(value, f"{self._name}: {argument}")

    def _check_dates(self) -> None:
        if self.start_date is None:
            needs = "catchup=True" if self.catchup else None
            if self.schedule is not None and self.schedule.to_spec()["kind"] == "every":
                needs = "a schedule of equal steps"
            if needs:
                hint = " The one in default_args is for tasks." if "start_date" in self.default_args else ""
                raise BadDate(f"{self._name} has {needs} and no start_date. Give the DAG a start_date.{hint}")
        elif self.end_date is not None and self.end_date < self.start_date:
            raise BadDate(f"{self._name} has end_date {self.end_date} before start_date {self.start_date}.")

    def _check_params(self) -> None:
        required = [name for name, param in self.params.items() if param.is_required]
        if required and self.schedule is not None:
            raise BadParam(
                f"{self._name} has a schedule, and param {required[0]!r} has no default: scheduled runs have no conf "
                "to take it from. Give it a default."
            )

    # Building

    def __enter__(self) -> DAG:
        self._tokens.append(enter_block(self, None))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        leave_block(self._tokens.pop())
        return False

    def add_task(self, task: BaseOperator) -> None:
        """Take a task that belongs to no DAG yet, and the tasks it was joined to by edges."""
        if not isinstance(task, edges.Node):
            raise located(AuthoringError(f"{task!r} is not a task."))
        self.adopt(task)

    def adopt(self, node: Node) -> None:
        """Take a node, and with it the nodes without a DAG that its edges lead to."""
        todo = [node]
        while todo:
            node = todo.pop()
            if node._dag is self:
                continue
            if node._dag is not None:
                other = node._dag.dag_id
                raise located(AuthoringError(f"{node.label!r} is in DAG {other!r} and cannot be in another."))
            self.refuse_taken(node.label, "Task")
            node._dag = self
            self.tasks[node.label] = cast("BaseOperator", node)  # groups are born with a DAG
            self._untaken -= accepted(type(node)) or self._untaken
            todo += [*node.drawn_before, *node.drawn_after]

    def refuse_taken(self, full_id: str, kind: str) -> None:
        """Raise DuplicateTask if a task or a group has that id. `kind` is "Task" or "TaskGroup"."""
        other = self.tasks.get(full_id) or self.groups.get(full_id)
        if other is not None:
            raise located(
                DuplicateTask(
                    f"{kind} {full_id!r} is already in {self._name} ({shown(other.site)}). "
                    "Give this one another id, or remove the first."
                )
            )

    def free_id(self, full_id: str) -> str:
        """Return `full_id`, or where it is taken `full_id__1`, `full_id__2` …"""
        if full_id not in self.tasks:
            return full_id
        number = self._numbers.get(full_id, 0) + 1
        while f"{full_id}__{number}" in self.tasks:
            number += 1
        self._numbers[full_id] = number
        return f"{full_id}__{number}"

    # The whole

    def downstream_tasks(self) -> list[list[int]]:
        """Return for every task, in the order of `tasks`, the positions of its direct downstream, ascending."""
        return edges.expand(list(self.tasks.values()), self.groups.values())

    def structure(self) -> DagStructure:
        """Return the DAG as plain records, tasks in topological order.

        Raises:
            AuthoringError: the tasks form a cycle, a task's date is wrong, a default argument is taken by no task.
        """
        try:
            return self._structure()
        except AuthoringError as error:
            raise located(error, None if self.file is None or self.line is None else (self.file, self.line)) from None

    def _structure(self) -> DagStructure:
        from flux.structure import DagStructure

        if self.tasks and self._untaken:
            taken: set[str] = set()
            taken.update(*(accepted(kind) or () for kind in {type(task) for task in self.tasks.values()}))
            refuse_unknown(f"No task of {self._name} takes the default argument", self._untaken, taken)
        return DagStructure(
            dag_id=self.dag_id,
            file=self.file or "",
            line=self.line,
            tasks=self._task_structures(),
            schedule=None if self.schedule is None else self.schedule.to_spec(),
            timezone=self.timezone,
            start_date=iso(self.start_date),
            end_date=iso(self.end_date),
            catchup=self.catchup,
            catchup_window=self.catchup_window,
            max_active_runs=self.max_active_runs,
            max_active_tasks=self.max_active_tasks,
            dagrun_timeout=self.dagrun_timeout,
            params={name: param.to_spec() for name, param in self.params.items()},
            tags=self.tags,
            owner=self.owner,
            description=self.description,
            doc_md=self.doc_md,
            on_interrupt=self.on_interrupt,
            fork=self.fork,
            groups={group_id: group.tooltip for group_id, group in self.groups.items()},
        )

    def _task_structures(self) -> tuple[TaskStructure, ...]:
        drawn = list(self.tasks.values())
        for task_id, task in self.tasks.items():
            if task.task_id != task_id:
                raise AuthoringError(f"Task {task_id!r} was renamed to {task.task_id!r}. Name a task when it is made.")
            task._check_settings()
        after = self.downstream_tasks()
        try:
            sequence = graph.order(len(drawn), after, list(self.tasks))
        except Cycle as error:
            raise Cycle(f"{self._name} has a {error}") from None
        position = {old: new for new, old in enumerate(sequence)}
        tasks = [drawn[old] for old in sequence]
        downstream = [sorted(position[old] for old in after[node]) for node in sequence]
        upstream = graph.reversed_edges(downstream)
        weights = _weights(tasks, downstream, upstream)
        return tuple(
            task.structure(
                self,
                index=index,
                upstream=tuple(upstream[index]),
                downstream=tuple(downstream[index]),
                priority_weight=weights[index],
                gates=tuple(_gated(task, index, downstream)),
            )
            for index, task in enumerate(tasks)
        )

    # Interactive

    def run(
        self,
        start: DateLike,
        end: DateLike | None = None,
        *,
        conf: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        task: str | None = None,
    ) -> Any:
        """Run the data interval of `start`, or all from `start` to `end` included, here and now. Blocks."""
        return interactive().run_dag(self, start, end, conf=conf, params=params, task=task)

    def cli(self, argv: Sequence[str] | None = None) -> Any:
        """Be a small command line of this DAG; `argv` None: the process's arguments."""
        return interactive().dag_cli(self, argv)

    def graph(self) -> Any:
        """Return a drawing of the DAG that a notebook or a shell shows."""
        return interactive().draw(self)

    def __repr__(self) -> str:
        return f"<DAG {self.dag_id}>"


def _weights(tasks: Sequence[BaseOperator], downstream: list[list[int]], upstream: list[list[int]]) -> list[int]:
    """The effective priority weight of every task, by its weight rule."""
    own = [task.priority_weight for task in tasks]
    rules = {task.weight_rule for task in tasks}
    sequence = range(len(tasks))
    sums = {"absolute": own}
    if "downstream" in rules:
        sums["downstream"] = graph.reach_sums(sequence, downstream, own)
    if "upstream" in rules:
        sums["upstream"] = graph.reach_sums(sequence[::-1], upstream, own)
    return [
        max(-_LARGEST_WEIGHT, min(_LARGEST_WEIGHT, sums[task.weight_rule][index])) for index, task in enumerate(tasks)
    ]


def _gated(task: BaseOperator, index: int, downstream: list[list[int]]) -> list[int]:
    """The tasks that wait for this one as a gate."""
    if task.gate is None:
        return []
    if task.gate == "short_circuit" and task.gates_all_descendants:
        return sorted(graph.reach([index], downstream))
    return downstream[index]


def current_dag() -> DAG | None:
    """Return the DAG of the innermost `with` block; None outside any."""
    blocks = _blocks.get()
    return blocks[-1][0] if blocks else None


def current_group(dag: DAG) -> TaskGroup | None:
    """Return the group of the innermost `with` block, if it is of that DAG."""
    blocks = _blocks.get()
    return blocks[-1][1] if blocks and blocks[-1][0] is dag else None


def enter_block(dag: DAG, group: TaskGroup | None) -> Token[Any]:
    """Begin a block in which new tasks join the DAG, and the group if there is one; `leave_block` ends it."""
    return _blocks.set((*_blocks.get(), (dag, group)))


def leave_block(token: Token[Any]) -> None:
    """End the block that `enter_block` began."""
    _blocks.reset(token)


class collecting:
    """A `with` block that gives a list and appends every DAG that this thread constructs, in order."""

    def __enter__(self) -> list[DAG]:
        made: list[DAG] = []
        self._token = _collected.set(made)
        return made

    def __exit__(self, *error: object) -> None:
        _collected.reset(self._token)


def interactive() -> ModuleType:
    """Return `flux.interactive`: the one door from authoring to running things here and now."""
    from flux import interactive as module

    return module

"""The base of all operators: what every task takes, how it is placed in its DAG, and what a subclass overrides.

Constructing an operator makes a task. The metaclass does what every operator needs and no subclass should have to
write: merge the DAG's default arguments, refuse unknown ones, keep every argument as an attribute, draw the edges
that other tasks' outputs among the arguments mean, and put the finished task into its DAG.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from flux.arguments import (
    AuthoringType,
    Site,
    accepted,
    check_callable,
    check_choice,
    check_flag,
    check_id,
    check_mapping,
    check_text,
    check_whole,
    located,
)
from flux.dag import DAG, current_dag, current_group, interactive
from flux.edges import Node
from flux.errors import AuthoringError, BadDate
from flux.params import declare
from flux.task_group import full_id
from flux.task_output import TaskOutput, outputs_in
from flux.times import DateLike, Duration, iso, seconds
from flux.trigger_rules import TRIGGER_RULES

if TYPE_CHECKING:
    from datetime import datetime

    from flux.context import Context
    from flux.structure import SensorStructure, TaskStructure

__all__ = ["WEIGHT_RULES", "BaseOperator", "OperatorType", "TaskOutput"]

WEIGHT_RULES = ("downstream", "upstream", "absolute")

_BODY = ("execute", "pre_execute", "post_execute")


class OperatorType(AuthoringType):
    """Metaclass of operators; the module's text says what it does."""

    def construct(cls, site: Site | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        who = cls.describe_call((), kwargs)
        if args:
            raise AuthoringError(f"{who} takes its arguments by name only. Write task_id=…, and so on.")
        dag = kwargs.get("dag") or current_dag()
        if isinstance(dag, DAG):
            known = accepted(cls)
            for name, value in dag.default_args.items():
                if name not in kwargs and (known is None or name in known):
                    kwargs[name] = value
        task: BaseOperator = super().construct(site, (), kwargs)
        if "task_id" not in vars(task):
            raise AuthoringError(f"{who}: its __init__ does not call super().__init__(**kwargs).")
        task.site = site
        for name, value in kwargs.items():
            if name not in vars(task) and not hasattr(cls, name):
                setattr(task, name, value)
        cls._place(task, who, kwargs)
        return task

    def _place(cls, task: BaseOperator, who: str, kwargs: Mapping[str, Any]) -> None:
        """Put the task into its DAG and draw the edges that its arguments mean."""
        missing = [name for name in cls.template_fields if not hasattr(task, name)]  # type: ignore[attr-defined]
        if missing:
            raise AuthoringError(f"{who}: template field {missing[0]!r} is not an attribute. Set it in __init__.")
        used = {id(output): output for name in task.template_fields for output in outputs_in(getattr(task, name))}
        for name, value in kwargs.items():
            lost = next((output for output in outputs_in(value) if id(output) not in used), None)
            if lost is not None:
                raise AuthoringError(
                    f"{who}: argument {name!r} cannot take {lost!r}: only template fields "
                    f"({', '.join(task.template_fields) or 'it has none'}) can."
                )
        if task._asked_dag is not None:
            task._asked_dag.add_task(task)
        for output in used.values():
            task.set_upstream(output)

    def describe_call(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        task_id = kwargs.get("task_id")
        return cls.__name__ if task_id is None else f"{cls.__name__} {task_id!r}"


class BaseOperator(Node, metaclass=OperatorType):
    """Base of all operators; an instance is a task. Override `execute`.

    Every argument is kept as an attribute of its name. `task_id` becomes "group_id.task_id" inside a group.

    Args:
        retry_delay, execution_timeout, kill_grace, max_retry_delay: seconds or a timedelta.
        wait_for_downstream: implies depends_on_past.
        weight_rule: "downstream": its weight is its own and that of all its descendants, each once; "upstream": of
            all above it; "absolute": its own.
        max_active_tis_per_dag: how many task instances of this task may run at a time, over all runs.
        start_date, end_date: bounds of the logical date, both included, within the DAG's.
        adhoc: never part of a scheduled run.
        dag: the DAG to join when not inside its `with` block.
    """

    #: Attributes that are rendered before `execute`.
    template_fields: Sequence[str] = ()
    #: A template field that ends in one of these names a file to render.
    template_ext: Sequence[str] = ()
    #: Maps a template field to how it is shown, such as "sql".
    template_fields_renderers: Mapping[str, str] = {}
    ui_color: str = "#ffffff"
    #: "branch": its result chooses among its direct downstreams; "short_circuit": its result may close those below.
    gate: ClassVar[str | None] = None
    #: A short-circuit closes all its descendants, not only the direct ones.
    gates_all_descendants: bool = True
    #: Needs no process: it has nothing to execute.
    inline: ClassVar[bool] = False
    #: pytest takes a class called Test… for tests: this is none, whatever its author calls it.
    __test__: ClassVar[bool] = False

    def __init__(
        self,
        *,
        task_id: str,
        retries: int = 0,
        retry_delay: Duration = 300,
        retry_exponential_backoff: bool = False,
        max_retry_delay: Duration = 86_400,
        execution_timeout: Duration | None = None,
        kill_grace: Duration = 4,
        trigger_rule: str = "all_success",
        depends_on_past: bool = False,
        wait_for_downstream: bool = False,
        pool: str | None = None,
        pool_slots: int = 1,
        priority_weight: int = 1,
        weight_rule: str = "downstream",
        queue: str = "default",
        max_active_tis_per_dag: int | None = None,
        store_result: bool = True,
        params: Mapping[str, Any] | None = None,
        start_date: DateLike | None = None,
        end_date: DateLike | None = None,
        adhoc: bool = False,
        owner: str | None = None,
        email: str | Sequence[str] | None = None,
        email_on_failure: bool = True,
        email_on_retry: bool = True,
        on_success_callback: Callable[..., Any] | None = None,
        on_failure_callback: Callable[..., Any] | None = None,
        on_retry_callback: Callable[..., Any] | None = None,
        doc_md: str | None = None,
        resources: Mapping[str, Any] | None = None,
        run_as_user: str | None = None,
        dag: DAG | None = None,
    ) -> None:
        super().__init__()
        check_id(task_id, "task_id")
        if dag is not None and not isinstance(dag, DAG):
            raise AuthoringError(f"Task {task_id!r}: dag = {dag!r} is not a DAG.")
        self._asked_dag = dag or current_dag()
        self.task_group = None if self._asked_dag is None else current_group(self._asked_dag)
        self.site: Site | None = None
        self.task_id = check_id(full_id(self.task_group, task_id), "task_id")
        self.retries = retries
        self.retry_delay = retry_delay
        self.retry_exponential_backoff = retry_exponential_backoff
        self.max_retry_delay = max_retry_delay
        self.execution_timeout = execution_timeout
        self.kill_grace = kill_grace
        self.trigger_rule = trigger_rule
        self.depends_on_past = depends_on_past
        self.wait_for_downstream = wait_for_downstream
        self.pool = pool
        self.pool_slots = pool_slots
        self.priority_weight = priority_weight
        self.weight_rule = weight_rule
        self.queue = queue
        self.max_active_tis_per_dag = max_active_tis_per_dag
        self.store_result = self._flag("store_result", store_result)
        self.params = check_mapping(params, self._what("params"))
        declare(self.params, f"Task {self.task_id!r}")
        self.start_date = start_date
        self.end_date = end_date
        self.adhoc = adhoc
        self.owner = owner
        self.email = email
        self.email_on_failure = self._flag("email_on_failure", email_on_failure)
        self.email_on_retry = self._flag("email_on_retry", email_on_retry)
        self.on_success_callback = check_callable(on_success_callback, self._what("on_success_callback"))
        self.on_failure_callback = check_callable(on_failure_callback, self._what("on_failure_callback"))
        self.on_retry_callback = check_callable(on_retry_callback, self._what("on_retry_callback"))
        self.doc_md = doc_md
        self.resources = None if resources is None else check_mapping(resources, self._what("resources"))
        self.run_as_user = run_as_user
        self._check_settings()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        wrong = misnamed_fields(cls)
        if wrong is not None:
            raise AuthoringError(wrong)

    def _check_settings(self) -> None:
        """Check what the scheduler goes by: when the task is made, and again when it is read, since it can be changed.

        Raises:
            AuthoringError: a setting is of the wrong type or out of its range.
        """
        self._whole("retries", self.retries, 0)
        self._duration("retry_delay", self.retry_delay)
        self._flag("retry_exponential_backoff", self.retry_exponential_backoff)
        self._duration("max_retry_delay", self.max_retry_delay)
        limit = self.execution_timeout
        if limit is not None and seconds(limit, self._what("execution_timeout")) == 0:
            raise AuthoringError(f"{self._what('execution_timeout')} = 0 leaves no time. Give None for no limit.")
        self._duration("kill_grace", self.kill_grace)
        check_choice(self.trigger_rule, self._what("trigger_rule"), TRIGGER_RULES)
        self._flag("depends_on_past", self.depends_on_past)
        self._flag("wait_for_downstream", self.wait_for_downstream)
        self._whole("pool_slots", self.pool_slots, 1)
        self._whole("priority_weight", self.priority_weight, None)
        check_choice(self.weight_rule, self._what("weight_rule"), WEIGHT_RULES)
        check_text(self.queue, self._what("queue"))
        if self.max_active_tis_per_dag is not None:
            self._whole("max_active_tis_per_dag", self.max_active_tis_per_dag, 1)
        self._flag("adhoc", self.adhoc)
        for argument in ("pool", "owner", "doc_md", "run_as_user"):
            value = getattr(self, argument)
            if value is not None:
                check_text(value, self._what(argument))
        if self.resources is not None:
            check_mapping(self.resources, self._what("resources"))

    def _what(self, argument: str) -> str:
        return f"Task {self.task_id!r}: {argument}"

    def _whole(self, argument: str, value: int, minimum: int | None) -> None:
        check_whole(value, self._what(argument), minimum=minimum)

    def _flag(self, argument: str, value: bool) -> bool:
        return check_flag(value, self._what(argument))

    def _duration(self, argument: str, value: Duration) -> None:
        seconds(value, self._what(argument))

    # What a subclass overrides

    @abstractmethod
    def execute(self, context: Context) -> Any:
        """Do the work; what it returns is the result. Runs in the attempt's process."""

    def on_kill(self) -> None:
        """Stop what the attempt started elsewhere. Called once, in the main thread, when the attempt is killed."""

    def execute_dry(self, context: Context) -> Any:
        """Show what `execute` would do, without effects; by default the rendered template fields."""
        return {name: getattr(self, name) for name in self.template_fields}

    def pre_execute(self, context: Context) -> None:
        """Called before `execute`; what it raises fails the attempt."""

    def post_execute(self, context: Context, result: Any) -> None:
        """Called after `execute` returned `result`; what it raises fails the attempt."""

    def prepare_template(self) -> None:
        """Change template fields after template files are loaded and before they are rendered."""

    # Use

    @property
    def dag(self) -> DAG | None:
        """The DAG it belongs to; may be set once."""
        return self._dag

    @dag.setter
    def dag(self, dag: DAG) -> None:
        dag.add_task(self)

    @property
    def label(self) -> str:
        return self.task_id

    @property
    def output(self) -> TaskOutput:
        """What it will return, as an argument of other tasks."""
        return TaskOutput(self)

    @property
    def downstream_task_ids(self) -> set[str]:
        """The ids of its direct downstreams, edges at groups resolved. Empty outside a DAG."""
        if self._dag is None:
            return set()
        ids = list(self._dag.tasks)
        return {ids[position] for position in self._dag.downstream_tasks()[ids.index(self.task_id)]}

    def run(self, start: DateLike, end: DateLike | None = None, *, params: Mapping[str, Any] | None = None) -> Any:
        """Run this task alone for the data interval of `start`, or all from `start` to `end` included. Blocks."""
        return interactive().run_task(self, start, end, params=params)

    def render(self, date: DateLike) -> dict[str, str]:
        """Return the template fields as they are for the data interval of `date`."""
        fields: dict[str, str] = interactive().render_task(self, date)
        return fields

    def dry_run(self, date: DateLike) -> Any:
        """Render the template fields and call `execute_dry`."""
        return interactive().dry_run_task(self, date)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task_id}>"

    # Structure

    def structure(
        self,
        dag: DAG,
        *,
        index: int,
        upstream: tuple[int, ...],
        downstream: tuple[int, ...],
        priority_weight: int,
        gates: tuple[int, ...],
    ) -> TaskStructure:
        """Return the task as a record.

        Raises:
            BadDate: a bound of the logical date does not exist in the DAG's time zone.
        """
        from flux.structure import TaskStructure

        start, end = self._bounds(dag)
        limit = self.execution_timeout
        groups = []
        group = self.task_group
        while group is not None:
            groups.append(group.group_id)
            group = group.task_group
        return TaskStructure(
            index=index,
            task_id=self.task_id,
            operator=type(self).__name__,
            module=type(self).__module__,
            upstream=upstream,
            downstream=downstream,
            trigger_rule=self.trigger_rule,
            retries=self.retries,
            retry_delay=seconds(self.retry_delay, "retry_delay"),
            retry_exponential_backoff=self.retry_exponential_backoff,
            max_retry_delay=seconds(self.max_retry_delay, "max_retry_delay"),
            execution_timeout=None if limit is None else seconds(limit, "execution_timeout"),
            kill_grace=seconds(self.kill_grace, "kill_grace"),
            depends_on_past=self.depends_on_past or self.wait_for_downstream,
            wait_for_downstream=self.wait_for_downstream,
            pool=self.pool,
            pool_slots=self.pool_slots,
            priority_weight=priority_weight,
            queue=self.queue,
            max_active_tis_per_dag=self.max_active_tis_per_dag,
            start_date=start,
            end_date=end,
            adhoc=self.adhoc,
            owner=self.owner,
            run_as_user=self.run_as_user,
            resources=self.resources,
            gate=self.gate,
            gates=gates,
            inline=self._is_inline(),
            templated=self._is_templated(),
            template_fields=tuple(self.template_fields),
            sensor=self.sensor_structure(),
            groups=tuple(reversed(groups)),
            ui_color=self.ui_color,
            doc_md=self.doc_md,
        )

    def sensor_structure(self) -> SensorStructure | None:
        """Return what the engine needs of a sensor; None for other operators."""
        return None

    def _bounds(self, dag: DAG) -> tuple[str | None, str | None]:
        """Its own bounds of the logical date, where they are narrower than the DAG's."""
        try:
            start, end = self._bound(dag, "start_date"), self._bound(dag, "end_date")
            if start is not None and end is not None and end < start:
                raise BadDate(f"Task {self.task_id!r} has end_date {end} before start_date {start}.")
        except BadDate as error:
            raise located(error, self.site) from None
        later = start is not None and (dag.start_date is None or start > dag.start_date)
        earlier = end is not None and (dag.end_date is None or end < dag.end_date)
        return iso(start) if later else None, iso(end) if earlier else None

    def _bound(self, dag: DAG, argument: str) -> datetime | None:
        value: DateLike | None = getattr(self, argument)
        if value is None:
            return None
        return dag.resolve_date(value, self._what(argument), end_of_day=argument == "end_date")

    def _is_inline(self) -> bool:
        """A subclass of an inline operator that executes something is not inline."""
        if not self.inline:
            return False
        below = type(self).__mro__
        owner = next(index for index, klass in enumerate(below) if "inline" in vars(klass))
        return not any(name in vars(klass) for klass in below[:owner] for name in _BODY)

    def _is_templated(self) -> bool:
        return any("{" in text or self.names_template_file(text) for text in self._template_texts())

    def _template_texts(self) -> Iterable[str]:
        todo = [getattr(self, name) for name in self.template_fields]
        while todo:
            value = todo.pop()
            if isinstance(value, str):
                yield value
            elif isinstance(value, dict):
                todo += value.values()
            elif isinstance(value, list | tuple):
                todo += value

    def names_template_file(self, text: str) -> bool:
        """Return whether a text of a template field is the name of a template file: one word with such an ending."""
        return bool(self.template_ext) and text.endswith(tuple(self.template_ext)) and not any(map(str.isspace, text))


def misnamed_fields(cls: type[BaseOperator]) -> str | None:
    """Return a sentence that says what is wrong with a class's lists of template fields and endings; None: nothing."""
    for name in ("template_fields", "template_ext"):
        value = getattr(cls, name)
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        what = f"{cls.__name__}{f' in {file}' if file else ''}: {name} = {value!r}"
        if isinstance(value, str):
            return f"{what} is a text, not a list. Write ({value!r},)."
        if not isinstance(value, Collection) or not all(isinstance(item, str) for item in value):
            return f"{what} is no list of texts. Write () for an empty one."
    return None

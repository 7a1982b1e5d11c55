"""`@task`: a Python function as an operator; calling it in a DAG makes a task."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from flux.arguments import accepted, located, refuse_unknown
from flux.dag import DAG, current_dag, current_group
from flux.errors import AuthoringError
from flux.operator import BaseOperator, TaskOutput
from flux.task_group import full_id

if TYPE_CHECKING:
    from flux.context import Context

_COROUTINE = 0x80  # CO_COROUTINE


class FunctionOperator(BaseOperator):
    """Call the function of a `@task`; what it returns is the result."""

    template_fields: Sequence[str] = ("op_args", "op_kwargs")
    ui_color = "#ffefeb"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Sequence[Any] = (),
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.python_callable = python_callable
        self.op_args = op_args
        self.op_kwargs = op_kwargs or {}

    def execute(self, context: Context) -> Any:
        """Call the function with its arguments and the context variables that it asks for."""
        from flux.context import call

        return call(self.python_callable, self.op_args, self.op_kwargs, context)


class TaskFunction:
    """What `@task` makes of a function. A call makes a task and gives its output; `.function` is the function.

    The task_id is the function's name; the second call in a DAG gets `name__1`, and so on.
    """

    def __init__(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        if not callable(function):
            raise located(AuthoringError(f"@task was given {function!r}, not a function. Options go by name."))
        code = getattr(function, "__code__", None)
        if code is not None and code.co_flags & _COROUTINE:
            name = _name(function)
            raise located(AuthoringError(f"@task function {name!r} is async. Write def, and asyncio.run in it."))
        refuse_options(arguments)
        functools.update_wrapper(self, function)
        self.function = function
        self._arguments = dict(arguments)

    def override(self, **arguments: Any) -> TaskFunction:
        """Return the same function with other arguments for the operator, such as `task_id` or `retries`."""
        return TaskFunction(self.function, {**self._arguments, **arguments})

    def __call__(self, *args: Any, **kwargs: Any) -> TaskOutput:
        arguments = dict(self._arguments)
        name = arguments.pop("task_id", None) or _name(self.function)
        self._check_call(name, args, kwargs)
        return FunctionOperator(
            task_id=_free_name(name, arguments.get("dag")),
            python_callable=self.function,
            op_args=args,
            op_kwargs=kwargs,
            **arguments,
        ).output

    def _check_call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse arguments that the function cannot be called with; the context may give those that are left out."""
        import inspect

        from flux.context import NAMES

        for value in (*args, *kwargs.values()):
            if isinstance(value, BaseOperator):
                raise located(AuthoringError(f"{name}() was given task {value.task_id!r} itself. Pass its .output."))
        try:
            signature = inspect.signature(self.function)
        except ValueError:  # a function in C that does not tell
            return
        try:
            given = signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise located(AuthoringError(f"{name}{signature} cannot be called like this: {error}.")) from None
        for parameter in signature.parameters.values():
            collects = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            filled = parameter.name in given or parameter.name in NAMES or parameter.default is not parameter.empty
            if not collects and not filled:
                raise located(AuthoringError(f"{name}{signature} is called without {parameter.name!r}. Pass it."))

    def __repr__(self) -> str:
        return f"<task function {_name(self.function)}>"


@overload
def task(function: Callable[..., Any], /) -> TaskFunction: ...


@overload
def task(**arguments: Any) -> Callable[[Callable[..., Any]], TaskFunction]: ...


def task(
    function: Callable[..., Any] | None = None, /, **arguments: Any
) -> TaskFunction | Callable[[Callable[..., Any]], TaskFunction]:
    """Make a function a task function, as `@task` or with arguments for its operator, as `@task(retries=2)`."""
    if function is not None:
        return TaskFunction(function, arguments)
    refuse_options(arguments)
    return lambda function: TaskFunction(function, arguments)


def refuse_options(arguments: Mapping[str, Any]) -> None:
    """Raise UnknownArgument for an option that no task takes."""
    try:
        refuse_unknown("@task takes no argument", arguments, accepted(BaseOperator) or ())
    except AuthoringError as error:
        raise located(error) from None


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _free_name(name: str, dag: Any) -> str:
    """The name, or with a number where the DAG has such a task already."""
    home = dag if isinstance(dag, DAG) else current_dag()
    if home is None or not isinstance(name, str):
        return name
    whole = full_id(current_group(home), name)
    return name + home.free_id(whole)[len(whole) :]

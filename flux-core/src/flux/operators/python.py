"""The operator that calls a Python function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flux.context import Context, call
from flux.errors import AuthoringError
from flux.operator import BaseOperator

__all__ = ["PythonOperator"]


class PythonOperator(BaseOperator):
    """Call a function; what it returns is the result.

    A parameter of the function that is named like a context variable gets its value unless an argument fills it;
    `**context` gets all of them.

    Args:
        python_callable: the function.
        op_args: its positional arguments.
        op_kwargs: its keyword arguments.
        templates_dict: further templates; the function gets them rendered as `templates_dict`.
    """

    template_fields: Sequence[str] = ("op_args", "op_kwargs", "templates_dict")
    ui_color = "#ffefeb"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Sequence[Any] = (),
        op_kwargs: Mapping[str, Any] | None = None,
        templates_dict: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not callable(python_callable):
            raise AuthoringError(
                f"python_callable={python_callable!r:.100} is not a function. Pass it without calling it."
            )
        self.python_callable = python_callable
        self.op_args = op_args
        self.op_kwargs = op_kwargs
        self.templates_dict = templates_dict

    def execute(self, context: Context) -> Any:
        """Call the function."""
        return call(self.python_callable, self.op_args, self.op_kwargs, context, self.templates_dict)

"""The sensor that asks a Python function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flux.context import Context, call
from flux.errors import AuthoringError
from flux.sensor import BaseSensor

__all__ = ["PythonSensor"]


class PythonSensor(BaseSensor):
    """Wait until a function returns something true.

    Args:
        python_callable: the function; what it is called with is as for PythonOperator.
        op_args: its positional arguments.
        op_kwargs: its keyword arguments.
        templates_dict: further templates; the function gets them rendered as `templates_dict`.
    """

    template_fields: Sequence[str] = ("op_args", "op_kwargs", "templates_dict")
    ui_color = "#e6f1f2"

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

    def poke(self, context: Context) -> bool:
        """Call the function."""
        return bool(call(self.python_callable, self.op_args, self.op_kwargs, context, self.templates_dict))

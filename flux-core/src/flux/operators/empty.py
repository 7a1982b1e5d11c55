"""The operator that does nothing."""

from __future__ import annotations

from typing import ClassVar

from flux.context import Context
from flux.operator import BaseOperator

__all__ = ["EmptyOperator"]


class EmptyOperator(BaseOperator):
    """Do nothing: a joint between other tasks. It succeeds without a process."""

    inline: ClassVar[bool] = True
    ui_color = "#e8f7e4"

    def execute(self, context: Context) -> None:
        """Do nothing."""

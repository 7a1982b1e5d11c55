"""The operator that lets only the latest run go on."""

from __future__ import annotations

from typing import ClassVar

from flux.context import Context, schedule_of
from flux.operator import BaseOperator
from flux.states import RunKind
from flux.times import utc_now

__all__ = ["LatestOnlyOperator"]


class LatestOnlyOperator(BaseOperator):
    """Skip all that follows unless this is the run of the latest complete interval.

    For what makes no sense for the past, such as a mail about today. A run made by hand passes, as does one without
    a following interval.
    """

    gate: ClassVar[str | None] = "short_circuit"
    gates_all_descendants = True
    ui_color = "#e9ffdb"

    def execute(self, context: Context) -> bool:
        """Return whether the next interval has not ended yet."""
        if context.spec.kind == RunKind.MANUAL:
            return True
        following = schedule_of(context).next(context["data_interval"])
        return following is None or utc_now() < following.end

"""The operators that Flux brings along. Each name is loaded when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux import lazy

if TYPE_CHECKING:
    from flux.operators.bash import BashOperator
    from flux.operators.branch import BranchPythonOperator, ShortCircuitOperator
    from flux.operators.empty import EmptyOperator
    from flux.operators.latest_only import LatestOnlyOperator
    from flux.operators.python import PythonOperator

__all__ = [
    "BashOperator",
    "BranchPythonOperator",
    "EmptyOperator",
    "LatestOnlyOperator",
    "PythonOperator",
    "ShortCircuitOperator",
]

_MODULES = {
    "BashOperator": "bash",
    "BranchPythonOperator": "branch",
    "EmptyOperator": "empty",
    "LatestOnlyOperator": "latest_only",
    "PythonOperator": "python",
    "ShortCircuitOperator": "branch",
}

if not TYPE_CHECKING:  # a type checker that saw it would take every name for granted
    __getattr__ = lazy.loader(__name__, _MODULES)


def __dir__() -> list[str]:
    return list(__all__)

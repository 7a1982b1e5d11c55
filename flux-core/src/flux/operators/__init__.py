"""The operators that Flux brings along. Each name is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flux.errors import NotFound

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


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        if name.startswith("__"):
            raise AttributeError(name)
        hint = "Operators of a provider are in its package, such as flux_provider_sql.operators."
        raise AttributeError(str(NotFound.named("Operator", name, __all__, hint=hint)))
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return list(__all__)

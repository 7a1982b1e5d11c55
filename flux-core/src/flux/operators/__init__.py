"""The operators that Flux brings along. Each name is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

    def __getattr__(name: str) -> Any:
        module = _MODULES.get(name)
        if module is not None:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
        if not name[:1].isupper():  # a submodule, or what a tool looks for
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from flux.plugins import signpost

        core = {__name__: __all__, "flux.sensors": importlib.import_module("flux.sensors").__all__}
        raise signpost.missing("Operator", name, core)


def __dir__() -> list[str]:
    return list(__all__)

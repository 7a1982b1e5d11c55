"""The names of `flux.operators` and `flux.sensors`: loaded at their first use; an unknown one says where it is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

#: The packages whose names are found here, and what their names stand for.
_PACKAGES = {"flux.operators": "Operator", "flux.sensors": "Sensor"}


def loader(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of one of the two packages.

    Args:
        modules: maps each of its names to the module below it that defines it.
    """

    def load(name: str) -> Any:
        module = modules.get(name)
        if module is not None:
            return getattr(importlib.import_module(f"{package}.{module}"), name)
        if not name[:1].isupper():  # a submodule, or what a tool looks for
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from flux.plugins import signpost

        core = {each: importlib.import_module(each).__all__ for each in _PACKAGES}
        raise signpost.missing(_PACKAGES[package], name, core)

    return load

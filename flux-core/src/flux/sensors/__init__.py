"""The sensors that Flux brings along. Each name is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux.sensors.file import FileSensor
    from flux.sensors.python import PythonSensor
    from flux.sensors.time import DateTimeSensor, TimeDeltaSensor, TimeSensor

__all__ = ["DateTimeSensor", "FileSensor", "PythonSensor", "TimeDeltaSensor", "TimeSensor"]

_MODULES = {
    "DateTimeSensor": "time",
    "FileSensor": "file",
    "PythonSensor": "python",
    "TimeDeltaSensor": "time",
    "TimeSensor": "time",
}


if not TYPE_CHECKING:  # a type checker that saw it would take every name for granted

    def __getattr__(name: str) -> Any:
        module = _MODULES.get(name)
        if module is not None:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
        if not name[:1].isupper():  # a submodule, or what a tool looks for
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from flux.plugins import signpost

        core = {__name__: __all__, "flux.operators": importlib.import_module("flux.operators").__all__}
        raise signpost.missing("Sensor", name, core)


def __dir__() -> list[str]:
    return list(__all__)

"""The sensors that Flux brings along. Each name is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flux.errors import NotFound

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


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        if name.startswith("__"):
            raise AttributeError(name)
        hint = "Sensors of a provider are in its package, such as flux_provider_sql.sensors."
        raise AttributeError(str(NotFound.named("Sensor", name, __all__, hint=hint)))
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return list(__all__)

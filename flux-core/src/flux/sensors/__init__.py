"""The sensors that Flux brings along. Each name is loaded when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux import lazy

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
    __getattr__ = lazy.loader(__name__, _MODULES)


def __dir__() -> list[str]:
    return list(__all__)

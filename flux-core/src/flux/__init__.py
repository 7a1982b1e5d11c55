"""Flux: author, schedule and monitor data pipelines. The names that a DAG file may use; each loads on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux.connection import Connection
    from flux.context import Context, get_connection, get_variable
    from flux.dag import DAG
    from flux.decorators import task
    from flux.edges import chain
    from flux.errors import FailTask, FluxError, SkipTask
    from flux.operator import BaseOperator
    from flux.params import Param
    from flux.schedule import Cron, DataInterval, Every
    from flux.secret import Secret
    from flux.sensor import BaseSensor
    from flux.task_group import TaskGroup

__all__ = [
    "DAG",
    "BaseOperator",
    "BaseSensor",
    "Connection",
    "Context",
    "Cron",
    "DataInterval",
    "Every",
    "FailTask",
    "FluxError",
    "Param",
    "Secret",
    "SkipTask",
    "TaskGroup",
    "chain",
    "get_connection",
    "get_variable",
    "task",
]

_MODULES = {
    "DAG": "dag",
    "BaseOperator": "operator",
    "BaseSensor": "sensor",
    "Connection": "connection",
    "Context": "context",
    "Cron": "schedule",
    "DataInterval": "schedule",
    "Every": "schedule",
    "FailTask": "errors",
    "FluxError": "errors",
    "Param": "params",
    "Secret": "secret",
    "SkipTask": "errors",
    "TaskGroup": "task_group",
    "chain": "edges",
    "get_connection": "context",
    "get_variable": "context",
    "task": "decorators",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        for kind in ("operator", "sensor"):
            if name.endswith(kind.capitalize()):
                place = importlib.import_module(f"flux.{kind}s")
                if name in place.__all__:
                    raise ImportError(f"{name} is in flux.{kind}s: use `from flux.{kind}s import {name}`.", name=name)
                return getattr(place, name)  # which says where it is
        raise AttributeError(f"module 'flux' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"flux.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)

"""For those who write providers: run a task as Flux does, fakes, and classes of tests that a provider must pass.

Each name is loaded on first use. The conformance classes need pytest (`pip install "flux-core[testing]"`); the rest
needs Flux alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux.testing.attempts import RunningTask, TaskOutcome, run_task, start_task
    from flux.testing.clock import VirtualClock
    from flux.testing.connections import ConnectionConformance
    from flux.testing.endpoint import FakeEndpoint
    from flux.testing.executors import ExecutorConformance
    from flux.testing.macros import MacroConformance
    from flux.testing.operators import OperatorConformance
    from flux.testing.providers import ProviderConformance
    from flux.testing.sensors import SensorConformance
    from flux.testing.worlds import FakeWorld, FolderWorld

__all__ = [
    "ConnectionConformance",
    "ExecutorConformance",
    "FakeEndpoint",
    "FakeWorld",
    "FolderWorld",
    "MacroConformance",
    "OperatorConformance",
    "ProviderConformance",
    "RunningTask",
    "SensorConformance",
    "TaskOutcome",
    "VirtualClock",
    "run_task",
    "start_task",
]

_MODULES = {
    "ConnectionConformance": "connections",
    "ExecutorConformance": "executors",
    "FakeEndpoint": "endpoint",
    "FakeWorld": "worlds",
    "FolderWorld": "worlds",
    "MacroConformance": "macros",
    "OperatorConformance": "operators",
    "ProviderConformance": "providers",
    "RunningTask": "attempts",
    "SensorConformance": "sensors",
    "TaskOutcome": "attempts",
    "VirtualClock": "clock",
    "run_task": "attempts",
    "start_task": "attempts",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'flux.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flux.testing.{module}"), name)


def __dir__() -> list[str]:
    return list(__all__)

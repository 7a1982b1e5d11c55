"""A protocol for each hook: a manifest module that is assigned to one is checked by mypy and pyright.

Written by docs/generate.py (`nox -s docs`) from `specs`. Do not edit. Costs nothing at run time: import it in a test,
or under `TYPE_CHECKING`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from flux.plugins import ConnectionType, Ref
from flux.plugins.snapshots import Component, DagRun, TaskInstance

if TYPE_CHECKING:
    from flux.operator import BaseOperator

__all__ = [
    "ComponentStarted",
    "ComponentStopping",
    "ConnectionTypes",
    "DagRunStateChanged",
    "Executors",
    "Macros",
    "Manifest",
    "Operators",
    "Sensors",
    "TaskPolicy",
    "TaskStateChanged",
]


class Manifest(Protocol):
    """A manifest with a range of API versions."""

    @property
    def FLUX_API(self) -> str: ...


class Operators(Protocol):
    """A manifest with `flux_operators`."""

    def flux_operators(self) -> Iterable[Ref]: ...


class Sensors(Protocol):
    """A manifest with `flux_sensors`."""

    def flux_sensors(self) -> Iterable[Ref]: ...


class Executors(Protocol):
    """A manifest with `flux_executors`."""

    def flux_executors(self) -> Iterable[Ref]: ...


class Macros(Protocol):
    """A manifest with `flux_macros`."""

    def flux_macros(self) -> Iterable[Ref]: ...


class ConnectionTypes(Protocol):
    """A manifest with `flux_connection_types`."""

    def flux_connection_types(self) -> Iterable[ConnectionType]: ...


class TaskStateChanged(Protocol):
    """A manifest with `flux_task_state_changed`."""

    def flux_task_state_changed(self, *, task_instance: TaskInstance, previous: str, state: str) -> None: ...


class DagRunStateChanged(Protocol):
    """A manifest with `flux_dag_run_state_changed`."""

    def flux_dag_run_state_changed(self, *, dag_run: DagRun, previous: str, state: str) -> None: ...


class ComponentStarted(Protocol):
    """A manifest with `flux_component_started`."""

    def flux_component_started(self, *, component: Component) -> None: ...


class ComponentStopping(Protocol):
    """A manifest with `flux_component_stopping`."""

    def flux_component_stopping(self, *, component: Component) -> None: ...


class TaskPolicy(Protocol):
    """A manifest with `flux_task_policy`."""

    def flux_task_policy(self, *, task: BaseOperator) -> None: ...

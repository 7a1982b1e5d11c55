"""The manifest: every hook of API 1.0 with every argument. Frozen: never edited again."""

from __future__ import annotations

from typing import Any

from flux.plugins import ConnectionType, Field, PolicyViolation, Ref, hookimpl

FLUX_API = ">=1.0,<2"

#: What its hooks were told, in order.
HEARD: list[tuple[Any, ...]] = []


@hookimpl
def flux_operators() -> list[Ref]:
    return [
        Ref("FrozenOperator", "frozen.operators:FrozenOperator", summary="Freeze."),
        Ref("AToBOperator", "frozen.transfers:AToBOperator", source="a", target="b"),
    ]


@hookimpl
def flux_sensors() -> list[Ref]:
    return [Ref("FrozenSensor", "frozen.sensors:FrozenSensor")]


@hookimpl
def flux_executors() -> list[Ref]:
    return [Ref("frozen", "frozen.executors:FrozenExecutor")]


@hookimpl
def flux_macros() -> list[Ref]:
    return [Ref("depth", "frozen.macros:depth")]


@hookimpl
def flux_connection_types() -> list[ConnectionType]:
    fields = ("host", "port", "login", "password", "schema", Field("token", secret=True, required=True, default="x"))
    return [ConnectionType("frozen", client=Ref("C", "frozen.client:C"), fields=fields, default_port=42)]


@hookimpl
def flux_task_state_changed(task_instance: Any, previous: str, state: str) -> None:
    HEARD.append((task_instance.task_id, previous, state))


@hookimpl
def flux_dag_run_state_changed(dag_run: Any, previous: str, state: str) -> None:
    HEARD.append((dag_run.run_id, previous, state))


@hookimpl
def flux_component_started(component: Any) -> None:
    HEARD.append((component.kind, "started"))


@hookimpl
def flux_component_stopping(component: Any) -> None:
    HEARD.append((component.kind, "stopping"))


@hookimpl
def flux_task_policy(task: Any) -> None:
    if task.task_id == "forbidden":
        raise PolicyViolation("It is forbidden.")
    task.pool = "frozen"

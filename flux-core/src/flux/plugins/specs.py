"""The hooks a provider may implement: what it contributes, what it is told, what it decides.

Each docstring answers four questions: what to return, when it is called and in which process, how the answers of
several providers are combined, and what happens if it raises. An implementation may take fewer arguments.

A hook is added with a minor version of `API_VERSION`, and so is an argument; removing either takes a major one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flux.plugins import ConnectionType, Ref, hookspec
from flux.plugins.snapshots import Component, DagRun, TaskInstance

if TYPE_CHECKING:
    from flux.operator import BaseOperator

#: Hooks whose calls also reach the providers that are registered after them.
HISTORIC = frozenset({"flux_component_started"})


# --- contributions: asked once, when the provider is judged ----------------------------------------------------------


@hookspec
def flux_operators() -> Iterable[Ref]:  # type: ignore[empty-body]
    """Return a reference to each operator class; a transfer's names `source` and `target`.

    When: when the provider is judged, in the judging process; never to read or run a DAG file, which imports the
        classes it uses.
    Combined: joined, in order of the providers. A name that two providers offer is found as `provider.Name` only.
    If it raises: the provider is broken, with the text as the reason; the others are not touched.
    """


@hookspec
def flux_sensors() -> Iterable[Ref]:  # type: ignore[empty-body]
    """Return a reference to each sensor class.

    When: when the provider is judged, in the judging process; never to read or run a DAG file.
    Combined: joined, in order of the providers. A name that two providers offer is found as `provider.Name` only.
    If it raises: the provider is broken, with the text as the reason; the others are not touched.
    """


@hookspec
def flux_executors() -> Iterable[Ref]:  # type: ignore[empty-body]
    """Return a reference to each executor class; its name is what `FLUX_EXECUTOR` picks.

    When: when the provider is judged, in the judging process. The class is loaded by the supervisor, if it is picked.
    Combined: joined. A name that two providers offer is refused when it is picked; a provider that takes the name of
        a core executor is in conflict.
    If it raises: the provider is broken; a supervisor whose configured executor is missing does not start.
    """


@hookspec
def flux_macros() -> Iterable[Ref]:  # type: ignore[empty-body]
    """Return a reference to each function that templates find as `macros.<provider>.<name>`.

    When: when the provider is judged, in the judging process. A function is loaded by the attempt whose template
        names it.
    Combined: by provider, so that two never clash; core's own are also found as `macros.<name>`.
    If it raises: the provider is broken; a template that asks for one of its macros fails with the reason.
    """


@hookspec
def flux_connection_types() -> Iterable[ConnectionType]:  # type: ignore[empty-body]
    """Return the kinds of outside system that the provider's clients talk to.

    When: when the provider is judged, in the judging process. What it returned fills in and checks connections, in
        forms, lists and lookups, without the client's library.
    Combined: joined. A name that two providers offer is refused when it is used; a provider that takes the name of a
        core connection type is in conflict.
    If it raises: the provider is broken; connections of its types have no client.
    """


# --- events: told after the fact, in the listener process ------------------------------------------------------------


@hookspec
def flux_task_state_changed(task_instance: TaskInstance, previous: str, state: str) -> None:
    """Learn that a task instance moved from one state to another. What is returned is not looked at.

    When: after the new state is committed, in the listener process, which has no database and no secrets; in order
        within a DAG run, at least once: after a crash an event may come again.
    Combined: every provider is called, in order of the providers, each by itself.
    If it raises: logged with the provider's name, and the next provider is called; the state stays as it is. Five
        times in a row, or five calls that last over ten seconds, and the provider is told nothing more.

    Args:
        task_instance: the record as it was committed.
        previous: the state it was in. What is made is no change: the first event tells where it began.
        state: the state it is in now.
    """


@hookspec
def flux_dag_run_state_changed(dag_run: DagRun, previous: str, state: str) -> None:
    """Learn that a DAG run moved from one state to another. What is returned is not looked at.

    When: after the new state is committed, in the listener process; in order within a DAG run, after the task
        instances that caused it, at least once.
    Combined: every provider is called, in order of the providers, each by itself.
    If it raises: as for `flux_task_state_changed`.

    Args:
        dag_run: the record as it was committed.
        previous: the state it was in. What is made is no change: the first event tells where it began.
        state: the state it is in now.
    """


@hookspec
def flux_component_started(component: Component) -> None:
    """Learn that a long-lived process of Flux has started. What is returned is not looked at.

    When: soon after the start, in the listener process; a listener that comes later is told of those that still run.
    Combined: every provider is called, in order of the providers, each by itself.
    If it raises: as for `flux_task_state_changed`.

    Args:
        component: which process, and since when.
    """


@hookspec
def flux_component_stopping(component: Component) -> None:
    """Learn that a long-lived process of Flux is about to end, or has ended. What is returned is not looked at.

    When: as soon as it is known, in the listener process. At the end of the whole system all listeners together get
        one second; then their process ends too.
    Combined: every provider is called, in order of the providers, each by itself.
    If it raises: as for `flux_task_state_changed`.

    Args:
        component: as it was when it started.
    """


# --- decision: asked before the fact ---------------------------------------------------------------------------------


@hookspec
def flux_task_policy(task: BaseOperator) -> None:
    """Change a task, or refuse it by raising `PolicyViolation`. What is returned is not looked at.

    When: after a DAG file was read and before its structure is kept, once for each task, in the DAG's own process.
    Combined: every provider is called, in order of the providers; each sees what the ones before it changed.
    If it raises: the DAG file is not taken: an import error with the provider's name and the text. A policy that
        fails must not let tasks pass, so this hook alone is not isolated.

    Args:
        task: the operator instance; its arguments are attributes.
    """

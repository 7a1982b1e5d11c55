"""What the CLI shows of a DAG version: its tasks and its edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flux.errors import NotFound

if TYPE_CHECKING:
    import sqlalchemy as sa

    from flux.store.dags import DagVersion
    from flux.structure import DagStructure


def version(connection: sa.Connection, dag_id: str) -> DagVersion:
    """Return the newest version of a DAG.

    Raises:
        NotFound: there is no such DAG.
    """
    from flux.store import dags

    dag = dags.by_id(connection, dag_id)
    if dag.dag_version_id is None:
        raise NotFound(f"DAG {dag_id!r} has no version yet. See `flux dag errors`.")
    return dags.version(connection, dag.dag_version_id)


def task_rows(structure: DagStructure) -> list[dict[str, Any]]:
    """Return the tasks as `flux task list --json` has them, in topological order."""
    names = [task.task_id for task in structure.tasks]
    return [
        {
            "task_id": task.task_id,
            "operator": task.operator,
            "upstream": [names[index] for index in task.upstream],
            "downstream": [names[index] for index in task.downstream],
            "trigger_rule": task.trigger_rule,
            "pool": task.pool,
            "queue": task.queue,
            "retries": task.retries,
        }
        for task in structure.tasks
    ]


def edges(structure: DagStructure) -> list[list[str]]:
    """Return [upstream, downstream] of every edge, by topological order."""
    names = [task.task_id for task in structure.tasks]
    return [[task.task_id, names[index]] for task in structure.tasks for index in task.downstream]

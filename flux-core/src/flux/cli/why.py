"""`flux why`"""

from __future__ import annotations

from typing import Any

import click

from flux.cli import output, session


@click.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("name", metavar="RUN")
@click.argument("task_id", metavar="TASK")
@click.option("--map-index", type=click.IntRange(0), metavar="I", help="Which one of a mapped task.")
@output.json_option
def why(dag_id: str, name: str, task_id: str, map_index: int | None, as_json: bool) -> None:
    """Say what keeps a task instance from running now, by the scheduler's own rules, in the order it will be met.

    \b
    Example:
      flux why sales 2026-01-05 load
    """
    from flux.running import actions

    with session.opened(dags=True) as flux:
        answer = actions.why(flux, dag_id, name, task_id, map_index=map_index)
    if as_json:
        output.document({"state": answer.state, "reasons": [_row(reason) for reason in answer.reasons]})
        return
    click.echo(f"{task_id} is {output.styled(answer.state)}.")
    for reason in answer.reasons:
        click.echo(f"  {reason.message}")
    if not answer.reasons:
        click.echo("  Nothing keeps it.")


def _row(reason: Any) -> dict[str, str]:
    return {"code": reason.code, "message": reason.message, "object": reason.object}

"""`flux run …`"""

from __future__ import annotations

from typing import Any

import click

from flux.cli import ask, output, session
from flux.cli.group import Noun

_STATES = ("queued", "running", "success", "failed")
_KINDS = ("scheduled", "manual", "backfill")


@click.group(cls=Noun)
def run() -> None:
    """List, show, delete and upgrade DAG runs. RUN is a run id, or a logical date that names one run.

    \b
    Example:
      flux run list --dag sales --limit 5
    """


@run.command("list")
@click.option("--dag", "dag_id", metavar="DAG", help="Only runs of this DAG.")
@click.option("--state", type=click.Choice(_STATES), help="Only runs in this state.")
@click.option("--kind", type=click.Choice(_KINDS), help="Only runs of this kind.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many.")
@output.json_option
def list_runs(dag_id: str | None, state: str | None, kind: str | None, limit: int | None, as_json: bool) -> None:
    """List DAG runs, newest first.

    \b
    Example:
      flux run list --state failed --json
    """
    from flux.store import dags, listing

    with session.opened() as flux:

        def read(connection: Any) -> list[Any]:
            if dag_id is not None:
                dags.by_id(connection, dag_id)
            return list(listing.runs(connection, dag_id=dag_id, state=state, kind=kind, limit=limit))

        rows = flux.store.read(read)
        if as_json:
            output.document(rows)
            return
        zone = session.display_zone(flux)
    cells = [
        (
            row.dag_id,
            row.run_id,
            row.state,
            row.kind,
            *(output.local(at, zone) for at in (row.started_at, row.ended_at)),
        )
        for row in rows
    ]
    output.table(("DAG", "RUN", "STATE", "KIND", "STARTED", "ENDED"), cells, empty="No such runs.")


@run.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("name", metavar="RUN")
@output.json_option
def show(dag_id: str, name: str, as_json: bool) -> None:
    """Show one run and its task instances.

    \b
    Example:
      flux run show sales 2026-01-05
    """
    from flux.store import listing, naming

    with session.opened() as flux:

        def read(connection: Any) -> tuple[Any, list[Any]]:
            found = naming.run(connection, dag_id, name)
            return listing.run(connection, dag_id, found.run_id), listing.task_instances(connection, found.id)

        row, instances = flux.store.read(read)
        if as_json:
            output.document({**output.plain(row), "task_instances": instances})
            return
        zone = session.display_zone(flux)
    output.details(
        [
            ("DAG", row.dag_id),
            ("run", row.run_id),
            ("state", row.state),
            ("kind", row.kind),
            (
                "interval",
                f"{output.local(row.data_interval.start, zone)} to {output.local(row.data_interval.end, zone)}",
            ),
            ("started", output.local(row.started_at, zone)),
            ("ended", output.local(row.ended_at, zone)),
            ("version", row.version),
        ]
    )
    cells = [
        (
            _instance_name(each),
            each.state,
            f"{each.attempt}/{each.max_attempts}",
            *(output.local(at, zone) for at in (each.started_at, each.ended_at)),
            each.reason,
        )
        for each in instances
    ]
    click.echo()
    output.table(
        ("TASK", "STATE", "ATTEMPT", "STARTED", "ENDED", "REASON"), cells, empty="No task instances: it has not begun."
    )


def _instance_name(instance: Any) -> str:
    return instance.task_id if instance.map_index is None else f"{instance.task_id}[{instance.map_index}]"


@run.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("name", metavar="RUN")
@ask.dry_run_option
@ask.yes_option
def delete(dag_id: str, name: str, dry_run: bool, yes: bool) -> None:
    """Delete a run that is not running, with its task instances, results and logs.

    \b
    Example:
      flux run delete sales manual__2026-01-05T02:00:00+00:00__1
    """
    from flux.running import actions
    from flux.store import naming

    with session.opened() as flux:
        found = flux.store.read(lambda connection: naming.run(connection, dag_id, name))
        line = f"{found.run_id} ({found.state})"
        if dry_run:
            output.note(f"  {line}")
        elif ask.confirm([line], f"Delete this run of DAG {dag_id!r}?", yes=yes):
            actions.delete_run(flux, dag_id, found.run_id, who=session.person())


@run.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("name", metavar="RUN")
@ask.dry_run_option
@ask.yes_option
@output.json_option
def upgrade(dag_id: str, name: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Move a run to the newest version of its DAG; what has finished stays finished.

    \b
    Example:
      flux run upgrade sales 2026-01-05 --dry-run
    """
    from flux.running import actions

    with session.opened() as flux:
        planned = actions.plan_upgrade(flux, dag_id, name)
        lines = [
            f"{task_id} ({what})"
            for what, task_ids in (("new", planned.new), ("gone", planned.gone), ("changed", planned.changed))
            for task_id in task_ids
        ]
        title = f"Move run {planned.run.run_id!r} from version {planned.number} to {planned.to.number}?"
        applied = False
        if not planned.is_needed:
            output.note(f"Run {planned.run.run_id!r} has the newest version, {planned.number}.")
        elif dry_run:
            output.note("\n".join(f"  {line}" for line in lines) or "  No task is another one.")
        elif ask.confirm(lines, title, yes=yes):
            actions.upgrade_run(flux, planned, who=session.person())
            applied = True
        if as_json:
            output.document(
                {
                    "action": "upgrade",
                    "dag_id": planned.run.dag_id,
                    "run_id": planned.run.run_id,
                    "from_version": planned.number,
                    "to_version": planned.to.number,
                    "new": list(planned.new),
                    "gone": list(planned.gone),
                    "changed": list(planned.changed),
                    "applied": applied,
                }
            )

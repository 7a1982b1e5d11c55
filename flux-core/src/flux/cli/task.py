"""`flux task …`"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from flux.cli import output, session
from flux.cli.exit_codes import FAILED
from flux.cli.group import Noun

if TYPE_CHECKING:
    from flux.app import Flux
    from flux.store.runs import DagRun


@click.group(cls=Noun)
def task() -> None:
    """Show tasks, their attempts, logs and results. RUN is a run id, or a logical date that names one run.

    \b
    Example:
      flux task log sales 2026-01-05 load
    """


def _map_index_option(function: Any) -> Any:
    return click.option("--map-index", type=click.IntRange(0), metavar="I", help="Which one of a mapped task.")(
        function
    )


@task.command("list")
@click.argument("dag_id", metavar="DAG")
@click.option("--tree", is_flag=True, help="Print them as a tree.")
@output.json_option
def list_tasks(dag_id: str, tree: bool, as_json: bool) -> None:
    """List the tasks of a DAG, in topological order.

    \b
    Example:
      flux task list sales --tree
    """
    from flux import drawing
    from flux.cli import structures

    with session.opened(dags=True) as flux:
        structure = flux.store.read(lambda connection: structures.version(connection, dag_id)).structure
    rows = structures.task_rows(structure)
    if as_json:
        output.document(rows)
    elif tree:
        click.echo("\n".join(drawing.tree(structure)))
    else:
        cells = [
            (
                row["task_id"],
                row["operator"],
                row["trigger_rule"],
                row["pool"],
                row["retries"],
                ", ".join(row["upstream"]),
            )
            for row in rows
        ]
        output.table(
            ("TASK", "OPERATOR", "TRIGGER RULE", "POOL", "RETRIES", "UPSTREAM"),
            cells,
            empty=f"DAG {dag_id!r} has no tasks.",
        )


@task.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("name", metavar="RUN")
@click.argument("task_id", metavar="TASK")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Which attempt; by default the latest.")
@_map_index_option
@click.option("--follow", is_flag=True, help="Go on printing until the task instance ends.")
def log(dag_id: str, name: str, task_id: str, attempt: int | None, map_index: int | None, follow: bool) -> None:
    """Print the log of an attempt: the bytes as written.

    \b
    Example:
      flux task log sales 2026-01-05 load --follow
    """
    from flux.cli import attempt_log

    with session.opened() as flux:
        run = _run(flux, dag_id, name)
        where = attempt_log.Place(run, task_id, map_index)
        for text in attempt_log.texts(flux, where, attempt=attempt, follow=follow):
            click.echo(text.encode(), nl=False)


def _run(flux: Flux, dag_id: str, name: str) -> DagRun:
    from flux.store import naming

    return flux.store.read(lambda connection: naming.run(connection, dag_id, name))


@task.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("name", metavar="RUN")
@click.argument("task_id", metavar="TASK")
@_map_index_option
@output.json_option
def attempts(dag_id: str, name: str, task_id: str, map_index: int | None, as_json: bool) -> None:
    """List the attempts of a task instance, oldest first.

    \b
    Example:
      flux task attempts sales 2026-01-05 load --json
    """
    from flux.store import listing

    with session.opened() as flux:
        run = _run(flux, dag_id, name)
        rows = flux.store.read(lambda c: listing.attempts(c, dag_id, run.run_id, task_id, map_index=map_index))
        if as_json:
            output.document(rows)
            return
        zone = session.display_zone(flux)
    cells = [
        (
            row.attempt,
            row.outcome or "running",
            *(output.local(at, zone) for at in (row.started_at, row.ended_at)),
            row.host,
            row.pid,
            row.reason,
        )
        for row in rows
    ]
    output.table(
        ("ATTEMPT", "OUTCOME", "STARTED", "ENDED", "HOST", "PID", "REASON"),
        cells,
        empty="No attempt yet; see `flux why`.",
    )


@task.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("name", metavar="RUN")
@click.argument("task_id", metavar="TASK")
@click.option("--key", default="return_value", show_default=True, metavar="K", help="Which of its results.")
@_map_index_option
@output.json_option
def result(dag_id: str, name: str, task_id: str, key: str, map_index: int | None, as_json: bool) -> None:
    """Print a result of a task, as JSON.

    \b
    Example:
      flux task result sales 2026-01-05 load --key rows
    """
    from flux.store import listing

    with session.opened() as flux:
        run = _run(flux, dag_id, name)
        folder = flux.config.logs_folder
        text = flux.store.read(
            lambda c: listing.result(c, dag_id, run.run_id, task_id, key, folder, map_index=map_index)
        )
    value = json.loads(text)
    if as_json:
        output.document({"key": key, "value": value})
    else:
        output.document(value)


@task.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("name", metavar="RUN")
@click.argument("task_id", metavar="TASK")
@_map_index_option
@output.json_option
def rendered(dag_id: str, name: str, task_id: str, map_index: int | None, as_json: bool) -> None:
    """Print the template fields as the latest attempt rendered them.

    \b
    Example:
      flux task rendered sales 2026-01-05 load
    """
    from flux.store import listing

    with session.opened() as flux:
        run = _run(flux, dag_id, name)
        fields = flux.store.read(lambda c: listing.rendered(c, dag_id, run.run_id, task_id, map_index=map_index))
    _print_fields(fields, as_json)


def _print_fields(fields: dict[str, str], as_json: bool = False) -> None:
    if as_json:
        output.document(fields)
        return
    for field, text in fields.items():
        click.echo(click.style(f"{field}:", bold=True))
        click.echo("\n".join(f"  {line}" for line in str(text).splitlines()))


@task.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("task_id", metavar="TASK")
@click.argument("date", metavar="DATE")
@output.json_option
def render(dag_id: str, task_id: str, date: str, as_json: bool) -> None:
    """Print the template fields as they would be for a date; by the DAG file alone, nothing runs.

    \b
    Example:
      flux task render sales load 2026-01-05
    """
    from flux.cli import author

    _print_fields(author.load_task(dag_id, task_id, session.configuration()).render(date), as_json)


@task.command("dry-run")
@click.argument("dag_id", metavar="DAG")
@click.argument("task_id", metavar="TASK")
@click.argument("date", metavar="DATE")
def dry_run(dag_id: str, task_id: str, date: str) -> None:
    """Do what the operator does in a dry run for a date: by default, show its rendered fields.

    \b
    Example:
      flux task dry-run sales load 2026-01-05
    """
    from flux.cli import author

    answer = author.load_task(dag_id, task_id, session.configuration()).dry_run(date)
    if answer is not None:
        click.echo(str(answer))


@task.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("task_id", metavar="TASK")
@click.argument("date", metavar="DATE")
@click.pass_context
def test(ctx: click.Context, dag_id: str, task_id: str, date: str) -> None:
    """Run one task in this process for a date, by the DAG file alone; nothing is recorded.

    \b
    Example:
      flux task test sales load 2026-01-05
    """
    from flux import attempt
    from flux.cli import author

    attempt.setup_logging()
    report = author.load_task(dag_id, task_id, session.configuration()).run(date)
    output.note(str(report))
    if not report.ok:
        ctx.exit(FAILED)

"""`flux dag …`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flux.cli import output, session
from flux.cli.exit_codes import FAILED
from flux.cli.group import Noun

if TYPE_CHECKING:
    from flux.store.runs import DagRun


@click.group(cls=Noun)
def dag() -> None:
    """List, show, check, pause, trigger and test DAGs.

    \b
    Example:
      flux dag list
    """


@dag.command("list")
@output.json_option
def list_dags(as_json: bool) -> None:
    """List the DAGs that a file in the DAGs folder defines.

    \b
    Example:
      flux dag list --json
    """
    from flux.store import listing

    with session.opened(dags=True) as flux:
        rows = flux.store.read(listing.dag_rows)
        if as_json:
            output.document(rows)
            return
        zone = session.display_zone(flux)
        cells = [
            (
                row.dag_id,
                row.schedule or "by hand",
                row.timezone,
                "paused" if row.paused else "",
                output.local(row.next_run_at, zone),
                row.latest_run.state if row.latest_run else "",
                row.file,
            )
            for row in rows
        ]
    output.table(
        ("DAG", "SCHEDULE", "TIMEZONE", "PAUSED", "NEXT RUN", "LATEST", "FILE"),
        cells,
        empty="No DAGs yet. `flux dag errors` lists files that do not import.",
    )


@dag.command()
@click.argument("dag_id", metavar="DAG")
@click.option("--tree", "form", flag_value="tree", help="Print the tasks as a tree.")
@click.option("--svg", "form", flag_value="svg", help="Print the graph as SVG.")
@output.json_option
def show(dag_id: str, form: str | None, as_json: bool) -> None:
    """Show one DAG: its schedule, its version, its tasks.

    \b
    Example:
      flux dag show sales --tree
      flux dag show sales --svg > sales.svg
    """
    from flux import drawing
    from flux.cli import structures
    from flux.store import listing

    with session.opened(dags=True) as flux:

        def read(connection: Any) -> tuple[Any, Any]:
            version = structures.version(connection, dag_id)
            return next(row for row in listing.dag_rows(connection, dag_id=dag_id)), version

        row, version = flux.store.read(read)
        structure = version.structure
        if as_json:
            output.document(
                {
                    **output.plain(row),
                    "version": version.number,
                    "tasks": structures.task_rows(structure),
                    "edges": structures.edges(structure),
                }
            )
        elif form == "tree":
            click.echo("\n".join(drawing.tree(structure)))
        elif form == "svg":
            click.echo(drawing.svg(structure))
        else:
            zone = session.display_zone(flux)
            output.details(
                [
                    ("DAG", row.dag_id),
                    ("description", row.description),
                    ("schedule", row.schedule or "by hand"),
                    ("timezone", row.timezone),
                    ("paused", "yes" if row.paused else "no"),
                    ("file", row.file),
                    ("owner", row.owner),
                    ("tags", ", ".join(row.tags)),
                    ("next run", output.local(row.next_run_at, zone)),
                    ("latest run", f"{row.latest_run.run_id} ({row.latest_run.state})" if row.latest_run else ""),
                    ("version", version.number),
                    ("tasks", len(structure.tasks)),
                ]
            )


@dag.command()
@output.json_option
@click.pass_context
def errors(ctx: click.Context, as_json: bool) -> None:
    """List the files that could not be read. Exit code 1 when there is one.

    \b
    Example:
      flux dag errors --json
    """
    from flux.store import dags

    with session.opened(dags=True) as flux:
        rows = [
            {"file": file.path, **{key: (file.error or {}).get(key) for key in ("line", "message", "traceback")}}
            for file in flux.store.read(dags.errors)
        ]
    _print_errors(rows, as_json)
    if rows:
        ctx.exit(FAILED)


def _print_errors(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        output.document(rows)
        return
    for row in rows:
        line = f":{row['line']}" if row["line"] else ""
        click.echo(f"{click.style(row['file'] + line, bold=True)}  {row['message']}")
        if row["traceback"]:
            click.echo("\n".join(f"    {text}" for text in row["traceback"].rstrip().splitlines()))
    if not rows:
        output.note("Every file in the DAGs folder could be read.")


@dag.command()
@click.argument("dag_id", metavar="DAG")
def pause(dag_id: str) -> None:
    """Let nothing of a DAG start any more; what runs goes on.

    \b
    Example:
      flux dag pause sales
    """
    from flux.running import actions

    with session.opened(dags=True) as flux:
        changed = actions.pause(flux, dag_id, who=session.person())
    output.note(f"DAG {dag_id!r} is paused: nothing new starts." if changed else f"DAG {dag_id!r} was paused already.")


@dag.command()
@click.argument("dag_id", metavar="DAG")
def unpause(dag_id: str) -> None:
    """Let a paused DAG go on.

    \b
    Example:
      flux dag unpause sales
    """
    from flux.running import actions

    with session.opened(dags=True) as flux:
        changed = actions.unpause(flux, dag_id, who=session.person())
    output.note(f"DAG {dag_id!r} goes on." if changed else f"DAG {dag_id!r} was not paused.")


@dag.command()
@click.argument("dag_id", metavar="DAG")
@click.option(
    "--logical-date", metavar="T", help="Start of the data interval to run; by default the latest complete one."
)
@click.option("--conf", metavar="JSON", help="An object: values for params, and what tasks find in dag_run.conf.")
@click.option("--run-id", metavar="ID", help="Name of the run, in place of one made from its date.")
@click.option("--wait", is_flag=True, help="Wait for the run's end; exit code 1 unless it succeeds.")
@output.json_option
@click.pass_context
def trigger(
    ctx: click.Context,
    dag_id: str,
    logical_date: str | None,
    conf: str | None,
    run_id: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Start a run by hand.

    \b
    Example:
      flux dag trigger sales --wait
      flux dag trigger sales --logical-date 2026-01-05 --conf '{"region": "north"}'
    """
    from flux.cli.progress import progress
    from flux.running import actions
    from flux.states import RunState
    from flux.store import dags, listing

    values = _conf(conf)
    with session.opened(dags=True) as flux:
        run = actions.trigger(flux, dag_id, logical_date=logical_date, conf=values, run_id=run_id, who=session.person())
        paused = flux.store.read(lambda connection: dags.by_id(connection, dag_id)).paused
        _explain(run, paused, wait and not actions.is_running(flux))
        if wait:
            with progress(f"Waiting for run {run.run_id}"):
                run = actions.wait_run(flux, run)
        if as_json:
            output.document(flux.store.read(lambda connection: listing.run(connection, dag_id, run.run_id)))
        else:
            click.echo(f"{run.run_id}  {output.styled(run.state)}")
    if wait and run.state is not RunState.SUCCESS:
        ctx.exit(FAILED)


def _conf(text: str | None) -> dict[str, Any] | None:
    import json

    if text is None:
        return None
    try:
        values = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}.", param_hint="--conf") from error
    if not isinstance(values, dict):
        raise click.BadParameter('is no JSON object. Write it like \'{"region": "north"}\'.', param_hint="--conf")
    return values


def _explain(run: DagRun, paused: bool, nobody_runs_it: bool) -> None:
    """Say what keeps a new run from starting at once."""
    from flux.states import RunState

    if paused:
        output.note(f"DAG {run.dag_id!r} is paused: the run waits for `flux dag unpause {run.dag_id}`.")
    if run.state is RunState.QUEUED:
        output.note(f"As many runs of DAG {run.dag_id!r} as max_active_runs allows are running: this one waits.")
    if nobody_runs_it:
        output.note("No system runs on this home: the run waits for `flux up`.")


@dag.command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=click.Path(exists=True))
@output.json_option
@click.pass_context
def check(ctx: click.Context, paths: tuple[str, ...], as_json: bool) -> None:
    """Read DAG files, or all in a folder, as the scheduler would; without a database. Exit code 1 on any error.

    \b
    Example:
      flux dag check dags/
      flux dag check dags/sales.py --json
    """
    from flux.cli import check as checking

    rows = checking.errors(paths, session.configuration())
    _print_errors(rows, as_json)
    if rows:
        ctx.exit(FAILED)


@dag.command()
@click.argument("dag_id", metavar="DAG")
@click.argument("date", required=False)
@click.option("--task", metavar="REGEX", help="Only tasks whose id has a match of this.")
@click.pass_context
def test(ctx: click.Context, dag_id: str, date: str | None, task: str | None) -> None:
    """Run a DAG in this process, without a database; nothing is recorded. Exit code 1 when a task fails.

    \b
    Example:
      flux dag test sales 2026-01-05
      flux dag test sales --task '^load'
    """
    from flux import attempt, interactive
    from flux.cli import author

    attempt.setup_logging()
    report = interactive.run_dag(author.load(dag_id, session.configuration()), date, task=task)
    output.note(str(report))
    if not report.ok:
        ctx.exit(FAILED)

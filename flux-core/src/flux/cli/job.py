"""`flux job list`"""

from __future__ import annotations

import click

from flux.cli import output, session
from flux.cli.group import Noun


@click.group(cls=Noun)
def job() -> None:
    """Show the long-lived processes of Flux.

    \b
    Example:
      flux job list
    """


@job.command("list")
@output.json_option
def list_jobs(as_json: bool) -> None:
    """List the jobs that are or were, newest first.

    \b
    Example:
      flux job list --json
    """
    from flux.store import jobs

    keys = ("id", "kind", "host", "pid", "state", "started_at", "last_beat_at")
    with session.opened() as flux:
        rows = [{key: getattr(job, key) for key in keys} for job in flux.store.read(jobs.every)]
        if as_json:
            output.document(rows)
            return
        zone = session.display_zone(flux)
    cells = [[*list(row.values())[:5], *(output.local(row[key], zone) for key in keys[5:])] for row in rows]
    output.table(("ID", "KIND", "HOST", "PID", "STATE", "STARTED", "LAST BEAT"), cells, empty="No jobs yet.")

"""`flux audit list`"""

from __future__ import annotations

import json

import click

from flux.cli import output, session
from flux.cli.group import Noun


@click.group(cls=Noun)
def audit() -> None:
    """Show who did what.

    \b
    Example:
      flux audit list
    """


@audit.command("list")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, metavar="N", help="At most so many.")
@output.json_option
def list_entries(limit: int, as_json: bool) -> None:
    """List who did what, newest first.

    \b
    Example:
      flux audit list --limit 20
    """
    from flux.store import audit as entries

    with session.opened() as flux:
        rows = flux.store.read(lambda connection: entries.every(connection, limit))
        if as_json:
            output.document(rows)
            return
        zone = session.display_zone(flux)
    cells = [
        (output.local(row.at, zone), row.who, row.action, row.object, json.dumps(row.detail) if row.detail else "")
        for row in rows
    ]
    output.table(("AT", "WHO", "ACTION", "OBJECT", "DETAIL"), cells, empty="Nobody has done anything yet.")

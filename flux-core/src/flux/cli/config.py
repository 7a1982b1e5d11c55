"""`flux config list`"""

from __future__ import annotations

import click

from flux.cli import output, session
from flux.cli.group import Noun


@click.group(cls=Noun)
def config() -> None:
    """Show the options.

    \b
    Example:
      flux config list
    """


@config.command("list")
@output.json_option
def list_options(as_json: bool) -> None:
    """List every option: its value, and where that comes from. Passwords are masked.

    \b
    Example:
      flux config list --json
    """
    from flux import config as options

    rows = options.describe(session.configuration())
    if as_json:
        output.document(rows)
    else:
        cells = [(row["name"], output.plain(row["value"]), row["source"], row["help"]) for row in rows]
        output.table(("OPTION", "VALUE", "SOURCE", "WHAT IT IS"), cells, empty="")

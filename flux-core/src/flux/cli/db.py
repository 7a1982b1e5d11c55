"""`flux db …`"""

from __future__ import annotations

import click

from flux.cli import output, session
from flux.cli.group import Noun
from flux.errors import DatabaseTooOld


@click.group(cls=Noun)
def db() -> None:
    """Upgrade and check the metadata database.

    \b
    Example:
      flux db check
    """


@db.command()
def upgrade() -> None:
    """Bring the database to the newest schema, with the tables that other packages have in it. Safe to repeat.

    \b
    Example:
      flux db upgrade
    """
    from flux.app import Flux
    from flux.cli.progress import progress

    with progress("Upgrading the database"), Flux.open(session.configuration(), create=True) as flux:
        url = flux.store.url
    output.note(f"Database {url} has the newest schema.")


@db.command()
def check() -> None:
    """Say whether the database can be used; exit code 1 when it cannot, with what to do.

    \b
    Example:
      flux db check
    """
    with session.opened() as flux:
        behind = flux.packages_behind()
        if behind:
            raise DatabaseTooOld(
                f"Tables of {', '.join(behind)} are not at their newest revision. Run `flux db upgrade`."
            )
        output.note(f"Database {flux.store.url} can be reached and has the newest schema.")

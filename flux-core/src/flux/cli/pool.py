"""`flux pool …`"""

from __future__ import annotations

import click

from flux.cli import output, session
from flux.cli.group import Noun


@click.group(cls=Noun)
def pool() -> None:
    """List, set and delete pools: named limits on how many task instances run at once.

    \b
    Example:
      flux pool set warehouse 4
    """


@pool.command("list")
@output.json_option
def list_pools(as_json: bool) -> None:
    """List the pools, and how full they are.

    \b
    Example:
      flux pool list --json
    """
    from flux.store import pools

    with session.opened() as flux:
        rows = [
            {key: getattr(pool, key) for key in ("name", "slots", "used", "queued", "description")}
            for pool in flux.store.read(pools.every)
        ]
    if as_json:
        output.document(rows)
    else:
        output.table(
            ("NAME", "SLOTS", "USED", "QUEUED", "DESCRIPTION"), [[*row.values()] for row in rows], empty="No pools yet."
        )


@pool.command("set")
@click.argument("name")
@click.argument("slots", type=click.IntRange(0))
@click.option("--description", metavar="D", help="What it is for.")
def set_pool(name: str, slots: int, description: str | None) -> None:
    """Make a pool, or change its size. With fewer slots than are used, nothing further starts in it.

    \b
    Example:
      flux pool set warehouse 4 --description "queries at once"
    """
    from flux.running import actions

    with session.opened() as flux:
        actions.set_pool(flux, name, slots, description=description, who=session.person())


@pool.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a pool in which nothing is. Tasks that name it will wait until it is made again.

    \b
    Example:
      flux pool delete warehouse
    """
    from flux.running import actions

    with session.opened() as flux:
        actions.delete_pool(flux, name, who=session.person())

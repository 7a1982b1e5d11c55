"""`flux connection …`: what the environment defines. Passwords and the values in `extra` are never shown."""

from __future__ import annotations

import os
from typing import Any

import click

from flux.cli import output
from flux.cli.group import Noun
from flux.errors import NotFound


@click.group(cls=Noun)
def connection() -> None:
    """List and show connections: addresses and credentials of outside systems.

    \b
    Example:
      FLUX_CONN_WAREHOUSE=mysql://etl:secret@db.example:3306/sales flux connection list
    """


@connection.command("list")
@output.json_option
def list_connections(as_json: bool) -> None:
    """List the connections.

    \b
    Example:
      flux connection list --json
    """
    from flux import connection as connections

    rows = [_row(conn_id) for conn_id in connections.environment_ids(os.environ)]
    if as_json:
        output.document(rows)
        return
    cells = [[row[key] for key in ("conn_id", "type", "host", "port", "login", "schema", "source")] for row in rows]
    output.table(
        ("CONNECTION", "TYPE", "HOST", "PORT", "LOGIN", "SCHEMA", "SOURCE"), cells,
        empty="No connections. Define one as FLUX_CONN_<ID>=<type>://login:password@host:port/schema.",
    )  # fmt: skip


@connection.command()
@click.argument("conn_id", metavar="ID")
@output.json_option
def show(conn_id: str, as_json: bool) -> None:
    """Show one connection.

    \b
    Example:
      flux connection show warehouse
    """
    from flux import connection as connections

    if connections.from_environment(conn_id, os.environ) is None:
        hint = f"Define it as {connections.variable_name(conn_id)}=<type>://login:password@host:port/schema."
        raise NotFound.named("Connection", conn_id, connections.environment_ids(os.environ), hint=hint)
    row = _row(conn_id)
    if as_json:
        output.document(row)
    else:
        output.details(row.items())


def _row(conn_id: str) -> dict[str, Any]:
    from flux import connection as connections

    found = connections.from_environment(conn_id, os.environ)
    assert found is not None
    shown = {key: getattr(found, key) for key in ("conn_id", "type", "host", "port", "login", "schema")}
    return {**shown, "source": connections.variable_name(conn_id)}

"""`flux variable …`"""

from __future__ import annotations

import json
from typing import IO

import click

from flux.cli import output, session
from flux.cli.group import Noun
from flux.errors import NotFound, Refused


@click.group(cls=Noun)
def variable() -> None:
    """List, get, set and delete variables: short texts that tasks read.

    \b
    Example:
      flux variable set region north
    """


@variable.command("list")
@output.json_option
def list_variables(as_json: bool) -> None:
    """List the variables.

    \b
    Example:
      flux variable list --json
    """
    from flux.store import variables

    with session.opened() as flux:
        rows = flux.store.read(variables.every)
    if as_json:
        output.document(rows)
    else:
        output.table(("NAME", "VALUE"), [(row.name, row.value) for row in rows], empty="No variables yet.")


@variable.command()
@click.argument("name")
@output.json_option
def get(name: str, as_json: bool) -> None:
    """Print the value of a variable.

    \b
    Example:
      flux variable get region
    """
    from flux.store import variables

    with session.opened() as flux:
        value = flux.store.read(lambda connection: variables.get(connection, name))
        if value is None:
            raise NotFound.named("Variable", name, (row.name for row in flux.store.read(variables.every)))
    if as_json:
        output.document({"name": name, "value": value})
    else:
        click.echo(value)


@variable.command("set")
@click.argument("name")
@click.argument("value")
def set_variable(name: str, value: str) -> None:
    """Set a variable, new or not. Its value is no place for a password: use a connection.

    \b
    Example:
      flux variable set region north
    """
    from flux.running import actions

    with session.opened() as flux:
        actions.set_variables(flux, {name: value}, who=session.person())


@variable.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a variable.

    \b
    Example:
      flux variable delete region
    """
    from flux.running import actions

    with session.opened() as flux:
        actions.delete_variable(flux, name, who=session.person())


@variable.command("import")
@click.argument("file", type=click.File(encoding="utf-8-sig"))
def import_variables(file: IO[str]) -> None:
    """Set variables from a JSON object in FILE ("-": stdin), all or none. Values that are no text are kept as JSON.

    \b
    Example:
      flux variable import variables.json
    """
    from flux.running import actions

    try:
        values = json.load(file)
    except (ValueError, RecursionError) as error:
        raise Refused(f"File {file.name!r} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise Refused(f'File {file.name!r} holds no JSON object. Write {{"name": "value", …}}.')
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    with session.opened() as flux:
        actions.set_variables(flux, texts, who=session.person())
    output.note(f"{len(texts)} variables set.")


@variable.command()
@click.argument("file", type=click.File("w", encoding="utf-8"), default="-")
def export(file: IO[str]) -> None:
    """Write all variables as a JSON object to FILE, by default to stdout.

    \b
    Example:
      flux variable export variables.json
    """
    from flux.store import variables

    with session.opened() as flux:
        values = {row.name: row.value for row in flux.store.read(variables.every)}
    file.write(json.dumps(values, ensure_ascii=False, indent=2) + "\n")

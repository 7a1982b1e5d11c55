"""A group of commands that imports a command's module only when that command is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

import click

from flux.cli import other_commands
from flux.errors import NotFound


@dataclass(frozen=True, slots=True)
class Entry:
    """A command by name."""

    #: "package.module:attribute"
    path: str
    #: What `--help` of the group says of it.
    help: str


class LazyGroup(click.Group):
    """A click group over a table of names, and after it the commands of other packages.

    No package takes a name of the table. Which others there are is looked up when they are asked for, or listed.

    Args:
        table: maps a command's name to where it is, in the order of `--help`.
        purpose: the first line of its help.
        elsewhere: maps the name of a command to the distribution that would bring it.
    """

    def __init__(
        self, name: str, *, table: Mapping[str, Entry], elsewhere: Mapping[str, str], purpose: str, epilog: str
    ) -> None:
        super().__init__(name, help=purpose, epilog=epilog)
        self._table = table
        self._elsewhere = elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._table, *self._others()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._table.get(cmd_name)
        if entry is None:
            return other_commands.load(cmd_name) if cmd_name in self._others() else None
        module, _, attribute = entry.path.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._table and not name.startswith("-"):
            others = self._others()
            if name not in others:
                self._refuse(ctx, name, [*self._table, *others])
        return super().resolve_command(ctx, args)

    def _refuse(self, ctx: click.Context, name: str, known: list[str]) -> NoReturn:
        if name in self._elsewhere:
            package = self._elsewhere[name]
            raise NotFound(f"Command {name!r} comes with {package}. Install it with `pip install {package}`.")
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Near: {', '.join(near)}." if near else f"See `{ctx.command_path} --help`."
        raise click.UsageError(f"There is no command {name!r}. {hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self._table.items()])
        others = self._others()
        if others:
            with formatter.section("Commands of other packages"):
                formatter.write_dl(list(others.items()))

    def _others(self) -> dict[str, str]:
        """Maps the name of each further command to who brings it."""
        return {name: owner for name, owner in other_commands.owners().items() if name not in self._table}


class Noun(click.Group):
    """The commands of one noun; its help shows the whole first sentence of each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=200)) for name, command in sorted(self.commands.items())]
            )

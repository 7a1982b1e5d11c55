"""Commands of other packages: entry points of `flux.commands`, named without being imported."""

from __future__ import annotations

import click

from flux import drivers
from flux.errors import PluginError
from flux.plugins import discovery


def owners() -> dict[str, str]:
    """Map the name of each command to a sentence that says which distribution brings it. Imports none of them."""
    found: dict[str, list[str]] = {}
    for each in discovery.driver_names(drivers.COMMANDS):
        found.setdefault(each.name, []).append(each.owner)
    return {name: _owned(those) for name, those in found.items()}


def _owned(those: list[str]) -> str:
    if len(those) == 1:
        return f"From {those[0]}."
    return f"In conflict: {' and '.join(those)} both bring it."


def load(name: str) -> click.Command:
    """Import the command of that name.

    Raises:
        PluginError: it cannot be imported, is no command of click, or two distributions bring it.
    """
    command: click.Command = discovery.driver(drivers.COMMANDS, name)
    found = next(each for each in discovery.driver_names(drivers.COMMANDS) if each.name == name)
    wrong = drivers.misfit(found, command)
    if wrong is not None:
        raise PluginError(wrong)
    return command

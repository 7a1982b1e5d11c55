"""The question before anything is destroyed: the exact list first, then yes or no."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from flux.cli import output
from flux.errors import NeedsConfirmation

_Function = TypeVar("_Function", bound=Callable[..., Any])


def yes_option(function: _Function) -> _Function:
    """Add `--yes`."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(function)


def dry_run_option(function: _Function) -> _Function:
    """Add `--dry-run`."""
    return click.option("--dry-run", is_flag=True, help="Print the list and change nothing.")(function)


def confirm(lines: Sequence[str], question: str, *, yes: bool) -> bool:
    """Show `lines` on stderr and return what a person answers to `question`; with `yes` do not ask.

    Raises:
        NeedsConfirmation: nobody can be asked, because stdin is no terminal.
    """
    for line in lines:
        output.note(f"  {line}")
    if yes:
        return True
    if not sys.stdin.isatty():
        raise NeedsConfirmation(f"{question} There is no terminal to ask; look at the list, then add --yes.")
    return click.confirm(question, err=True)

"""What almost every command begins with: the configuration, the open system, the person who asks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flux import config

if TYPE_CHECKING:
    from datetime import tzinfo

    from flux.app import Flux


def configuration() -> config.Config:
    """Read the configuration from environment and file."""
    return config.load(os.environ)


@contextmanager
def opened(*, dags: bool = False) -> Iterator[Flux]:
    """Open the system for one command, and record first what a killed system left as started.

    Args:
        dags: bring the store up to the DAGs folder's changes first.
    """
    from flux.app import Flux
    from flux.cli.progress import progress
    from flux.running import home

    with Flux.open(configuration()) as flux:
        if not home.running(flux.config.run_folder):
            from flux.running import recovery

            recovery.reap(flux)
        if dags:
            from flux.running import actions

            with progress("Reading the DAGs folder"):
                actions.sync_folder(flux)
        yield flux


def display_zone(flux: Flux) -> tzinfo:
    """Return the time zone in which people want to see times."""
    from flux.times import zone

    return zone(flux.config.timezone)


def person() -> str:
    """Return who runs this command, for the audit."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"

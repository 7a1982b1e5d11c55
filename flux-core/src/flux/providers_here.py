"""The providers as work in the calling process finds them: `flux dag test`, `task.run(...)` in a notebook.

No supervisor has judged for it, so they are judged on its behalf, in a child process as always: when a command reads a
DAG file, or when a task first asks for a macro or a connection of a provider. Once for each configuration and path.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from flux.config import Config, load
from flux.dag_providers import DagProviders

if TYPE_CHECKING:
    from flux.plugins.catalogue import Catalogue

_found: dict[tuple[Any, ...], tuple[Catalogue, DagProviders]] = {}


def of(config: Config) -> DagProviders:
    """Return what the providers of a configuration mean to its DAG files. Blocks while they are judged."""
    return _judged(config)[1]


def catalogue() -> Catalogue:
    """Return what the providers offer, by the configuration of this process. Blocks while they are judged."""
    return _judged(load(os.environ))[0]


def macro(provider: str, name: str) -> Any:
    """Return a provider's macro, by the configuration of this process; see `DagProviders.macro`."""
    return _judged(load(os.environ))[1].macro(provider, name)


def _judged(config: Config) -> tuple[Catalogue, DagProviders]:
    names = config.plugins, config.providers_disabled, config.providers_only
    # Reading a DAG file puts its folder on the path, where judging looks in any case.
    path = tuple(entry for entry in sys.path if entry != str(config.dags_folder))
    key = config.home, config.dags_folder, names, path
    if key not in _found:
        from flux import providers

        found = providers.find(config, lenient=True)
        _found[key] = found, DagProviders(providers.rules(found, config))
    return _found[key]

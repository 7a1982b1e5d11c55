"""What surrounds the work under test: the providers that are installed, and connections as a task would get them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flux import config
from flux.connection import Connection
from flux.connection_fields import complete, type_of

if TYPE_CHECKING:
    from flux.plugins.catalogue import Catalogue

__all__ = ["catalogue", "connections"]

#: Options of the environment that say where providers are besides the installed ones.
_PLACES = ("FLUX_PLUGINS", "FLUX_DAGS_FOLDER")


def catalogue() -> Catalogue:
    """Return what the installed providers offer, good and bad ones, whatever a home switches off. Judged once."""
    return _catalogue(tuple((name, os.environ[name]) for name in _PLACES if name in os.environ))


@lru_cache(maxsize=4)
def _catalogue(places: tuple[tuple[str, str], ...]) -> Catalogue:
    from flux import providers

    with tempfile.TemporaryDirectory(prefix="flux-testing-") as home:
        return providers.find(config.load(dict(places), home=Path(home)), lenient=True)


def connections(given: Mapping[str, str | Connection]) -> dict[str, Connection]:
    """Return each connection by conn_id, checked and completed by its type as when Flux runs.

    Raises:
        FluxError: a URI cannot be read, or has a field that its type does not know.
    """
    found = {}
    for conn_id, value in given.items():
        connection = value if isinstance(value, Connection) else Connection.from_uri(conn_id, value)
        kind = type_of(catalogue(), connection.type)
        found[conn_id] = connection if kind is None else complete(connection, kind)
    return found

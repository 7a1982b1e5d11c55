"""Remembers the structures of DAG versions: they never change, and parsing a large one takes milliseconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import sqlalchemy as sa

from flux.errors import DamagedVersion
from flux.store import dags
from flux.structure import DagStructure


class StructureCache:
    """The structures used last. For one thread at a time."""

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._known: OrderedDict[int, DagStructure] = OrderedDict()

    def through(self, connection: sa.Connection) -> Callable[[int], DagStructure]:
        """Return a function from a version's row number to its structure, which reads by `connection` what is new.

        The function raises DamagedVersion when what is stored cannot be read.
        """

        def structure(version_id: int) -> DagStructure:
            known = self._known.get(version_id)
            if known is None:
                known = self._known[version_id] = _read(connection, version_id)
                if len(self._known) > self._most:
                    self._known.popitem(last=False)
            else:
                self._known.move_to_end(version_id)
            return known

        return structure


def _read(connection: sa.Connection, version_id: int) -> DagStructure:
    try:
        return dags.version(connection, version_id).structure
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise DamagedVersion(
            f"The stored structure of DAG version {version_id} cannot be read ({cause}). Nothing of it starts; restore "
            "the database from a copy."
        ) from error

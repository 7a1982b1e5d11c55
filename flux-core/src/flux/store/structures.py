"""Remembers the structures of DAG versions: they never change, and parsing a large one takes milliseconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import sqlalchemy as sa

from flux.store import dags
from flux.structure import DagStructure


class StructureCache:
    """The structures used last. For one thread at a time."""

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._known: OrderedDict[int, DagStructure] = OrderedDict()

    def through(self, connection: sa.Connection) -> Callable[[int], DagStructure]:
        """Return a function from a version's row number to its structure, which reads by `connection` what is new."""

        def structure(version_id: int) -> DagStructure:
            known = self._known.get(version_id)
            if known is None:
                known = self._known[version_id] = dags.version(connection, version_id).structure
                if len(self._known) > self._most:
                    self._known.popitem(last=False)
            else:
                self._known.move_to_end(version_id)
            return known

        return structure

"""The 30-second consistency check: bounds any hang that nobody thought of, and says so.

It repairs what can be computed anew (counters of limits, of upstreams and of runs) and asks again what waits. In a
healthy system it changes nothing; every repair is a defect or a hand-edited database, so it is printed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flux.loop import Loop
from flux.store import consistency
from flux.store.structures import StructureCache
from flux.times import Clock

if TYPE_CHECKING:
    from flux.running.writer import Writer

SECONDS = 30.0


class Sweep:
    """Runs the check in the supervisor's database thread."""

    def __init__(self, loop: Loop, clock: Clock, writer: Writer, structures: StructureCache) -> None:
        self._loop = loop
        self._clock = clock
        self._writer = writer
        self._structures = structures

    def start(self) -> None:
        self._loop.every(SECONDS, self._check)

    def _check(self) -> None:
        self._writer.call(
            lambda connection: consistency.repair(connection, self._structures.through(connection), self._clock.now()),
            self._checked,
        )

    def _checked(self, repairs: list[str]) -> None:
        for repair in repairs:
            print(f"sweep: {repair}", file=sys.stderr, flush=True)
        if repairs:
            self._writer.look()

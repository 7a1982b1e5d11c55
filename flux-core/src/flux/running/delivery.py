"""Gives the outbox's state changes to the listener process: oldest first, at least once, in bounded batches.

Lives in the supervisor's loop. One batch is on its way at a time. The next is read when the listener has acknowledged
it, and after a commit that may have announced something, so nothing is asked for while nothing happens. What was
acknowledged is dropped a little later, for many batches at once. Without a listener process the rows wait.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from flux.loop import Loop, Timer
from flux.running.writer import Writer, show
from flux.store import announcing, outbox
from flux.store.structures import StructureCache
from flux.times import Clock
from flux.wire import Message, Wire

if TYPE_CHECKING:
    import sqlalchemy as sa

#: State changes in one batch.
_BATCH = 100
#: After a full batch, before the next is read: a backlog must not slow what is done meanwhile.
_PAUSE_SECONDS = 0.02
#: After which what was told is dropped, if it is not much before that.
_DROP_SECONDS = 0.5
#: Before what the database refused is tried again.
_AGAIN_SECONDS = 1.0


class Delivery:
    """The supervisor's side of the listener process.

    Args:
        providers: what the listener process is to load, as `judging.to_load` says it.
    """

    def __init__(
        self, loop: Loop, clock: Clock, writer: Writer, structures: StructureCache, providers: Sequence[Message]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._writer = writer
        self._structures = structures
        self._providers = list(providers)
        self._wire: Wire | None = None
        #: Numbers of the rows that the listener has and has not acknowledged; None: it takes none yet.
        self._given: set[int] | None = None
        #: Acknowledged, and still in the outbox.
        self._told: set[int] = set()
        self._dropping: Timer | None = None
        self._is_reading = False
        self._look_again = False
        #: The last batch was: there is a backlog.
        self._was_full = False
        self._is_pausing = False

    @property
    def providers(self) -> Sequence[Message]:
        """What the listener process is to load; empty: nobody listens."""
        return self._providers

    def change_providers(self, providers: Sequence[Message]) -> None:
        """Have others listen from now on; a listener process that has loaded something else ends itself."""
        self._providers = list(providers)
        if self._wire is not None:
            self._wire.send(self._welcome())

    def came(self, wire: Wire) -> Callable[[Message], object]:
        """Take a connection of a listener process, and return what takes its messages; an earlier one is over."""
        if self._wire is not None:
            self._wire.close()
        self._wire, self._given = wire, None
        wire.send(self._welcome())
        return functools.partial(self._heard, wire)

    def close(self) -> None:
        """Drop what was told, so that the next supervisor does not give it again."""
        if self._dropping is not None:
            self._dropping.cancel()
        told = frozenset(self._told)
        if told:
            self._writer.call(lambda connection: outbox.done(connection, told))

    def look(self) -> None:
        """Something may have been announced: give it to the listener, as soon as that has told what it was given."""
        if self._is_reading or self._given or self._is_pausing:
            self._look_again = True
        elif self._wants_more:
            self._read()

    @property
    def _wants_more(self) -> bool:
        """A listener is there, and has told all that it was given."""
        return self._wire is not None and self._wire.is_open and self._given is not None and not self._given

    def _welcome(self) -> Message:
        return {"op": "providers", "providers": self._providers}

    def _heard(self, wire: Wire, message: Message) -> None:
        if wire is not self._wire:
            return
        if message.get("op") == "ready":
            self._given = set()
            self.look()
        elif message.get("op") == "told":
            self._acknowledged(message["ids"])

    def _acknowledged(self, ids: Iterable[int]) -> None:
        given = self._given or set()
        told = given.intersection(ids)
        given -= told
        self._told |= told
        self._drop_soon()
        if self._look_again and not given and not self._is_reading:
            if self._was_full:
                self._is_pausing = True
                self._loop.call_later(_PAUSE_SECONDS, self._go_on)
            else:
                self._read()

    def _go_on(self) -> None:
        self._is_pausing = False
        self.look()

    def _drop_soon(self) -> None:
        if self._dropping is None:
            self._dropping = self._loop.call_later(_DROP_SECONDS, self._drop)

    def _drop(self) -> None:
        self._dropping = None
        if self._is_reading:
            self._drop_soon()
        elif self._told:
            self._read(drops=True)

    def _read(self, *, drops: bool = False) -> None:
        """Read what comes next, and drop what was told when that is due or much: dropping costs a commit."""
        self._is_reading, self._look_again = True, False
        told = frozenset(self._told)
        drops = drops or len(told) >= _BATCH
        wants_more = self._wants_more

        def work(connection: sa.Connection) -> list[Message]:
            if drops:
                outbox.done(connection, told)
            if not wants_more:
                return []
            structures = self._structures.through(connection)
            still_there = frozenset[int]() if drops else told
            return announcing.due(connection, structures, self._clock.now(), limit=_BATCH, told=still_there)

        def done(events: Sequence[Message]) -> None:
            if drops:
                self._told -= told
            self._give(events)

        def failed(error: Exception) -> None:
            show(error)
            self._is_reading = False
            self._loop.call_later(_AGAIN_SECONDS, self._read)

        self._writer.call(work, done, failed=failed, reads_only=not drops)

    def _give(self, events: Sequence[Message]) -> None:
        self._is_reading = False
        if events and self._wire is not None and self._wants_more:
            self._given = {event["id"] for event in events}
            self._was_full = len(events) >= _BATCH
            self._look_again = self._look_again or self._was_full
            self._wire.send({"op": "events", "events": list(events)})
        elif self._look_again and self._wants_more:
            self._read()

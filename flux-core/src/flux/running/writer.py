"""The supervisor's one database thread: everything that was queued becomes one transaction.

While a commit is under way, events pile up and form the next batch: group commit without a timer. The thread owns the
count of executor slots in use, so what ends and what is claimed in its place are decided together. Callbacks run in the
loop's thread, after the commit.

When the database is away nothing is lost: ends stay queued, no attempt is opened, and the thread tries again with
growing pauses.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from flux.errors import DatabaseUnavailable, StoreError
from flux.loop import Loop
from flux.running import faults
from flux.store.advance import Advance, End, Holder, Outcomes
from flux.store.engine import Store
from flux.store.structures import StructureCache
from flux.times import Clock

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

_LONGEST_PAUSE = 5.0


@dataclass(slots=True)
class _Call:
    """Work of somebody else's, in a transaction of its own."""

    work: Work[Any]
    done: Callable[[Any], object]
    failed: Callable[[Exception], object]
    reads_only: bool


@dataclass(slots=True)
class _Batch:
    """What the next transaction is to do."""

    ends: list[End] = field(default_factory=list)
    wakes: list[int] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)
    look: bool = False
    calls: list[_Call] = field(default_factory=list)

    @property
    def advances(self) -> bool:
        return bool(self.ends or self.wakes or self.releases or self.look)


class Writer:
    """Queues what is to be written and tells the loop what came of it.

    Args:
        on_outcomes: called in the loop after each advance, with the ends that were in it.
        parallelism: attempts that may run at once.
        has_space: says whether there is room on the disk for further logs.
    """

    def __init__(
        self,
        store: Store,
        loop: Loop,
        clock: Clock,
        structures: StructureCache,
        *,
        parallelism: int,
        has_space: Callable[[], bool],
        on_outcomes: Callable[[Outcomes, Sequence[End]], object],
    ) -> None:
        self._store = store
        self._loop = loop
        self._clock = clock
        self._structures = structures
        self._parallelism = parallelism
        self._has_space = has_space
        self._on_outcomes = on_outcomes
        self._queue: queue.SimpleQueue[Callable[[_Batch], object] | None] = queue.SimpleQueue()
        #: Claims that take a slot of the executor; touched by the database thread alone once it runs.
        self._slots: set[int] = set()
        self._claims = False
        self._busy_since: float | None = None
        self.holder: Holder | None = None
        #: Why nothing is claimed, for people; None when all is well.
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)

    # --- called by the loop ----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Finish what is queued and end the thread; False when it did not end in time."""
        self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def begin_claiming(self, holder: Holder, slots: Sequence[int]) -> None:
        """Open attempts from now on, as `holder`; `slots` are the claims that run already."""

        def begin(batch: _Batch) -> None:
            self.holder, self._claims, batch.look = holder, True, True
            self._slots = set(slots)

        self._queue.put(begin)

    def stop_claiming(self) -> None:
        """Open no further attempt; ends are still recorded."""
        self._queue.put(lambda _: setattr(self, "_claims", False))

    def end(self, *ends: End) -> None:
        """Record how attempts ended, and claim what may run instead."""
        self._queue.put(lambda batch: batch.ends.extend(ends))

    def wake(self, *ids: int) -> None:
        """Make retrying task instances ready whose time has come."""
        self._queue.put(lambda batch: batch.wakes.extend(ids))

    def release(self, *keys: str) -> None:
        """Ask again what waits for these keys."""
        self._queue.put(lambda batch: batch.releases.extend(keys))

    def look(self) -> None:
        """Look for what others made ready."""
        self._queue.put(lambda batch: setattr(batch, "look", True))

    def call(
        self,
        work: Work[T],
        done: Callable[[T], object] = lambda _: None,
        *,
        failed: Callable[[Exception], object] | None = None,
        reads_only: bool = False,
    ) -> None:
        """Run `work` in a transaction of its own; `done` or `failed` is called in the loop afterwards."""
        call = _Call(work, done, failed or _show, reads_only)
        self._queue.put(lambda batch: batch.calls.append(call))

    def busy_seconds(self) -> float:
        """Return how long the transaction under way has taken so far; 0 when there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    # --- the database thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        batch, more = _Batch(), False
        while True:
            if not more:
                command = self._queue.get()
                if command is None:
                    return
                command(batch)
            last = self._drain(batch)
            calls, batch.calls = batch.calls, []
            for call in calls:
                self._answer(call)
            more = False
            if batch.advances and not last:
                batch, more = self._advance(batch)
            elif batch.ends:
                batch, _ = self._advance(batch)
            if last:
                return

    def _drain(self, batch: _Batch) -> bool:
        """Take everything that is queued; True when the end was among it."""
        while True:
            try:
                command = self._queue.get_nowait()
            except queue.Empty:
                return False
            if command is None:
                return True
            command(batch)

    def _advance(self, batch: _Batch) -> tuple[_Batch, bool]:
        """Run one transaction; return what is left to do and whether to go on at once."""
        room = self._room(batch.ends)
        pause = 0.1
        while True:
            self._busy_since = time.monotonic()
            try:
                outcomes = self._store.write(lambda connection: self._transaction(connection, batch, room))
                break
            except DatabaseUnavailable as error:
                self.trouble = str(error)
                _show(error)
            except Exception as error:
                # A defect, or damage in the database: it must not take the supervisor into a crash loop.
                self.trouble = f"{type(error).__name__}: {error}"
                _show(error)
            finally:
                self._busy_since = None
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            room = 0
        if batch.ends:
            faults.point("after_end_commit")
        if room > 0:
            self.trouble = None
        self._slots.difference_update(end.claim for end in batch.ends)
        self._slots.update(item.claim for item in outcomes.claimed if item.task.sensor is None)
        ends = batch.ends
        self._loop.call_soon_threadsafe(lambda: self._on_outcomes(outcomes, ends))
        return _Batch(look=outcomes.more), outcomes.more

    def _room(self, ends: Sequence[End]) -> int:
        if not self._claims:
            return 0
        if not self._has_space():
            self.trouble = "The disk of the logs is nearly full: nothing new starts until there is space."
            return 0
        freed = sum(end.claim in self._slots for end in ends)
        return self._parallelism - len(self._slots) + freed

    def _transaction(self, connection: sa.Connection, batch: _Batch, room: int) -> Outcomes:
        advance = Advance(connection, self._structures.through(connection), self._clock.now(), self.holder)
        if batch.ends:
            advance.finish(batch.ends)
        if batch.wakes:
            advance.wake(batch.wakes)
        if batch.releases:
            advance.release(batch.releases)
        if batch.look:
            advance.look()
        if self._claims and (room > 0 or not self.trouble):
            advance.claim(room)
        advance.write()
        return advance.outcomes

    def _answer(self, call: _Call) -> None:
        self._busy_since = time.monotonic()
        try:
            run = self._store.read if call.reads_only else self._store.write
            value = run(call.work)
        except Exception as error:
            problem = error
            self._loop.call_soon_threadsafe(lambda: call.failed(problem))
        else:
            self._loop.call_soon_threadsafe(lambda: call.done(value))
        finally:
            self._busy_since = None


def has_space(folder: str, least_bytes: int) -> bool:
    """Say whether the disk of `folder` has at least `least_bytes` or 2 % free, whichever is less."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    free = disk.f_bavail * disk.f_frsize
    return free >= min(least_bytes, disk.f_blocks * disk.f_frsize * 0.02)


def _show(error: Exception) -> None:
    if isinstance(error, StoreError):
        print(f"supervisor: {error}", file=sys.stderr, flush=True)
    else:
        sys.excepthook(type(error), error, error.__traceback__)

"""The supervisor's one database thread: everything that was queued becomes one transaction.

While a commit is under way, events pile up and form the next batch: group commit without a timer. The thread owns the
count of executor slots in use, so what ends and what is claimed in its place are decided together. Callbacks run in the
loop's thread, after the commit.

When the database is away nothing is lost: ends stay queued, no attempt is opened, and the thread tries again with
growing pauses. When a transaction meets a defect or damaged rows, each thing in it is done by itself, so that one bad
end does not stop the others: that one is recorded as failed, without what its attempt told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from flux.errors import DamagedVersion, StoreError
from flux.loop import Loop
from flux.running import faults
from flux.states import Outcome
from flux.store.advance import Advance, Outcomes
from flux.store.attempts import End, Holder
from flux.store.engine import Store
from flux.store.structures import StructureCache
from flux.times import Clock

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")
Work: TypeAlias = "Callable[[sa.Connection], T]"

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

    def apart(self) -> list[_Batch]:
        """The same in as many batches as there are things to do; without `look`."""
        return [
            *(_Batch(ends=[end]) for end in self.ends),
            *(_Batch(wakes=[row]) for row in self.wakes),
            *(_Batch(releases=[key]) for key in self.releases),
        ]


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
        #: Claims whose end was committed before claiming began.
        self._ended_early: set[int] = set()
        self._claims = False
        self._busy_since: float | None = None
        self._is_stopping = False
        self.holder: Holder | None = None
        #: Why nothing is claimed, for people; None when all is well.
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)

    # --- called by the loop ----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Finish what is queued and end the thread; False when it did not end in time."""
        self._is_stopping = True
        self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def begin_claiming(self, holder: Holder, slots: Sequence[int]) -> None:
        """Open attempts from now on, as `holder`; `slots` are the claims that run already, looked at the first time."""

        def begin(batch: _Batch) -> None:
            if self.holder is None:
                self._slots = set(slots) - self._ended_early
            self.holder, self._claims, batch.look = holder, True, True

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
        call = _Call(work, done, failed or show, reads_only)
        self._queue.put(lambda batch: batch.calls.append(call))

    def busy_seconds(self) -> float:
        """Return how long the transaction under way has taken so far; 0: there is none; infinite: the thread died."""
        if self._thread.ident is not None and not self._thread.is_alive() and not self._is_stopping:
            return math.inf
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
            if batch.ends or (batch.advances and not last):
                more = self._advance(batch)
                batch = _Batch(look=more)
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

    def _advance(self, batch: _Batch) -> bool:
        """Do what is in `batch`, and claim; return whether there is more to do at once."""
        done = self._commit(batch, self._room(batch.ends))
        if isinstance(done, bool):
            return done
        for part in batch.apart():
            error = self._commit(part, None)
            if isinstance(error, Exception) and part.ends:
                # If that fails too, the exit stays unacknowledged: the next supervisor tries again.
                self._commit(_Batch(ends=[_bare(end, error) for end in part.ends]), None)
        return self._commit(_Batch(look=True), self._room(())) is True

    def _commit(self, batch: _Batch, room: int | None) -> bool | Exception:
        """Run one transaction, again while the database is away; return whether there is more to do at once.

        A defect, or damage in the database, is returned: it must not become a crash loop.

        Args:
            room: free slots of the executor; None: nothing may be claimed, not even what needs none.
        """
        was_away = False
        pause = 0.1
        while True:
            self._busy_since = time.monotonic()
            try:
                outcomes = self._store.write(functools.partial(self._transaction, batch=batch, room=room))
                break
            except StoreError as error:
                self._report(error)
            except Exception as error:
                self._report(error)
                return error
            finally:
                self._busy_since = None
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            room, was_away = None, self._claims
        for text in outcomes.damaged.values():
            show(DamagedVersion(text))
        if batch.ends:
            faults.point("after_end_commit")
        if room is not None:
            self.trouble = None
        self._slots.difference_update(end.claim for end in batch.ends)
        if self.holder is None:
            self._ended_early.update(end.claim for end in batch.ends)
        self._slots.update(item.claim for item in outcomes.claimed if item.task.sensor is None)
        ends = batch.ends
        self._loop.call_soon_threadsafe(lambda: self._on_outcomes(outcomes, ends))
        return outcomes.more or was_away

    def _report(self, error: Exception) -> None:
        self.trouble = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        show(error)

    def _room(self, ends: Sequence[End]) -> int | None:
        if not self._claims:
            return None
        if not self._has_space():
            self.trouble = "The disk of the logs is nearly full: nothing new starts until there is space."
            return None
        return self._parallelism - len(self._slots.difference(end.claim for end in ends))

    def _transaction(self, connection: sa.Connection, batch: _Batch, room: int | None) -> Outcomes:
        advance = Advance(connection, self._structures.through(connection), self._clock.now(), self.holder)
        if batch.ends:
            advance.finish(batch.ends)
        if batch.wakes:
            advance.wake(batch.wakes)
        if batch.releases:
            advance.release(batch.releases)
        if batch.look:
            advance.look()
        if room is not None:
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


def _bare(end: End, error: Exception) -> End:
    """The end of an attempt whose own account cannot be stored."""
    return dataclasses.replace(
        end, outcome=Outcome.FAILED, reason=f"its end could not be recorded ({type(error).__name__}); see the log of "
        "the supervisor", started_at=None, results={}, result_files={}, chosen=None, rendered=None,
    )  # fmt: skip


def has_space(folder: str, least_bytes: int) -> bool:
    """Say whether the disk of `folder` has at least `least_bytes` or 2 % free, whichever is less."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    free = disk.f_bavail * disk.f_frsize
    return free >= min(least_bytes, disk.f_blocks * disk.f_frsize * 0.02)


def show(error: Exception) -> None:
    """Say it in the log; the log's disk may be full."""
    if not isinstance(error, StoreError | DamagedVersion):
        sys.excepthook(type(error), error, error.__traceback__)
        return
    with contextlib.suppress(OSError):
        print(f"supervisor: {error}", file=sys.stderr, flush=True)

"""The sensors that wait, as the supervisor knows them: when each is poked next, and what a poke's answer means.

A waiting sensor has an open attempt but no process and no slot. Due times live in memory alone: after a restart every
sensor is poked again, spread over its interval. Pokes that are due together and belong to one DAG version share a
process. A poke that finds nothing writes nothing.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux.attempt import AttemptSpec
from flux.config import Config
from flux.loop import Loop, Timer
from flux.running.open_attempts import make_spec, read_text
from flux.states import Outcome
from flux.store.attempts import Claimed, End
from flux.structure import SensorStructure
from flux.times import Clock

if TYPE_CHECKING:
    from flux.running.launcher_client import LauncherClient
    from flux.running.writer import Writer

#: Most pokes in one process.
_BATCH = 64
#: Processes of pokes at once; the rest waits its turn.
_MOST_BATCHES = 4
#: Pokes that become due within this time share a process.
_GATHER_SECONDS = 0.02


@dataclass(slots=True)
class _Waiting:
    """A sensor between two pokes, or in one."""

    claimed: Claimed
    version: str
    spec: AttemptSpec
    sensor: SensorStructure
    deadline: Timer | None = None
    next: Timer | None = None
    pokes: int = 0
    #: Pokes in a row that did not end in time.
    hangs: int = 0
    #: Number of the process that pokes it now.
    batch: int | None = None


class Deferred:
    """The waiting sensors of this supervisor."""

    def __init__(
        self, config: Config, loop: Loop, clock: Clock, writer: Writer, launcher: Callable[[], LauncherClient | None]
    ) -> None:
        self._config = config
        self._loop = loop
        self._clock = clock
        self._writer = writer
        self._launcher = launcher
        self._waiting: dict[int, _Waiting] = {}
        self._due: deque[int] = deque()
        #: Claims in each process of pokes.
        self._batches: dict[int, set[int]] = {}
        self._numbers = 0
        self._gathering: Timer | None = None

    def add(self, claimed: Claimed, version: str, host: str, *, adopted: bool = False) -> None:
        """Take a sensor whose attempt is open, and poke it at once; one that is adopted within its interval."""
        sensor = claimed.task.sensor
        assert sensor is not None
        item = _Waiting(claimed, version, make_spec(self._config, claimed, host), sensor)
        claim = claimed.claim
        self._waiting[claim] = item
        if claimed.deadline_at is not None:
            left = (claimed.deadline_at - self._clock.now()).total_seconds()
            item.deadline = self._loop.call_later(max(left, 0.0), lambda: self._expired(claim))
        self._poke_in(item, random.uniform(0, sensor.poke_interval) if adopted else 0.0)

    def next_poke_of(self, claim: int) -> float | None:
        """Return the moment (`time.monotonic`) of a sensor's next poke; None when it is being poked or unknown."""
        item = self._waiting.get(claim)
        return item.next.when if item is not None and item.next is not None and item.next.is_pending else None

    def launcher_lost(self) -> None:
        """Poke again what a launcher that died was poking."""
        self._batches.clear()
        for claim, item in self._waiting.items():
            if item.batch is not None:
                item.batch = None
                self._due.append(claim)

    def launcher_came(self) -> None:
        self._dispatch()

    def poked(self, message: Mapping[str, Any]) -> None:
        """Take the answer to one poke."""
        claim = message["claim"]
        in_batch = self._batches.get(message["batch"])
        if in_batch is not None:
            in_batch.discard(claim)
            if not in_batch:
                del self._batches[message["batch"]]
                self._dispatch()
        item = self._waiting.get(claim)
        if item is None or item.batch != message["batch"]:
            return
        item.batch = None
        if message["hung"]:
            item.hangs += 1
            _name_hang(item.spec, message["error"])
            self._poke_in(item, item.sensor.poke_interval)
        elif message["outcome"] is not None:
            self._end(item, Outcome(message["outcome"]), message["error"], may_retry=message["retry"])
        elif message["result"]:
            self._end(item, Outcome.SUCCESS, None)
        else:
            item.hangs = 0
            self._poke_in(item, self._interval(item))

    def _interval(self, item: _Waiting) -> float:
        sensor = item.sensor
        if not sensor.exponential_backoff:
            return sensor.poke_interval
        return min(sensor.poke_interval * 2.0 ** min(item.pokes - 1, 30), sensor.max_poke_interval)

    def _poke_in(self, item: _Waiting, seconds: float) -> None:
        claim = item.claimed.claim
        item.next = self._loop.call_later(seconds, lambda: self._became_due(claim))

    def _became_due(self, claim: int) -> None:
        self._due.append(claim)
        if self._gathering is None:
            first = claim in self._waiting and self._waiting[claim].pokes == 0
            self._gathering = self._loop.call_later(0.0 if first else _GATHER_SECONDS, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self._dispatch()

    def _dispatch(self) -> None:
        """Have due sensors poked: those of one DAG version together, hanging and isolated ones alone."""
        launcher = self._launcher()
        while launcher is not None and self._due and len(self._batches) < _MOST_BATCHES:
            first = self._waiting.get(self._due.popleft())
            if first is None:
                continue
            alone = self._is_alone(first)
            together = [first] if alone else [first, *self._companions(first)]
            self._numbers += 1
            self._batches[self._numbers] = {item.claimed.claim for item in together}
            for item in together:
                item.batch = self._numbers
                item.pokes += 1
            launcher.poke(
                first.version,
                self._numbers,
                [item.spec for item in together],
                poke_timeout=first.sensor.poke_timeout,
                isolated=alone,
            )

    def _companions(self, first: _Waiting) -> list[_Waiting]:
        found: list[_Waiting] = []
        rest: deque[int] = deque()
        while self._due and len(found) < _BATCH - 1:
            claim = self._due.popleft()
            item = self._waiting.get(claim)
            if item is None:
                continue
            fits = item.version == first.version and item.sensor.poke_timeout == first.sensor.poke_timeout
            if fits and not self._is_alone(item):
                found.append(item)
            else:
                rest.append(claim)
        self._due.extendleft(reversed(rest))
        return found

    def _is_alone(self, item: _Waiting) -> bool:
        return item.sensor.isolated or item.hangs > 1

    def give_up(self, claim: int, reason: str) -> None:
        """End a waiting sensor as killed."""
        item = self._waiting.get(claim)
        if item is not None:
            self._cancel(item)
            self._end(item, Outcome.KILLED, reason, may_retry=False)

    def _cancel(self, item: _Waiting) -> None:
        launcher = self._launcher()
        if item.batch is not None and launcher is not None:
            launcher.cancel_poke(item.claimed.claim)

    def _expired(self, claim: int) -> None:
        item = self._waiting.get(claim)
        if item is None:
            return
        self._cancel(item)
        reason = f"SensorTimeout: the condition did not come true within {item.sensor.timeout:g} s"
        self._end(item, Outcome.SKIPPED if item.sensor.soft_fail else Outcome.FAILED, reason, may_retry=False)

    def _end(self, item: _Waiting, outcome: Outcome, reason: str | None, *, may_retry: bool = True) -> None:
        for timer in (item.deadline, item.next):
            if timer is not None:
                timer.cancel()
        del self._waiting[item.claimed.claim]
        rendered = read_text(Path(item.spec.rendered_file))
        now = self._clock.now()
        self._writer.end(End(item.claimed.claim, outcome, reason, now, may_retry=may_retry, rendered=rendered))


def _name_hang(spec: AttemptSpec, error: str) -> None:
    """Say in the supervisor's log and in the sensor's own which poke had to be killed."""
    name = f"sensor {spec.task_id!r} of DAG {spec.dag_id!r}, run {spec.run_id!r}"
    print(f"supervisor: {name}: {error}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError), Path(spec.log).open("a", encoding="utf-8") as log:
        log.write(f"--- flux: {error}\n")

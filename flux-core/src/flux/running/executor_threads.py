"""Where an executor is called that does not use the launcher: off the loop, for what it does may take its time.

An executor is called in one thread, one call after the other. One whose call takes long must not hold up the others: a
further executor of the same configuration is made, in a thread of its own, and gets the starts that waited and those
that come, until it is slow itself; then the next that is free. A few executors at most, which share nothing. All that
is cancelled is told to every one of them, for only the one that started a claim knows it.

A start that takes too long altogether is given up: its attempt is refused. What it may still cause comes too late, is
refused as an agent, and is cancelled as soon as the call returns, should it ever. Until then its task instance is not
started again, so that one that always hangs costs one executor, and not one with each try.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flux.executor import Assignment, BaseExecutor
from flux.loop import Loop, Repeated

#: A call that takes longer holds up no other start.
_SLOW_SECONDS = 5.0
#: Executors that are kept at once.
_MOST = 8
#: Between two looks at calls that are under way.
_LOOK_SECONDS = 1.0

Refused = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Hanging:
    """A call that has not returned for long."""

    #: As "start() of sales.load, run manual__1".
    call: str
    seconds: float


@dataclass(slots=True)
class _Call:
    """One call of an executor."""

    name: str
    make: Callable[[BaseExecutor], object]
    #: Called in the loop with what became of it: what it returned, or what it raised. None: nobody asks.
    done: Callable[[object], object] | None = None
    failed: Callable[[BaseException], object] | None = None
    #: Of a start: called in the loop when it took too long, and which task instance it is of.
    given_up: Callable[[], object] | None = None
    of: tuple[str, str, str, int] | None = None


class ExecutorThreads:
    """Calls an executor, and others like it while that one does not return.

    What an executor raises, even SystemExit, ends neither the thread nor the supervisor.

    Args:
        another: makes another executor like the first; may block, and may raise.
        limit_seconds: how long a start may take.
        slow_seconds: how long a call may take before others are made elsewhere.
    """

    def __init__(
        self,
        loop: Loop,
        executor: BaseExecutor,
        another: Callable[[], BaseExecutor],
        *,
        limit_seconds: float,
        slow_seconds: float = _SLOW_SECONDS,
    ) -> None:
        self._loop = loop
        self._another = another
        self._limit = limit_seconds
        self._slow = min(slow_seconds, limit_seconds)
        #: The first is the one that starts are given to.
        self._callers = [_Caller(loop, lambda: executor)]
        self._looks: Repeated | None = None
        #: Whether the executor says what is gone.
        self.tells_gone = type(executor).gone is not BaseExecutor.gone

    @property
    def hanging(self) -> list[Hanging]:
        """The calls that have not returned for long, the longest first."""
        under_way = [caller.under_way for caller in self._callers]
        late = [Hanging(each[0].name, each[1]) for each in under_way if each is not None and each[1] > self._slow]
        return sorted(late, key=lambda each: -each.seconds)

    @property
    def is_stuck(self) -> bool:
        """Nothing starts until a call returns: there are as many executors as may be, and none is free."""
        return len(self._callers) == _MOST and all(caller.is_late(self._slow) for caller in self._callers)

    def start(self, assignment: Assignment, refused: Refused) -> None:
        """Give an assignment to the executor; `refused` is called in the loop, once, when nothing will come of it."""
        is_told = False

        def tell(words: str) -> None:
            nonlocal is_told
            if not is_told:
                is_told = True
                refused(words)

        of = (assignment.dag_id, assignment.run_id, assignment.task_id, assignment.map_index)
        if any(caller.current is not None and caller.current[0].of == of for caller in self._callers):
            self._loop.call_later(0.0, lambda: tell("the executor has not returned from an earlier start() of it"))
            return
        call = _Call(
            f"start() of {assignment.dag_id}.{assignment.task_id}, run {assignment.run_id}",
            lambda executor: executor.start(assignment),
            failed=lambda error: tell(f"the executor refused it: {type(error).__name__}: {error}"),
            given_up=lambda: tell(f"the executor did not return from start() within {self._limit:g} s"),
            of=of,
        )
        self._callers[0].put(call)
        self._begin_to_look()

    def cancel(self, claim: int) -> None:
        """Have every executor let go of a claim."""
        for caller in self._callers:
            caller.put(_Call(f"cancel({claim})", lambda executor: executor.cancel(claim)))
        self._begin_to_look()

    def ask_gone(self, take: Callable[[Mapping[int, str]], object]) -> None:
        """Ask what is gone; `take` is called in the loop for each executor that has time to answer."""

        def checked(found: object) -> None:
            if isinstance(found, Mapping) and all(type(claim) is int for claim in found):
                take({claim: str(words) for claim, words in found.items()})
            else:
                print(f"supervisor: gone() returned {found!r:.200}, which maps no claims", file=sys.stderr, flush=True)

        for caller in self._callers:
            if caller.is_idle:
                caller.put(_Call("gone()", lambda executor: executor.gone(), done=checked))
        self._begin_to_look()

    def stop(self, seconds: float) -> None:
        """Make the calls that were asked for, then each executor's `stop`; waits so long at most."""
        if self._looks is not None:
            self._looks.cancel()
        deadline = time.monotonic() + seconds
        for caller in self._callers:
            caller.put(_Call("stop()", lambda executor: executor.stop()))
            caller.end()
        for caller in self._callers:
            caller.join(max(0.0, deadline - time.monotonic()))

    def _begin_to_look(self) -> None:
        if self._looks is None:
            self._looks = self._loop.every(min(_LOOK_SECONDS, self._slow / 4), self._look)

    def _look(self) -> None:
        """Give up the starts that take too long, and have another executor take over from one that is slow."""
        for caller in self._callers:
            caller.give_up(self._limit)
        if self._callers[0].is_late(self._slow):
            self._take_over()
        if self._looks is not None and all(caller.is_idle for caller in self._callers):
            self._looks.cancel()
            self._looks = None

    def _take_over(self) -> None:
        """Let another executor be the first: one that is free, or a new one; none when there are enough."""
        free = next((caller for caller in self._callers if not caller.is_late(self._slow)), None)
        if free is None and len(self._callers) < _MOST:
            free = _Caller(self._loop, self._another)
            self._callers.append(free)
        if free is None:
            return
        waiting = self._callers[0].take_starts()
        self._callers.remove(free)
        self._callers.insert(0, free)
        for call in waiting:
            free.put(call)


class _Caller:
    """One executor with its thread, which begins with the first call."""

    def __init__(self, loop: Loop, make: Callable[[], BaseExecutor]) -> None:
        self._loop = loop
        self._make = make
        self._executor: BaseExecutor | None = None
        #: Guards what follows.
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        #: The call that is being made, and since when by `time.monotonic`.
        self.current: tuple[_Call, float] | None = None
        self._is_ending = False
        self._thread: threading.Thread | None = None
        #: What a call raised last that nobody asks for, so that it is shown once.
        self._shown = ""

    @property
    def under_way(self) -> tuple[_Call, float] | None:
        """The call that is being made, and for how many seconds."""
        current = self.current  # changes under us
        return None if current is None else (current[0], time.monotonic() - current[1])

    @property
    def is_idle(self) -> bool:
        with self._changed:
            return self.current is None and not self._waiting

    def is_late(self, seconds: float) -> bool:
        """Whether its call has taken longer than this."""
        under_way = self.under_way
        return under_way is not None and under_way[1] > seconds

    def put(self, call: _Call) -> None:
        with self._changed:
            self._waiting.append(call)
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="executor", daemon=True)
            self._thread.start()

    def take_starts(self) -> list[_Call]:
        """Take the starts that wait away from it."""
        with self._changed:
            starts = [call for call in self._waiting if call.given_up is not None]
            self._waiting = deque(call for call in self._waiting if call.given_up is None)
        return starts

    def give_up(self, seconds: float) -> None:
        """Give up the start that has taken longer than this."""
        under_way = self.under_way
        if under_way is not None and under_way[1] > seconds and under_way[0].given_up is not None:
            under_way[0].given_up()

    def end(self) -> None:
        """End the thread after the calls that wait."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_ending:
                    self._changed.wait()
                if not self._waiting:
                    return
                call = self._waiting.popleft()
                self.current = call, time.monotonic()
            self._carry_out(call)
            with self._changed:
                self.current = None

    def _carry_out(self, call: _Call) -> None:
        try:
            if self._executor is None:
                self._executor = self._make()
            value = call.make(self._executor)
        except BaseException as error:
            self._tell_failure(call, error)
            return
        if call.done is not None:
            done = call.done
            self._loop.call_soon_threadsafe(lambda: done(value))

    def _tell_failure(self, call: _Call, error: BaseException) -> None:
        if call.failed is not None:
            failed = call.failed
            self._loop.call_soon_threadsafe(lambda: failed(error))
            return
        text = f"{call.name}: {error!r}"
        if text != self._shown:
            self._shown = text
            sys.excepthook(*sys.exc_info())

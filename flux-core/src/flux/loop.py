"""The event loop of Flux's own processes: file descriptors, timers, signals and calls from other threads.

Standard library only, one thread, no coroutines: launcher, DAG hosts, hypervisor and supervisor are small state
machines of callbacks. A callback that raises is shown on stderr with its traceback and the loop goes on; callbacks
must not block.
"""

from __future__ import annotations

import heapq
import math
import os
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable

Callback = Callable[[], object]

#: Cancelled timers are swept out of the heap when there are more than this and more than half are cancelled.
_SWEEP_FROM = 64


class Timer:
    """One call at a later moment; made by `Loop.call_later`."""

    __slots__ = ("_callback", "_loop", "when")

    def __init__(self, loop: Loop, when: float, callback: Callback) -> None:
        #: Moment by `time.monotonic`.
        self.when = when
        self._loop = loop
        self._callback: Callback | None = callback

    def cancel(self) -> None:
        """Make sure the call does not happen. Safe to repeat, and after the call."""
        if self._callback is not None:
            self._callback = None
            self._loop._forget_cancelled()

    def take(self) -> Callback | None:
        """Return what is to be called and forget it; None when cancelled."""
        callback, self._callback = self._callback, None
        return callback

    @property
    def is_pending(self) -> bool:
        """Whether the call is still to come."""
        return self._callback is not None


class Repeated:
    """A call at every multiple of a period; made by `Loop.every`."""

    __slots__ = ("_after", "_callback", "_loop", "_number", "_seconds", "_timer")

    def __init__(self, loop: Loop, seconds: float, callback: Callback, after: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._callback = callback
        self._after = after
        #: Multiple of the period at which the next call is due.
        self._number = 0
        self._timer = self._arm()

    def cancel(self) -> None:
        """Make no further call. Safe to repeat, and from within the call."""
        self._timer.cancel()

    def _arm(self) -> Timer:
        """Aim at the next multiple; those that a busy loop has missed are left out."""
        passed = math.floor((time.monotonic() - self._after) / self._seconds)
        self._number = max(passed, self._number) + 1
        return self._loop._call_at(self._number * self._seconds + self._after, self._call)

    def _call(self) -> None:
        self._timer = self._arm()
        self._callback()


class _Watch:
    """Who is called when one file descriptor can be read or written."""

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader: Callback | None = None
        self.writer: Callback | None = None

    @property
    def events(self) -> int:
        return (selectors.EVENT_READ if self.reader else 0) | (selectors.EVENT_WRITE if self.writer else 0)


class Loop:
    """Calls back when something happens. All methods but `call_soon_threadsafe` belong to the thread that runs it.

    In a forked child, `close()` drops the parent's loop without disturbing the parent.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._watches: dict[int, _Watch] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timers_made = 0
        self._timers_cancelled = 0
        self._soon: deque[Callback] = deque()
        self._running = False
        self._takes_signals = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self.add_reader(self._wake_read, self._drain)

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` can be read or has ended, until removed. Replaces an earlier reader of `fd`."""
        watch = self._watches.get(fd) or _Watch()
        watch.reader = callback
        self._register(fd, watch)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` takes bytes, until removed. Replaces an earlier writer of `fd`."""
        watch = self._watches.get(fd) or _Watch()
        watch.writer = callback
        self._register(fd, watch)

    def remove_writer(self, fd: int) -> None:
        """Stop asking whether `fd` takes bytes; its reader stays. Safe to repeat."""
        watch = self._watches.get(fd)
        if watch is None or watch.writer is None:
            return
        watch.writer = None
        if watch.reader is None:
            self.remove(fd)
        else:
            self._selector.modify(fd, watch.events)

    def remove(self, fd: int) -> None:
        """Forget reader and writer of `fd`. To be called *before* it is closed; safe to repeat."""
        if self._watches.pop(fd, None) is not None:
            self._selector.unregister(fd)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call `callback` once, `seconds` from now (time the machine sleeps does not count)."""
        return self._call_at(time.monotonic() + seconds, callback)

    def every(self, seconds: float, callback: Callback, *, after: float = 0.0) -> Repeated:
        """Call `callback` whenever `time.monotonic` passes a multiple of `seconds`, for the first time at the next one.

        All calls of this machine that have the same period, in whatever process, come at the same moment: a process
        wakes up once for all of its own, and a processor that sleeps is woken once for all of them. A loop that was
        held up calls once for all the moments it missed.

        Args:
            after: this many seconds after each multiple, less than `seconds`: to find what the others do then done.
        """
        return Repeated(self, seconds, callback, after)

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Call `callback` in the loop's thread as soon as it is free. From any thread; in order of the calls."""
        self._soon.append(callback)
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:  # the pipe is full of wake-ups already
            pass

    def on_signal(self, signum: int, callback: Callback) -> None:
        """Call `callback` in the loop after each delivery of `signum`. From the main thread only.

        Deliveries that come together may be called back once: the kernel does not count signals.
        """
        if not self._takes_signals:
            signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
            self._takes_signals = True
        signal.signal(signum, lambda _signum, _frame: self._soon.append(callback))
        signal.siginterrupt(signum, False)

    def run(self) -> None:
        """Serve until `stop()`."""
        self._running = True
        while self._running:
            for key, events in self._selector.select(self._seconds_to_sleep()):
                self._serve(key.fd, self._watches.get(key.fd), events)
            for _ in range(len(self._soon)):
                self._call(self._soon.popleft())
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                callback = heapq.heappop(self._timers)[2].take()
                if callback is None:
                    self._timers_cancelled -= 1
                else:
                    self._call(callback)

    def stop(self) -> None:
        """Let `run()` return after the callbacks of this round. Without effect before `run()`."""
        self._running = False

    def close(self) -> None:
        """Free the loop's own descriptors, not those it watches, and leave signals alone from now on."""
        if self._takes_signals:
            signal.set_wakeup_fd(-1)
        self._selector.close()
        self._watches.clear()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _call_at(self, when: float, callback: Callback) -> Timer:
        timer = Timer(self, when, callback)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, timer))
        return timer

    def _register(self, fd: int, watch: _Watch) -> None:
        if fd in self._watches:
            self._selector.modify(fd, watch.events)
        else:
            self._selector.register(fd, watch.events)
            self._watches[fd] = watch

    def _serve(self, fd: int, watch: _Watch | None, events: int) -> None:
        """Call back for one ready descriptor, unless a callback of this round has removed or replaced it."""
        if watch is None:
            return
        if events & selectors.EVENT_READ and watch.reader:
            self._call(watch.reader)
        if events & selectors.EVENT_WRITE and watch.writer and self._watches.get(fd) is watch:
            self._call(watch.writer)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception:
            sys.excepthook(*sys.exc_info())

    def _seconds_to_sleep(self) -> float | None:
        if self._soon:
            return 0.0
        while self._timers and not self._timers[0][2].is_pending:  # nobody is woken for a call that is not made
            heapq.heappop(self._timers)
            self._timers_cancelled -= 1
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _forget_cancelled(self) -> None:
        """Keep the heap small when nearly every timer is cancelled, as time limits of tasks are."""
        self._timers_cancelled += 1
        if self._timers_cancelled > _SWEEP_FROM and self._timers_cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].is_pending]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    def _drain(self) -> None:
        try:
            while len(os.read(self._wake_read, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass

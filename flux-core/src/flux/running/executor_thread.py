"""A thread in which an executor is called that does not use the launcher: what it does may take its time."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable

from flux.executor import Assignment, BaseExecutor
from flux.loop import Loop


class ExecutorThread:
    """Calls an executor, one call after the other in the order in which they were asked for.

    What an executor raises, even SystemExit, ends neither the thread nor the supervisor.
    """

    def __init__(self, loop: Loop, executor: BaseExecutor) -> None:
        self._loop = loop
        self._executor = executor
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, assignment: Assignment, refused: Callable[[BaseException], object]) -> None:
        """Give an assignment to the executor; `refused` is called in the loop when it raises."""

        def call() -> None:
            try:
                self._executor.start(assignment)
            except BaseException as error:
                problem = error
                self._loop.call_soon_threadsafe(lambda: refused(problem))

        self._put(call)

    def cancel(self, claim: int) -> None:
        """Have the executor let go of a claim."""
        self._put(lambda: self._executor.cancel(claim))

    def stop(self, seconds: float) -> None:
        """Make the calls that were asked for, then the executor's `stop`; waits so long at most."""
        self._put(self._executor.stop)
        self._calls.put(None)
        assert self._thread is not None
        self._thread.join(seconds)

    def _put(self, call: Callable[[], object]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="executor", daemon=True)
            self._thread.start()
        self._calls.put(call)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException:
                sys.excepthook(*sys.exc_info())

"""A provider's executor is called off the loop, in order, and nothing that it does ends the supervisor."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from flux.executor import Assignment, BaseExecutor
from flux.loop import Loop
from flux.running.executor_thread import ExecutorThread


class Slow(BaseExecutor):
    """Blocks in `start` until it is let go, and notes its calls with their threads."""

    def __init__(self) -> None:
        super().__init__(1)
        self.calls: list[tuple[str, int]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()

    def start(self, assignment: Assignment) -> None:
        self.go.wait(10)
        self._note("start", assignment.claim)
        if assignment.claim == 13:
            raise SystemExit("no")

    def cancel(self, claim: int) -> None:
        self._note("cancel", claim)
        if claim == 13:
            raise RuntimeError("cannot cancel")

    def stop(self) -> None:
        self._note("stop", 0)

    def _note(self, call: str, claim: int) -> None:
        self.calls.append((call, claim))
        self.threads.add(threading.get_ident())


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def assignment(claim: int) -> Assignment:
    return Assignment(claim, "sales", "manual__1", "load", -1, 1)


def test_calls_wait_for_each_other_and_not_the_loop(loop: Loop) -> None:
    executor = Slow()
    thread = ExecutorThread(loop, executor)
    thread.start(assignment(1), refused=lambda error: None)
    thread.cancel(1)
    thread.start(assignment(2), refused=lambda error: None)
    assert executor.calls == []
    executor.go.set()
    thread.stop(10)
    assert executor.calls == [("start", 1), ("cancel", 1), ("start", 2), ("stop", 0)]
    assert threading.get_ident() not in executor.threads
    assert len(executor.threads) == 1


def test_what_start_raises_is_told_in_the_loop_and_what_others_raise_is_shown(
    loop: Loop, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Slow()
    executor.go.set()
    thread = ExecutorThread(loop, executor)
    refused: list[tuple[str, int]] = []

    def take(error: BaseException) -> None:
        refused.append((repr(error), threading.get_ident()))
        loop.stop()

    thread.cancel(13)
    thread.start(assignment(13), take)
    loop.run()
    thread.stop(10)
    assert refused == [("SystemExit('no')", threading.get_ident())]
    assert "RuntimeError: cannot cancel" in capsys.readouterr().err


def test_executor_that_hangs_is_not_waited_for(loop: Loop) -> None:
    executor = Slow()
    thread = ExecutorThread(loop, executor)
    thread.start(assignment(1), refused=lambda error: None)
    thread.stop(0.05)
    assert executor.calls == []
    executor.go.set()

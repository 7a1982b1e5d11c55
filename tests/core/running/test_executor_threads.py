"""A provider's executor is called off the loop, in order, and nothing that it does holds up others for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from flux.executor import Assignment, BaseExecutor
from flux.loop import Loop
from flux.running.executor_threads import ExecutorThreads
from tests.waiting import until


class Slow(BaseExecutor):
    """Does not return from `start` of a claim that is in `held`, and notes its calls with their threads."""

    def __init__(self, held: dict[int, threading.Event]) -> None:
        super().__init__(1)
        self.held = held
        self.calls: list[tuple[str, int]] = []
        self.threads: set[int] = set()
        self.ended: Any = {}

    def start(self, assignment: Assignment) -> None:
        if assignment.claim in self.held:
            self.held[assignment.claim].wait(10)
        self._note("start", assignment.claim)
        if assignment.claim == 13:
            raise SystemExit("no")

    def gone(self) -> Mapping[int, str]:
        self._note("gone", 0)
        return self.ended  # type: ignore[no-any-return]

    def cancel(self, claim: int) -> None:
        self._note("cancel", claim)
        if claim == 13:
            raise RuntimeError("cannot cancel")

    def stop(self) -> None:
        self._note("stop", 0)

    def _note(self, call: str, claim: int) -> None:
        self.calls.append((call, claim))
        self.threads.add(threading.get_ident())


class Bench:
    """The threads under test, the executors that were made, and what was refused."""

    def __init__(self, *, limit: float = 60.0, slow: float = 60.0) -> None:
        self.loop = Loop()
        self.held: dict[int, threading.Event] = {}
        self.made: list[Slow] = []
        self.refused: dict[int, str] = {}
        self.refused_in: set[int] = set()
        self.threads = ExecutorThreads(self.loop, self._make(), self._make, limit_seconds=limit, slow_seconds=slow)

    def _make(self) -> Slow:
        self.made.append(Slow(self.held))
        return self.made[-1]

    def hold(self, *claims: int) -> None:
        self.held.update((claim, threading.Event()) for claim in claims)

    def start(self, *claims: int) -> None:
        for claim in claims:

            def refused(words: str, claim: int = claim) -> None:
                assert claim not in self.refused, "told twice"
                self.refused[claim] = words
                self.refused_in.add(threading.get_ident())

            self.threads.start(Assignment(claim, "sales", "manual__1", f"load_{claim}", -1, 1), refused)

    def until(self, predicate: Callable[[], object], what: str) -> None:
        """Run the loop until something is true."""
        deadline = time.monotonic() + 10

        def look() -> None:
            if predicate() or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_later(0.003, look)

        self.loop.call_later(0.0, look)
        self.loop.run()
        assert predicate(), f"waited 10 s for {what}"

    def pass_time(self, seconds: float) -> None:
        """Run the loop for so long."""
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run()

    def starts(self, number: int) -> list[int]:
        """The claims that an executor has started."""
        return [claim for call, claim in self.made[number].calls if call == "start"]

    def close(self) -> None:
        for event in self.held.values():
            event.set()
        self.threads.stop(10)
        self.loop.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def hasty() -> Iterator[Bench]:
    """A start is given up after 0.1 s, and from then on another executor takes over."""
    made = Bench(limit=0.1, slow=0.1)
    yield made
    made.close()


def test_calls_wait_for_each_other_and_not_the_loop(bench: Bench) -> None:
    bench.hold(1)
    bench.start(1)
    bench.threads.cancel(1)
    bench.start(2)
    (executor,) = bench.made
    assert executor.calls == []
    bench.held[1].set()
    bench.threads.stop(10)
    assert executor.calls == [("start", 1), ("cancel", 1), ("start", 2), ("stop", 0)]
    assert threading.get_ident() not in executor.threads
    assert len(executor.threads) == 1


def test_what_start_raises_is_told_in_the_loop_and_what_others_raise_is_shown(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.threads.cancel(13)
    bench.start(13)
    bench.until(lambda: bench.refused, "the refusal")
    assert bench.refused == {13: "the executor refused it: SystemExit: no"}
    assert bench.refused_in == {threading.get_ident()}
    assert "RuntimeError: cannot cancel" in capsys.readouterr().err


@pytest.mark.slow
def test_start_that_does_not_return_is_given_up_once(hasty: Bench) -> None:
    hasty.hold(13)
    hasty.start(13)
    hasty.until(lambda: hasty.refused, "the refusal")
    assert hasty.refused == {13: "the executor did not return from start() within 0.1 s"}
    hasty.held[13].set()
    until(lambda: hasty.starts(0) == [13], 10, "its return, which raises")
    hasty.pass_time(0.1)
    assert len(hasty.refused) == 1


def test_another_executor_gets_what_waits_for_one_that_does_not_return(hasty: Bench) -> None:
    hasty.hold(1)
    hasty.start(1, 2, 3)
    hasty.until(lambda: len(hasty.made) == 2 and len(hasty.starts(1)) == 2, "the others' start")
    hasty.start(4)
    hasty.until(lambda: len(hasty.starts(1)) == 3, "a later start")
    assert (hasty.starts(0), hasty.starts(1)) == ([], [2, 3, 4])
    assert list(hasty.refused) == [1]
    assert hasty.made[0].threads.isdisjoint(hasty.made[1].threads)


@pytest.mark.slow
def test_task_whose_start_hangs_is_not_started_beside_that(hasty: Bench) -> None:
    hasty.hold(1)
    hasty.start(1)
    hasty.until(lambda: hasty.refused, "the refusal")
    again: list[str] = []
    hasty.threads.start(Assignment(2, "sales", "manual__1", "load_1", -1, 2), again.append)
    hasty.until(lambda: again, "the refusal of the second")
    assert again == ["the executor has not returned from an earlier start() of it"]
    hasty.start(3)
    hasty.until(lambda: len(hasty.made) == 2 and hasty.starts(1) == [3], "another task's start")
    hasty.held[1].set()
    until(lambda: hasty.starts(0) == [1], 10, "its return")
    hasty.threads.start(Assignment(4, "sales", "manual__1", "load_1", -1, 3), again.append)
    hasty.until(lambda: 4 in hasty.starts(1), "the third start")
    assert len(again) == 1


def test_slow_start_holds_up_nobody_and_counts_when_it_returns() -> None:
    bench = Bench(limit=60, slow=0.05)
    bench.hold(1)
    bench.start(1, 2)
    bench.until(lambda: len(bench.made) == 2 and bench.starts(1) == [2], "the other's start")
    bench.held[1].set()
    until(lambda: bench.starts(0) == [1], 10, "its return")
    bench.pass_time(0.05)
    assert bench.refused == {}
    bench.close()


def test_claim_is_cancelled_at_every_executor_as_soon_as_it_returns(hasty: Bench) -> None:
    hasty.hold(1)
    hasty.start(1, 2)
    hasty.until(lambda: len(hasty.made) == 2 and hasty.starts(1), "the other's start")
    hasty.threads.cancel(1)
    until(lambda: ("cancel", 1) in hasty.made[1].calls, 10, "the other to be told")
    assert hasty.made[0].calls == []
    hasty.held[1].set()
    until(lambda: hasty.made[0].calls == [("start", 1), ("cancel", 1)], 10, "the first to be told")


@pytest.mark.slow
def test_executor_that_has_returned_takes_over_before_a_further_one_is_made(hasty: Bench) -> None:
    hasty.hold(1, 2)
    hasty.start(1, 2)
    hasty.until(lambda: len(hasty.made) == 2 and 1 in hasty.refused, "the second executor")
    hasty.held[1].set()
    until(lambda: hasty.starts(0) == [1], 10, "the first to return")
    hasty.start(3)
    hasty.until(lambda: hasty.starts(0) == [1, 3], "the first to take over")
    assert len(hasty.made) == 2


@pytest.mark.slow
def test_there_are_eight_executors_at_most_and_what_waits_is_started_when_one_returns(hasty: Bench) -> None:
    claims = range(100, 108)
    hasty.hold(*claims)
    hasty.start(*claims, 200)
    hasty.until(lambda: hasty.threads.is_stuck, "all to hang")
    assert len(hasty.made) == 8
    hanging = hasty.threads.hanging
    assert len(hanging) == 8
    assert hanging[0].call == "start() of sales.load_100, run manual__1"
    assert hanging[0].seconds >= hanging[-1].seconds > 0.1
    hasty.held[103].set()
    hasty.until(lambda: any(hasty.starts(number) == [103, 200] for number in range(8)), "what waited to be started")
    assert not hasty.threads.is_stuck
    assert 200 not in hasty.refused


def test_further_executor_that_cannot_be_made_refuses(hasty: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Slow, held: object) -> None:
        raise OSError("the port is taken")

    hasty.hold(1)
    monkeypatch.setattr(Slow, "__init__", fails)
    hasty.start(1, 2)
    hasty.until(lambda: len(hasty.refused) == 2, "the refusals")
    assert hasty.refused[2] == "the executor refused it: OSError: the port is taken"


def test_nothing_is_looked_at_when_no_call_is_under_way(bench: Bench) -> None:
    assert bench.threads.hanging == []
    bench.start(1)
    bench.until(lambda: bench.threads._looks is None, "the looks to end")
    assert bench.starts(0) == [1]


def test_what_is_gone_is_told_in_the_loop_by_every_executor_that_has_time(hasty: Bench) -> None:
    hasty.hold(1)
    hasty.start(1, 2)
    hasty.until(lambda: len(hasty.made) == 2 and hasty.starts(1), "the second executor")
    hasty.made[0].ended, hasty.made[1].ended = {1: "held"}, {2: "exit status 1"}
    told: list[Mapping[int, str]] = []
    hasty.until(lambda: hasty.threads.ask_gone(told.append) or told, "an answer")
    assert [answer for answer in told if answer != {2: "exit status 1"}] == []
    hasty.held[1].set()
    hasty.threads.cancel(99)
    until(lambda: ("cancel", 99) in hasty.made[0].calls, 10, "the first to go on")
    assert ("gone", 0) not in hasty.made[0].calls


@pytest.mark.parametrize("answer", [None, 7, ["1"], {"1": "a claim that is no number"}])
def test_answer_that_cannot_be_is_shown_and_dropped(
    bench: Bench, answer: object, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.made[0].ended = answer
    told: list[object] = []
    bench.threads.ask_gone(told.append)
    until(lambda: ("gone", 0) in bench.made[0].calls, 10, "the question")
    bench.pass_time(0.02)
    assert told == []
    assert "which maps no claims" in capsys.readouterr().err


def test_executor_without_gone_is_known() -> None:
    class Silent(Slow):
        gone = BaseExecutor.gone

    loop = Loop()
    tells = [
        ExecutorThreads(loop, executor, lambda: Slow({}), limit_seconds=1).tells_gone
        for executor in (Slow({}), Silent({}))
    ]
    assert tells == [True, False]
    loop.close()


@pytest.mark.slow
def test_executor_that_hangs_is_not_waited_for(hasty: Bench) -> None:
    hasty.hold(1)
    hasty.start(1, 2)
    hasty.until(lambda: len(hasty.made) == 2 and hasty.starts(1), "the second executor")
    began = time.monotonic()
    hasty.threads.stop(0.2)
    assert 0.15 < time.monotonic() - began < 2
    assert hasty.made[0].calls == []
    assert hasty.made[1].calls[-1] == ("stop", 0)

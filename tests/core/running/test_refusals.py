"""How attempts end that their executor refuses: put off, later and later, and failed when it has gone on for long."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from flux.running.refusals import Refusals
from flux.states import Outcome
from flux.store.attempts import Claimed
from tests.parts import NOW, HandClock, Parts

WORDS = "the executor refused it: ConnectionError: no cluster here"


class OneClock(HandClock):
    """A clock that goes forward with the wall's."""

    def monotonic(self) -> float:
        return self.instant.timestamp()


class Desk:
    """Refusals, their clock, and attempts to refuse."""

    def __init__(self, claimed: list[Claimed], limit: float = 600.0) -> None:
        self.clock = OneClock()
        self.refusals = Refusals(self.clock, limit)
        self.first, self.second = claimed

    def refuse(self, words: str = WORDS) -> float | None:
        """Refuse the first once more, let the time come at which it is tried again, and return the seconds."""
        end = self.refusals.end(self.first, words)
        if end.outcome is Outcome.FAILED:
            return None
        assert (end.outcome, end.reason) == (Outcome.NEVER_LAUNCHED, f"never launched: {words}")
        assert end.not_before is not None
        pause = (end.not_before - self.clock.now()).total_seconds()
        self.clock.instant = end.not_before
        return pause


@pytest.fixture
def claimed(tmp_path: Path) -> list[Claimed]:
    parts = Parts(tmp_path)
    parts.trigger(parts.define(tasks=2))
    parts.writer()
    parts.until(lambda: len(parts.claimed) == 2, what="two attempts")
    found = parts.claimed
    parts.close()
    return found


@pytest.fixture
def desk(claimed: list[Claimed]) -> Desk:
    return Desk(claimed)


def test_each_refusal_puts_it_off_for_longer_until_its_time_is_over(desk: Desk) -> None:
    pauses = []
    while (pause := desk.refuse()) is not None:
        pauses.append(pause)
    assert pauses[:6] == [1, 2, 4, 8, 16, 30]
    assert set(pauses[6:-1]) == {30}
    assert sum(pauses) == 600
    assert desk.clock.now() == NOW + timedelta(seconds=600)


def test_longest_pause_grows_with_the_time_there_is(claimed: list[Claimed]) -> None:
    desk = Desk(claimed, limit=86_400)
    pauses = [desk.refuse() for _ in range(20)]
    assert max(pause for pause in pauses if pause is not None) == 86_400 / 20


def test_last_refusal_is_a_failure_in_the_words_of_the_executor(claimed: list[Claimed]) -> None:
    desk = Desk(claimed, limit=3)
    assert [desk.refuse(), desk.refuse()] == [1, 2]
    end = desk.refusals.end(desk.first, "gone:\n  the\tlast words")
    assert end.outcome is Outcome.FAILED
    assert end.may_retry
    assert end.reason == "never began: tried 3 times in 3 s; the last time gone: the last words"
    assert desk.refuse() == 1, "the next attempt of the task begins anew"


def test_count_is_kept_for_each_task_instance_and_ends_with_a_beginning(desk: Desk) -> None:
    assert [desk.refuse(), desk.refuse()] == [1, 2]
    desk.refusals.began(desk.second)
    assert desk.refuse() == 4
    desk.refusals.began(desk.first)
    assert desk.refuse() == 1


def test_refusal_long_after_the_last_is_a_first(desk: Desk) -> None:
    """It was cleared by hand meanwhile, and no word of that comes here."""
    assert [desk.refuse(), desk.refuse()] == [1, 2]
    desk.clock.pass_time(hours=3)
    assert desk.refuse() == 1


def test_what_an_executor_says_is_bounded(desk: Desk) -> None:
    end = desk.refusals.end(desk.first, "x" * 100_000)
    assert len(end.reason or "") < 1100


def test_same_words_are_said_once_in_the_log(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    for task in (desk.first, desk.second, desk.first):
        desk.refusals.end(task, WORDS)
    desk.refusals.end(desk.first, "something else")
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_slots_come_back_at_a_pace_when_everything_is_refused(desk: Desk) -> None:
    assert [desk.refusals.pause() for _ in range(16)] == [0.0] * 16
    assert [round(desk.refusals.pause(), 3) for _ in range(3)] == [0.1, 0.2, 0.3]
    desk.clock.pass_time(seconds=60)
    assert desk.refusals.pause() == 0.0
    desk.refusals.began(desk.second)
    assert [desk.refusals.pause() for _ in range(16)] == [0.0] * 16

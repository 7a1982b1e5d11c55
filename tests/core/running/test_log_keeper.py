"""Log handlers: each gets every log at least once, whatever fails meanwhile, and holds up nobody else."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from flux.drivers import KeptLog
from flux.running.log_keeper import LogKeeper
from flux.states import Outcome
from flux.store import kept_logs, outbox
from flux.store.attempts import Claimed, End, log_path
from tests.parts import NOW, HandClock, Parts
from tests.waiting import until


class Shelf:
    """A log handler that keeps logs in memory. Fails as often as it is told; hangs while `go` is not set."""

    def __init__(self, failures: int = 0) -> None:
        self.kept: list[tuple[KeptLog, bytes]] = []
        self.calls = 0
        self.failures = failures
        self.go = threading.Event()
        self.go.set()

    def keep(self, log: KeptLog) -> None:
        self.calls += 1
        assert self.go.wait(60)
        if self.calls <= self.failures:
            raise SystemExit("no room")
        self.kept.append((log, log.path.read_bytes()))

    def read(self, log: KeptLog) -> bytes | None:
        return None


class Home:
    """A supervisor's parts whose store notes logs for the handlers `a` and `b`."""

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.parts = Parts(folder, self.clock)
        self.parts.flux.store.keep_logs(("a", "b"))
        self.writer = self.parts.writer()
        self.keepers: list[LogKeeper] = []

    def keeper(self, **handlers: Shelf) -> LogKeeper:
        keeper = LogKeeper(self.parts.flux.store, self.clock, self.parts.config.logs_folder, handlers)
        keeper.start()
        self.keepers.append(keeper)
        return keeper

    def claim(self, count: int = 1) -> Sequence[Claimed]:
        self.parts.trigger(self.parts.define("sales", [{"task_id": f"t{number}"} for number in range(count)]))
        self.writer.look()
        self.parts.until(lambda: len(self.parts.claimed) == count)
        return self.parts.claimed

    def path(self, item: Claimed) -> Path:
        return self.parts.config.logs_folder / log_path(item.run, item.task.task_id, item.map_index, item.attempt)

    def end(self, item: Claimed, text: str | None = "said") -> None:
        if text is not None:
            path = self.path(item)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.writer.end(End(item.claim, Outcome.SUCCESS, None, NOW))
        self.parts.until(lambda: item.claim in [end.claim for end in self.parts.ended])

    def waiting(self, handler: str) -> int:
        return self.parts.read(lambda connection: kept_logs.waiting(connection, handler))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    yield home
    for keeper in home.keepers:
        keeper.stop(5)
    home.parts.close()


def test_each_handler_gets_the_log_of_an_attempt_that_has_ended(home: Home) -> None:
    a, b = Shelf(), Shelf()
    keeper = home.keeper(a=a, b=b)
    (item,) = home.claim()
    home.end(item)
    keeper.wake()
    until(lambda: a.kept and b.kept)
    log, text = a.kept[0]
    assert (log.dag_id, log.run_id, log.task_id, log.map_index, log.attempt) == (
        "sales", item.run.run_id, "t0", None, 1,
    )  # fmt: skip
    assert (log.path, text) == (home.path(item), b"said")
    until(lambda: home.waiting("a") == home.waiting("b") == 0)
    assert (a.calls, b.calls) == (1, 1)


def test_what_nobody_kept_yet_is_kept_after_the_next_start(home: Home) -> None:
    for item in home.claim(3):
        home.end(item)
    assert (home.waiting("a"), home.waiting("b")) == (3, 3)
    a = Shelf()
    home.keeper(a=a)
    until(lambda: len(a.kept) == 3)
    assert sorted(log.task_id for log, _ in a.kept) == ["t0", "t1", "t2"]
    assert home.waiting("b") == 3


def test_a_handler_that_fails_is_called_again_after_a_pause(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    a = Shelf(failures=2)
    keeper = home.keeper(a=a)
    (item,) = home.claim()
    home.end(item)
    keeper.wake()
    until(lambda: a.calls == 1)
    until(lambda: home.waiting("a") == 1)
    home.clock.pass_time(seconds=5)
    keeper.wake()
    until(lambda: a.calls == 2)
    home.clock.pass_time(seconds=5)
    keeper.wake()
    until(lambda: home.waiting("a") == 0)
    assert len(a.kept) == 1
    said = capfd.readouterr().err
    assert said.count("log handler 'a' did not keep") == 1
    assert "SystemExit: no room" in said


def test_a_handler_that_hangs_holds_up_no_other_and_not_the_end(home: Home) -> None:
    a, b = Shelf(), Shelf()
    a.go.clear()
    keeper = home.keeper(a=a, b=b)
    for item in home.claim(2):
        home.end(item)
    keeper.wake()
    until(lambda: len(b.kept) == 2 and a.calls == 1)
    keeper.stop(0.2)
    a.go.set()
    until(lambda: home.waiting("a") == 1)


def test_an_attempt_without_a_log_and_a_run_that_was_deleted_are_passed_over(home: Home) -> None:
    (item,) = home.claim()
    home.end(item, None)
    home.parts.write(
        lambda connection: outbox.add(connection, kept_logs.kind("a"), {"claim": 4711}, now=home.clock.now())
    )
    a = Shelf()
    home.keeper(a=a)
    until(lambda: home.waiting("a") == 0)
    assert a.calls == 0


def test_without_handlers_nothing_is_noted(tmp_path: Path) -> None:
    home = Home(tmp_path / "other")
    home.parts.flux.store.keep_logs(())
    (item,) = home.claim()
    home.end(item)
    assert (home.waiting("a"), home.waiting("b")) == (0, 0)
    home.parts.close()


class Forking(Shelf):
    """Leaves a child process that comes back from its call."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[int] = []

    def keep(self, log: KeptLog) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # later Pythons warn of forks beside threads
            child = os.fork()
        if child:
            self.children.append(child)
            super().keep(log)
        else:
            signal.alarm(10)


def test_a_child_process_that_a_handler_lets_go_does_not_go_on_with_the_logs(home: Home) -> None:
    shelf = Forking()
    keeper = home.keeper(a=shelf, b=Shelf())
    (item,) = home.claim()
    home.end(item)
    keeper.wake()
    until(lambda: home.waiting("a") == 0)
    (child,) = shelf.children
    assert os.waitpid(child, 0)[1] == 0
    assert shelf.calls == 1

"""Waiting sensors: who is poked when and with whom, and what an answer means. The test plays the launcher."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from flux.running.deferred import Deferred
from flux.store.advance import Outcomes
from flux.store.attempts import Claimed, End
from flux.structure import SensorStructure
from tests.parts import Parts, PlayedLauncher


class Waits:
    """Claims sensors and has the launcher that the test plays poke them."""

    def __init__(self, home: Path) -> None:
        self.parts = Parts(home)
        self.has_launcher = True
        self.launcher = PlayedLauncher(self.parts)
        self.writer = self.parts.writer(on_outcomes=self._advanced)
        self.deferred = Deferred(
            self.parts.config, self.parts.loop, self.parts.clock, self.writer,
            lambda: self.launcher.client if self.has_launcher else None,
        )  # fmt: skip
        self.adopts = False

    def _advanced(self, outcomes: Outcomes, _: Sequence[End]) -> None:
        for item in outcomes.claimed:
            self.deferred.add(item, f"version-{item.version_id}", "here", adopted=self.adopts)

    def sensors(self, count: int = 1, dag_id: str = "sales", task: dict[str, Any] | None = None, **sensor: Any) -> None:
        """Trigger a DAG of so many sensors of one kind."""
        structure = SensorStructure(**{"poke_interval": 0.05, "poke_timeout": 10.0, "timeout": 3600.0, **sensor})
        tasks = [{"task_id": f"{dag_id}{number}", "sensor": structure, **(task or {})} for number in range(count)]
        self.parts.trigger(self.parts.define(dag_id, tasks))
        self.writer.look()

    def poke(self, count: int = 1) -> dict[str, Any]:
        """The order that many pokes were given with at the least; the newest."""
        return self.launcher.await_order("poke", count)

    def answer(self, order: dict[str, Any], *claims: int, **fields: Any) -> None:
        """Answer one order's pokes, all or those of these claims."""
        for spec in order["specs"]:
            if not claims or spec["claim"] in claims:
                message = {
                    "op": "poked", "batch": order["batch"], "claim": spec["claim"], "result": False, "error": None,
                    "outcome": None, "retry": True, "hung": False,
                }  # fmt: skip
                self.deferred.poked({**message, **fields})

    @property
    def items(self) -> list[Claimed]:
        return self.parts.claimed

    def await_end(self) -> End:
        return self.parts.until(lambda: self.parts.ended)[-1]


@pytest.fixture
def waits(tmp_path: Path) -> Iterator[Waits]:
    waits = Waits(tmp_path / "home")
    yield waits
    waits.parts.close()


def claims_of(order: dict[str, Any]) -> set[int]:
    return {spec["claim"] for spec in order["specs"]}


def test_a_sensor_is_poked_as_soon_as_it_is_ready(waits: Waits) -> None:
    waits.sensors(poke_timeout=7.0, poke_interval=3600.0)
    order = waits.poke()
    assert (order["version"], order["poke_timeout"], order["isolated"]) == ("version-1", 7.0, False)
    spec = order["specs"][0]
    assert (spec["sensor"], spec["claim"]) == (True, waits.items[0].claim)
    assert waits.parts.states() == {"sales0": "deferred"}


def test_a_poke_that_finds_nothing_writes_nothing_and_is_repeated_after_the_interval(waits: Waits) -> None:
    waits.sensors(poke_interval=0.1)
    first = waits.poke()
    advances = len(waits.parts.outcomes)
    before = time.monotonic()
    waits.answer(first)
    due = waits.deferred.next_poke_of(waits.items[0].claim)
    assert due is not None
    assert before + 0.1 <= due <= time.monotonic() + 0.1
    assert waits.poke(2)["batch"] != first["batch"]
    assert time.monotonic() >= due
    since = waits.parts.outcomes[advances:]  # the claim may be followed by a look for more
    assert not any(outcomes.claimed or ends for outcomes, ends in since)


def test_a_condition_that_came_true_is_success(waits: Waits) -> None:
    waits.sensors()
    waits.answer(waits.poke(), result=True)
    assert waits.await_end().outcome == "success"
    assert waits.parts.states() == {"sales0": "success"}
    assert waits.deferred.next_poke_of(waits.items[0].claim) is None


@pytest.mark.parametrize(
    ("fields", "state", "retries"),
    [
        ({"outcome": "failed", "error": "ValueError: no"}, "retrying", 1),
        ({"outcome": "failed", "error": "ValueError: no"}, "failed", 0),
        ({"outcome": "failed", "error": "FailTask", "retry": False}, "failed", 1),
        ({"outcome": "skipped", "error": "SkipTask: nothing today"}, "skipped", 1),
    ],
)
def test_what_a_poke_raised_ends_the_attempt(waits: Waits, fields: dict[str, Any], state: str, retries: int) -> None:
    waits.sensors(task={"retries": retries})
    waits.answer(waits.poke(), **fields)
    assert waits.await_end().reason == fields["error"]
    assert waits.parts.states() == {"sales0": state}


def test_rendered_fields_are_kept_with_the_end(waits: Waits) -> None:
    waits.sensors()
    order = waits.poke()
    path = Path(order["specs"][0]["rendered_file"])
    path.parent.mkdir(parents=True)
    path.write_text('{"path": "/in/05"}')
    waits.answer(order, result=True)
    assert waits.await_end().rendered == '{"path": "/in/05"}'


# --- together and alone ---


def test_sensors_of_one_version_that_are_due_together_share_a_process(waits: Waits) -> None:
    waits.sensors(50)
    order = waits.poke()
    assert len(order["specs"]) == 50
    assert not order["isolated"]


def test_at_most_64_share_one(waits: Waits) -> None:
    waits.sensors(100)
    waits.poke(2)
    assert sorted(len(order["specs"]) for order in waits.launcher.ordered("poke")) == [36, 64]


def test_versions_and_time_limits_do_not_mix(waits: Waits) -> None:
    waits.sensors(2, "a")
    waits.sensors(2, "b", poke_timeout=20.0)
    waits.poke(2)
    by_version = {order["version"]: order for order in waits.launcher.ordered("poke")}
    assert {version: len(order["specs"]) for version, order in by_version.items()} == {"version-1": 2, "version-2": 2}


def test_isolated_sensors_are_poked_alone(waits: Waits) -> None:
    waits.sensors(3, isolated=True)
    waits.poke(3)
    orders = waits.launcher.ordered("poke")
    assert [(len(order["specs"]), order["isolated"]) for order in orders] == [(1, True)] * 3


def test_no_more_than_four_processes_poke_at_once(waits: Waits) -> None:
    waits.sensors(6, isolated=True, poke_interval=3600.0)
    order = waits.poke(4)
    fired: list[bool] = []
    waits.parts.loop.call_later(0.1, lambda: fired.append(True))
    waits.parts.until(lambda: fired)
    assert len(waits.launcher.ordered("poke")) == 4
    waits.answer(order)
    waits.poke(5)
    assert len(waits.launcher.ordered("poke")) == 5


def test_a_sensor_that_hangs_twice_is_poked_alone_until_it_ends_in_time(waits: Waits) -> None:
    waits.sensors(2, poke_interval=0.02)
    order = waits.poke()
    bad = order["specs"][0]["claim"]
    for expected in (True, False):
        waits.answer(order, bad, hung=True)
        waits.answer(order, *(claims_of(order) - {bad}))
        count = len(waits.launcher.ordered("poke"))
        order = waits.parts.until(
            lambda count=count: next(
                (new for new in waits.launcher.ordered("poke")[count:] if bad in claims_of(new)), None
            )
        )
        others = [new for new in waits.launcher.ordered("poke")[count:] if new is not order]
        for other in others:
            waits.answer(other)
        assert order["isolated"] is not expected
    waits.answer(order)
    count = len(waits.launcher.ordered("poke"))
    again = waits.parts.until(
        lambda: next((new for new in waits.launcher.ordered("poke")[count:] if bad in claims_of(new)), None)
    )
    assert not again["isolated"]


def test_an_exponential_back_off_doubles_up_to_its_bound(waits: Waits) -> None:
    waits.sensors(poke_interval=0.01, exponential_backoff=True, max_poke_interval=0.05)
    for count, pause in enumerate((0.01, 0.02, 0.04, 0.05, 0.05), 1):
        order = waits.poke(count)
        before = time.monotonic()
        waits.answer(order)
        due = waits.deferred.next_poke_of(waits.items[0].claim)
        assert due is not None
        assert before + pause <= due <= time.monotonic() + pause


def test_a_back_off_without_end_does_not_overflow(waits: Waits) -> None:
    waits.sensors(poke_interval=0.001, exponential_backoff=True, max_poke_interval=0.001)
    for count in range(1, 1100 // 50):
        waits.answer(waits.poke(count))
    item = waits.deferred._waiting[waits.items[0].claim]
    item.pokes = 5000
    assert waits.deferred._interval(item) == 0.001


# --- time limits ---


def test_a_sensor_that_waited_too_long_fails_without_another_try(waits: Waits) -> None:
    waits.sensors(timeout=0.1, poke_interval=3600.0, task={"retries": 3})
    waits.answer(waits.poke())
    end = waits.await_end()
    assert (end.outcome, end.may_retry) == ("failed", False)
    assert (end.reason or "").startswith("SensorTimeout: the condition did not come true within 0.1 s")
    assert waits.parts.states() == {"sales0": "failed"}


def test_with_soft_fail_it_is_skipped(waits: Waits) -> None:
    waits.sensors(timeout=0.05, poke_interval=3600.0, soft_fail=True)
    waits.answer(waits.poke())
    assert waits.await_end().outcome == "skipped"


def test_a_poke_under_way_at_the_time_limit_is_cancelled_and_its_answer_too_late(waits: Waits) -> None:
    waits.sensors(timeout=0.05)
    order = waits.poke()
    waits.await_end()
    assert waits.launcher.await_order("cancel_poke")["claim"] == waits.items[0].claim
    waits.answer(order, result=True)
    waits.parts.after(waits.writer)
    assert [end.outcome for end in waits.parts.ended] == ["failed"]


def test_an_adopted_sensor_has_only_the_time_that_is_left(waits: Waits) -> None:
    waits.writer.stop_claiming()
    waits.adopts = True
    from flux.store.attempts import Holder

    waits.writer.begin_claiming(Holder(waits.parts.job, "launcher-1", "here"), [])
    waits.sensors(timeout=60.0, poke_interval=3600.0)
    waits.parts.until(lambda: waits.items)
    waits.parts.clock.pass_time(hours=1)
    waits.deferred.add(waits.items[0], "version-1", "here", adopted=True)
    assert waits.await_end().outcome == "failed"


def test_adopted_sensors_are_spread_over_their_interval(waits: Waits) -> None:
    waits.adopts = True
    waits.sensors(40, poke_interval=1000.0)
    waits.parts.until(lambda: len(waits.items) == 40)
    dues = [waits.deferred.next_poke_of(item.claim) for item in waits.items]
    left = sorted(due - time.monotonic() for due in dues if due is not None)
    assert len(left) == 40
    assert left[-1] - left[0] > 400


# --- ended by others ---


def test_a_sensor_that_is_given_up_ends_as_killed(waits: Waits) -> None:
    waits.sensors(task={"retries": 3})
    order = waits.poke()
    waits.deferred.give_up(waits.items[0].claim, "its run took too long")
    end = waits.await_end()
    assert (end.outcome, end.reason, waits.parts.states()) == ("killed", "its run took too long", {"sales0": "failed"})
    assert waits.launcher.await_order("cancel_poke")["claim"] == waits.items[0].claim
    waits.answer(order)
    assert waits.deferred.next_poke_of(waits.items[0].claim) is None


def test_giving_up_what_does_not_wait_is_nothing(waits: Waits) -> None:
    waits.deferred.give_up(7, "gone")
    waits.sensors()
    waits.poke()
    assert waits.parts.ended == []


# --- without a launcher ---


def test_without_a_launcher_sensors_wait_for_one(waits: Waits) -> None:
    waits.has_launcher = False
    waits.sensors(3)
    waits.parts.until(lambda: len(waits.deferred._due) == 3)
    waits.has_launcher = True
    waits.deferred.launcher_came()
    assert len(waits.poke()["specs"]) == 3


def test_what_a_launcher_that_died_was_poking_is_poked_again(waits: Waits) -> None:
    waits.sensors(5, isolated=True, poke_interval=3600.0)
    old = waits.poke(4)
    waits.has_launcher = False
    waits.deferred.launcher_lost()
    waits.has_launcher = True
    waits.deferred.launcher_came()
    waits.poke(8)
    waits.answer(old, result=True)
    waits.parts.after(waits.writer)
    assert waits.parts.ended == [], "an answer to a poke that was given up counts for nothing"
    for order in waits.launcher.ordered("poke")[4:]:
        waits.answer(order, result=True)
    waits.answer(waits.poke(9), result=True)
    waits.parts.until(lambda: len(waits.parts.ended) == 5)
    assert set(waits.parts.states().values()) == {"success"}

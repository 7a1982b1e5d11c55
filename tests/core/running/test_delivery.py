"""Announcements on their way from the outbox to the listener process, which the test plays."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flux.running.delivery import Delivery
from flux.running.writer import Writer
from flux.states import Outcome
from flux.store import announcing, outbox, schema
from flux.store.attempts import End
from flux.wire import Message, Wire
from tests.parts import NOW, Parts

LOADED = [{"name": "acme", "module": "acme.provider", "folder": None, "stamp": "1.0"}]


class Played:
    """The listener's side of a connection; `tells`: it acknowledges whatever comes at once."""

    def __init__(self, parts: Parts, delivery: Delivery, *, tells: bool = False) -> None:
        ours, theirs = socket.socketpair()
        self.heard: list[Message] = []
        self.ends = 0
        self.tells = tells
        self.wire = Wire(ours, parts.loop, self._hear, self._ended)
        self.take: Callable[[Message], object] = lambda message: self._take(message)
        served = Wire(theirs, parts.loop, lambda message: self._take(message), lambda: None)
        self._take = delivery.came(served)
        parts.at_close(served.close)
        parts.at_close(self.wire.close)

    def _hear(self, message: Message) -> None:
        self.heard.append(message)
        if self.tells and message["op"] == "events":
            self.told(*(event["id"] for event in message["events"]))

    def _ended(self) -> None:
        self.ends += 1

    @property
    def events(self) -> list[Message]:
        """Every event so far, in order."""
        return [event for message in self.heard if message["op"] == "events" for event in message["events"]]

    def ready(self) -> None:
        self.wire.send({"op": "ready"})

    def told(self, *ids: int) -> None:
        self.wire.send({"op": "told", "ids": list(ids)})


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path / "home")
    parts.flux.store.announce(frozenset(announcing.KINDS))
    yield parts
    parts.close()


@pytest.fixture
def writer(parts: Parts) -> Writer:
    return parts.writer(claims=False)


@pytest.fixture
def delivery(parts: Parts, writer: Writer) -> Delivery:
    return Delivery(parts.loop, parts.clock, writer, parts.structures, LOADED)


def announce(parts: Parts, count: int) -> list[int]:
    """Put rows into the outbox past everything, and return their numbers."""
    messages = [(1, {"task_id": f"t{number}", "version": 0}) for number in range(count)]
    parts.write(lambda connection: outbox.add_all(connection, announcing.TASK_STATE, messages, NOW))
    return rows(parts)[-count:]


def rows(parts: Parts) -> list[int]:
    query = sa.select(schema.outbox.c.id).order_by(schema.outbox.c.id)
    return list(parts.read(lambda connection: connection.scalars(query).all()))


def test_a_listener_is_told_what_to_load_and_gets_nothing_before_it_is_ready(
    parts: Parts, delivery: Delivery, writer: Writer
) -> None:
    announce(parts, 1)
    played = Played(parts, delivery)
    delivery.look()
    parts.after(writer)
    parts.until(lambda: played.heard)
    assert played.heard == [{"op": "providers", "providers": LOADED}]
    played.ready()
    parts.until(lambda: played.events)


def test_what_waits_comes_oldest_first_in_bounded_batches_and_goes_when_it_was_told(
    parts: Parts, delivery: Delivery
) -> None:
    ids = announce(parts, 250)
    played = Played(parts, delivery)
    played.ready()
    for count in (100, 200, 250):
        parts.until(lambda count=count: len(played.events) == count)
        played.told(*(event["id"] for event in played.heard[-1]["events"]))
    parts.until(lambda: not rows(parts))
    assert [event["id"] for event in played.events] == ids
    assert [event["task_id"] for event in played.events] == [f"t{number}" for number in range(250)]


def test_a_commit_that_announced_is_told_without_asking(parts: Parts) -> None:
    made: list[Delivery] = []
    writer = parts.writer(on_outcomes=lambda *_: made[0].look())
    made.append(Delivery(parts.loop, parts.clock, writer, parts.structures, LOADED))
    played = Played(parts, made[0], tells=True)
    played.ready()
    run = parts.trigger(parts.define())
    writer.look()
    parts.until(lambda: len(played.events) == 2)
    writer.end(End(parts.claimed[0].claim, Outcome.SUCCESS, None, NOW))
    parts.until(lambda: len(played.events) == 4)
    assert [(event["what"], event["previous"], event["state"]) for event in played.events] == [
        ("dag_run_state", "queued", "running"),
        ("task_state", "ready", "started"),
        ("task_state", "started", "success"),
        ("dag_run_state", "running", "success"),
    ]
    assert {event["run_id"] for event in played.events} == {run.run_id}
    assert {event["operator"] for event in played.events if event["what"] == "task_state"} == {"PythonOperator"}


def test_a_batch_that_is_told_in_parts_is_followed_by_the_next_when_all_is_told(
    parts: Parts, delivery: Delivery, writer: Writer
) -> None:
    first, second = announce(parts, 2)
    played = Played(parts, delivery)
    played.ready()
    parts.until(lambda: played.events)
    [third] = announce(parts, 1)
    played.told(first)
    parts.until(lambda: rows(parts) == [second, third])
    delivery.look()
    parts.after(writer)
    assert len(played.events) == 2
    played.told(second)
    parts.until(lambda: [event["id"] for event in played.events] == [first, second, third])


def test_what_was_not_told_comes_again_to_the_next_listener(parts: Parts, delivery: Delivery) -> None:
    first, second = announce(parts, 2)
    killed = Played(parts, delivery)
    killed.ready()
    parts.until(lambda: killed.events)
    killed.told(first)
    parts.until(lambda: rows(parts) == [second])
    following = Played(parts, delivery)
    following.ready()
    parts.until(lambda: following.events)
    assert [event["id"] for event in following.events] == [second]
    parts.until(lambda: killed.ends == 1)


def test_at_the_end_what_was_told_is_dropped_at_once(parts: Parts, delivery: Delivery) -> None:
    first, second = announce(parts, 2)
    played = Played(parts, delivery)
    played.ready()
    parts.until(lambda: played.events)
    played.told(first)
    parts.until(lambda: delivery._told)
    delivery.close()
    parts.until(lambda: rows(parts) == [second], 0.4)


def test_words_of_an_earlier_listener_delete_nothing(parts: Parts, delivery: Delivery, writer: Writer) -> None:
    [only] = announce(parts, 1)
    killed = Played(parts, delivery)
    killed.ready()
    parts.until(lambda: killed.events)
    Played(parts, delivery)
    killed.take({"op": "told", "ids": [only]})
    parts.after(writer)
    assert rows(parts) == [only]


def test_other_providers_are_told_to_the_listener_that_is_there(parts: Parts, delivery: Delivery) -> None:
    played = Played(parts, delivery)
    changed: list[dict[str, Any]] = [{**LOADED[0], "stamp": "1.1"}]
    delivery.change_providers(changed)
    parts.until(lambda: len(played.heard) == 2)
    assert played.heard[1] == {"op": "providers", "providers": changed}
    assert delivery.providers == changed


def test_an_operator_that_cannot_be_known_has_no_name(parts: Parts, delivery: Delivery) -> None:
    announce(parts, 1)
    played = Played(parts, delivery)
    played.ready()
    parts.until(lambda: played.events)
    assert played.events[0]["operator"] == ""


@pytest.mark.slow
def test_a_database_that_is_away_loses_nothing(
    parts: Parts, delivery: Delivery, capsys: pytest.CaptureFixture[str]
) -> None:
    [only] = announce(parts, 1)
    parts.write(lambda connection: connection.exec_driver_sql("ALTER TABLE outbox RENAME TO away"))
    played = Played(parts, delivery)
    played.ready()
    parts.until(lambda: "no such table" in capsys.readouterr().err)
    parts.write(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO outbox"))
    parts.until(lambda: [event["id"] for event in played.events] == [only])

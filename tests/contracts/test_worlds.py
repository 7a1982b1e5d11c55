"""What a task can ask for is answered alike by the kit's fake and by a supervisor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux.attempt import World
from flux.connection import Connection
from flux.errors import NotFound
from flux.running.channel import ChannelWorld
from flux.running.server import Server
from flux.testing import FakeWorld
from tests.parts import Parts

URI = "mysql://ada:geheim@db.example:3306/shop"


class Asked:
    """A world whose questions are asked in a thread, while the loop of the supervisor that answers runs in this one."""

    def __init__(self, parts: Parts, world: ChannelWorld) -> None:
        self._parts, self._world = parts, world

    def __getattr__(self, verb: str) -> Any:
        def ask(*arguments: Any) -> Any:
            told: list[Any] = []

            def run() -> None:
                try:
                    told.append(getattr(self._world, verb)(*arguments))
                except Exception as error:
                    told.append(error)

            thread = threading.Thread(target=run)
            thread.start()
            self._parts.until(lambda: told, seconds=20)
            thread.join()
            if isinstance(told[0], Exception):
                raise told[0]
            return told[0]

        return ask


@pytest.fixture(params=["fake", "supervisor"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world with one connection and one variable, for a task of the DAG 'sales'."""
    if request.param == "fake":
        yield FakeWorld(connections={"shop": Connection.from_uri("shop", URI)}, variables={"region": "north"})
        return
    parts = Parts(tmp_path)
    writer = parts.writer()
    environ = {"FLUX_CONN_SHOP": URI, "FLUX_VAR_REGION": "north"}
    server = Server(parts.config, parts.loop, parts.clock, writer, environ, {})
    server.start()
    parts.at_close(server.stop)
    parts.trigger(parts.define("sales", [{"task_id": "load"}, {"task_id": "check"}]))
    writer.look()
    parts.until(lambda: len(parts.claimed) == 2)
    channel = ChannelWorld(parts.config.run_folder / "endpoint", parts.claimed[0].claim)
    yield Asked(parts, channel)
    channel.close()
    parts.close()


def test_a_connection_comes_as_what_connection_reads(world: World) -> None:
    found = Connection.from_message(world.connection("shop"))
    assert found == Connection.from_uri("shop", URI)


def test_a_connection_that_does_not_exist_is_named(world: World) -> None:
    with pytest.raises(NotFound, match="'shopp'"):
        world.connection("shopp")


def test_a_variable_is_a_text_or_none(world: World) -> None:
    assert (world.variable("region"), world.variable("nonsuch")) == ("north", None)


def test_what_is_not_there_is_none(world: World) -> None:
    assert world.result("check") is None
    assert world.task_state("sales", "nonsuch", "load") is None
    assert world.previous_run(True) is None


def test_a_run_that_is_triggered_has_an_id(world: World) -> None:
    assert world.trigger("sales", {"a": 1}, None).startswith("manual__")


def test_progress_is_taken(world: World) -> None:
    world.progress("half")
    assert world.variable("region") == "north"

"""A task's questions to a supervisor that answers, refuses, dies and comes back."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from flux import wire
from flux.errors import FluxError, NotFound
from flux.running.channel import ChannelWorld


class Supervisor:
    """Serves connections one after the other: each list gives the answers to the questions of one connection."""

    def __init__(self, folder: Path, *connections: list[dict[str, Any]]) -> None:
        self.listener, self.address = wire.listen(folder / "supervisor.sock")
        self.listener.setblocking(True)
        self.endpoint = folder / "endpoint"
        self.endpoint.write_text(self.address)
        self.heard: list[Any] = []
        self.thread = threading.Thread(target=self._serve, args=(connections,))
        self.thread.start()

    def _serve(self, connections: tuple[list[dict[str, Any]], ...]) -> None:
        for answers in connections:
            sock, _ = self.listener.accept()
            with sock, sock.makefile("rwb") as file:
                self.heard.append(json.loads(file.readline()))
                for answer in answers:
                    question = json.loads(file.readline())
                    self.heard.append(question)
                    file.write(json.dumps({"id": question["id"], **answer}).encode() + b"\n")
                    file.flush()
                if not answers:
                    self.heard.append(json.loads(file.readline()))

    def close(self) -> None:
        self.thread.join()
        self.listener.close()


def test_the_claim_is_said_once_and_each_verb_has_its_arguments(tmp_path: Path) -> None:
    values: list[Any] = ["7", {"type": "hive"}, None, "success", {"logical_date": "x"}, "manual__1", None]
    supervisor = Supervisor(tmp_path, [{"value": value} for value in values])
    world = ChannelWorld(supervisor.endpoint, 42)
    assert world.result("load", "rows") == "7"
    assert world.connection("hive_default") == {"type": "hive"}
    assert world.variable("x") is None
    assert world.task_state("sales", "r", "load") == "success"
    assert world.previous_run(True) == {"logical_date": "x"}
    assert world.trigger("other", {"a": 1}, None) == "manual__1"
    world.progress("half")
    world.close()
    supervisor.close()
    assert supervisor.heard == [
        {"claim": 42},
        {"id": 1, "verb": "result", "task_id": "load", "key": "rows", "map_index": -1},
        {"id": 2, "verb": "connection", "conn_id": "hive_default"},
        {"id": 3, "verb": "variable", "name": "x"},
        {"id": 4, "verb": "task_state", "dag_id": "sales", "run_id": "r", "task_id": "load"},
        {"id": 5, "verb": "previous_run", "successful": True},
        {"id": 6, "verb": "trigger", "dag_id": "other", "conf": {"a": 1}, "logical_date": None},
        {"id": 7, "verb": "progress", "text": "half"},
    ]


def test_a_refusal_is_an_error_of_its_class(tmp_path: Path) -> None:
    error = {"code": "not-found", "message": "Connection 'x' does not exist."}
    supervisor = Supervisor(tmp_path, [{"error": error}, {"value": "still there"}])
    world = ChannelWorld(supervisor.endpoint, 1)
    with pytest.raises(NotFound, match="Connection 'x'"):
        world.connection("x")
    assert world.variable("x") == "still there"
    world.close()
    supervisor.close()


def test_a_question_is_asked_again_when_the_supervisor_is_replaced(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, [], [{"value": "new"}])
    world = ChannelWorld(supervisor.endpoint, 42)
    assert world.variable("x") == "new"
    world.close()
    supervisor.close()
    question = {"id": 1, "verb": "variable", "name": "x"}
    assert supervisor.heard == [{"claim": 42}, question, {"claim": 42}, question]


def test_a_supervisor_elsewhere_is_found_by_the_endpoint(tmp_path: Path) -> None:
    first = Supervisor(tmp_path, [{"value": "old"}])
    world = ChannelWorld(first.endpoint, 1)
    assert world.variable("x") == "old"
    first.close()
    (tmp_path / "new").mkdir()
    second = Supervisor(tmp_path / "new", [{"value": "new"}])
    first.endpoint.write_text(second.address)
    assert world.variable("x") == "new"
    world.close()
    second.close()


def test_without_a_supervisor_the_question_fails_in_the_end(tmp_path: Path) -> None:
    world = ChannelWorld(tmp_path / "endpoint", 1, patience=0.1)
    with pytest.raises(FluxError, match="No supervisor answered the question for 'variable'"):
        world.variable("x")


def test_threads_share_one_connection(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, [{"value": "v"}] * 20)
    world = ChannelWorld(supervisor.endpoint, 1)
    values: list[str | None] = []
    threads = [threading.Thread(target=lambda: values.append(world.variable("x"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == ["v"] * 20
    world.close()
    supervisor.close()

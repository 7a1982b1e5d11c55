"""The supervisor's socket: what attempts and commands may ask, and what it does with nonsense."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flux import wire
from flux.errors import FluxError, NotFound, Refused
from flux.running.server import Answer, Server
from flux.states import Outcome
from flux.store import audit, listing, variables
from flux.store.attempts import Claimed, End
from flux.times import iso
from tests.parts import NOW, Parts
from tests.waiting import until


class Served:
    """A server in the loop, and clients that ask it in threads of their own."""

    def __init__(self, home: Path, environ: Mapping[str, str]) -> None:
        self.parts = Parts(home)
        self.writer = self.parts.writer()
        self.kept: list[Answer] = []
        commands: dict[str, Callable[[Mapping[str, Any], Answer], None]] = {
            "echo": lambda question, answer: answer({"said": question["text"]}),
            "later": lambda question, answer: self.kept.append(answer),
            "refuse": self._refuse,
        }
        self.server = Server(self.parts.config, self.parts.loop, self.parts.clock, self.writer, environ, commands)
        self.server.start()
        self.parts.at_close(self.server.stop)
        self.endpoint = self.parts.config.run_folder / "endpoint"

    def _refuse(self, question: Mapping[str, Any], answer: Answer) -> None:
        raise Refused("Not today.")

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Ask as a command does."""
        return self._in_thread(lambda: wire.request(self.endpoint, message, 10))

    def attempt(self, claim: object, *questions: dict[str, Any]) -> list[dict[str, Any]]:
        """Ask as an attempt does, and return the answers in the order in which they come."""

        def talk() -> list[dict[str, Any]]:
            lines = wire.Lines(wire.connect(self.endpoint, timeout=10))
            lines.send({"claim": claim}, *({"id": number, **each} for number, each in enumerate(questions)))
            answers = [lines.receive(10) for _ in questions]
            lines.close()
            return answers

        return self._in_thread(talk)

    def value(self, claim: int, verb: str, **fields: Any) -> Any:
        (answer,) = self.attempt(claim, {"verb": verb, **fields})
        assert "error" not in answer, answer
        return answer["value"]

    def error(self, claim: int, verb: str, **fields: Any) -> FluxError:
        (answer,) = self.attempt(claim, {"verb": verb, **fields})
        return wire.error_from(answer["error"])

    def _in_thread(self, work: Callable[[], Any]) -> Any:
        results: list[Any] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(work())
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self.parts.until(lambda: results or errors, seconds=20)
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def claim(self, dag_id: str = "sales", **fields: Any) -> Claimed:
        """Have a task claimed."""
        count = len(self.parts.claimed)
        self.parts.trigger(self.parts.define(dag_id, [{"task_id": "load"}, {"task_id": "check"}], **fields))
        self.writer.look()
        self.parts.until(lambda: len(self.parts.claimed) == count + 2)
        return self.parts.claimed[count]

    def end(self, item: Claimed, **fields: Any) -> None:
        self.writer.end(End(item.claim, Outcome.SUCCESS, None, NOW, **fields))
        self.parts.until(lambda: item.claim in [end.claim for end in self.parts.ended])


ENVIRON = {
    "FLUX_CONN_SHOP": "mysql://ada:geheim@db.example:3306/shop",
    "FLUX_VAR_REGION": "north",
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "home", ENVIRON)
    yield served
    served.parts.close()


# --- the socket ---


def test_only_our_user_may_connect(served: Served) -> None:
    path = served.endpoint.read_text()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116


def test_after_stop_nobody_serves(served: Served) -> None:
    served.server.stop()
    assert not served.endpoint.exists()
    with pytest.raises(OSError):
        wire.request(served.endpoint, {"verb": "echo", "text": "x"}, 1)


def test_a_home_with_a_long_path_is_served(tmp_path: Path) -> None:
    served = Served(tmp_path / ("long" * 30), ENVIRON)
    assert served.ask({"verb": "echo", "text": "hello"}) == {"said": "hello"}
    served.parts.close()


# --- commands ---


def test_a_command_is_answered(served: Served) -> None:
    assert served.ask({"verb": "echo", "text": "ü\ud800"}) == {"said": "ü\ud800"}


def test_an_answer_may_come_later_and_after_the_client_has_gone(served: Served) -> None:
    lines = wire.Lines(wire.connect(served.endpoint))
    lines.send({"client": "cli"}, {"id": 1, "verb": "later"}, {"id": 2, "verb": "later"})
    served.parts.until(lambda: len(served.kept) == 2)
    served.kept[1]({"second": True})
    assert lines.receive(5) == {"id": 2, "value": {"second": True}}
    lines.close()
    served.parts.until(lambda: not served.server._clients)
    served.kept[0]({"first": True})
    assert served.ask({"verb": "echo", "text": "on"}) == {"said": "on"}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"verb": "fly"}, "no verb 'fly'"),
        ({}, "no verb None"),
        ({"verb": ["echo"]}, "no verb"),
        ({"verb": "refuse"}, "Not today."),
        ({"verb": "echo"}, "KeyError: 'text'"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_told_why(served: Served, message: dict[str, Any], words: str) -> None:
    with pytest.raises(FluxError) as caught:
        served.ask(message)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"[]\n", b"\xff\xfe\n", b"{}\n", b'{"client": "web"}\n', b'{"claim": "7"}\n', b"null\n"],
)
def test_who_does_not_speak_the_protocol_is_cut_off_and_nobody_else(served: Served, data: bytes) -> None:
    sock = wire.connect(served.endpoint, timeout=10)
    sock.sendall(data)
    served.parts.until(lambda: served.server._clients)
    served.parts.until(lambda: not served.server._clients)
    assert sock.recv(100) == b""
    sock.close()
    assert served.ask({"verb": "echo", "text": "on"}) == {"said": "on"}


def test_a_client_that_dies_in_the_middle_of_a_line_harms_nobody(served: Served) -> None:
    sock = wire.connect(served.endpoint, timeout=10)
    sock.sendall(b'{"client": "cli"}\n{"id": 1, "verb": "ec')
    sock.close()
    assert served.ask({"verb": "echo", "text": "on"}) == {"said": "on"}
    served.parts.until(lambda: not served.server._clients)


def test_many_clients_at_once(served: Served) -> None:
    def talk() -> list[Any]:
        clients = [wire.Lines(wire.connect(served.endpoint, timeout=10)) for _ in range(100)]
        for number, client in enumerate(clients):
            client.send({"client": "cli"}, {"id": number, "verb": "echo", "text": str(number)})
        answers = [client.receive(10)["value"]["said"] for client in clients]
        for client in clients:
            client.close()
        return answers

    assert served._in_thread(talk) == [str(number) for number in range(100)]
    served.parts.until(lambda: not served.server._clients)


# --- attempts ---


def test_a_result_of_a_task_upstream(served: Served) -> None:
    first = served.claim()
    second = served.parts.claimed[1]
    assert served.value(second.claim, "result", task_id="load", key="return_value", map_index=-1) is None
    log = served.parts.config.logs_folder / "big.result"
    log.write_text('"large"')
    served.end(first, results={"return_value": '{"rows": 7}'}, result_files={"big": "big.result"})
    assert served.value(second.claim, "result", task_id="load", key="return_value", map_index=-1) == '{"rows": 7}'
    assert served.value(second.claim, "result", task_id="load", key="big", map_index=-1) == '"large"'
    assert served.value(second.claim, "result", task_id="other", key="return_value", map_index=-1) is None
    log.unlink()
    error = served.error(second.claim, "result", task_id="load", key="big", map_index=-1)
    assert "No such file" in str(error)
    assert "big.result" in str(error)


def test_a_connection_of_the_environment(served: Served) -> None:
    item = served.claim()
    found = served.value(item.claim, "connection", conn_id="shop")
    assert (found["host"], found["port"]) == ("db.example", 3306)
    error = served.error(item.claim, "connection", conn_id="shep")
    assert isinstance(error, NotFound)
    assert "shop" in str(error)
    assert "FLUX_CONN_SHEP" in str(error)


def test_a_variable_of_the_environment_goes_before_one_of_the_store(served: Served) -> None:
    item = served.claim()
    served.parts.write(lambda connection: variables.set(connection, "region", "south"))
    served.parts.write(lambda connection: variables.set(connection, "rate", "7"))
    values = [served.value(item.claim, "variable", name=name) for name in ("region", "rate", "missing")]
    assert values == ["north", "7", None]


def test_the_state_of_another_task(served: Served) -> None:
    item = served.claim()
    where = {"dag_id": "sales", "run_id": item.run.run_id}
    assert served.value(item.claim, "task_state", **where, task_id="check") == "started"
    assert served.value(item.claim, "task_state", **where, task_id="none") is None


def test_the_previous_run(served: Served) -> None:
    from flux.schedule import DataInterval
    from flux.states import RunKind
    from flux.store import dags, runs
    from flux.times import from_iso

    day = [from_iso(f"2026-01-0{number}T00:00:00+00:00") for number in (1, 2, 3)]
    version = served.parts.define("daily", [{"task_id": "load"}])
    for start, end in ((day[0], day[1]), (day[1], day[2])):
        served.parts.write(
            lambda connection, start=start, end=end: runs.create(
                connection, dag=dags.by_row(connection, version.dag_row), version=version, kind=RunKind.SCHEDULED,
                interval=DataInterval(start, end), now=NOW,
            )
        )  # fmt: skip
    served.writer.look()
    first, second = sorted(served.parts.until(lambda: served.parts.claimed), key=lambda item: item.run.logical_date)
    expected = {"logical_date": iso(day[0]), "interval_start": iso(day[0]), "interval_end": iso(day[1])}
    assert served.value(second.claim, "previous_run", successful=False) == expected
    assert served.value(second.claim, "previous_run", successful=True) is None
    assert served.value(first.claim, "previous_run", successful=False) is None
    served.end(first)
    assert served.value(second.claim, "previous_run", successful=True) == expected


def test_a_run_that_a_task_triggers_begins_at_once_and_is_on_record(served: Served) -> None:
    item = served.claim()
    served.parts.define("shop", [{"task_id": "only"}])
    run_id = served.value(item.claim, "trigger", dag_id="shop", conf={"day": 5}, logical_date="2026-01-05")
    served.parts.until(lambda: served.parts.states().get("only") == "started")
    run = served.parts.runs("shop")[0]
    assert (run.run_id, run.kind, json.loads(run.conf)) == (run_id, "manual", {"day": 5})
    assert iso(run.logical_date) == "2026-01-05T00:00:00+00:00"
    entry = served.parts.read(lambda connection: audit.every(connection, 10))[0]
    assert (entry.action, entry.object) == ("run.trigger", "dag shop")
    assert "sales" in entry.who
    assert isinstance(served.error(item.claim, "trigger", dag_id="shup", conf=None, logical_date=None), NotFound)
    assert len(served.parts.runs("shop")) == 1


def test_progress_is_kept_where_people_look(served: Served) -> None:
    item = served.claim()
    assert served.value(item.claim, "progress", text="7 of 9 files") is None
    run = served.parts.runs()[0]
    shown = served.parts.read(lambda connection: listing.task_instances(connection, run.id))
    assert "7 of 9 files" in [row.reason for row in shown]


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("result", {"task_id": "load", "key": "return_value", "map_index": -1}),
        ("connection", {"conn_id": "shop"}),
        ("variable", {"name": "region"}),
        ("trigger", {"dag_id": "sales", "conf": None, "logical_date": None}),
        ("progress", {"text": "still here"}),
    ],
)
def test_a_claim_that_nobody_holds_gets_nothing(served: Served, verb: str, fields: dict[str, Any]) -> None:
    item = served.claim()
    served.end(item)
    for claim in (item.claim, 1, 2**70, -1):
        error = served.error(claim, verb, **fields)
        assert claim == 2**70 or "no longer holds its claim" in str(error)
    assert len(served.parts.runs()) == 1


@pytest.mark.parametrize(
    "question",
    [
        {"verb": "fly"}, {"verb": None}, {}, {"verb": "result"}, {"verb": "variable", "name": 7},
        {"verb": "trigger", "dag_id": "sales", "conf": [1], "logical_date": None},
        {"verb": "trigger", "dag_id": "sales", "conf": None, "logical_date": "someday"},
        {"verb": "echo", "text": "for commands only"},
    ],
)  # fmt: skip
def test_a_question_that_makes_no_sense_has_an_answer_too(served: Served, question: dict[str, Any]) -> None:
    item = served.claim()
    answers = served.attempt(item.claim, question, {"verb": "variable", "name": "region"})
    by_id = {answer["id"]: answer for answer in answers}
    assert by_id[0]["error"]["message"]
    assert by_id[1]["value"] == "north"


def test_an_attempt_that_asks_after_its_end_was_cut_off_is_answered_by_the_next_supervisor(served: Served) -> None:
    """The endpoint names the socket of the moment; a connection that is lost is made again there."""
    item = served.claim()
    sock: socket.socket = wire.connect(served.endpoint, timeout=10)
    lines = wire.Lines(sock)
    lines.send({"claim": item.claim})
    served.parts.until(lambda: served.server._clients)
    served.server.stop()
    with pytest.raises(ConnectionError):
        lines.receive(5)
    served.server.start()
    until(served.endpoint.exists)
    assert served.value(item.claim, "variable", name="region") == "north"
    lines.close()


def test_a_listener_process_is_handed_on_with_all_that_it_says(served: Served) -> None:
    heard: list[wire.Message] = []

    def came(connection: wire.Wire) -> Callable[[wire.Message], object]:
        connection.send({"op": "providers", "providers": []})
        return heard.append

    def talk() -> wire.Message:
        lines = wire.Lines(wire.connect(served.endpoint, timeout=10))
        lines.send({"client": "listener"}, {"op": "ready"}, {"op": "told", "ids": [1]})
        welcome = lines.receive(10)
        lines.close()
        return welcome

    served.server.listener = came
    assert served._in_thread(talk) == {"op": "providers", "providers": []}
    served.parts.until(lambda: heard == [{"op": "ready"}, {"op": "told", "ids": [1]}])


def test_where_nobody_takes_listeners_they_are_turned_away(served: Served) -> None:
    def talk() -> None:
        lines = wire.Lines(wire.connect(served.endpoint, timeout=10))
        lines.send({"client": "listener"})
        try:
            lines.receive(10)
        finally:
            lines.close()

    with pytest.raises(ConnectionError):
        served._in_thread(talk)

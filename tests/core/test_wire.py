"""Messages over real sockets: whole, in order, whatever the size and however the other side ends."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux import wire
from flux.errors import FluxError, NotFound
from flux.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class End:
    """One side of a connection, and what it heard."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.messages: list[Any] = []
        self.closed = 0
        self._loop = loop
        self.wire = wire.Wire(sock, loop, self.messages.append, self._close)

    def _close(self) -> None:
        self.closed += 1


def run_until(loop: Loop, predicate: Callable[[], bool], seconds: float = 10) -> None:
    def look() -> None:
        if predicate():
            loop.stop()
        else:
            loop.call_later(0.001, look)

    loop.call_later(0, look)
    deadline = loop.call_later(seconds, loop.stop)
    loop.run()
    deadline.cancel()
    assert predicate()


def test_messages_of_every_size_arrive_whole_and_in_order(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    one, two = End(loop, ours), End(loop, theirs)
    sent = [{"n": number, "text": "ä\n" * size} for number, size in enumerate([0, 1, 3_000_000, 5, 300_000, 0])]
    for message in sent:
        one.wire.send(message)
    assert one.wire.unsent > 0
    run_until(loop, lambda: len(two.messages) == len(sent))
    assert two.messages == sent
    assert one.wire.unsent == 0
    for end in (one, two):
        end.wire.close()


def test_the_last_messages_of_a_side_that_ended_are_delivered_first(loop: Loop) -> None:
    """Also when it ended without reading what it was sent (ECONNRESET)."""
    ours, theirs = socket.socketpair()
    end = End(loop, ours)
    end.wire.send({"unread": True})
    theirs.sendall(b'{"last": 1}\n{"last": 2}\n')
    theirs.close()
    run_until(loop, lambda: end.closed == 1)
    assert end.messages == [{"last": 1}, {"last": 2}]
    end.wire.send({"nobody": "hears"})


def test_what_is_no_message_ends_the_connection(loop: Loop) -> None:
    for line in (b"hello\n", b"[1]\n", b'{"a": \n'):
        ours, theirs = socket.socketpair()
        end = End(loop, ours)
        theirs.sendall(b'{"a": 1}\n' + line)
        run_until(loop, lambda end=end: end.closed == 1)  # type: ignore[misc]
        assert end.messages == [{"a": 1}]
        theirs.close()


def test_a_callback_that_raises_does_not_lose_the_next_message(loop: Loop, capsys: Any) -> None:
    ours, theirs = socket.socketpair()
    seen = []

    def take(message: dict[str, Any]) -> None:
        seen.append(message["n"])
        if message["n"] == 1:
            raise ValueError("broken callback")

    end = wire.Wire(ours, loop, take, lambda: None)
    theirs.sendall(b'{"n": 1}\n{"n": 2}\n')
    run_until(loop, lambda: seen == [1, 2])
    assert "broken callback" in capsys.readouterr().err
    end.close()
    theirs.close()


def test_nothing_is_called_after_our_own_close(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    end = End(loop, ours)
    theirs.sendall(b'{"n": 1}\n')
    end.wire.close()
    end.wire.close()
    run_until(loop, lambda: True)
    assert (end.messages, end.closed) == ([], 0)
    theirs.close()


def test_text_that_is_not_unicode_goes_through(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    one, two = End(loop, ours), End(loop, theirs)
    one.wire.send({"name": os.fsdecode(b"\xff.py")})
    run_until(loop, lambda: bool(two.messages))
    assert os.fsencode(two.messages[0]["name"]) == b"\xff.py"
    one.wire.close()
    two.wire.close()


@pytest.mark.parametrize("folder", ["short", "x" * 120])
def test_a_path_of_any_length_is_served_and_reached(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "launcher.sock"
    path.parent.mkdir()
    listener, address = wire.listen(path)
    assert address == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    client = wire.connect(path)
    listener.setblocking(True)
    server, _ = listener.accept()
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    for sock in (client, server, listener):
        sock.close()
    again, _ = wire.listen(path)
    again.close()


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        wire.connect(tmp_path / "endpoint")


class Supervisor:
    """Answers requests on a thread, one connection after the other."""

    def __init__(self, folder: Path, answers: list[dict[str, Any] | None]) -> None:
        self.listener, address = wire.listen(folder / "supervisor.sock")
        self.listener.setblocking(True)
        self.endpoint = folder / "endpoint"
        self.endpoint.write_text(address)
        self.heard: list[list[Any]] = []
        self.thread = threading.Thread(target=self._serve, args=(answers,))
        self.thread.start()

    def _serve(self, answers: list[dict[str, Any] | None]) -> None:
        for answer in answers:
            sock, _ = self.listener.accept()
            with sock, sock.makefile("rwb") as file:
                self.heard.append([json.loads(file.readline()), json.loads(file.readline())])
                if answer is not None:
                    file.write(json.dumps(answer).encode() + b"\n")
                    file.flush()

    def close(self) -> None:
        self.thread.join()
        self.listener.close()


def test_a_request_greets_asks_and_returns_the_value(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, [{"id": 1, "value": {"components": []}}, {"id": 1, "value": None}])
    assert wire.request(supervisor.endpoint, {"verb": "status"}) == {"components": []}
    assert wire.request(supervisor.endpoint, {"verb": "wake"}) == {}
    assert supervisor.heard[0] == [{"client": "cli"}, {"id": 1, "verb": "status"}]
    supervisor.close()


def test_a_refusal_is_raised_as_the_class_of_its_code(tmp_path: Path) -> None:
    answers: list[dict[str, Any] | None] = [
        {"id": 1, "error": {"code": "not-found", "message": "DAG 'x' does not exist."}},
        {"id": 1, "error": {"code": "of-a-newer-flux", "message": "no"}},
    ]
    supervisor = Supervisor(tmp_path, answers)
    with pytest.raises(NotFound, match="DAG 'x'"):
        wire.request(supervisor.endpoint, {"verb": "x"})
    with pytest.raises(FluxError, match="no") as caught:
        wire.request(supervisor.endpoint, {"verb": "x"})
    assert type(caught.value) is FluxError
    supervisor.close()


def test_a_request_without_an_answer_is_an_error(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, [None])
    with pytest.raises(ConnectionError):
        wire.request(supervisor.endpoint, {"verb": "x"})
    supervisor.close()
    silent, _ = wire.listen(tmp_path / "silent.sock")
    with pytest.raises(TimeoutError):
        wire.request(tmp_path / "silent.sock", {"verb": "x"}, timeout=0.05)
    silent.close()


def test_a_file_is_written_whole_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "endpoint"
    path.write_text("old")
    wire.write_file(str(path), b"new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["endpoint"]

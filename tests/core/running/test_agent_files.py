"""What an agent sends of a file: all of it, in order, piece by piece, without what was freed in its middle."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from flux import linux
from flux.running.agent_files import CHUNK, FileSender


class PlayedLine:
    """Takes questions and answers them when told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self._waiting: list[Any] = []

    def ask(self, verb: str, done: Any, **arguments: Any) -> None:
        self.asked.append({"verb": verb, **arguments, "data": base64.b64decode(arguments["data"])})
        self._waiting.append(done)

    def answer(self) -> None:
        self._waiting.pop(0)(None)

    def answer_all(self) -> bytes:
        """Answer until nothing more is asked; return the file as the other side has it."""
        while self._waiting:
            self.answer()
        there = bytearray()
        for each in self.asked:
            there[each["offset"] :] = b"\0" * (each["offset"] - len(there)) + each["data"]
        return bytes(there)


@pytest.fixture
def line() -> PlayedLine:
    return PlayedLine()


def test_large_file_goes_in_pieces_one_at_a_time(line: PlayedLine, tmp_path: Path) -> None:
    file = tmp_path / "1.0.result"
    data = bytes(range(256)) * (CHUNK // 100)
    file.write_bytes(data)
    even: list[str] = []
    FileSender(line, str(file), "file", "1.0.result").send(lambda: even.append("even"))
    assert len(line.asked) == 1
    assert (line.asked[0]["name"], line.asked[0]["size"]) == ("1.0.result", len(data))
    assert line.answer_all() == data
    assert all(len(each["data"]) <= CHUNK for each in line.asked)
    assert even == ["even"]


def test_growing_file_is_sent_on_from_where_it_was(line: PlayedLine, tmp_path: Path) -> None:
    file = tmp_path / "1.log"
    sender = FileSender(line, str(file), "log")
    sender.send()
    assert line.asked == []
    for text in (b"one ", b"two ", b""):
        with file.open("ab") as log:
            log.write(text)
        sender.send()
        sender.send()
        line.answer_all()
    assert [(each["offset"], each["data"]) for each in line.asked] == [(0, b"one "), (4, b"two ")]


def test_hole_in_a_bounded_log_is_not_sent(line: PlayedLine, tmp_path: Path) -> None:
    file = tmp_path / "1.log"
    data = b"x" * (8 * CHUNK)
    file.write_bytes(data)
    with file.open("rb+") as log:
        if not linux.punch_hole(log.fileno(), CHUNK, 6 * CHUNK):
            pytest.skip("this file system frees nothing in the middle of a file")
    FileSender(line, str(file), "log").send()
    there = line.answer_all()
    assert (len(there), there.count(b"x")) == (8 * CHUNK, 2 * CHUNK)
    assert sum(len(each["data"]) for each in line.asked) < 4 * CHUNK


def test_file_that_does_not_exist_is_sent_at_once(line: PlayedLine, tmp_path: Path) -> None:
    even: list[str] = []
    FileSender(line, str(tmp_path / "none"), "file", "none").send(lambda: even.append("even"))
    assert (even, line.asked) == (["even"], [])

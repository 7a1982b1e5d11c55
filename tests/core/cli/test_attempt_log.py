"""The log of an attempt as it grows."""

from __future__ import annotations

import os
from pathlib import Path

from flux.cli.attempt_log import Tail


def test_tail_gives_what_was_added_since(tmp_path: Path) -> None:
    file = tmp_path / "1.log"
    tail = Tail(file)
    assert "".join(tail.read()) == ""
    file.write_bytes(b"one\n")
    assert "".join(tail.read()) == "one\n"
    with file.open("ab") as log:
        log.write(b"two")
    assert "".join(tail.read()) == "two"
    assert "".join(tail.read()) == ""


def test_character_that_is_written_in_two_parts_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "1.log"
    tail = Tail(file)
    file.write_bytes("ü".encode()[:1])
    assert "".join(tail.read()) == ""
    with file.open("ab") as log:
        log.write("ü".encode()[1:])
    assert "".join(tail.read()) + tail.end() == "ü"


def test_character_that_is_never_finished_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "1.log"
    file.write_bytes("ü".encode()[:1])
    tail = Tail(file)
    assert "".join(tail.read()) + tail.end() == "\ufffd"


def test_hole_in_a_long_log_is_named_and_not_read(tmp_path: Path) -> None:
    """A log over its limit has its middle cut out, which reads as gigabytes of zeros."""
    file = tmp_path / "1.log"
    with file.open("wb") as log:
        log.write(b"head\n".ljust(4096, b"."))
        os.truncate(log.fileno(), 1 << 30)
        os.pwrite(log.fileno(), b"tail\n", 1 << 30)
    text = "".join(Tail(file).read())
    assert text.startswith("head\n")
    assert text.endswith("bytes of this log were left out]\ntail\n")
    assert len(text) < 5000

"""The tutorial is true: its commands are run in order, in a fresh home, and what it shows is what they print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import until

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "first-pipeline.md"
BLOCK = re.compile(r"(?:<!-- (?P<note>[^>]+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: `kind` is its language, `note` the comment before it, which says what to do with it."""

    kind: str
    text: str
    note: str


def blocks() -> list[Block]:
    text = TUTORIAL.read_text(encoding="utf-8")
    return [Block(m["kind"], m["text"], m["note"] or "") for m in BLOCK.finditer(text)]


class Reader:
    """Somebody who types what the tutorial says, into one shell."""

    def __init__(self, home: Path) -> None:
        self.folder = home
        self.state = home / ".shell-state"
        self.state.write_text("")
        self.shown = ""
        self.env = {**os.environ, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def type(self, text: str) -> None:
        """Run one block; the shell's variables live on in the next. Fails when a command does."""
        script = f"set -eu\n. {self.state}\n{text}\nexport -p > {self.state}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        self.shown = done.stdout

    def save(self, name: str, text: str) -> None:
        self.type(f"cat > \"{name}\" <<'END_OF_FILE'\n{text}END_OF_FILE")

    @contextmanager
    def background(self, text: str) -> Iterator[subprocess.Popen[str]]:
        """Run a block in another terminal; it gets Ctrl-C at the end."""
        script = f". {self.state}\nexec {text}"
        with subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.env,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as running:
            try:
                yield running
            finally:
                if running.poll() is None:
                    running.send_signal(signal.SIGINT)
                    running.communicate(timeout=15)


@pytest.mark.slow
@pytest.mark.acceptance
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    todo = iter(blocks())
    for block in todo:
        if block.note == "background":
            break
        follow(reader, block)
    with reader.background(block.text) as system:
        assert system.stderr is not None
        until(lambda: "Flux is up" in system.stderr.readline(), 30, "flux up")
        for block in todo:
            if block.note == "stop":
                break
            follow(reader, block)
        system.send_signal(signal.SIGINT)
        assert system.wait(15) == 130
    reader.type(block.text)
    assert reader.shown.count("success") >= 2
    assert "running" not in reader.shown


def missing(expected: str, shown: str) -> str | None:
    """Return the first line of `expected` that `shown` does not hold in order; None when it holds all.

    Columns may be wider, and more may follow in the line; what is left out is marked by a line of "…".
    """
    rest = " ".join(shown.split())
    for line in expected.splitlines():
        words = " ".join(line.split())
        if words == "…":
            continue
        _, found, rest = rest.partition(words)
        if not found:
            return line
    return None


def follow(reader: Reader, block: Block) -> None:
    """Do what one block says: save a file, run commands, or find that the last commands printed what is shown."""
    if block.note.startswith("file: "):
        reader.save(block.note.removeprefix("file: "), block.text)
    elif block.kind == "sh" and block.note != "not run":
        reader.type(block.text)
    elif block.kind == "text":
        assert missing(block.text, reader.shown) is None, reader.shown


def test_every_block_is_run_saved_or_compared() -> None:
    kinds = {(block.kind, block.note.partition(":")[0]) for block in blocks()}
    assert kinds == {
        ("sh", ""),
        ("sh", "not run"),
        ("sh", "background"),
        ("sh", "stop"),
        ("python", "file"),
        ("text", ""),
    }

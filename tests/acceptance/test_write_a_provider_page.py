"""The page about writing a provider is true: a stranger who types it has a tested package and a DAG that ran it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import flux
from tests.docs.test_tutorial import BLOCK, Block, Reader, follow
from tests.waiting import until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "write-a-provider.md"
#: Programs that must see what the page installs, by the module that runs each.
PROGRAMS = {"flux": "flux.cli.main", "pytest": "pytest", "mypy": "mypy"}
TOOLS = ("editables", "hatchling", "mypy", "ruff")
missing = [name for name in TOOLS if importlib.util.find_spec(name) is None]
if missing and os.environ.get("CI"):
    raise RuntimeError(f"In CI these must be installed: {missing}")
#: From `flux provider new` to the end of the run under `flux up`, less the pauses in which the reader types.
FIVE_MINUTES = 300.0


def blocks() -> list[Block]:
    return [Block(m["kind"], m["text"], m["note"] or "") for m in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


def words(text: str) -> str:
    """The text without what depends on where it stands: indentation, blank lines."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


class Author(Reader):
    """A reader of this page: changes folders, and compares parts of files with what is shown."""

    def type(self, text: str) -> None:
        super().type(f'cd "$PWD"\n{text}')

    def do(self, block: Block) -> None:
        """Follow one block. Notes: `part of: FILE`, `not run: WHY`, and those of the tutorial."""
        note, _, name = block.note.partition(": ")
        if note == "part of":
            self.type(f'cat "{name}"')
            assert words(block.text) in words(self.shown), f"{name} does not hold\n{block.text}"
        elif note != "not run":
            follow(self, block)


@pytest.fixture
def author(tmp_path: Path) -> Author:
    """Has a virtual environment, offline: Flux, what it needs and the tools come from this one, by a path file."""
    folder = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    argv = [folder / "bin" / "python", "-c", query]
    site = Path(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip())
    paths = [str(Path(flux.__file__).parents[1]), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (site / "reach_flux.pth").write_text("\n".join(dict.fromkeys(paths)))
    for name, module in PROGRAMS.items():
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -P -m {module} "$@"\n')
        program.chmod(0o755)
    author = Author(tmp_path)
    clean = {name: value for name, value in author.env.items() if not name.startswith(("FLUX_", "PYTEST_"))}
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    author.env = {**clean, **offline, "PATH": f"{folder / 'bin'}:{author.env['PATH']}"}
    return author


@pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
def test_the_page_does_what_it_says(author: Author) -> None:
    todo, began = iter(blocks()), time.monotonic()
    up = follow_until("background", author, todo)
    with author.background(up.text) as system:
        assert system.stderr is not None
        until(lambda: "Flux is up" in system.stderr.readline(), 30, "flux up")
        after = follow_until("stop", author, todo)
        system.send_signal(signal.SIGINT)
        assert system.wait(15) == 130
    assert time.monotonic() - began < FIVE_MINUTES
    author.type(after.text)
    assert author.shown == "Dear reader of 2026-01-06"
    for block in todo:
        author.do(block)


def follow_until(note: str, author: Author, todo: Iterator[Block]) -> Block:
    """Follow the blocks before the one with this note, and return that."""
    for block in todo:
        if block.note == note:
            return block
        author.do(block)
    raise AssertionError(f"The page has no block that is marked {note!r}")


def test_every_block_is_run_saved_or_compared() -> None:
    assert {(block.kind, block.note.partition(":")[0]) for block in blocks()} == {
        ("sh", ""),
        ("sh", "not run"),
        ("sh", "background"),
        ("sh", "stop"),
        ("python", "file"),
        ("python", "part of"),
        ("toml", "part of"),
        ("text", ""),
    }


def test_the_page_begins_with_the_scaffold() -> None:
    first = next(block.text for block in blocks() if block.kind == "sh" and not block.note)
    assert first.startswith("flux provider new acme --operator AcmeOperator\n")

"""The page on the one-file provider is true: its files are saved and its commands are run, in order."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.docs.test_tutorial import BLOCK, Block, Reader, follow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "one-file-provider.md"


def blocks() -> list[Block]:
    """The blocks of the page, in order."""
    return [Block(m["kind"], m["text"], m["note"] or "") for m in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    reader.env["PATH"] = f"{Path(sys.executable).parent}:{reader.env['PATH']}"
    (tmp_path / ".flux" / "dags").mkdir(parents=True)
    for block in blocks():
        follow(reader, block)
    assert "2026-Q2 2026-05-05" in reader.shown


def test_an_operator_takes_no_more_than_eight_lines() -> None:
    assert len([line for line in blocks()[0].text.splitlines() if line.strip()]) <= 8

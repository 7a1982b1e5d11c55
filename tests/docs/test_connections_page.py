"""The page on connections and secrets is true: its commands are run in order, in a fresh home."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.test_tutorial import BLOCK, Block, Reader, follow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "connections-and-secrets.md"


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    blocks = [Block(m["kind"], m["text"], m["note"] or "") for m in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
    assert [block.kind for block in blocks].count("sh") >= 4
    (tmp_path / ".flux" / "dags").mkdir(parents=True)
    reader = Reader(tmp_path)
    for block in blocks:
        follow(reader, block)
    files = [path for path in (tmp_path / ".flux").rglob("*") if path.is_file()]
    assert not [path for path in files if b"s3cret" in path.read_bytes()]

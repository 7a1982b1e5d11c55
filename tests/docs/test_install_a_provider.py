"""The page about installing providers is true: its commands are run in order, with the provider it names installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flux.plugins.verdict import ProviderState

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "install-a-provider.md"
BLOCK = re.compile(r"(?:<!-- (?P<note>[^>]+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with flux-provider-mysql as an editable installation leaves it, without the library that it uses."""
    metadata = tmp_path / "site" / "flux_provider_mysql-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: flux-provider-mysql\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[flux.providers]\nmysql = flux_provider_mysql.provider\n")
    (metadata.parent / "flux_provider_mysql").symlink_to(ROOT / "flux-provider-mysql/src/flux_provider_mysql")
    return metadata.parent


@pytest.mark.slow
def test_every_command_of_the_page_works(tmp_path: Path, site: Path) -> None:
    home = tmp_path / "home"
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FLUX_HOME": str(home),
        "PYTHONPATH": str(site),
    }
    shown = []
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        note = block["note"] or ""
        if block["kind"] == "sh" and not note.startswith("not run"):
            done = subprocess.run(
                ["bash", "-euc", block["text"]],
                cwd=tmp_path,
                env=environ,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{block['text']}\n{done.stdout}{done.stderr}"
            shown.append(done.stdout)
    everything = "\n".join(shown)
    for text in ("import MySqlOperator", "pip install flux-provider-hive", "mysql: ok", "disabled"):
        assert text in everything
    assert (tmp_path / "flux-provider-acme" / "pyproject.toml").is_file()


def test_the_page_names_every_state() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [state for state in ProviderState if f"| {state} |" not in text] == []

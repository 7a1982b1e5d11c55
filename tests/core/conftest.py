"""The core's tests see no provider but core and those they lay out themselves, whatever is installed beside it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def _nothing_installed(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A folder with empty metadata for each distribution that adds to Flux: first on the path, it stands for them."""
    others = [
        each.name
        for each in importlib.metadata.distributions()
        if each.name != "flux-core" and any(point.group.startswith("flux") for point in each.entry_points)
    ]
    if not others:
        return None
    folder = tmp_path_factory.mktemp("nothing-installed")
    for name in others:
        metadata = folder / f"{name.replace('-', '_')}-0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n")
    return folder


@pytest.fixture(autouse=True)
def _core_alone(_nothing_installed: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if _nothing_installed is not None:
        monkeypatch.syspath_prepend(str(_nothing_installed))

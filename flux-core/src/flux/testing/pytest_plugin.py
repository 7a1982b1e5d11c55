"""What Flux adds to pytest in its environment: the marks of the conformance classes, and three fixtures.

pytest loads this module in every session, whether Flux is tested there or not: it imports nothing of Flux before a
fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flux.testing import FolderWorld, TaskOutcome

_LEVELS = {
    "package": "the provider's metadata, manifest and references",
    "contract": "classes as Flux expects them, without running anything",
    "execution": "tasks that run, run again, are killed and time out",
    "robustness": "missing libraries, wrong passwords, servers that are away, hostile values",
}


def pytest_configure(config: pytest.Config) -> None:
    """Register a mark for each level, so that `pytest -m flux_contract` takes one."""
    for level, about in _LEVELS.items():
        config.addinivalue_line("markers", f"flux_{level}: conformance of a Flux provider: {about}")


@pytest.fixture
def flux_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder that `flux` commands and `flux.app` use: FLUX_HOME names it."""
    home = tmp_path / "flux-home"
    home.mkdir()
    monkeypatch.setenv("FLUX_HOME", str(home))
    return home


@pytest.fixture
def world(tmp_path: Path) -> FolderWorld:
    """The outside of the conformance classes where no fixture of your own takes its place: an empty folder."""
    from flux.testing import FolderWorld

    return FolderWorld(tmp_path)


@pytest.fixture
def run_task() -> Callable[..., TaskOutcome]:
    """`flux.testing.run_task`."""
    from flux.testing import run_task

    return run_task

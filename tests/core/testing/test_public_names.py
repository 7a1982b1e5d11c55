"""Which imports of a provider are private."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux.testing.public_names import private_imports


@pytest.mark.parametrize(
    "statement",
    [
        "from flux import BaseOperator, get_connection",
        "import flux",
        "from flux import plugins, testing",
        "from flux.plugins import Ref",
        "from flux.executor import Assignment",
        "from flux.connection import Connection",
        "import fluxus.store",
        "from . import client",
    ],
)
def test_a_public_name_is_none_of_them(statement: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(statement)
    assert list(private_imports(tmp_path)) == []


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("from flux.store import engine", "flux.store.engine"),
        ("import flux.running.server", "flux.running.server"),
        ("from flux import attempt", "flux.attempt"),
        ("from flux.errors import FluxError", "flux.errors.FluxError"),
        ("def f():\n    from flux.plugins import IMPLEMENTS", "flux.plugins.IMPLEMENTS"),
    ],
)
def test_a_private_name_is_told_with_its_line(statement: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(statement)
    (found,) = private_imports(tmp_path)
    assert found.startswith("module.py:")
    assert found.endswith(f"imports {name}")

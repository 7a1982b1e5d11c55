"""Every provider of the repository keeps to the names that Flux offers, and has the parts that people look for."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from flux.testing.public_names import private_imports
from tests.house.tree import ROOT

PROVIDERS = sorted(path.parent for path in ROOT.glob("flux-provider-*/pyproject.toml"))


def package(folder: Path) -> Path:
    return folder / "src" / folder.name.replace("-", "_")


@pytest.mark.parametrize("folder", PROVIDERS, ids=lambda path: path.name)
def test_a_provider_imports_public_names_only(folder: Path) -> None:
    assert list(private_imports(package(folder))) == []


@pytest.mark.parametrize("folder", PROVIDERS, ids=lambda path: path.name)
def test_a_provider_imports_no_other_provider(folder: Path) -> None:
    """But for those that an extra of it names."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    extras = " ".join(name for names in project.get("optional-dependencies", {}).values() for name in names)
    others = {package(other).name for other in PROVIDERS if other != folder and other.name not in extras}
    found = {
        name.partition(".")[0]
        for path in package(folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert found & others == set()


@pytest.mark.parametrize("folder", PROVIDERS, ids=lambda path: path.name)
def test_a_provider_has_its_parts(folder: Path) -> None:
    short = folder.name.removeprefix("flux-provider-")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["flux.providers"] == {short: f"{package(folder).name}.provider"}
    assert any(each.startswith("flux-core>=") and ",<" in each for each in project["dependencies"])
    assert (package(folder) / "py.typed").exists()
    assert list((folder / "examples").glob("*.py"))
    assert (ROOT / "tests" / f"provider_{short}" / "test_conformance.py").exists()


def test_there_are_providers() -> None:
    assert PROVIDERS

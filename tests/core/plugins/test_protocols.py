"""The protocols of hooks: type checkers find what is wrong with a manifest before it is ever imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = """
import acme_manifest
from flux.plugins import protocols

_manifest: protocols.Manifest = acme_manifest
_operators: protocols.Operators = acme_manifest
_listener: protocols.TaskStateChanged = acme_manifest
"""
MANIFEST = """
from flux.plugins import Ref, hookimpl
from flux.plugins.snapshots import TaskInstance

FLUX_API = ">=1.0,<2"

@hookimpl
def flux_operators() -> list[Ref]:
    return [Ref("A", "a:A")]

@hookimpl
def flux_task_state_changed(task_instance: TaskInstance, previous: str, state: str) -> None: ...
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("", "", "Success"),
        ("list[Ref]:\n    return [Ref(\"A\", \"a:A\")]", "list[str]:\n    return [\"A\"]", "-> list[str]"),
        ("previous: str", "before: str", "flux_task_state_changed"),
        ("FLUX_API = \">=1.0,<2\"", "FLUX_API = 1.0", "FLUX_API"),
        ("def flux_operators", "def flux_operator", "\"Operators\""),
    ],
    ids=["right", "wrong return type", "wrong argument", "range no text", "misspelt"],
)  # fmt: skip
def test_a_manifest_is_checked_by_assigning_it(
    right: str, wrong: str, complaint: str, tmp_path: Path, cache: Path
) -> None:
    pytest.importorskip("mypy", reason="mypy is no part of this environment")
    assert right in MANIFEST
    (tmp_path / "acme_manifest.py").write_text(MANIFEST.replace(right, wrong) if right else MANIFEST)
    (tmp_path / "check.py").write_text(CHECK)
    source = Path(__file__).resolve().parents[3] / "flux-core" / "src"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(cache), "check.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(source), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (complaint == "Success"), done.stdout
    assert complaint in done.stdout + ("Success" if done.returncode == 0 else "")

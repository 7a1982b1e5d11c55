"""Which files count, by name and by .fluxignore; the patterns are checked against git itself where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from flux.dag_folder import dag_files


def make(folder: Path, *paths: str) -> None:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_every_python_file_counts_except_hidden_ones_and_the_provider(tmp_path: Path) -> None:
    make(
        tmp_path, "b.py", "a/x.py", "a/flux_provider.py", "flux_provider.py", ".hidden.py", ".git/y.py", "note.txt",
        "a/__pycache__/x.py", "a/data.sql",
    )  # fmt: skip
    assert dag_files(tmp_path) == ["a/flux_provider.py", "a/x.py", "b.py"]


def test_a_folder_that_does_not_exist_has_no_files(tmp_path: Path) -> None:
    assert dag_files(tmp_path / "none") == []


def test_links_are_followed_once(tmp_path: Path) -> None:
    make(tmp_path / "dags", "a.py")
    make(tmp_path / "other", "b.py")
    (tmp_path / "dags" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "dags" / "loop").symlink_to(tmp_path / "dags")
    (tmp_path / "dags" / "broken").symlink_to(tmp_path / "nowhere")
    assert dag_files(tmp_path / "dags") == ["a.py", "linked/b.py"]


FILES = [
    "a.py", "b.py", "ab.py", "test_a.py", "lib/a.py", "lib/deep/b.py", "lib/deep/test_b.py", "build/x.py",
    "src/build/x.py", "src/lib/y.py", "a[1].py", "#x.py", "z.py",
]  # fmt: skip
PATTERNS = [
    "a.py",
    "/a.py",
    "test_*.py",
    "lib/",
    "/lib",
    "build/\n!src/build/",
    "lib/*.py",
    "lib/**",
    "**/lib",
    "**/deep/*.py",
    "src/**/x.py",
    "*.py\n!b.py",
    "?.py",
    "[ab].py",
    "[!ab].py",
    "# comment\n\n\\#x.py",
    "a\\[1\\].py",
    "lib/deep",
    "deep/",
    "*/a.py",
    "a.py ",
]


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")
@pytest.mark.parametrize("patterns", PATTERNS)
def test_patterns_mean_what_they_mean_to_git(tmp_path: Path, patterns: str) -> None:
    make(tmp_path, *FILES)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".git" / "info" / "exclude").write_text(patterns + "\n")
    (tmp_path / ".fluxignore").write_text(patterns + "\n")
    command = ["git", "ls-files", "--others", "--exclude-standard", "-z", "*.py"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    assert dag_files(tmp_path) == sorted(path for path in listed.decode().split("\0") if path)


def test_an_ignore_file_in_a_folder_concerns_that_folder_and_wins(tmp_path: Path) -> None:
    make(tmp_path, "a.py", "team/a.py", "team/b.py", "team/sub/a.py")
    (tmp_path / ".fluxignore").write_text("a.py\n")
    (tmp_path / "team" / ".fluxignore").write_text("!/a.py\nb.py\n")
    assert dag_files(tmp_path) == ["team/a.py"]


def test_a_pattern_that_is_none_ignores_nothing(tmp_path: Path) -> None:
    make(tmp_path, "a.py")
    (tmp_path / ".fluxignore").write_text("[z-a].py\n!\n/\n")
    assert dag_files(tmp_path) == ["a.py"]

"""Tests assert something, wait for conditions, and leave our modules and the clock alone."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tests.house.tree import ROOT, files, modules

#: Calls that assert by themselves.
ASSERTING = ("raises", "warns", "fail", "until", "deprecated_call")


@cache
def test_files() -> tuple[tuple[Path, ast.Module], ...]:
    """Every Python file below tests/, but for DAG files that tests run."""
    return tuple(
        (path, ast.parse(path.read_text(encoding="utf-8")))
        for path in files(".py")
        if path.is_relative_to(ROOT / "tests") and "dags" not in path.parts and path.exists()
    )


test_files.__test__ = False  # type: ignore[attr-defined]


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def asserts(function: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Assert)
        or (
            isinstance(node, ast.Call)
            and (name_of(node) in ASSERTING or name_of(node).lstrip("_").startswith(("assert_", "check_")))
        )
        for node in ast.walk(function)
    )


def test_every_test_asserts_something() -> None:
    empty = []
    for path, tree in test_files():
        local = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        for name, function in local.items():
            if not name.startswith("test_") or name == "test_files":
                continue
            helpers = [local[name_of(n)] for n in ast.walk(function) if isinstance(n, ast.Call) and name_of(n) in local]
            if not any(asserts(each) for each in (function, *helpers)) and not loaded_by_subprocess(function):
                empty.append(f"{path.relative_to(ROOT)}:{function.lineno} {name}")
    assert not empty, "\n".join(empty)


def loaded_by_subprocess(function: ast.AST) -> bool:
    """A child that must end well: `subprocess.run(..., check=True)`."""
    return any(
        isinstance(n, ast.keyword) and n.arg == "check" and getattr(n.value, "value", False) is True
        for n in ast.walk(function)
    )


def test_no_test_sleeps() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in test_files()
        if path != ROOT / "tests" / "waiting.py" and "benchmarks" not in path.parts
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name_of(node) == "sleep"
    ]
    assert not found, f"Wait for a condition with tests.waiting.until: {found}"


def test_no_test_replaces_our_modules_or_time() -> None:
    found = []
    for path, tree in test_files():
        ours = {"time", "datetime"}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flux":
                ours |= {alias.asname or alias.name for alias in node.names}
            if isinstance(node, ast.Import):
                ours |= {
                    alias.asname or alias.name.split(".")[0] for alias in node.names if alias.name.startswith("flux")
                }
            if isinstance(node, ast.Import | ast.ImportFrom) and "mock" in ast.unparse(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and name_of(node) == "setattr"
                and isinstance(node.func, ast.Attribute)
                and node.args
            ):
                target = ast.unparse(node.args[0]).strip("'\"").split(".")[0]
                if target in ours or target == "flux":
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found, f"Pass a Clock, a fake, a SQLite file: {found}"


def test_tests_mirror_the_source() -> None:
    """tests/core/test_<module>.py is about flux.<module>; a folder there is about the package of its name."""
    lost = []
    for path, _ in test_files():
        inside = path.relative_to(ROOT / "tests")
        if inside.parts[0] != "core" or not path.name.startswith("test_"):
            continue
        package = ".".join(("flux", *inside.parts[1:-1]))
        names = {name.rpartition(".")[2] for name in modules() if name.startswith(package + ".")}
        subject = path.stem.removeprefix("test_")
        if not names or (
            package == "flux" and subject != "flux" and not any(subject.startswith(name) for name in names)
        ):
            lost.append(str(inside))
    assert not lost, f"Name these for the module they are about: {lost}"

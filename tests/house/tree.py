"""The repository as the house tests read it: its files, and its modules as syntax trees. Imports nothing of Flux."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "flux-core" / "src"


@dataclass(frozen=True)
class Module:
    """One module of flux-core."""

    #: Dotted: "flux.store.engine"; a package has its own name.
    name: str
    path: Path
    tree: ast.Module

    def at(self, node: ast.AST) -> str:
        """Where a node is, for a message."""
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


@cache
def modules() -> dict[str, Module]:
    """Return every module below flux-core/src by name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return found


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """Return the files that belong to the repository (as git sees it: ignored ones left out), of those suffixes."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        # An unpacked archive: no git. What tools leave behind begins with a dot.
        paths = [p for p in ROOT.rglob("*") if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]
    return tuple(sorted(p for p in paths if p.is_file() and (not suffixes or p.suffix in suffixes)))


def is_type_checking(node: ast.AST) -> bool:
    """Tell whether the node is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def walk_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node that can be executed: what stands under `if TYPE_CHECKING` is left out."""
    for child in ast.iter_child_nodes(tree):
        if is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield other
                yield from walk_run_time(other)
            continue
        yield child
        yield from walk_run_time(child)


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the constants that are docstrings or bare strings."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def imports(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Yield (node, module name) for everything `module` imports when it runs, wherever the statement stands.

    `from flux import errors` counts as flux.errors when there is such a module, else as flux. Names in tables
    ("flux.cli.dag:dag"), which something imports later, count too.
    """
    names = modules().keys()
    skipped = docstrings(module.tree)
    for node in walk_run_time(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
                for _ in range(node.level - 1):
                    package = package.rpartition(".")[0]
                base = f"{package}.{base}".rstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node, inner if inner in names else base
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            target = node.value.partition(":")[0]
            if target.startswith("flux.") and target in names:
                yield node, target


def strongly_connected(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of more than one name that reach each other (Tarjan), and names that reach themselves."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(edges.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = []
            while True:
                group.append(stack.pop())
                if group[-1] == name:
                    break
            if len(group) > 1 or name in edges.get(name, ()):
                groups.append(sorted(group))

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return groups

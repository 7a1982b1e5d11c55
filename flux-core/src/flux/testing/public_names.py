"""Which names of Flux a provider may import, and the imports of a package that are none of them."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PUBLIC", "private_imports"]

#: The modules whose names are there for providers: those of `__all__`.
PUBLIC = (
    "flux",
    "flux.operators",
    "flux.sensors",
    "flux.plugins",
    "flux.plugins.protocols",
    "flux.plugins.snapshots",
    "flux.executor",
    "flux.connection",
    "flux.drivers",
    "flux.testing",
)


def private_imports(folder: Path) -> Iterator[str]:
    """Yield "file:line imports name" for each import of a private name of Flux in the Python files of a package.

    Args:
        folder: of the package, or the file of a module.
    """
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
        tree = ast.parse(path.read_bytes(), str(path))
        for node in ast.walk(tree):
            for name in _private(node):
                yield f"{path.name}:{getattr(node, 'lineno', 1)} imports {name}"


def _private(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if _is_flux(alias.name) and alias.name not in PUBLIC:
                yield alias.name
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and _is_flux(node.module or ""):
        module = node.module or ""
        for alias in node.names:
            inner = f"{module}.{alias.name}"
            if inner not in PUBLIC and not (module in PUBLIC and alias.name in _names(module)):
                yield inner


def _is_flux(name: str) -> bool:
    return name == "flux" or name.startswith("flux.")


def _names(module: str) -> set[str]:
    """The names that a public module offers: of `__all__`, else those without an underscore."""
    loaded = importlib.import_module(module)
    return set(getattr(loaded, "__all__", None) or (name for name in vars(loaded) if not name.startswith("_")))

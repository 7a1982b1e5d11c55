"""`__all__` is true: every name in it exists, none is there twice, and lazily loaded packages offer exactly it."""

from __future__ import annotations

import ast
import importlib

import pytest

from tests.house.tree import modules

WITH_ALL = [
    name
    for name, module in modules().items()
    if any(
        isinstance(node, (ast.Assign, ast.AnnAssign)) and "__all__" in ast.unparse(node).split("=")[0]
        for node in module.tree.body
    )
]
#: What DAG files and providers import from; each holds a table of names that are loaded on first use.
PUBLIC = ("flux", "flux.operators", "flux.sensors", "flux.plugins", "flux.testing")
LAZY = ("flux", "flux.operators", "flux.sensors", "flux.testing")


@pytest.mark.parametrize("name", WITH_ALL)
def test_every_name_in_all_exists_once(name: str) -> None:
    module = importlib.import_module(name)
    names = list(module.__all__)
    assert len(names) == len(set(names))
    assert [each for each in names if not hasattr(module, each)] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_package_says_what_it_offers(name: str) -> None:
    assert name in WITH_ALL


@pytest.mark.parametrize("name", LAZY)
def test_type_checkers_and_dir_see_what_is_loaded_on_first_use(name: str) -> None:
    """The imports under TYPE_CHECKING, `__all__` and `dir()` name the same things."""
    module = importlib.import_module(name)
    seen = {
        alias.asname or alias.name
        for branch in ast.walk(modules()[name].tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name[0].isupper() or alias.asname == alias.name or alias.name in module.__all__
    }
    offered = {each for each in module.__all__ if not each.startswith("__")}
    assert offered - seen == set()
    assert offered <= set(dir(module))


@pytest.mark.parametrize("name", LAZY)
def test_a_name_that_is_not_offered_is_refused(name: str) -> None:
    module = importlib.import_module(name)
    with pytest.raises((AttributeError, ImportError), match="NoSuchThing"):
        _ = module.NoSuchThing

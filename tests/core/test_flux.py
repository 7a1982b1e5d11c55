from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import flux


def test_every_public_name_loads_and_is_what_type_checkers_see() -> None:
    tree = ast.parse(Path(flux.__file__).read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: statement.module
        for statement in checked.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert sorted(seen) == sorted(flux.__all__)
    for name, module in seen.items():
        assert getattr(flux, name) is getattr(importlib.import_module(str(module)), name)


def test_dir_lists_the_public_names() -> None:
    assert sorted(dir(flux)) == sorted(flux.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Dag'"):
        flux.Dag  # noqa: B018


def test_errors_that_users_raise_are_offered() -> None:
    assert issubclass(flux.SkipTask, Exception)
    assert not issubclass(flux.FailTask, flux.FluxError)

"""The errors as a tree: codes, what people read, and what a broad `except` catches."""

from __future__ import annotations

import inspect
import re

import pytest

from flux import errors
from flux.errors import AuthoringError, DagFileError, FluxError, NotFound, TaskKilled, UnknownName

ALL = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == "flux.errors"]
OURS = [value for value in ALL if issubclass(value, FluxError)]


@pytest.mark.parametrize("error", OURS, ids=lambda error: error.__name__)
def test_every_error_says_in_its_docstring_what_it_means_and_has_a_code(error: type[FluxError]) -> None:
    assert error.__doc__
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code)


def test_codes_belong_to_one_error_each_but_for_what_is_the_same_to_people() -> None:
    by_code: dict[str, set[type]] = {}
    for error in OURS:
        by_code.setdefault(error.code, set()).add(error)
    assert {code: names for code, names in by_code.items() if len(names) > 1} == {"not-found": {NotFound, UnknownName}}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    tree = errors.__doc__ or ""
    for error in ALL:
        assert re.search(rf"\b{error.__name__}\b", tree), error


def test_a_kill_is_not_caught_by_a_broad_except() -> None:
    assert not issubclass(TaskKilled, Exception)


def test_what_user_code_raises_is_no_error_of_flux() -> None:
    assert not issubclass(errors.SkipTask, FluxError)
    assert not issubclass(errors.FailTask, FluxError)


def test_errors_of_authors_are_also_the_python_errors_they_stand_for() -> None:
    assert issubclass(errors.UnknownArgument, TypeError)
    assert issubclass(errors.BadDate, ValueError)
    assert issubclass(errors.UnknownName, AttributeError)
    assert issubclass(errors.UnknownName, LookupError)


def test_a_missing_name_lists_the_nearest_ones() -> None:
    found = NotFound.named("DAG", "saels", ["sales", "report", "sales_eu"], hint="Look with `flux dag list`.")
    assert str(found) == "DAG 'saels' does not exist. Known: sales, sales_eu. Look with `flux dag list`."


def test_a_missing_name_without_near_ones_lists_some_and_without_any_says_so() -> None:
    assert str(NotFound.named("Pool", "x", ["etl"])) == "Pool 'x' does not exist. Known: etl."
    assert str(NotFound.named("Pool", "x", [])) == "Pool 'x' does not exist. There is no Pool yet."
    assert str(NotFound.named("Pool", "zzz", [f"p{n}" for n in range(9)])).count("p") == 5 + 0


def test_an_error_in_a_file_knows_its_place() -> None:
    error = AuthoringError("wrong", file="x.py", line=3)
    assert (str(error), error.file, error.line) == ("wrong", "x.py", 3)
    broken = DagFileError("died", file="x.py")
    assert (broken.file, broken.line, broken.traceback) == ("x.py", None, "")

"""`flux provider new`: good names only, nothing overwritten, and what is written is whole.

That it installs and passes its own tests is for tests/acceptance/test_scaffold.py.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from flux.cli.scaffold.package import files
from flux.cli.scaffold.plan import Plan, variable_of
from flux.errors import Refused
from tests.core.cli.conftest import Cli


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("acme-x", "'acme_x'"),
        ("Acme", "'acme'"),
        ("class", "'my_class'"),
        ("acme_", "'acme'"),
        ("2go", "'go'"),
        ("--", "Choose another."),
        ("flux-provider-acme", "'acme'"),
        ("core", "belongs to Flux"),
        ("local", "belongs to Flux"),
        ("a" * 31, "Choose a shorter one"),
    ],
)
def test_a_bad_provider_name_is_refused_with_a_better_one(name: str, words: str) -> None:
    with pytest.raises(Refused, match="Provider name") as caught:
        Plan.of(name)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("Acme", "AcmeOperator"),
        ("acme_load", "AcmeLoadOperator"),
        ("AcmeLoadoperator", "AcmeLoadOperator"),
        ("acmeOperator", "AcmeOperator"),
        ("Operator", "AcmeOperator"),
        ("3dOperator", "AcmeOperator"),
    ],
)
def test_a_bad_class_name_is_refused_with_a_better_one(name: str, better: str) -> None:
    with pytest.raises(Refused, match=f"Call it {better}"):
        Plan.of("acme", operators=[name])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sensors": ["AcmeOperator"]}, "Call it AcmeOperatorSensor"),
        ({"operators": ["BaseOperator"]}, "Flux's own"),
        ({"operators": ["BashOperator"]}, "Flux's own"),
        ({"executor": "local"}, "Flux's own"),
        ({"executor": "My-Grid"}, "'my_grid'"),
        ({"macros": ["lambda"]}, "'my_lambda'"),
        ({"macros": ["test_day"]}, "pytest takes it for one"),
        ({"operators": ["AOperator", "AOperator"]}, "given twice"),
        ({"operators": ["A" * 50 + "Operator"]}, "shorter"),
    ],
)
def test_other_bad_names_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(Refused) as caught:
        Plan.of("acme", **given)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_without_anything_to_write_there_is_one_operator() -> None:
    assert Plan.of("acme_x") == Plan("acme_x", ("AcmeXOperator",), (), None, ())
    assert Plan.of("acme", macros=["latest"]).operators == ()


def test_names_are_made_of_the_providers_name() -> None:
    plan = Plan.of("acme_x", executor="big_grid")
    assert (plan.package, plan.distribution) == ("flux_provider_acme_x", "flux-provider-acme-x")
    assert plan.executor_class == "BigGridExecutor"
    assert variable_of("AcmeHTTPLoadOperator") == "acme_http_load_operator"


def test_every_file_is_whole() -> None:
    """No placeholder is left, and what is Python or TOML reads as such."""
    plan = Plan.of("acme", operators=["AcmeOperator"], sensors=["AcmeSensor"], executor="acme", macros=["latest"])
    written = files(plan)
    for name, text in written.items():
        assert text == "" or text.endswith("\n"), name
        assert not text.endswith("\n\n"), name
        assert "$name" not in text.replace("${{", ""), name
        if name.endswith(".py"):
            ast.parse(text, name)
    project = tomllib.loads(written["pyproject.toml"])["project"]
    assert project["entry-points"] == {"flux.providers": {"acme": "flux_provider_acme.provider"}}
    assert "test" in project["optional-dependencies"]
    assert any(each.startswith("flux-core>=") and "<" in each for each in project["dependencies"])


def test_the_test_of_conformance_is_short() -> None:
    plan = Plan.of("acme", operators=["AcmeOperator"])
    assert len(files(plan)["tests/test_conformance.py"].splitlines()) <= 15


def test_a_package_has_the_modules_it_needs_and_no_other() -> None:
    names = set(files(Plan.of("acme", macros=["latest"])))
    assert "src/flux_provider_acme/macros.py" in names
    assert not names & {f"src/flux_provider_acme/{each}.py" for each in ("operators", "sensors", "executor")}


def test_new_writes_a_folder_and_says_what_to_do_next(bare: Cli, tmp_path: Path) -> None:
    done = bare.ok("provider", "new", "acme_x", "--into", str(tmp_path / "my work"))
    folder = tmp_path / "my work" / "flux-provider-acme-x"
    assert (folder / "src" / "flux_provider_acme_x" / "operators.py").is_file()
    assert [line.strip() for line in done.out.splitlines()[-3:]] == [
        f"cd '{folder}'",
        "python -m pip install -e '.[test]'",
        "pytest",
    ]


def test_new_changes_nothing_that_is_there(bare: Cli, tmp_path: Path) -> None:
    (tmp_path / "flux-provider-acme").mkdir()
    done = bare("provider", "new", "acme", "--into", str(tmp_path))
    assert (done.code, "is there already" in done.err) == (1, True)
    assert list((tmp_path / "flux-provider-acme").iterdir()) == []


def test_new_says_where_it_cannot_write(bare: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = bare("provider", "new", "acme", "--into", str(tmp_path / "file"))
    assert (done.code, "cannot be written: Not a directory" in done.err) == (1, True)

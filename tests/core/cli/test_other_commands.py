"""Commands that other packages bring: named without an import, loaded when they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.cli.conftest import Cli
from tests.installed import install

COMMAND = """
import click
@click.command()
@click.argument("who")
def greet(who):
    '''Greet.'''
    click.echo(f"hello {who}")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path, for packages with commands."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def bring(site: Path, name: str, text: str, distribution: str) -> None:
    package = distribution.replace("-", "_")
    line = f"[flux.commands]\n{name} = {package}.command:greet\n"
    install(site, name, distribution=distribution, modules={"command.py": text}, entry_points=line)


def test_a_command_runs_and_its_exit_code_is_kept(bare: Cli, site: Path) -> None:
    bring(site, "greet", COMMAND, "commands-good")
    assert bare.ok("greet", "moon").out == "hello moon\n"
    assert bare("greet").code == 2


def test_help_names_a_command_and_who_brings_it_without_an_import(bare: Cli, site: Path) -> None:
    bring(site, "greet", "raise SystemExit('imported')\n", "commands-lazy")
    out = bare.ok("--help").out
    assert [line.split() for line in out.splitlines() if "greet" in line] == [
        ["greet", "From", "commands-lazy", "0.3."]
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_library\n", "No module named 'no_such_library'"),
        ("raise SystemExit(5)\n", "SystemExit: 5"),
        ("def greet(): ...\n", "is no command of click"),
    ],
    ids=["import", "exit", "function"],
)
def test_a_broken_command_is_one_line_and_costs_the_others_nothing(
    text: str, words: str, bare: Cli, site: Path, request: pytest.FixtureRequest
) -> None:
    distribution = f"commands-{request.node.callspec.id}"
    bring(site, "greet", text, distribution)
    done = bare("greet", "moon")
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert words in done.err
    assert f"{distribution} 0.3" in done.err
    assert bare("version").code == bare("--help").code == 0


def test_no_package_takes_a_name_of_flux(bare: Cli, site: Path) -> None:
    bring(site, "version", "raise SystemExit('taken over')\n", "commands-thief")
    assert bare.ok("version").out[0].isdigit()
    assert "commands-thief" not in bare.ok("--help").out


def test_a_name_that_two_packages_bring_is_refused_naming_both(bare: Cli, site: Path) -> None:
    for distribution in ("commands-one", "commands-two"):
        bring(site, "greet", COMMAND, distribution)
    done = bare("greet", "moon")
    assert (done.code, "commands-one 0.3 and commands-two 0.3" in done.err) == (1, True)
    assert "In conflict: commands-one 0.3 and commands-two 0.3" in bare.ok("--help").out


def test_a_command_that_is_expected_from_elsewhere_runs_once_it_is_there(bare: Cli, site: Path) -> None:
    bring(site, "ui", COMMAND, "commands-ui")
    assert bare.ok("ui", "moon").out == "hello moon\n"


def test_a_misspelt_command_is_near_an_installed_one(bare: Cli, site: Path) -> None:
    bring(site, "greet", COMMAND, "commands-near")
    done = bare("gret")
    assert (done.code, "greet" in done.err) == (2, True)

"""What holds for every command: help, exit codes, errors, what is imported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from flux.cli.main import COMMANDS, root
from tests.installed import install
from tests.waiting import until

HEAVY = ("sqlalchemy", "jinja2", "croniter", "pluggy", "stevedore", "alembic", "asyncio")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name."""
    context = click.Context(root)
    to_look: list[tuple[str, click.Command]] = [
        (name, root.get_command(context, name) or root) for name in root.list_commands(context)
    ]
    while to_look:
        name, command = to_look.pop()
        yield name, command
        if isinstance(command, click.Group):
            to_look += [(f"{name} {short}", below) for short, below in command.commands.items()]


ALL = dict(commands())


@pytest.mark.parametrize("name", sorted(ALL))
def test_help_of_every_command_has_a_purpose_and_an_example(name: str) -> None:
    text = ALL[name].help or ""
    assert text.splitlines()[0].strip()
    assert f"flux {name}" in text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_flux_says_what_the_command_says(name: str) -> None:
    """The table of names has its own text, so that `flux --help` need not import the commands."""
    assert COMMANDS[name].help.endswith(".")
    assert root.get_command(click.Context(root), name) is not None


def test_every_list_takes_json() -> None:
    lists = [name for name in ALL if name.endswith(" list")]
    assert len(lists) >= 8
    for name in lists:
        assert "--json" in [option for parameter in ALL[name].params for option in parameter.opts], name


def flux(*arguments: str, home: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "FLUX_HOME": str(home), "FLUX_DURABILITY": "fast"}
    argv = [sys.executable, "-m", "flux.cli.main", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=environ, timeout=30, check=False, **options)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["version"], ["dag", "--help"], ["task", "log", "--help"], ["provider", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from flux.cli.main import main; code = main(sys.argv[1:]);"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    argv = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_error_is_one_line_on_stderr_and_exit_code_1(tmp_path: Path) -> None:
    done = flux("run", "list", home=tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert "flux init" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["dag", "nope"], ["pool", "set", "x", "many"], ["dag", "trigger"], ["run", "list", "--nope"]],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    done = flux(*arguments, home=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error" in done.stderr


def test_misspelt_command_is_answered_with_a_near_one(tmp_path: Path) -> None:
    assert "version" in flux("verison", home=tmp_path).stderr


def test_command_of_another_package_says_how_to_install_it(tmp_path: Path) -> None:
    done = flux("ui", home=tmp_path)
    assert (done.returncode, "pip install flux-ui" in done.stderr) == (1, True)


def test_interrupt_is_exit_code_130(tmp_path: Path) -> None:
    """Ctrl-C while a command waits; here for what a pipe will hold."""
    pipe = tmp_path / "variables.json"
    os.mkfifo(pipe)
    environ = {**os.environ, "FLUX_HOME": str(tmp_path)}
    argv = [sys.executable, "-m", "flux.cli.main", "variable", "import", str(pipe)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        writer = until(lambda: opened_for_writing(pipe), what="the command to open the pipe")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    os.close(writer)
    assert (process.returncode, b"Traceback" in err) == (130, False)


def opened_for_writing(pipe: Path) -> int | None:
    """Open a pipe for writing; None while nobody reads it (fifo(7))."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def test_closed_descriptors_keep_no_provider_from_being_judged(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, "acme")
    environ = {**os.environ, "FLUX_HOME": str(tmp_path), "PYTHONPATH": str(site)}
    command = f"{sys.executable} -m flux.cli.main provider list --json <&- 2>&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=environ, timeout=30, check=True)
    assert [each["state"] for each in json.loads(done.stdout) if each["name"] == "acme"] == ["ok"]


def test_a_home_that_is_a_file_is_no_traceback(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.touch()
    assert flux("provider", "list", home=home).returncode == 0


def test_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert flux("init", home=home).returncode == 0
    read, write = os.pipe()
    os.close(read)
    environ = {**os.environ, "FLUX_HOME": str(home)}
    argv = [sys.executable, "-m", "flux.cli.main", "config", "list"]
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, env=environ, timeout=30, check=False)
    os.close(write)
    assert b"Traceback" not in done.stderr

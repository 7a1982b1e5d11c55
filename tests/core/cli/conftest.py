"""A home for the command line, and the commands run in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flux import config
from flux.app import Flux
from flux.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """Runs commands on one home."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Done:
        """Run `flux` with these arguments, as a shell would."""
        self._capsys.readouterr()
        code = main(arguments)
        return Done(code, *self._capsys.readouterr())

    def ok(self, *arguments: str) -> Done:
        """The same for a command that has to succeed."""
        done = self(*arguments)
        assert done.code == 0, done
        return done

    def process(self, *arguments: str) -> Done:
        """Run it in a process of its own: for commands that import DAG files, which a process does once."""
        argv = [sys.executable, "-m", "flux.cli.main", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    def write(self, name: str, text: str) -> Path:
        """Write a file into the DAGs folder."""
        file = self.home / "dags" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def opened(self) -> Flux:
        return Flux.open(config.load({"FLUX_DURABILITY": "fast"}, home=self.home))


@pytest.fixture
def bare(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line on a home that does not exist yet."""
    for name in ("FLUX_DATABASE_URL", "FLUX_TIMEZONE", "FLUX_DAGS_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLUX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLUX_DURABILITY", "fast")
    return Cli(tmp_path / "home", capsys)


@pytest.fixture
def cli(bare: Cli) -> Cli:
    """The command line on a new home."""
    bare.ok("init")
    return bare


@pytest.fixture
def sales(cli: Cli) -> Cli:
    """The same with the DAG `sales`: extract >> load, each day at 2 in Berlin."""
    cli.write("sales.py", SALES)
    return cli


SALES = """
from flux import DAG
from flux.operators import BashOperator

with DAG("sales", schedule="0 2 * * *", timezone="Europe/Berlin", description="Daily", tags=("a",)) as dag:
    extract = BashOperator(task_id="extract", bash_command="echo extracting {{ ds }}")
    extract >> BashOperator(task_id="load", bash_command="echo loading", pool="warehouse")
"""

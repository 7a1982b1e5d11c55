"""The page on listening is true: its provider is told what happens."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "listen-to-state-changes.md"
DAG = """
from flux import DAG
from flux.operators import BashOperator

with DAG("sales", schedule=None):
    BashOperator(task_id="load", bash_command="exit 3")
"""
FLUX = Path(sys.executable).with_name("flux")


@pytest.mark.slow
def test_the_provider_of_the_page_is_told_what_happens(tmp_path: Path) -> None:
    [source] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    home = tmp_path / "home"
    dags = home / "dags"
    dags.mkdir(parents=True)
    (dags / "flux_provider.py").write_text(source)
    (dags / "sales.py").write_text(DAG)
    environ = {"FLUX_HOME": str(home), "PATH": "/usr/bin:/bin"}
    notes = home / "notes.txt"
    with subprocess.Popen([FLUX, "up", "--no-ui"], env=environ, stderr=subprocess.PIPE, text=True) as system:
        try:
            assert system.stderr is not None
            assert "Flux is up" in system.stderr.readline()
            done = subprocess.run([FLUX, "dag", "trigger", "sales"], env=environ, capture_output=True, check=True)
            assert done.returncode == 0
            until(lambda: notes.exists() and notes.read_text().count("\n") == 3, 20, "three notes")
        finally:
            system.send_signal(signal.SIGINT)
            system.stderr.read()
    first, second, third = notes.read_text().splitlines()
    assert re.fullmatch(r"run manual__\S+: queued -> running", first)
    assert second == "sales.load: bash_command ended with exit code 3."
    assert re.fullmatch(r"run manual__\S+: running -> failed", third)

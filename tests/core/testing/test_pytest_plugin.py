"""What Flux adds to every session of pytest: marks, two fixtures, and next to nothing to its start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flux.operators import PythonOperator
from flux.testing import TaskOutcome


def test_the_fixtures_are_there(flux_home: Path, run_task: Callable[..., TaskOutcome]) -> None:
    assert os.environ["FLUX_HOME"] == str(flux_home)
    assert list(flux_home.iterdir()) == []
    assert run_task(PythonOperator(task_id="load", python_callable=lambda: 3)).result == 3


@pytest.mark.parametrize("level", ["package", "contract", "execution", "robustness"])
def test_a_level_is_a_mark(level: str, pytestconfig: pytest.Config) -> None:
    assert [line for line in pytestconfig.getini("markers") if line.startswith(f"flux_{level}: ")]


@pytest.mark.slow
def test_a_session_that_does_not_use_it_loads_nothing_of_flux_but_itself(tmp_path: Path) -> None:
    (tmp_path / "test_none.py").write_text(
        "import sys\n\ndef test_none():\n"
        "    loaded = {name for name in sys.modules if name.split('.')[0] in ('flux', 'jinja2', 'sqlalchemy')}\n"
        "    assert loaded == {'flux', 'flux.testing', 'flux.testing.pytest_plugin'}\n"
    )
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


@pytest.mark.slow
def test_levels_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "test_chosen.py").write_text(
        "from flux import testing\nfrom flux.operators import EmptyOperator\n\n"
        "class TestEmpty(testing.OperatorConformance):\n    operator = EmptyOperator\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), "--strict-markers"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-m", "flux_contract", "--collect-only"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    chosen = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(chosen) > 8
    assert not [line for line in chosen if "test_it_executes" in line]
    assert [line for line in chosen if "test_making_a_task_has_no_effects" in line]


@pytest.mark.slow
def test_a_world_with_parameters_runs_the_tests_for_each(tmp_path: Path) -> None:
    (tmp_path / "test_worlds.py").write_text(
        "import pytest\nfrom flux import testing\nfrom flux.operators import EmptyOperator\n\n"
        "@pytest.fixture(params=['one', 'other'])\n"
        "def world(request, tmp_path):\n    return testing.FolderWorld(tmp_path / request.param)\n\n"
        "class TestEmpty(testing.OperatorConformance):\n    operator = EmptyOperator\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-k", "test_it_executes", "-rA"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "PASSED test_worlds.py::TestEmpty::test_it_executes[one]" in done.stdout
    assert "PASSED test_worlds.py::TestEmpty::test_it_executes[other]" in done.stdout

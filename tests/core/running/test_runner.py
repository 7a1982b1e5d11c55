"""An attempt in a fresh interpreter, started with nothing but its order."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flux.attempt import AttemptSpec
from flux.dag_file import store_sources

DAG_FILE = """
import os
from flux import DAG
from flux.operators import PythonOperator
from flux.sensors import PythonSensor
with DAG("sales"):
    PythonOperator(task_id="ok", python_callable=lambda: os.getcwd())
    PythonOperator(task_id="fail", python_callable=lambda: 1 / 0)
    PythonSensor(task_id="there", python_callable=lambda: True)
"""


def version(desk: Any, text: str) -> str:
    """Put a version on the disk as the supervisor does, without any launcher."""
    hashes = store_sources(desk.run_folder, {"sales.py": text.encode()})
    manifest = {"folder": str(desk.folder), "file": "sales.py", "sources": hashes, "dag_ids": ["sales"]}
    for name in ("versions", "results"):
        (desk.run_folder / name).mkdir(exist_ok=True)
    (desk.run_folder / "versions" / "v.json").write_text(json.dumps(manifest))
    return "v"


def run(desk: Any, order: dict[str, Any], **arguments: Any) -> subprocess.CompletedProcess[str]:
    text = json.dumps({"run_folder": str(desk.run_folder), **order})
    argv = [sys.executable, "-m", "flux.running.runner"]
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=20, **arguments)


def spec_of(desk: Any, task: str) -> AttemptSpec:
    spec: AttemptSpec = desk.spec("sales", task)
    Path(spec.log).parent.mkdir(parents=True, exist_ok=True)
    return spec


def test_it_imports_the_version_and_runs_the_attempt(desk: Any) -> None:
    spec = spec_of(desk, "ok")
    ended = run(desk, {"version": version(desk, DAG_FILE), "spec": dataclasses.asdict(spec)}, cwd=desk.home)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(desk.end(spec)["results"]["return_value"]) == str(desk.home)


def test_a_failure_is_in_the_result_and_the_log(desk: Any) -> None:
    spec = spec_of(desk, "fail")
    ended = run(desk, {"version": version(desk, DAG_FILE), "spec": dataclasses.asdict(spec)})
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
    assert desk.end(spec)["reason"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(("text", "words"), [("1 / 0", "division by zero"), ("x = 1", "no longer exists")])
def test_an_import_that_fails_is_a_failed_attempt_that_says_so(desk: Any, text: str, words: str) -> None:
    spec = spec_of(desk, "ok")
    ended = run(desk, {"version": version(desk, text), "spec": dataclasses.asdict(spec)})
    assert ended.returncode == 1
    end = desk.end(spec)
    assert (end["outcome"], end["retry"]) == ("failed", True)
    assert words in end["reason"]


@pytest.mark.parametrize(("text", "result"), [(DAG_FILE, True), ("1 / 0", None)])
def test_pokes_are_reported_over_the_socket(desk: Any, text: str, result: bool | None) -> None:
    spec = spec_of(desk, "there")
    ours, theirs = socket.socketpair()
    order = {"version": version(desk, text), "specs": [dataclasses.asdict(spec)], "report_fd": theirs.fileno()}
    run(desk, order, pass_fds=[theirs.fileno()])
    theirs.close()
    with ours, ours.makefile() as file:
        *_, last = [json.loads(line) for line in file]
    assert (last["claim"], last["result"]) == (spec.claim, result)
    assert (last["error"] is None) == bool(result)


def test_it_loads_nothing_outside_the_standard_library_before_it_has_its_order() -> None:
    code = "import sys, flux.running.runner; print([m for m in sys.modules if m.startswith('flux')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "flux.dag" not in shown
    code = "import sys, flux.running.launcher; print({m.partition('.')[0] for m in sys.modules})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout
    for name in ("sqlalchemy", "jinja2", "pluggy", "stevedore", "click", "croniter", "cryptography"):
        assert name not in shown

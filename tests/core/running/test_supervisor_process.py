"""The supervisor's process while the supervisor is built: what goes wrong then ends it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.installed import install, manifest

pytestmark = pytest.mark.slow

#: It is good while it is made, and fails when the supervisor asks how much it takes.
EXECUTOR = """
from flux import FluxError
from flux.executor import BaseExecutor

class OddExecutor(BaseExecutor):
    looks = 0

    @property
    def parallelism(self):
        self.looks += 1
        if self.looks > 1:
            raise {error}("none today")
        return 3

    @parallelism.setter
    def parallelism(self, number): ...

    def start(self, assignment): ...
    def cancel(self, claim): ...
    def stop(self): ...
"""


def ended(tmp_path: Path, error: str) -> tuple[int, str, list[dict[str, Any]]]:
    """How a supervisor's process ended: exit status, standard error, and what it said to its hypervisor but beats."""
    site = tmp_path / "site"
    refs = '[Ref("odd", "flux_provider_odd.executor:OddExecutor")]'
    install(site, "odd", manifest(executors=refs), modules={"executor.py": EXECUTOR.format(error=error)})
    environ = {
        **os.environ, "FLUX_HOME": str(tmp_path / "home"), "FLUX_EXECUTOR": "odd", "PYTHONPATH": str(site),
        "FLUX_DURABILITY": "fast",
    }  # fmt: skip
    (tmp_path / "home").mkdir(mode=0o700)
    hypervisor, ours = socket.socketpair()
    with hypervisor, ours:
        argv = [sys.executable, "-m", "flux.running.supervisor_process", "--hypervisor-fd", str(ours.fileno())]
        done = subprocess.run(
            argv, env=environ, pass_fds=[ours.fileno()], capture_output=True, text=True, timeout=60, check=False
        )
        ours.close()
        with hypervisor.makefile() as said:
            messages = [json.loads(line) for line in said if line != ".\n"]
    return done.returncode, done.stderr, messages


def test_an_error_of_flux_ends_it_with_one_line_that_the_hypervisor_is_told(tmp_path: Path) -> None:
    status, printed, messages = ended(tmp_path, "FluxError")
    assert (status, messages) == (1, [{"op": "refused", "message": "none today"}])
    assert printed.splitlines()[-1] == "supervisor: none today"
    assert "Traceback" not in printed


def test_any_other_error_ends_it_with_its_traceback(tmp_path: Path) -> None:
    """The hypervisor starts it again, as after any death."""
    status, printed, messages = ended(tmp_path, "ValueError")
    assert (status, messages) == (1, [])
    assert printed.splitlines()[-1] == "ValueError: none today"
    assert "Traceback" in printed

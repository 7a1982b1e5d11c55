from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flux.errors import ConfigError
from flux.running import faults

#: Passes two points and says so; a stand-in for any Flux process.
PROGRAM = """
from flux.running import faults
faults.point("after_launch")
print("launched", flush=True)
try:
    faults.point("after_claim_commit")
    print("went on", flush=True)
except faults.FaultRaised as error:
    print("raised", error, flush=True)
"""


def run(fault: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "FLUX_FAULT": fault}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, timeout=20)


def test_without_a_fault_points_do_nothing() -> None:
    assert run("").stdout == "launched\nwent on\n"


def test_kill9_ends_the_process_at_its_point_only() -> None:
    done = run("after_claim_commit:kill9")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "launched\n"


def test_raise_raises() -> None:
    assert run("after_claim_commit:raise").stdout == "launched\nraised FLUX_FAULT after_claim_commit\n"


def test_stop_freezes_the_process() -> None:
    environ = {**os.environ, "FLUX_FAULT": "after_claim_commit:stop"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environ, stdout=subprocess.PIPE) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signal.SIGSTOP
        process.kill()


def test_a_fault_with_a_file_happens_once(tmp_path: Path) -> None:
    fault = f"after_claim_commit:kill9:{tmp_path}/happened"
    assert run(fault).returncode == -signal.SIGKILL
    assert run(fault).stdout == "launched\nwent on\n"


@pytest.mark.parametrize("text", ["after_lunch:kill9", "after_launch", "after_launch:explode", ":kill9"])
def test_a_misspelt_fault_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="after_claim_commit"):
        faults.parse(text)

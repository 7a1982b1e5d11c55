"""What beginning costs: commands, imports, the installation, and the first run of an empty home."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks import dag_sources, processes
from tests.benchmarks.measure import Row
from tests.benchmarks.system import FLUX, System
from tests.house.test_distributions import closure

_HOMES = 3


def rows() -> list[Row]:
    """Measure them all."""
    authoring = [sys.executable, "-c", "from flux import DAG"]
    return [
        Row("flux --help: CPU", "ms", processes.cpu_of([str(FLUX), "--help"]), None, 150, 80),
        Row("from flux import DAG: CPU", "ms", processes.cpu_of(authoring), None, 150, 60),
        Row("  floor: python -c pass: CPU", "ms", processes.cpu_of([sys.executable, "-c", "pass"])),
        Row("distributions installed", "", [float(len(closure("flux-core")))], None, 16, 16),
        _first_run(),
    ]


def _first_run() -> Row:
    """From `flux up` in a folder that does not exist to the end of `flux dag trigger --wait`."""
    seconds, cpu = [], 0.0
    for _ in range(_HOMES):
        with System() as system:
            began = time.monotonic()
            system.up()
            system.write("one.py", dag_sources.chains("one", Path(os.devnull), 1, 1))
            subprocess.run(
                [FLUX, "dag", "trigger", "one", "--wait"],
                env=system.environ,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            seconds.append(time.monotonic() - began)
            cpu += system.cpu()
    return Row("empty folder to first run finished", "s", seconds, cpu, 8, 2)

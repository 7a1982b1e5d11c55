"""A PostgreSQL server of the benchmarks' own, with its own durable settings: `tests/services` starts it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCRIPT = Path(__file__).parents[1] / "services" / "services.sh"


@contextmanager
def server() -> Iterator[str | None]:
    """Give the URL of a fresh server, or None where PostgreSQL is not installed; stop it afterwards."""
    folder = tempfile.mkdtemp(prefix="flux-bench-services-")
    Path(folder).chmod(0o755)  # root runs the server as its package's own user
    environ = {
        **os.environ,
        "FLUX_SERVICES": folder,
        "FLUX_SERVICES_PORT": str(_free_port()),
        "FLUX_DURABLE": "1",
    }

    def call(verb: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_SCRIPT, verb, "postgres"], env=environ, check=False, stdout=subprocess.PIPE, text=True, timeout=120
        )

    try:
        if call("start").returncode != 0:
            print("PostgreSQL's rows are left out: it cannot be started.", file=sys.stderr)
            yield None
            return
        try:
            line = call("env").stdout.strip()
            yield line.partition("=")[2].strip("'\"")
        finally:
            call("stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

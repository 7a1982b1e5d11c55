"""The test servers of `services.sh`, for Python: start what is not there, name it, end what was started."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).with_name("services.sh")


@contextmanager
def running(*names: str, environ: Mapping[str, str] = os.environ) -> Iterator[dict[str, str]]:
    """Start the servers, which must be installed, and yield the variables that name them.

    Those that ran before go on running afterwards.

    Args:
        environ: where FLUX_SERVICES, FLUX_SERVICES_PORT and FLUX_DURABLE are taken from.
    """
    started = [name for name in names if not variables(name, environ=environ)]
    _call("start", *names, environ=environ)
    try:
        yield variables(*names, environ=environ)
    finally:
        if started:
            _call("stop", *started, environ=environ)


def variables(*names: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return {variable: URL} of those servers that run."""
    lines = _call("env", *names, environ=environ).splitlines()
    return dict(shlex.split(line.removeprefix("export "))[0].split("=", 1) for line in lines)


def _call(*arguments: str, environ: Mapping[str, str]) -> str:
    """Return what the script prints; its own words are the error when it fails."""
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=dict(environ), check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout

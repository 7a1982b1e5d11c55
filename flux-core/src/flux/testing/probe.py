"""Imports modules in a fresh interpreter and tells what that does and pulls in."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flux import process
from flux.testing.effects import foreign_modules

__all__ = ["Probe", "probe"]

_PAUSE = 0.005
#: Argument 1: modules to import first, unwatched; 2: those under test; 3: the file for what was found.
_PROGRAM = """
import importlib, json, sys
from flux.testing.effects import Effects
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
before = set(sys.modules)
error = None
with Effects() as effects:
    try:
        for name in json.loads(sys.argv[2]):
            importlib.import_module(name)
    except BaseException as problem:
        error = f"{type(problem).__name__}: {problem}"
with open(sys.argv[3], "w") as file:
    json.dump({"error": error, "found": effects.found, "modules": sorted(set(sys.modules) - before)}, file)
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """What importing some modules did."""

    #: What they raised, or how their process ended; None: nothing.
    error: str | None
    #: Effects outside the process's memory, a line each.
    found: tuple[str, ...]
    #: Every module that was loaded by it, full names, sorted.
    modules: tuple[str, ...]
    #: Top-level names of those that belong neither to Python, nor to Flux, nor to the package under test.
    foreign: tuple[str, ...]
    #: What was printed.
    output: str


def probe(modules: Sequence[str], *, limit_seconds: float, after: Sequence[str] = ()) -> Probe:
    """Import `modules` in an interpreter that has imported nothing but `after`. Blocks, at most `limit_seconds`."""
    with tempfile.TemporaryDirectory(prefix="flux-testing-") as folder:
        told, output = Path(folder) / "told", Path(folder) / "output"
        with output.open("wb") as file:
            pid = process.spawn(
                [sys.executable, "-c", _PROGRAM, json.dumps(list(after)), json.dumps(list(modules)), str(told)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
                cwd=folder,
                stdout=file.fileno(),
                stderr=file.fileno(),
                new_session=True,
            )
        deadline = time.monotonic() + limit_seconds
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                process.send_group(pid, 9)
            time.sleep(_PAUSE)
        ended = process.wait(pid)
        text = output.read_text(encoding="utf-8", errors="backslashreplace")
        if not told.exists():
            return Probe(f"the process that imports {', '.join(modules)} ended: {ended}", (), (), (), text)
        found = json.loads(told.read_text(encoding="utf-8"))
    names = sorted({name.partition(".")[0] for name in found["modules"]})
    return Probe(
        found["error"],
        tuple(found["found"]),
        tuple(found["modules"]),
        tuple(foreign_modules(names, modules[0])) if modules else (),
        text,
    )

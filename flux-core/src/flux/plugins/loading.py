"""Loading everything a provider offers, and drivers, in a process of its own: their modules may hang, crash, or exit.

`python -m flux.plugins.loading FD` is that process: it reads its order from standard input and writes the problems that
it finds to the file FD, a JSON list. What the provider prints goes nowhere else than into the reason when it dies.
"""

# ruff: noqa: PTH123

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from flux import linux, process
from flux.plugins.judgement import ends_within, judging_environ

if TYPE_CHECKING:
    from flux.plugins.scan import Found
    from flux.plugins.verdict import Verdict

#: Bytes of what it prints that are looked at, and characters of the last line that are shown.
_KEPT = 4096
_SHOWN = 200


def problems(verdict: Verdict, *, folder: Path, seconds: float, environ: Mapping[str, str]) -> list[str]:
    """Load every reference of a good provider; return a sentence for each that is not what it is offered as.

    Blocks up to `seconds`; leaves no process behind.

    Args:
        folder: the DAGs folder, where the one-file provider and modules named by configuration may be.
    """
    path = sys.path if verdict.distribution is not None else [str(folder), *sys.path]
    return _carried_out({"path": path, "verdict": verdict.to_message()}, seconds, environ)


def driver_problems(found: Found, *, seconds: float, environ: Mapping[str, str]) -> list[str]:
    """Load a driver; return a sentence if it cannot be loaded, or is none of its namespace.

    Blocks up to `seconds`; leaves no process behind.
    """
    return _carried_out({"path": sys.path, "driver": asdict(found)}, seconds, environ)


def _carried_out(what: Mapping[str, Any], seconds: float, environ: Mapping[str, str]) -> list[str]:
    """Have a child process carry out an order; return the problems that it found."""
    with tempfile.TemporaryFile() as order, tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as printed:
        order.write(json.dumps(what).encode())
        order.seek(0)
        try:
            pid = process.spawn(
                [sys.executable, "-P", "-m", __name__, str(answer.fileno())],
                env=judging_environ(environ),
                stdin=order.fileno(),
                stdout=printed.fileno(),
                stderr=printed.fileno(),
                pass_fds=[answer.fileno()],
                new_group=True,
            )
        except OSError as error:
            return [f"It cannot be loaded, because no process can be started: {error}."]
        in_time = ends_within(pid, seconds)
        process.send_group(pid, signal.SIGKILL)
        ended = process.wait(pid)
        answer.seek(0)
        text = answer.read()
        if text:
            found: list[str] = json.loads(text)
            return found
        how = f"ended the process: {ended}" if in_time else f"took longer than {seconds:g} s"
        return [f"Loading what it offers {how}.{_last_line(printed)}"]


def _last_line(printed: IO[bytes]) -> str:
    printed.seek(max(0, printed.seek(0, os.SEEK_END) - _KEPT))
    lines = [line for line in printed.read().decode(errors="replace").splitlines() if line.strip()]
    return f" Its last output: {lines[-1].strip()[:_SHOWN]!r}." if lines else ""


def main() -> None:
    """Carry out the order on standard input."""
    from flux import drivers
    from flux.errors import PluginError
    from flux.plugins import discovery, references
    from flux.plugins.scan import Found
    from flux.plugins.verdict import Verdict

    linux.die_with_parent()
    process.go_on_in_child()  # as the judging process does
    order = json.loads(sys.stdin.buffer.read())
    sys.path[:] = order["path"]
    found: list[str] = []
    if "verdict" in order:
        found += references.problems(Verdict.from_message(order["verdict"]))
    else:
        driver = Found(**order["driver"])
        try:
            wrong = drivers.misfit(driver, discovery.load(driver))
        except PluginError as error:
            wrong = str(error)
        found += [] if wrong is None else [wrong]
    with open(int(sys.argv[1]), "w", encoding="utf-8") as answer:
        json.dump(found, answer)
    os._exit(0)  # not held up by threads of the provider


if __name__ == "__main__":
    main()

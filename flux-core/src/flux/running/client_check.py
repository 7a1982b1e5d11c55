"""Trying a connection: its client talks to the system in a process of its own, which may hang or crash.

`python -m flux.running.client_check FD` is that process: it reads its order from standard input, loads the client and
writes `{"line"}` or `{"error"}` to the descriptor FD. What the client prints goes to standard error, secrets masked.
"""

# ruff: noqa: PTH123

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flux import process
from flux.connection import Connection
from flux.errors import FluxError
from flux.plugins import Ref
from flux.running.components import launcher_environ

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flux.connection import Client

_CHUNK = 1 << 16


def check(connection: Connection, client: Ref, *, folder: Path, seconds: float, environ: Mapping[str, str]) -> str:
    """Return the line that the client's `check` returns. Blocks up to `seconds`; leaves no process behind.

    Args:
        folder: the DAGs folder, where a client of the one-file provider is.

    Raises:
        FluxError: the client cannot be loaded, the system did not answer as it should, or not in time.
    """
    order = {"connection": connection.to_message(), "client": asdict(client), "folder": str(folder)}
    answer, ended = _asked(json.dumps(order).encode(), seconds, environ)
    what = f"Connection {connection.conn_id!r}"
    if answer is None:
        if ended is None:
            raise FluxError(
                f"{what}: no answer in {seconds:g} s. Look at its host and port, or give it more --timeout."
            )
        raise FluxError(f"{what}: the process that tried it ended: {ended}.")
    if "error" in answer:
        error: str = answer["error"]
        raise FluxError(error if error.startswith(what) else f"{what}: {error}")
    line: str = answer["line"]
    return line


def _asked(
    order: bytes, seconds: float, environ: Mapping[str, str]
) -> tuple[dict[str, Any] | None, process.Exit | None]:
    """The process's answer; without one, how it ended, None: it did not end in time."""
    deadline = time.monotonic() + seconds
    reading, writing = os.pipe()
    stdin, order_end = os.pipe()
    try:
        try:
            pid = process.spawn(
                [sys.executable, "-P", "-m", __name__, str(writing)],
                env=launcher_environ(environ),
                stdin=stdin,
                stdout=2,
                pass_fds=[writing],
                new_group=True,
            )
        finally:
            os.close(writing)
            os.close(stdin)
        with contextlib.suppress(BrokenPipeError), open(order_end, "wb") as file:
            file.write(order)
        received, in_time = _read(reading, deadline)
    finally:
        os.close(reading)
    # A moment for an end of its own, so that it can be named.
    while in_time and not _has_ended(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_group(pid, signal.SIGKILL)
    ended = process.wait(pid)
    if received.endswith(b"\n"):
        answer: dict[str, Any] = json.loads(received)
        return answer, None
    return None, ended if in_time else None


def _read(descriptor: int, deadline: float) -> tuple[bytes, bool]:
    """Everything up to a line's end or the end of the pipe; False when neither came in time."""
    received = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not received.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return received, False
        data = os.read(descriptor, _CHUNK)
        if not data:
            break
        received += data
    return received, True


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    """Carry out the order on standard input."""
    from flux import masking
    from flux.secret import mask

    with open(int(sys.argv[1]), "w", encoding="utf-8") as answer:
        for stream in (sys.stdout, sys.stderr):
            masking.cover(stream)
        order = json.loads(sys.stdin.buffer.read())
        try:
            told = {"line": mask(_line(order))}
        except BaseException as error:  # whatever the client does, it is the answer
            text = str(error) if isinstance(error, FluxError) else f"{type(error).__name__}: {error}"
            told = {"error": mask(text)}
        answer.write(json.dumps(told) + "\n")
    for stream in (sys.stdout, sys.stderr):
        masking.finish(stream)
    os._exit(0)  # not held up by threads of the client


def _line(order: dict[str, Any]) -> str:
    sys.path.insert(0, order["folder"])
    connection = Connection.from_message(order["connection"])
    client: Client = Ref(**order["client"]).load()(connection)
    try:
        line: object = client.check()
    finally:
        client.close()
    if not isinstance(line, str) or not line.strip():
        raise FluxError(f"{type(client).__name__}.check() returned {line!r}. It must return one line about the system.")
    return " ".join(line.split())


if __name__ == "__main__":
    main()

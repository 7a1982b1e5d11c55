"""The supervisor's process: `python -m flux.running.supervisor_process`.

Opens the store, in a thread, for as long as the database is away; then runs a `Supervisor` until the hypervisor says
stop, or is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import fcntl
import functools
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flux import linux
from flux.app import Flux, lock_path
from flux.config import Config, load
from flux.errors import AlreadyRunning, DatabaseUnavailable, FluxError
from flux.loop import Loop
from flux.running.heart import Heart
from flux.running.supervisor import Supervisor
from flux.running.writer import show

#: Before a database that is away is tried again.
_AGAIN_SECONDS = 1.0


def lock_database(config: Config) -> int | None:
    """Make this process the only supervisor of a SQLite database; return the locked file, None for a server.

    Raises:
        AlreadyRunning: another one is; names its pid.
    """
    path = lock_path(config)
    if path is None:
        return None
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(handle, 32).decode().strip() or "unknown"
        os.close(handle)
        raise AlreadyRunning(
            f"The database {config.database_file} has a supervisor already (pid {pid}). Stop that system first."
        ) from None
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    return handle


def _orders(loop: Loop, fd: int, take: Callable[[Mapping[str, Any]], object]) -> None:
    """Hear the hypervisor's orders, a JSON object a line."""
    rest = b""

    def read() -> None:
        nonlocal rest
        data = os.read(fd, 65536)
        if not data:
            loop.remove(fd)
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            take(json.loads(line))

    loop.add_reader(fd, read)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a supervisor until the hypervisor ends it; return the exit code."""
    parser = argparse.ArgumentParser(prog="flux-supervisor")
    parser.add_argument("--hypervisor-fd", type=int)
    parser.add_argument("--control-fd", type=int)
    options = parser.parse_args(arguments)
    faulthandler.enable()
    linux.forbid_inspection()
    linux.set_name("flux-supervisor")
    loop = Loop()
    supervisor: Supervisor | None = None
    exit_code = 0
    heart = Heart(
        loop,
        options.hypervisor_fd,
        lambda: loop.stop() if supervisor is None else supervisor.end_alone("interrupted (its hypervisor died)"),
        is_well=lambda: supervisor is None or supervisor.is_well,
    )
    if options.control_fd is not None:
        _orders(loop, options.control_fd, lambda order: loop.stop() if supervisor is None else supervisor.order(order))
    with contextlib.ExitStack() as held:

        def begin(flux: Flux, lock: int | None) -> None:
            nonlocal supervisor
            if lock is not None:
                held.callback(os.close, lock)
            held.enter_context(flux)
            begun = supervisor = Supervisor(flux, loop, os.environ, lambda: heart.say({"op": "ready"}))
            held.callback(begun.close)
            begun.start()
            loop.on_signal(signal.SIGTERM, lambda: begun.end_alone("interrupted"))
            gc.collect()
            gc.freeze()

        def refuse(error: Exception) -> None:
            nonlocal exit_code
            exit_code = 1
            if isinstance(error, FluxError):
                heart.say({"op": "refused", "message": str(error)})
            show(error)
            loop.stop()

        threading.Thread(target=_open_store, args=(loop, begin, refuse), name="opening", daemon=True).start()
        loop.run()
    return exit_code


def _open_store(loop: Loop, begin: Callable[[Flux, int | None], object], refuse: Callable[[Exception], object]) -> None:
    """Open the store, in a thread of its own; while the database is away again and again, for tasks may be running."""
    while True:
        try:
            config = load(os.environ)
            lock = lock_database(config)
            try:
                # A writer that waits longer than this would be taken for stuck; it asks again instead.
                flux = Flux.open(config, create=True, busy_seconds=config.stuck_seconds / 2)
            except BaseException:
                if lock is not None:
                    os.close(lock)
                raise
        except DatabaseUnavailable as error:
            show(error)
            time.sleep(_AGAIN_SECONDS)
        except Exception as error:
            loop.call_soon_threadsafe(functools.partial(refuse, error))
            return
        else:
            loop.call_soon_threadsafe(functools.partial(begin, flux, lock))
            return


if __name__ == "__main__":
    sys.exit(main())

"""The supervisor's process: `python -m flux.running.supervisor_process`.

Opens the store, in a thread, for as long as the database is away, and judges the providers meanwhile; then runs a
`Supervisor` until the hypervisor says stop, or is gone.
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
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flux import drivers, linux, providers
from flux.app import Flux, lock_path
from flux.config import Config, load
from flux.drivers import Drivers
from flux.errors import AlreadyRunning, DatabaseUnavailable, FluxError
from flux.loop import Loop
from flux.plugins.catalogue import Catalogue
from flux.running import components
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

        def begin(flux: Flux, lock: int | None, configured: Drivers, catalogue: Catalogue) -> None:
            nonlocal supervisor
            if lock is not None:
                held.callback(os.close, lock)
            held.enter_context(flux)
            environ = dict(os.environ)
            # What an executor of a provider starts from here inherits what is left.
            for name in environ.keys() - components.without_secrets(environ).keys():
                del os.environ[name]
            try:
                begun = supervisor = Supervisor(
                    flux,
                    loop,
                    environ,
                    lambda: heart.say({"op": "ready"}),
                    configured,
                    catalogue=catalogue,
                    tell_hypervisor=heart.say,
                )
            except Exception as error:
                refuse(error)
                return
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
                print(f"supervisor: {error}", file=sys.stderr, flush=True)
            else:
                show(error)
            loop.stop()

        threading.Thread(target=_open, args=(loop, begin, refuse), name="opening", daemon=True).start()
        loop.run()
    return exit_code


def _open(
    loop: Loop,
    begin: Callable[[Flux, int | None, Drivers, Catalogue], object],
    refuse: Callable[[Exception], object],
) -> None:
    """Load the drivers, open the store and judge the providers, in a thread of its own; then have the loop go on."""
    try:
        config = load(os.environ)
        configured = drivers.configured(config)
        with ThreadPoolExecutor(1, "judging") as beside:
            judged = beside.submit(_judge, config)
            flux, lock = _open_store(config)
            try:
                catalogue = judged.result()
            except BaseException:
                flux.close()
                if lock is not None:
                    os.close(lock)
                raise
    except Exception as error:
        loop.call_soon_threadsafe(functools.partial(refuse, error))
    else:
        loop.call_soon_threadsafe(functools.partial(begin, flux, lock, configured, catalogue))


def _open_store(config: Config) -> tuple[Flux, int | None]:
    """Return the open store and the locked file; while the database is away try again and again, for tasks may run."""
    while True:
        lock = lock_database(config)
        try:
            # A writer that waits longer than this would be taken for stuck; it asks again instead.
            return Flux.open(config, create=True, busy_seconds=config.stuck_seconds / 2), lock
        except BaseException as error:
            if lock is not None:
                os.close(lock)
            if not isinstance(error, DatabaseUnavailable):
                raise
            show(error)
        time.sleep(_AGAIN_SECONDS)


def _judge(config: Config) -> Catalogue:
    """Judge the providers, say what is wrong with them, and keep the outcome for others."""
    catalogue = providers.find(config, os.environ)
    providers.report(catalogue)
    config.run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    providers.save(catalogue, config)
    return catalogue


if __name__ == "__main__":
    sys.exit(main())

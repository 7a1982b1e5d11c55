"""Reads the DAGs folder for a command while no system runs: the folder of a supervisor, with a launcher of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flux.errors import FluxError
from flux.loop import Loop
from flux.running.folder import Folder

if TYPE_CHECKING:
    import sqlalchemy as sa

    from flux.app import Flux
    from flux.running.launcher_client import LauncherClient


class _Direct:
    """A database for a command without a system: runs the work at once."""

    def __init__(self, flux: Flux, loop: Loop) -> None:
        self._flux = flux
        self._loop = loop

    def call(
        self,
        work: Callable[[sa.Connection], Any],
        done: Callable[[Any], object] = lambda _: None,
        *,
        failed: Callable[[Exception], object] | None = None,
        reads_only: bool = False,
    ) -> None:
        store = self._flux.store
        try:
            value = (store.read if reads_only else store.write)(work)
        except Exception as error:
            if failed is None:
                raise
            problem = error
            self._loop.call_soon_threadsafe(lambda: failed(problem))
        else:
            self._loop.call_soon_threadsafe(lambda: done(value))


def sync_here(flux: Flux) -> None:
    """Read what has changed in the DAGs folder by an own launcher, for a command when no system runs. Blocks.

    Raises:
        FluxError: that launcher died, or cannot be started.
    """
    from flux import providers
    from flux.running.launcher_client import LauncherClient

    loop = Loop()
    database = _Direct(flux, loop)
    launcher: LauncherClient | None = None
    problem: Exception | None = None
    is_done = False

    def done() -> None:
        nonlocal is_done
        is_done = True
        loop.stop()

    def connected() -> LauncherClient | None:
        nonlocal launcher, problem
        if launcher is None and problem is None:
            try:
                rules = providers.rules(providers.find(flux.config, lenient=True), flux.config)
                settings = {"provider_rules": rules}
                launcher = LauncherClient.private(loop, flux.config.run_folder, heard, loop.stop, settings=settings)
            except Exception as error:  # the loop would show it and go on
                problem = error
                loop.stop()
        return launcher

    def heard(_: LauncherClient, message: Mapping[str, Any]) -> None:
        if message["op"] == "read":
            folder.read_done(message)

    folder = Folder(flux.config, loop, database, connected, lambda registered, shelved: None)
    folder.sync(done)
    folder.load()
    try:
        loop.run()
    finally:
        if launcher is not None:
            launcher.close()
        loop.close()
    if problem is not None:
        raise FluxError(f"The DAGs folder cannot be read, no process can be started for it: {problem}.") from problem
    if not is_done:
        raise FluxError("The process that reads the DAGs folder died; what it said is above. Try again.")

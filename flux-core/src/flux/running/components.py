"""The processes that make up a running system on one machine, and their logs. Standard library only."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flux import drivers, process
from flux.config import OPTIONS, with_absolute_paths

#: Bytes of a component's log after which its end moves to `<kind>.log.1`.
LOG_BYTES = 10 * 1024 * 1024
#: What processes that run author or provider code never get; nor what begins with `FLUX_CONN_`, nor the settings of
#: secrets backends and log handlers.
_SECRETS = ("FLUX_DATABASE_URL", "FLUX_SECRET_KEY", "FLUX_SECRET_KEY_FILE")


@dataclass(frozen=True, slots=True)
class Component:
    """One kind of process that belongs to a running system."""

    #: Also the name of its log.
    kind: str
    #: Command line; `--hypervisor-fd N` is added, and `--control-fd M` when it is controlled.
    argv: tuple[str, ...]
    #: Its whole environment.
    env: Mapping[str, str]
    #: Without it there is no system.
    vital: bool = True
    #: Is told by messages what to do, and ends the tasks when told to stop.
    controlled: bool = False
    #: Runs only while a controlled component wants it.
    on_demand: bool = False


def of_system(
    home: Path,
    run_folder: Path,
    environ: Mapping[str, str],
    *,
    ui: bool,
    host: str | None = None,
    port: int | None = None,
) -> list[Component]:
    """Return the components of `flux up`.

    Args:
        environ: the hypervisor's environment.
        ui: whether to serve the web interface; `host` and `port` are its, None: its own defaults.
    """
    # Launcher and attempts work in the home.
    full = {name: value for name, value in with_absolute_paths(environ).items() if name != "FLUX_CLAIM"}
    full["FLUX_HOME"] = str(home)
    components = [
        Component(
            "launcher", _python("flux.running.launcher", "--run-folder", str(run_folder)), launcher_environ(full)
        ),
        Component("supervisor", _python("flux.running.supervisor_process"), full, controlled=True),
        Component("listener", _python("flux.running.listener"), without_secrets(full), vital=False, on_demand=True),
    ]
    if ui:
        address = (*(("--host", host) if host else ()), *(("--port", str(port)) if port is not None else ()))
        components.append(Component("ui", _python("flux_ui", *address), full, vital=False))
    return components


def launcher_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without secrets, and with a FLUX_CLAIM whose bytes attempts overwrite with theirs."""
    return {**without_secrets(environ), "FLUX_CLAIM": process.NO_CLAIM}


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that runs code of others: no database, no key, no connections."""
    options = {option.variable for option in OPTIONS}
    settings = (*drivers.settings_prefixes(drivers.SECRETS_BACKENDS), *drivers.settings_prefixes(drivers.LOG_HANDLERS))
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("FLUX_CONN_", *_SECRETS)) and (name in options or not name.startswith(settings))
    }


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    """This interpreter on `module`: the working folder is not searched for modules, SIGABRT shows all stacks."""
    return (sys.executable, "-P", "-X", "faulthandler", "-m", module, *arguments)


def open_log(path: Path) -> BinaryIO:
    """Open a component's log to append to it; made for this user alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def bound_log(path: Path) -> None:
    """Move the end of a log over `LOG_BYTES` to `<name>.1` and empty it; who writes it appends, and goes on."""
    try:
        size = path.stat().st_size
        if size <= LOG_BYTES:
            return
        with path.open("rb") as full, path.with_suffix(".log.1").open("wb") as kept:
            os.sendfile(kept.fileno(), full.fileno(), size - LOG_BYTES, LOG_BYTES)
        os.truncate(path, 0)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOSPC):
            raise


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log, oldest first; fewer when it has fewer, or very long ones; none without a log."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 16384))
            return log.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []

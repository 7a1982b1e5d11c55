"""Drivers: what configuration picks by name, each an entry point of its namespace and no hook of a provider.

A driver that is configured and cannot be loaded is fatal at start: a secret that would silently come from elsewhere, or
a log that would silently be lost, is worse than a system that does not start.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flux.errors import PluginError

if TYPE_CHECKING:
    from flux.config import Config
    from flux.plugins.scan import Found

#: Commands of other packages: `name = "package.module:command"`, a click command, listed without being imported.
COMMANDS = "flux.commands"
#: Classes of `SecretsBackend`; option `secrets_backends` picks them, in order.
SECRETS_BACKENDS = "flux.secrets_backends"
#: Classes of `LogHandler`; option `log_handlers` picks them.
LOG_HANDLERS = "flux.log_handlers"
#: Packages with Alembic scripts in their folder `versions/`: tables of another package in the metadata database.
MIGRATIONS = "flux.migrations"
#: Log-in methods of flux-ui.
UI_AUTH = "flux_ui.auth"
#: Characters: what is still to be kept stands in the store under this name.
_LONGEST_LOG_HANDLER = 28
#: What the objects of a namespace must be able to do.
_METHODS = {SECRETS_BACKENDS: ("connection", "variable"), LOG_HANDLERS: ("keep", "read")}
NAMESPACES = (COMMANDS, SECRETS_BACKENDS, LOG_HANDLERS, MIGRATIONS, UI_AUTH)


class SecretsBackend(Protocol):
    """Where connections and variables are kept outside of Flux.

    Made once, in the supervisor, without arguments: it reads its own settings from the environment, from variables that
    begin with FLUX_ and its name. Its methods are called in several threads at once, each call in one of its own and
    under a time limit. Nothing is kept between two calls: an implementation whose calls are slow keeps what it read.
    """

    def connection(self, conn_id: str) -> str | None:
        """Return a connection as a URI; None when it has none of that id. What it raises fails the asking attempt."""

    def variable(self, name: str) -> str | None:
        """Return the text of a variable; None when it has none of that name. What it raises fails the attempt."""


@dataclass(frozen=True, slots=True)
class KeptLog:
    """The log of an attempt that has ended."""

    dag_id: str
    run_id: str
    task_id: str
    #: None: not mapped.
    map_index: int | None
    #: From 1.
    attempt: int
    #: Where it is, or was, on this machine.
    path: Path


class LogHandler(Protocol):
    """Where logs are kept beside the logs folder. Made once in a process, without arguments."""

    def keep(self, log: KeptLog) -> None:
        """Copy the file `log.path`; called at least once for each attempt, so a second time must do no harm.

        In a thread of the supervisor's process, after the attempt has ended. What it raises is logged, and the call is
        repeated with growing pauses.
        """

    def read(self, log: KeptLog) -> bytes | None:
        """Return what `keep` copied, None when there is nothing; asked where the file itself is gone."""


@dataclass(frozen=True, slots=True)
class Drivers:
    """The configured drivers of a supervisor, by name."""

    secrets_backends: Mapping[str, SecretsBackend] = field(default_factory=dict)
    log_handlers: Mapping[str, LogHandler] = field(default_factory=dict)


def configured(config: Config) -> Drivers:
    """Load and make every driver that a supervisor needs.

    Raises:
        PluginError: one of them cannot be loaded or made; NotFound: none has this name.
    """
    return Drivers(secrets_backends(config.secrets_backends), log_handlers(config.log_handlers))


def settings_prefixes(namespace: str) -> tuple[str, ...]:
    """Return what the variables begin with that are settings of the installed drivers of a namespace: FLUX_<NAME>_."""
    from flux.plugins import scan

    names = {found.name for found in scan.entry_points(namespace).found}
    return tuple(sorted(f"FLUX_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_" for name in names))


def secrets_backends(names: Sequence[str]) -> dict[str, SecretsBackend]:
    """Load and make the configured secrets backends, in order.

    Raises:
        PluginError: one of them cannot be loaded or made; NotFound: none has this name.
    """
    return {name: _made(SECRETS_BACKENDS, name) for name in names}


def log_handlers(names: Sequence[str]) -> dict[str, LogHandler]:
    """Load and make the configured log handlers.

    Raises:
        PluginError: one of them cannot be loaded or made; NotFound: none has this name.
    """
    for name in names:
        if len(name) > _LONGEST_LOG_HANDLER:
            raise PluginError(f"The name of log handler {name!r} has more than {_LONGEST_LOG_HANDLER} characters.")
    return {name: _made(LOG_HANDLERS, name) for name in names}


def migrations() -> dict[str, Path]:
    """Return the folders of other packages' migrations, by the name of their entry point, sorted.

    Raises:
        PluginError: one of them cannot be loaded, or is no package with a folder `versions`; two have one name.
    """
    from flux.plugins import discovery

    folders = {}
    for found in discovery.driver_names(MIGRATIONS):
        package = discovery.driver(MIGRATIONS, found.name)
        wrong = misfit(found, package)
        if wrong is not None:
            raise PluginError(wrong)
        folders[found.name] = _folder(package)
    return folders


def _folder(package: object) -> Path:
    return Path(next(iter(getattr(package, "__path__", ())), ""))


def misfit(found: Found, loaded: object) -> str | None:
    """Return a sentence that says why what a driver's entry point named is none of its namespace; None: it is one."""
    from flux.plugins.discovery import KINDS

    file = getattr(sys.modules.get(found.module), "__file__", None)
    what = f"{found.value!r}{f' ({file})' if file else ''}"
    if found.group == COMMANDS:
        import click

        if not isinstance(loaded, click.Command):
            return (
                f"Command {found} is no command of click: {what} is of type {type(loaded).__name__}. "
                "Its author has to name a function decorated with @click.command() or @click.group()."
            )
    if found.group == MIGRATIONS and not (_folder(loaded) / "versions").is_dir():
        return f"Migrations {found} are no package with a folder `versions`: {what} is none."
    if found.group in _METHODS and not callable(loaded):
        return f"{KINDS[found.group]} {found} is no class: {what} is of type {type(loaded).__name__}."
    lacking = _lacking(found.group, loaded) if found.group in _METHODS and isinstance(loaded, type) else ""
    if lacking:
        return f"{KINDS[found.group]} {found}: {what} has no method {lacking}. Its package must add it."
    return None


def _lacking(namespace: str, made: object) -> str:
    """The methods that a driver has not, in words."""
    return " and no ".join(name for name in _METHODS[namespace] if not callable(getattr(made, name, None)))


def _made(namespace: str, name: str) -> Any:
    from flux.plugins import discovery

    kind = namespace.partition(".")[2].replace("_", " ").removesuffix("s")
    make = discovery.driver(namespace, name)
    try:
        made = make()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a driver that calls sys.exit must not end its host without a word
        raise PluginError(
            f"The {kind} {name!r} cannot be made: {type(error).__name__}: {error}. Mend its settings, or take it out "
            f"of the option {namespace.partition('.')[2]}."
        ) from error
    lacking = _lacking(namespace, made)
    if lacking:
        raise PluginError(f"The {kind} {name!r} has no method {lacking}. Its package must add it.")
    return made

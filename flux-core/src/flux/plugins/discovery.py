"""Loading what an entry point names: the only module that uses stevedore.

stevedore imports and picks; which entry points there are is read by `scan`, put under its public overriding point
`list_entry_points`: its own listing keeps a cache on disk that misses fresh installs, and forgets which distribution
an entry point is of. Loading is guarded, because an AssertionError or SystemExit at import would pass stevedore by.

A *driver* is something that configuration or the command line picks by name, in a namespace of its own.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from flux.errors import NotFound, PluginError, told
from flux.plugins import scan
from flux.plugins.scan import Found

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.metadata import EntryPoint

#: What a namespace's drivers are called in messages.
KINDS = {
    "flux.commands": "Command",
    "flux.secrets_backends": "Secrets backend",
    "flux.log_handlers": "Log handler",
    "flux.migrations": "Migrations package",
    "flux_ui.auth": "Authentication",
    scan.PROVIDERS: "Provider",
}


def driver_names(namespace: str) -> list[Found]:
    """Return the drivers of `namespace`, sorted by name; two of one name are both there. Imports none of them."""
    return list(scan.entry_points(namespace).found)


def driver(namespace: str, name: str) -> Any:
    """Import and return the one driver of that name.

    Raises:
        NotFound: no installed distribution brings it; names those that are there.
        PluginError: two distributions bring it, or it cannot be imported; names distribution and version.
    """
    kind = KINDS.get(namespace, namespace)
    known = driver_names(namespace)
    found = [each for each in known if each.name == name]
    if not found:
        raise NotFound.named(kind, name, {each.name for each in known})
    if len(found) > 1:
        owners = " and ".join(each.owner for each in found)
        raise PluginError(f"{kind} {name!r} is brought by {owners}. Uninstall one of them.")
    return load(found[0])


def load(found: Found) -> Any:
    """Import and return what an entry point names.

    Raises:
        PluginError: it cannot be imported, whatever it raised, which is the cause; names distribution and version.
    """
    return _manager_class()(found).driver


def prepare() -> None:
    """Load stevedore now, not at the first `load`: for a process that must know what a provider brought."""
    _manager_class()


@cache
def _manager_class() -> Callable[[Found], Any]:
    """The class is made on first use, so that whoever only lists does not load stevedore."""
    from importlib.metadata import EntryPoint

    from stevedore.driver import DriverManager

    class Guarded(EntryPoint):
        def load(self) -> Any:
            if self.pattern.match(self.value) is None:
                raise _Failed from ValueError(f"{self.value!r} is no 'package.module' and no 'package.module:Name'")
            try:
                return super().load()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise _Failed from error

    class One(DriverManager):  # type: ignore[type-arg]  # a generic in newer releases only
        """The driver of one entry point."""

        def __init__(self, found: Found) -> None:
            self._found = found
            super().__init__(found.group, found.name, on_load_failure_callback=self._refuse)

        def list_entry_points(self) -> list[EntryPoint]:
            return [Guarded(self._found.name, self._found.value, self._found.group)]

        def _refuse(self, _manager: object, _entry_point: EntryPoint, error: BaseException) -> None:
            cause = error.__cause__ or error
            kind = KINDS.get(self._found.group, self._found.group)
            raise PluginError(
                f"{kind} {self._found} cannot be loaded from {self._found.value!r}: {told(cause)}."
            ) from cause

    return One


class _Failed(Exception):
    """An import raised its cause."""

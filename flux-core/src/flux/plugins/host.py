"""The plugin host: registers providers and asks their hooks. The only module that imports pluggy.

Every provider is asked by itself: one that raises is recorded in `faults` and the rest go on. What a hook returns is
checked and kept until the next registration. Registering is the caller's: discovery, the built-in provider and tests
use the same `register`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pluggy

from flux.errors import NotFound, PluginError
from flux.plugins import IMPLEMENTS, SPECIFIES, ConnectionType, Ref, specs

#: The provider whose names nobody can take over.
CORE = "core"

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Offer:
    """One reference and the provider that offers it."""

    provider: str
    ref: Ref


@dataclass(frozen=True, slots=True)
class Fault:
    """A hook of a provider that raised or returned something it must not."""

    provider: str
    hook: str
    message: str


class Host:
    """The registered providers, and one typed method for each hook.

    Args:
        strict: raise the first fault in place of recording it.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._plugins = _PluginManager("flux")
        self._plugins.add_hookspecs(specs)
        self._answers: dict[str, list[tuple[str, Any]]] = {}
        self._faults: dict[tuple[str, str], Fault] = {}

    def register(self, name: str, plugin: object) -> None:
        """Add a provider under `name`: a manifest module, or any object with marked functions.

        Raises:
            PluginError: the name is taken, a marked function is no hook, or takes an argument the hook does not give.
                Nothing of the provider stays registered.
        """
        if self._plugins.has_plugin(name):
            raise PluginError(f"Provider {name!r} is already registered. Give one of the two another name.")
        for function in _marked_names(plugin, IMPLEMENTS):
            if function not in self.hooks:
                raise PluginError(f"Provider {name!r} implements {function!r}, which is no hook. {_known(self.hooks)}")
        try:
            self._plugins.register(plugin, name)
        except (ValueError, pluggy.PluginValidationError) as error:
            if self._plugins.has_plugin(name):
                self._plugins.unregister(name=name)
            raise PluginError(f"Provider {name!r} cannot be registered: {error}") from error
        self._answers.clear()
        self._faults.clear()

    @property
    def hooks(self) -> tuple[str, ...]:
        """Names of the hooks, sorted."""
        return tuple(sorted(vars(self._plugins.hook)))

    @property
    def providers(self) -> tuple[str, ...]:
        """Names of the registered providers, in order of registration."""
        return tuple(name for name, _ in self._plugins.list_name_plugin())

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What went wrong in the hooks asked so far."""
        return tuple(self._faults.values())

    def operators(self) -> tuple[Offer, ...]:
        return self._offers("flux_operators")

    def sensors(self) -> tuple[Offer, ...]:
        return self._offers("flux_sensors")

    def executors(self) -> tuple[Offer, ...]:
        return self._offers("flux_executors")

    def executor(self, name: str) -> Any:
        """Load the executor class of that name.

        Raises:
            NotFound: no provider offers it.
            PluginError: two providers offer it, or it cannot be loaded.
        """
        return self._only("executor", name, {id(o): (o.provider, o.ref.name, o.ref) for o in self.executors()}).load()

    def macros(self) -> Mapping[str, Mapping[str, Ref]]:
        """Map provider to name to reference."""
        found: dict[str, dict[str, Ref]] = {}
        for offer in self._offers("flux_macros"):
            found.setdefault(offer.provider, {})[offer.ref.name] = offer.ref
        return found

    def connection_types(self) -> tuple[tuple[str, ConnectionType], ...]:
        """Return (provider, connection type), in order of registration."""
        return tuple(self._ask("flux_connection_types", ConnectionType))

    def connection_type(self, name: str) -> ConnectionType:
        """Return the connection type of that name.

        Raises:
            NotFound: no provider offers it.
            PluginError: two providers offer it.
        """
        offered = {id(kind): (provider, kind.name, kind) for provider, kind in self.connection_types()}
        return self._only("connection type", name, offered)

    def find(self, name: str) -> tuple[Offer, ...]:
        """Return the operators and sensors called `name`, which may be `provider.Name`."""
        provider, _, short = name.rpartition(".")
        offers = (*self.operators(), *self.sensors())
        return tuple(o for o in offers if o.ref.name == short and provider in ("", o.provider))

    def _offers(self, hook: str) -> tuple[Offer, ...]:
        return tuple(Offer(provider, ref) for provider, ref in self._ask(hook, Ref))

    def _only(self, kind: str, name: str, offered: Mapping[int, tuple[str, str, _Item]]) -> _Item:
        """The one item called `name`; core's own wins, a clash between others is refused."""
        owners = {provider: item for provider, item_name, item in offered.values() if item_name == name}
        if not owners:
            raise NotFound.named(kind, name, {item_name for _, item_name, _ in offered.values()})
        if CORE in owners:
            return owners[CORE]
        if len(owners) > 1:
            raise PluginError(
                f"Providers {' and '.join(sorted(owners))} both offer {kind} {name!r}. Disable one of them."
            )
        return next(iter(owners.values()))

    def _ask(self, hook: str, item_type: type[_Item]) -> list[tuple[str, _Item]]:
        if hook not in self._answers:
            self._answers[hook] = [
                pair for each in self._implementations(hook) for pair in self._answer(*each, item_type)
            ]
        return self._answers[hook]

    def _implementations(self, hook: str) -> Iterator[tuple[str, str, Callable[[], Any]]]:
        """Provider, hook and function, in order of registration; pluggy keeps the last registered last."""
        for implementation in getattr(self._plugins.hook, hook).get_hookimpls():
            yield implementation.plugin_name, hook, implementation.function

    def _answer(
        self, provider: str, hook: str, function: Callable[[], Any], item_type: type[_Item]
    ) -> list[tuple[str, _Item]]:
        """Call one provider's hook; what it raises, also from a generator, becomes a fault."""
        try:
            items = list(function() or ())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit and failed assertions of a provider must not end its host
            return self._fault(provider, hook, f"{type(error).__name__}: {error}", error)
        wrong = next((item for item in items if not isinstance(item, item_type)), None)
        if wrong is not None:
            return self._fault(provider, hook, f"returned {wrong!r}, which is no {item_type.__name__}")
        return [(provider, item) for item in items]

    def _fault(self, provider: str, hook: str, message: str, error: BaseException | None = None) -> list[Any]:
        if self._strict:
            raise PluginError(f"Provider {provider!r}: {hook}: {message}.") from error
        self._faults[provider, hook] = Fault(provider, hook, message)
        return []


class _PluginManager(pluggy.PluginManager):
    """pluggy with our own markers, read without touching properties or lazy names of a plugin."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> pluggy.HookimplOpts | None:
        if not _is_marked(plugin, name, IMPLEMENTS):
            return None
        return pluggy.HookimplOpts(
            wrapper=False, hookwrapper=False, optionalhook=False, tryfirst=False, trylast=False, specname=None
        )

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> pluggy.HookspecOpts | None:
        if not _is_marked(module_or_class, name, SPECIFIES):
            return None
        return pluggy.HookspecOpts(firstresult=False, historic=False, warn_on_impl=None, warn_on_impl_args=None)


def _marked_names(plugin: object, marker: str) -> list[str]:
    return [name for name in dir(plugin) if _is_marked(plugin, name, marker)]


def _is_marked(holder: object, name: str, marker: str) -> bool:
    found = inspect.getattr_static(holder, name, None)
    function = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
    return inspect.isfunction(function) and getattr(function, marker, False) is True


def _known(names: tuple[str, ...]) -> str:
    return f"Known: {', '.join(names)}."

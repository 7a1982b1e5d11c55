"""What the providers mean to a process that reads DAG files or runs their tasks: refusals, policies and macros.

The supervisor has judged; this process is given the outcome as rules and judges nothing. Of a provider it imports what
the DAG file imports, the manifests that have a policy, and the macros that a template names.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flux.errors import NotFound, PluginError

if TYPE_CHECKING:
    from flux.operator import BaseOperator
    from flux.plugins.host import Host

#: The hook that decides about tasks.
POLICY_HOOK = "flux_task_policy"


class DagProviders:
    """The providers, by the rules that the supervisor made.

    Args:
        rules: see `flux.providers.rules`; empty: there is nothing but core.
    """

    def __init__(self, rules: Mapping[str, Any] | None = None) -> None:
        rules = rules or {}
        self._refused: Mapping[str, str] = rules.get("refused") or {}
        self._policies: Sequence[tuple[str, str, str | None]] = rules.get("policies") or ()
        self._macros: Mapping[str, Mapping[str, str]] = rules.get("macros") or {}
        self._catalogue: str | None = rules.get("file")
        self._host: Host | None = None
        self._loaded: dict[tuple[str, str], Any] = {}

    def install(self) -> None:
        """From now on refuse the imports that are to be refused, before any other finder finds them."""
        if self._catalogue is not None:
            from flux.plugins import signpost

            signpost.use(self._catalogue)
        if self._refused:
            sys.meta_path.insert(0, _Refusal(self._refused))

    @property
    def has_policies(self) -> bool:
        """Whether `decide` has anybody to ask."""
        return bool(self._policies)

    def decide(self, task: BaseOperator) -> None:
        """Let every policy change or refuse a task, in the order of the providers.

        Raises:
            PolicyViolation: one refused it.
            PluginError: a policy failed, or its manifest cannot be imported here; the error is the cause.
        """
        if self._policies:
            self._deciding().task_policy(task)

    def _deciding(self) -> Host:
        if self._host is None:
            from flux.plugins.host import Host

            host = Host()
            for provider, module, _ in self._policies:
                try:
                    manifest = importlib.import_module(module)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a manifest that calls sys.exit must not end this process
                    raise PluginError(
                        f"The policy of provider {provider!r} cannot be asked: its manifest {module} cannot be "
                        f"imported: {type(error).__name__}: {error}. Mend it, or disable the provider."
                    ) from error
                host.register(provider, manifest)
            self._host = host
        return self._host

    def macro(self, provider: str, name: str) -> Any:
        """Return a provider's macro, imported when it is first asked for.

        Raises:
            NotFound: there is no such provider or macro; says what to install where that is known.
            PluginError: it cannot be imported, or the provider is not ok.
        """
        key = provider, name
        if key not in self._loaded:
            self._loaded[key] = self._load(provider, name)
        return self._loaded[key]

    def _load(self, provider: str, name: str) -> Any:
        from flux.plugins import Ref

        offered = self._macros.get(provider)
        if offered is None:
            raise self._no_macros(provider)
        if name not in offered:
            raise NotFound.named(f"Macro of provider {provider!r}", name, offered)
        try:
            return Ref(name, offered[name]).load()
        except PluginError as error:
            raise PluginError(f"macros.{provider}.{name}: {error}") from error

    def _no_macros(self, provider: str) -> Exception:
        """Why there is no `macros.<provider>`."""
        from flux import macros
        from flux.plugins import scan, well_known

        for reason in self._refused.values():
            if reason.startswith(f"Provider {provider!r} "):
                return PluginError(reason)
        if any(found.name == provider for found in scan.entry_points(scan.PROVIDERS).found):
            return NotFound(f"Provider {provider!r} has no macros.")
        package = well_known.distribution(provider)
        hint = "Providers' macros are macros.<provider>.<name>."
        if package is not None:
            hint = f"macros.{provider} comes with {package}. Install it with `pip install {package}`."
        return NotFound.named("Macro", provider, (*macros.__all__, *self._macros), hint=hint)


class _Refusal:
    """A meta path finder that finds nothing, and says why some modules must not be imported."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self._reasons = reasons

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        for refused, reason in self._reasons.items():
            if name == refused or name.startswith(f"{refused}."):
                raise ImportError(reason, name=name)
        return None

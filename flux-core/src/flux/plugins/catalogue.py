"""The catalogue: everything the good providers offer, by name. Built from verdicts; imports nothing of a provider."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flux.errors import NotFound, PluginError
from flux.plugins import ConnectionType, Ref
from flux.plugins.verdict import Verdict

#: The provider whose names nobody can take over.
CORE = "core"
#: The name of the one-file provider, `flux_provider.py` at the root of the DAGs folder.
LOCAL = "local"

#: Of the file that keeps a catalogue; one of another format is none.
_FORMAT = 1

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Offer:
    """One reference and the provider that offers it."""

    provider: str
    ref: Ref


class Catalogue:
    """What is there. Order: core, then by name, `local` last, as `verdicts` come.

    Args:
        verdicts: of all providers, good and bad.
        warnings: what is odd about the configuration of providers, a sentence each.
    """

    def __init__(self, verdicts: Iterable[Verdict], warnings: Iterable[str] = ()) -> None:
        self.verdicts = tuple(verdicts)
        self.warnings = tuple(warnings)
        self._good = tuple(verdict for verdict in self.verdicts if verdict.is_ok)

    def write(self, path: Path) -> None:
        """Keep the catalogue in a file, whole or not at all."""
        message = {
            "format": _FORMAT,
            "verdicts": [verdict.to_message() for verdict in self.verdicts],
            "warnings": self.warnings,
        }
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_text(json.dumps(message), encoding="utf-8")
        new.replace(path)

    @classmethod
    def read(cls, path: Path) -> Catalogue | None:
        """Return what `write` kept; None: there is none, or another version of Flux wrote it."""
        try:
            message = json.loads(path.read_bytes())
            if message["format"] != _FORMAT:
                return None
            return cls(map(Verdict.from_message, message["verdicts"]), message["warnings"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def provider(self, name: str) -> Verdict:
        """Return the verdict on the provider of that name; of two in conflict, the first.

        Raises:
            NotFound: there is none.
        """
        for verdict in self.verdicts:
            if verdict.name == name:
                return verdict
        raise NotFound.named("Provider", name, sorted({verdict.name for verdict in self.verdicts}))

    def operators(self) -> tuple[Offer, ...]:
        """Return every operator and who offers it."""
        return tuple(Offer(verdict.name, ref) for verdict in self._good for ref in verdict.operators)

    def sensors(self) -> tuple[Offer, ...]:
        """Return every sensor and who offers it."""
        return tuple(Offer(verdict.name, ref) for verdict in self._good for ref in verdict.sensors)

    def executors(self) -> tuple[Offer, ...]:
        """Return every executor and who offers it."""
        return tuple(Offer(verdict.name, ref) for verdict in self._good for ref in verdict.executors)

    def executor(self, name: str) -> Any:
        """Load the executor class of that name.

        Raises:
            NotFound: no provider offers it.
            PluginError: two providers offer it, or it cannot be loaded.
        """
        return self._only("Executor", [(o.provider, o.ref.name, o.ref) for o in self.executors()], name).load()

    def macros(self) -> Mapping[str, Mapping[str, Ref]]:
        """Map provider to name to reference."""
        return {verdict.name: {ref.name: ref for ref in verdict.macros} for verdict in self._good if verdict.macros}

    def connection_types(self) -> tuple[tuple[str, ConnectionType], ...]:
        """Return (provider, connection type)."""
        return tuple((verdict.name, kind) for verdict in self._good for kind in verdict.connection_types)

    def connection_type(self, name: str) -> ConnectionType:
        """Return the connection type of that name.

        Raises:
            NotFound: no provider offers it.
            PluginError: two providers offer it.
        """
        offered = [(provider, kind.name, kind) for provider, kind in self.connection_types()]
        absent = [f"{verdict.name} ({verdict.state})" for verdict in self.verdicts if not verdict.is_ok]
        hint = f"Not taking part: {', '.join(absent)}; `flux provider list` says why." if absent else ""
        return self._only("Connection type", offered, name, hint)

    def find(self, name: str) -> tuple[Offer, ...]:
        """Return the operators and sensors called `name`, which may be `provider.Name`."""
        provider, _, short = name.rpartition(".")
        offers = (*self.operators(), *self.sensors())
        return tuple(o for o in offers if o.ref.name == short and provider in ("", o.provider))

    def listeners(self, hook: str) -> tuple[Verdict, ...]:
        """Return the good providers whose manifest implements `hook`."""
        return tuple(verdict for verdict in self._good if hook in verdict.hooks)

    def _only(self, kind: str, offered: list[tuple[str, str, _Item]], name: str, hint: str = "") -> _Item:
        """The one item called `name`; core's own wins, a clash between others is refused."""
        owners = {provider: item for provider, item_name, item in offered if item_name == name}
        if not owners:
            raise NotFound.named(kind, name, sorted({item_name for _, item_name, _ in offered}), hint=hint)
        if CORE in owners:
            return owners[CORE]
        if len(owners) > 1:
            raise PluginError(
                f"Providers {' and '.join(sorted(owners))} both offer {kind.lower()} {name!r}. Disable one of them."
            )
        return next(iter(owners.values()))

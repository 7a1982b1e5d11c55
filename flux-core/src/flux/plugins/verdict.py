"""What judging a provider found: its state, the reason, and everything it offers, as data. Standard library only.

A verdict is made by a child process (`judgement`) and travels as JSON, so whoever holds it knows what a provider
offers without having imported a line of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from flux.plugins import ConnectionType, Field, Ref


class ProviderState(StrEnum):
    """Whether a provider takes part."""

    #: Judged and good.
    OK = "ok"
    #: Switched off by configuration; nothing of it was imported.
    DISABLED = "disabled"
    #: Its metadata cannot be read, its manifest does not import in time, or a hook of it is wrong or raised.
    BROKEN = "broken"
    #: Its FLUX_API does not admit a version of the hooks that this core serves.
    INCOMPATIBLE = "incompatible"
    #: Another provider has its name, or it takes the name of a core executor or connection type.
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One provider, judged."""

    #: Name of its entry point; `core`, `local` (the one-file provider), or a distribution whose metadata is unreadable.
    name: str
    #: None: it belongs to no distribution.
    distribution: str | None
    version: str | None
    state: ProviderState
    #: One line that says what is wrong; None: nothing.
    reason: str | None = None
    #: The manifest; empty where it is not known.
    module: str = ""
    #: Names of the hooks that it implements, sorted.
    hooks: tuple[str, ...] = ()
    operators: tuple[Ref, ...] = ()
    sensors: tuple[Ref, ...] = ()
    executors: tuple[Ref, ...] = ()
    macros: tuple[Ref, ...] = ()
    connection_types: tuple[ConnectionType, ...] = ()
    #: What is worth a warning and changes no state, a line each.
    notes: tuple[str, ...] = field(default=())

    @property
    def is_ok(self) -> bool:
        return self.state is ProviderState.OK

    def to_message(self) -> dict[str, Any]:
        """Return the verdict as JSON-ready data."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            **{kind: [_of_ref(ref) for ref in getattr(self, kind)] for kind in _REFS},
            "connection_types": [asdict(kind) for kind in self.connection_types],
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Verdict:
        """Read what `to_message` gave, also after a way through JSON."""
        refs = {kind: tuple(Ref(**ref) for ref in message[kind]) for kind in _REFS}
        types = tuple(_connection_type(data) for data in message["connection_types"])
        lines = {kind: tuple(message[kind]) for kind in ("hooks", "notes")}
        state = ProviderState(message["state"])
        return cls(**{**message, **refs, **lines, "state": state, "connection_types": types})


#: The fields of a verdict that hold references.
_REFS = ("operators", "sensors", "executors", "macros")


def _of_ref(ref: Ref) -> dict[str, Any]:
    """What `asdict` gives, in a fifth of its time: a hundred providers offer thousands."""
    return {"name": ref.name, "path": ref.path, "summary": ref.summary, "source": ref.source, "target": ref.target}


def _connection_type(data: Mapping[str, Any]) -> ConnectionType:
    members = tuple(each if isinstance(each, str) else Field(**each) for each in data["fields"])
    return ConnectionType(**{**data, "client": Ref(**data["client"]), "fields": members})

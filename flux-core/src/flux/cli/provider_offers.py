"""What providers offer, one row each: what it is called, what it is for, and how it is used. Works on verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flux.plugins import ConnectionType, Field, Ref, well_known
from flux.plugins.catalogue import CORE, Catalogue
from flux.plugins.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Offered:
    """Something that can be used, or could be after an installation."""

    name: str
    #: operator, sensor, executor, macro or connection type.
    kind: str
    #: The provider's name.
    provider: str
    #: One line; empty: the provider gives none.
    summary: str
    #: What a person writes to use it.
    use: str
    #: What must be installed first; None: it is there.
    install: str | None = None

    def has(self, words: Sequence[str]) -> bool:
        """Whether each of the words is in its name, its summary or its provider's name, in any case."""
        text = f"{self.name} {self.summary} {self.provider}".lower()
        return all(word.lower() in text for word in words)


def of(verdict: Verdict) -> Iterator[Offered]:
    """Yield everything one provider offers, kind by kind."""
    for kind, refs in (("operator", verdict.operators), ("sensor", verdict.sensors)):
        for ref in refs:
            yield Offered(ref.name, kind, verdict.name, ref.summary, import_line(ref))
    for ref in verdict.executors:
        yield Offered(ref.name, "executor", verdict.name, ref.summary, f"FLUX_EXECUTOR={ref.name}")
    for ref in verdict.macros:
        yield Offered(ref.name, "macro", verdict.name, ref.summary, macro_name(verdict.name, ref.name))
    for each in verdict.connection_types:
        use = f"flux connection add {each.name}_default --type {each.name}"
        yield Offered(each.name, "connection type", verdict.name, each.client.summary, use)


def search(catalogue: Catalogue, words: Sequence[str]) -> list[Offered]:
    """Return what the words are found in: what the good providers offer, then what others are known to."""
    there = [offer for verdict in catalogue.verdicts if verdict.is_ok for offer in of(verdict)]
    names = {offer.name for offer in there}
    known = [offer for offer in _well_known(catalogue) if offer.name not in names]
    return [offer for offer in (*there, *known) if offer.has(words)]


def import_line(ref: Ref) -> str:
    """Return the statement that a DAG file needs."""
    module, _, attribute = ref.path.partition(":")
    return f"from {module} import {attribute}"


def macro_name(provider: str, name: str) -> str:
    """Return a macro's name in templates; core's have no prefix."""
    return f"macros.{name}" if provider == CORE else f"macros.{provider}.{name}"


def fields(kind: ConnectionType) -> list[Field]:
    """Return every setting of a connection type as a field, in the order of a form, the standard ones described."""
    names = list(kind.fields)
    if kind.default_port is not None and "port" not in names:
        names.append("port")
    return [each if isinstance(each, Field) else _standard(each, kind) for each in names]


#: What each of the settings is that any connection can have.
_STANDARD = {
    "host": "Name or address of the machine.",
    "port": "The port on it.",
    "login": "Who logs in.",
    "password": "The password of the login.",
    "schema": "What is opened there: a database, a schema, a path.",
}


def _standard(name: str, kind: ConnectionType) -> Field:
    default = str(kind.default_port) if name == "port" and kind.default_port is not None else None
    return Field(name, secret=name == "password", default=default, help=_STANDARD[name])


def _well_known(catalogue: Catalogue) -> Iterator[Offered]:
    """Operators and sensors of well-known providers that are not installed."""
    installed = {verdict.name for verdict in catalogue.verdicts}
    for provider, modules in well_known.WELL_KNOWN.items():
        if provider in installed:
            continue
        for module, names in modules.items():
            for name in names:
                use = f"from flux_provider_{provider}.{module} import {name}"
                kind = "sensor" if module == "sensors" else "operator"
                yield Offered(name, kind, provider, "", use, well_known.distribution(provider))

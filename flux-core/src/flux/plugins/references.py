"""What a provider's references must load as: operators as operators, clients as clients. Importing is the caller's."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from flux.errors import FluxError
from flux.executor import BaseExecutor
from flux.operator import BaseOperator, misnamed_fields
from flux.plugins import Ref
from flux.plugins.verdict import Verdict
from flux.sensor import BaseSensor

__all__ = ["offered", "problems"]

_BASES: dict[str, type] = {"operator": BaseOperator, "sensor": BaseSensor, "executor": BaseExecutor}


def offered(verdict: Verdict) -> Iterator[tuple[str, Ref]]:
    """Yield (kind, reference) of all that a provider offers: operator, sensor, executor, macro, and client."""
    for kind in ("operator", "sensor", "executor", "macro"):
        for ref in getattr(verdict, f"{kind}s"):
            yield kind, ref
    for each in verdict.connection_types:
        yield "client", each.client


def problems(verdict: Verdict) -> Iterator[str]:
    """Load everything a provider offers; yield a sentence for each reference that does not load as what it should be.

    Author code runs: only for processes that may hang or be ended by it.
    """
    for kind, ref in offered(verdict):
        try:
            loaded = ref.load()
        except FluxError as error:
            yield f"{error} Mend its Ref or its module."
            continue
        wrong = _wrong(kind, ref, loaded)
        if wrong:
            yield f"{kind.capitalize()} {ref.name!r} ({ref.path}) {wrong}."


def _wrong(kind: str, ref: Ref, loaded: Any) -> str | None:
    """What is wrong with what a reference names; None: nothing."""
    if kind == "macro":
        return None if callable(loaded) or inspect.ismodule(loaded) else "is no function"
    if not inspect.isclass(loaded):
        return "is no class"
    if kind == "client":
        missing = [name for name in ("check", "close") if not callable(getattr(loaded, name, None))]
        return f"has no method {missing[0]}()" if missing else None
    base = _BASES[kind]
    if not issubclass(loaded, base):
        return f"is no {base.__name__}"
    if kind == "operator" and issubclass(loaded, BaseSensor):
        return "is a sensor: offer it by flux_sensors()"
    if kind != "executor" and loaded.__name__ != ref.name:
        return f"is called {loaded.__name__}: give the Ref the name of its class"
    misnamed = misnamed_fields(loaded) if issubclass(loaded, BaseOperator) else None
    if misnamed is not None:
        return f"cannot be rendered: {misnamed.removesuffix('.')}"
    abstract = sorted(getattr(loaded, "__abstractmethods__", ()))
    return f"does not define {', '.join(abstract)}(), which {base.__name__} leaves to it" if abstract else None

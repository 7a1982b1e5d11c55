"""What `flux provider check` looks at: every provider ok, everything it offers loads, no name is there twice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flux import drivers
from flux.config import Config
from flux.plugins import discovery, loading
from flux.plugins.catalogue import Catalogue
from flux.plugins.verdict import ProviderState, Verdict


@dataclass(frozen=True, slots=True)
class Checked:
    """One provider, and what is wrong with it."""

    #: Of the provider; of a distribution, or "configuration", where the problem is none of a provider's.
    name: str
    distribution: str | None
    version: str | None
    #: As judged, before anything was loaded.
    state: str
    #: A sentence each; empty: it is good, or switched off.
    problems: list[str]


def check(
    catalogue: Catalogue, config: Config, names: Sequence[str], *, seconds: float, taken: Sequence[str]
) -> Iterator[Checked]:
    """Yield what is found, provider by provider. Author code runs in child processes.

    Args:
        names: of the providers to look at; empty: all, and what is around them.
        seconds: what loading one provider's modules may take.
        taken: names of commands that are Flux's own.

    Raises:
        NotFound: there is no provider of one of the names.
    """
    for name in names:
        catalogue.provider(name)
    for verdict in catalogue.verdicts:
        if not names or verdict.name in names:
            found = _of(verdict, config, seconds, by_name=verdict.name in names)
            yield Checked(verdict.name, verdict.distribution, verdict.version, str(verdict.state), found)
    if not names:
        yield from _around(catalogue, config, taken)
        yield from _drivers(seconds)


def _of(verdict: Verdict, config: Config, seconds: float, *, by_name: bool) -> list[str]:
    if not verdict.is_ok:
        is_meant = verdict.state is ProviderState.DISABLED and not by_name
        return [] if is_meant else [verdict.reason or f"It is {verdict.state}."]
    loaded = loading.problems(verdict, folder=config.dags_folder, seconds=seconds, environ=os.environ)
    return [*verdict.notes, *loaded]


def _around(catalogue: Catalogue, config: Config, taken: Sequence[str]) -> Iterator[Checked]:
    """What is wrong with the configuration of providers, and with names of the commands of other packages."""
    known = {verdict.name for verdict in catalogue.verdicts}
    missing = [
        f"Provider {name!r} is required (by providers_required, from {config.sources['providers_required']}) and not "
        "installed."
        for name in config.providers_required
        if name not in known
    ]
    if catalogue.warnings or missing:
        yield Checked("configuration", None, None, "ok", [*catalogue.warnings, *missing])
    commands = discovery.driver_names(drivers.COMMANDS)
    for each in commands:
        others = [other.owner for other in commands if other.name == each.name and other != each]
        if each.name in taken:
            problem = f"Its command {each.name!r} cannot be reached: `flux {each.name}` is Flux's own."
        elif others:
            problem = f"Its command {each.name!r} cannot be used: {' and '.join(others)} brings one of that name too."
        else:
            continue
        yield Checked(each.distribution or each.name, each.distribution, each.version, "ok", [problem])


def _drivers(seconds: float) -> Iterator[Checked]:
    """The drivers that cannot be loaded, of every namespace."""
    for namespace in drivers.NAMESPACES:
        for each in discovery.driver_names(namespace):
            problems = loading.driver_problems(each, seconds=seconds, environ=os.environ)
            if problems:
                yield Checked(each.distribution or each.name, each.distribution, each.version, "ok", problems)

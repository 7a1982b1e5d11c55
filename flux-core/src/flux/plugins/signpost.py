"""Where a name is that somebody looked for in `flux`, `flux.operators` or `flux.sensors`: the text of the ImportError.

Imports nothing of a provider: it asks the saved catalogue, if this process was told of one, then the text of the
installed providers' modules, then the table of well-known names.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flux.errors import NotFound
from flux.plugins import scan, well_known
from flux.plugins.catalogue import LOCAL, Catalogue
from flux.plugins.scan import Found

#: The modules of a provider's package that hold operators and sensors.
_MODULES = ("operators", "sensors", "transfers")
#: The one-file provider, importable where the DAGs folder is on the path.
ONE_FILE = Found(LOCAL, None, None, "flux_provider", scan.PROVIDERS)
_catalogue_file: Path | None = None


def use(file: str | Path | None) -> None:
    """Look into the catalogue that a supervisor saved in `file`; None: into none."""
    global _catalogue_file
    _catalogue_file = None if file is None else Path(file)


def missing(kind: str, name: str, core: Mapping[str, Sequence[str]]) -> ImportError:
    """Return the error for `name`, which is not where somebody looked for it.

    Args:
        kind: "Operator" or "Sensor".
        core: maps core's modules to the names in them.
    """
    catalogue = Catalogue.read(_catalogue_file) if _catalogue_file is not None else None
    text = _cores_own(name, core) or _offered(name, catalogue) or _written(name, catalogue) or _well_known(kind, name)
    if text is None:
        offers = (*catalogue.operators(), *catalogue.sensors()) if catalogue is not None else ()
        names = {*(each for known in core.values() for each in known), *(offer.ref.name for offer in offers)}
        text = str(NotFound.named(kind, name, names, hint=f"`flux provider search {name}` looks in all providers."))
    return ImportError(text, name=name)


def _cores_own(name: str, core: Mapping[str, Sequence[str]]) -> str | None:
    """Where core has it, for whoever looked in the wrong one of its modules."""
    for module, names in core.items():
        if name in names:
            return f"{name} is in {module}: use `from {module} import {name}`."
    return None


def _offered(name: str, catalogue: Catalogue | None) -> str | None:
    """By the catalogue: which provider offers it."""
    offers = catalogue.find(name) if catalogue is not None else ()
    lines = []
    for offer in offers:
        module, _, attribute = offer.ref.path.partition(":")
        lines.append(f"{name} is in provider {offer.provider!r}: use `from {module} import {attribute}`.")
    return " ".join(lines) or None


def _written(name: str, catalogue: Catalogue | None) -> str | None:
    """By the source of what is installed: which provider defines a class of that name."""
    defines = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    for found in (*scan.entry_points(scan.PROVIDERS).found, ONE_FILE):
        for module, text in _sources(found):
            if defines.search(text):
                state = _state(found, catalogue)
                return f"{name} is in provider {found}{state}: use `from {module} import {name}`."
    return None


def _state(found: Found, catalogue: Catalogue | None) -> str:
    for verdict in catalogue.verdicts if catalogue is not None else ():
        if (verdict.name, verdict.distribution) == (found.name, found.distribution) and not verdict.is_ok:
            return f", which is {verdict.state}: {verdict.reason}"
    return ""


def _sources(found: Found) -> Iterable[tuple[str, str]]:
    """(module, text) of the modules where a provider's classes are, without importing the package."""
    package = found.module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    places = [(package, Path(spec.origin or ""))]
    for folder in spec.submodule_search_locations or ():
        for module in _MODULES:
            places.append((f"{package}.{module}", Path(folder, f"{module}.py")))
            places.append((f"{package}.{module}", Path(folder, module, "__init__.py")))
    for name, file in places:
        try:
            yield name, file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue


def _well_known(kind: str, name: str) -> str | None:
    place = well_known.where(name)
    if place is None:
        return None
    provider, module = place
    package = well_known.distribution(provider)
    if any(found.name == provider for found in scan.entry_points(scan.PROVIDERS).found):
        return f"{kind} {name} is in provider {provider!r}: use `from {module} import {name}`."
    use = f"use `from {module} import {name}`"
    return f"{kind} {name} comes with {package}. Install it with `pip install {package}`, then {use}."

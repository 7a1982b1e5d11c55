"""Names that two providers want: what is refused, and what is only worth a warning. Works on verdicts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from flux.plugins.catalogue import CORE, LOCAL
from flux.plugins.scan import Found
from flux.plugins.verdict import ProviderState, Verdict

#: Of a provider: it is written in options, in templates and on the command line. Modules of `plugins` have dots.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
#: What is looked up by its bare name, by field of `Verdict`.
_BARE = {"executors": "executor", "connection_types": "connection type"}


def over_name(found: Found, same: Sequence[Found]) -> Verdict | None:
    """Return a verdict if the name of `found` is none, Flux's own, or also another's of `same`; None: it is not."""
    if not _NAME.fullmatch(found.name):
        reason = "Its name is none for a provider. Its author has to choose one of a-z, A-Z, 0-9, '_', '-' and '.'."
        if found.distribution is None:
            reason = "Option plugins names it, and it is no module. Write 'package.module'."
        return Verdict(found.name, found.distribution, found.version, ProviderState.BROKEN, reason, module=found.module)
    others = sorted(other.owner for other in same if other != found)
    if found.name in (CORE, LOCAL):
        reason = f"The name {found.name!r} belongs to Flux. Its author has to choose another."
    elif found.owner in others:
        reason = f"{found.owner} gives the name {found.name!r} twice. Its author has to choose one."
    elif others:
        reason = f"The name {found.name!r} is also that of {' and '.join(others)}. Uninstall or disable one of them."
    else:
        return None
    return Verdict(found.name, found.distribution, found.version, ProviderState.CONFLICT, reason, module=found.module)


def settle(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts, in their order, with what only shows when they are seen together.

    Who takes the name of a core executor or connection type is in conflict. A name that two others share changes no
    state: both get a note.
    """
    seen = list(verdicts)
    core = [verdict for verdict in seen if verdict.name == CORE]
    seen = [_against_core(verdict, core) for verdict in seen]
    owners = _owners(verdict for verdict in seen if verdict.is_ok)
    return [_with_notes(verdict, owners) if verdict.is_ok else verdict for verdict in seen]


def _against_core(verdict: Verdict, core: Sequence[Verdict]) -> Verdict:
    if verdict.name == CORE or not verdict.is_ok:
        return verdict
    for field, kind in _BARE.items():
        taken = {item.name for each in core for item in getattr(each, field)}
        for item in getattr(verdict, field):
            if item.name in taken:
                reason = (
                    f"Its {kind} {item.name!r} has the name of one of Flux's own. Its author has to choose another."
                )
                return Verdict(
                    verdict.name,
                    verdict.distribution,
                    verdict.version,
                    ProviderState.CONFLICT,
                    reason,
                    module=verdict.module,
                )
    return verdict


#: What may share a name with another provider's, by field of `Verdict`: the kind in words.
_KINDS = {"operators": "operator", "sensors": "sensor", **_BARE}


def _owners(good: Iterable[Verdict]) -> dict[tuple[str, str], list[str]]:
    """Maps (field, name) to the providers that offer it."""
    owners: dict[tuple[str, str], list[str]] = {}
    for verdict in good:
        for field in _KINDS:
            for name in {item.name for item in getattr(verdict, field)}:
                owners.setdefault((field, name), []).append(verdict.name)
    return owners


def _with_notes(verdict: Verdict, owners: Mapping[tuple[str, str], list[str]]) -> Verdict:
    notes = []
    for field, kind in _KINDS.items():
        for name in dict.fromkeys(item.name for item in getattr(verdict, field)):
            others = [other for other in owners[field, name] if other != verdict.name]
            if others:
                what = "neither can be used" if field in _BARE else f"find this one as {verdict.name}.{name}"
                shown = ", ".join(others[:3]) + (" and more" if len(others) > 3 else "")
                notes.append(f"Its {kind} {name!r} is also offered by {shown}: {what}.")
    return replace(verdict, notes=(*verdict.notes, *notes)) if notes else verdict

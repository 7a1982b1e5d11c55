"""Flux is small: what `pip install flux-core` brings, itself counted."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

from tests.house.tree import ROOT

LIMIT = 16


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(name: str) -> set[str]:
    """The distributions that installing `name` without extras brings here, by their metadata."""
    seen: set[str] = set()
    pending = [(canonical(name), frozenset[str]())]
    while pending:
        current, extras = pending.pop()
        if current in seen and not extras:
            continue
        seen.add(current)
        try:
            wanted = requires(current) or []
        except PackageNotFoundError:
            seen.discard(current)
            continue
        for line in wanted:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (extras or {""})):
                target = canonical(requirement.name)
                if target not in seen:
                    pending.append((target, frozenset(requirement.extras)))
    return seen


def test_flux_core_installs_few_distributions() -> None:
    found = closure("flux-core")
    assert "sqlalchemy" in found
    assert len(found) <= LIMIT, f"{len(found)}: {sorted(found)}"


def test_constraints_name_what_flux_core_installs_and_no_address() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    named = {canonical(line.partition("==")[0]) for line in lines}
    assert closure("flux-core") - {"flux-core"} <= named


def test_pre_commit_uses_the_linter_of_the_constraints() -> None:
    pinned = re.findall(r'"(ruff==[^"]+)"', (ROOT / ".pre-commit-config.yaml").read_text())
    assert pinned
    assert set(pinned) <= set((ROOT / "constraints.txt").read_text().splitlines())

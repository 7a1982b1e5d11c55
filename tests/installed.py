"""Distributions as pip leaves them, without pip: packages with their metadata in a folder that is put on the path."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

#: What most manifests begin with.
HEAD = 'from flux.plugins import ConnectionType, Field, Ref, hookimpl\n\nFLUX_API = ">=1.0,<2"\n\n'


def manifest(**hooks: str) -> str:
    """The text of a manifest with these hooks, each given as the expression that it returns."""
    functions = [f"@hookimpl\ndef flux_{name}():\n    return {text}\n" for name, text in hooks.items()]
    return HEAD + "\n\n".join(functions)


def operators(*names: str, package: str = "acme") -> str:
    """The text of a manifest that offers operators of these names."""
    refs = ", ".join(f'Ref("{name}", "{package}.operators:{name}")' for name in names)
    return manifest(operators=f"[{refs}]")


def install(
    site: Path,
    name: str,
    provider: str | None = None,
    *,
    distribution: str | None = None,
    version: str = "0.3",
    modules: Mapping[str, str] | None = None,
    entry_points: str | bytes | None = None,
) -> Path:
    """Lay out the distribution of provider `name` in the folder `site`; return its metadata folder.

    Args:
        provider: the text of its manifest, `flux_provider_<name>.provider`; None: one operator.
        distribution: by default flux-provider-<name>.
        modules: further files of its package, {name with suffix: text}.
        entry_points: in place of the usual line.
    """
    distribution = distribution or f"flux-provider-{name}"
    package = distribution.replace("-", "_")
    folder = site / package
    folder.mkdir(parents=True)
    text = operators(f"{name.title()}Operator", package=package) if provider is None else provider
    for file, content in {"__init__.py": "", "provider.py": text, **(modules or {})}.items():
        (folder / file).write_text(textwrap.dedent(content), encoding="utf-8")
    if entry_points is None:
        entry_points = f"[flux.providers]\n{name} = {package}.provider\n"
    metadata = site / f"{package}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n\nText.\n")
    data = entry_points.encode() if isinstance(entry_points, str) else entry_points
    (metadata / "entry_points.txt").write_bytes(data)
    return metadata

"""Providers of the tests, made findable for a process without being installed: a folder for its PYTHONPATH."""

from __future__ import annotations

import tomllib
from pathlib import Path


def install(name: str, site: Path) -> Path:
    """Make `tests/providers/<name>` a distribution in the folder `site`, and return that."""
    source = Path(__file__).with_name(name)
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    site.mkdir(parents=True, exist_ok=True)
    for package in (source / "src").iterdir():
        (site / package.name).symlink_to(package)
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        "\n".join([f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items())])
        for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    return site

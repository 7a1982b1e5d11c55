"""Puts DAG versions where DAG hosts find them: a manifest and the sources, below the run folder."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flux.config import Config
from flux.dag_file import Manifest
from flux.store import dags
from flux.wire import write_file

if TYPE_CHECKING:
    import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class Shelved:
    """A version that DAG hosts can load."""

    id: int
    hash: str


def shelve(connection: sa.Connection, config: Config, version_id: int) -> Shelved:
    """Write a version's manifest, and those of its sources that are not there, from the store. Safe to repeat."""
    version = dags.version(connection, version_id)
    place = config.run_folder / "versions" / f"{version.hash}.json"
    if not place.exists():
        _write_sources(connection, config.run_folder / "sources", set(version.sources.values()))
        manifest = Manifest(
            folder=str(config.dags_folder),
            file=version.structure.file,
            sources=version.sources,
            dag_ids=[version.structure.dag_id],
        )
        place.parent.mkdir(mode=0o700, exist_ok=True)
        write_file(str(place), json.dumps(dataclasses.asdict(manifest)).encode())
    return Shelved(version_id, version.hash)


def _write_sources(connection: sa.Connection, folder: Path, hashes: set[str]) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    missing = [sha for sha in hashes if not (folder / sha).exists()]
    for sha, data in dags.contents(connection, missing).items():
        write_file(str(folder / sha), data)

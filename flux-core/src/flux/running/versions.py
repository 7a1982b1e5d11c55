"""Puts DAG versions where DAG hosts find them: a manifest and the sources, below the run folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flux.config import Config
from flux.dag_file import Manifest
from flux.errors import DatabaseUnavailable
from flux.loop import Loop
from flux.running.writer import Writer, show
from flux.store import dags
from flux.wire import write_file

if TYPE_CHECKING:
    import sqlalchemy as sa

#: Before what the database or the disk refused is tried again.
_AGAIN_SECONDS = 1.0


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


class Shelf:
    """The versions that this supervisor knows to be loadable. Lives in its loop."""

    def __init__(self, config: Config, loop: Loop, writer: Writer) -> None:
        self._config = config
        self._loop = loop
        self._writer = writer
        #: Row number -> hash.
        self._known: dict[int, str] = {}

    def put(self, shelved: Iterable[Shelved]) -> None:
        """Take note of versions that were shelved."""
        self._known.update((version.id, version.hash) for version in shelved)

    def with_version(self, version_id: int, then: Callable[[str], object], fail: Callable[[Exception], object]) -> None:
        """Call `then` with a version's hash as soon as DAG hosts can load it, or `fail` when they never will."""
        known = self._known.get(version_id)
        if known is not None:
            then(known)
            return

        def done(version: Shelved) -> None:
            self._known[version.id] = version.hash
            then(version.hash)

        def failed(error: Exception) -> None:
            show(error)
            if isinstance(error, (OSError, DatabaseUnavailable)):
                self._loop.call_later(_AGAIN_SECONDS, lambda: self.with_version(version_id, then, fail))
            else:
                fail(error)

        self._writer.call(
            lambda connection: shelve(connection, self._config, version_id), done, failed=failed, reads_only=True
        )

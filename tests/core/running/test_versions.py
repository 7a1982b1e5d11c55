"""DAG versions on the disk: manifest and sources from the store alone."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux.running.versions import Shelved, shelve
from flux.store.dags import DagVersion
from tests.parts import Parts


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path / "home")
    yield parts
    parts.close()


def put(parts: Parts, version: DagVersion) -> Shelved:
    return parts.read(lambda connection: shelve(connection, parts.config, version.id))


def test_a_version_is_written_as_its_dag_host_reads_it(parts: Parts) -> None:
    version = parts.define("sales")
    assert put(parts, version) == Shelved(version.id, version.hash)
    manifest = json.loads((parts.config.run_folder / "versions" / f"{version.hash}.json").read_text())
    assert manifest["folder"] == str(parts.config.dags_folder)
    assert (manifest["file"], manifest["dag_ids"]) == ("sales.py", ["sales"])
    ((path, sha),) = manifest["sources"].items()
    data = (parts.config.run_folder / "sources" / sha).read_bytes()
    assert (path, hashlib.sha256(data).hexdigest()) == ("sales.py", sha)


def test_a_dag_host_can_read_what_was_written(parts: Parts) -> None:
    from flux import dag_file

    version = parts.define("sales")
    put(parts, version)
    manifest = dag_file.Manifest(
        **json.loads((parts.config.run_folder / "versions" / f"{version.hash}.json").read_text())
    )
    assert set(manifest.sources) == {"sales.py"}


def test_it_is_for_our_user_alone(parts: Parts) -> None:
    version = parts.define()
    put(parts, version)
    for folder in ("versions", "sources"):
        for path in [parts.config.run_folder / folder, *(parts.config.run_folder / folder).iterdir()]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_shelving_again_changes_nothing(parts: Parts) -> None:
    version = parts.define()
    first = put(parts, version)
    place = parts.config.run_folder / "versions" / f"{version.hash}.json"
    before = place.stat()
    assert put(parts, version) == first
    assert place.stat().st_mtime_ns == before.st_mtime_ns


def test_after_the_run_folder_was_emptied_everything_is_written_again(parts: Parts) -> None:
    version = parts.define()
    put(parts, version)
    for folder in ("versions", "sources"):
        for path in (parts.config.run_folder / folder).iterdir():
            path.unlink()
        (parts.config.run_folder / folder).rmdir()
    put(parts, version)
    assert len(list((parts.config.run_folder / "sources").iterdir())) == 1


def test_two_versions_of_one_dag_stand_beside_each_other(parts: Parts) -> None:
    old, new = parts.define(tasks=1), parts.define(tasks=2)
    assert put(parts, old).hash != put(parts, new).hash
    assert len(list((parts.config.run_folder / "versions").iterdir())) == 2


def test_no_half_written_file_is_left(parts: Parts) -> None:
    put(parts, parts.define())
    hidden = [path for path in parts.config.run_folder.rglob(".*") if path.is_file()]
    assert hidden == []

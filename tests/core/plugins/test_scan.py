"""Reading entry points: what counts, in what order, and that one bad distribution costs the others nothing."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flux.plugins import scan
from tests.installed import install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, first on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def names(group: str = "flux.providers") -> list[str]:
    return [found.name for found in scan.entry_points(group).found]


def test_an_entry_point_knows_its_distribution_and_version(site: Path) -> None:
    install(site, "acme", version="1.2")
    (found,) = scan.entry_points("flux.providers").found
    assert (found.name, found.distribution, found.version) == ("acme", "flux-provider-acme", "1.2")
    assert found.value == found.module == "flux_provider_acme.provider"
    assert str(found) == "'acme' (flux-provider-acme 1.2)"


def test_entry_points_are_sorted_by_name_whatever_the_folder_says(site: Path) -> None:
    for name in ("zeta", "alpha", "mid"):
        install(site, name)
    assert names() == ["alpha", "mid", "zeta"]


def test_groups_are_kept_apart(site: Path) -> None:
    install(site, "acme", entry_points="[console_scripts]\nx = y\n[flux.commands]\nacme = acme.cli:command\n# end\n")
    assert names() == []
    assert [found.value for found in scan.entry_points("flux.commands").found] == ["acme.cli:command"]


def test_it_finds_what_importlib_metadata_finds(site: Path) -> None:
    for name in ("one", "two"):
        install(site, name)
    theirs = {(point.name, point.value) for point in importlib.metadata.entry_points(group="flux.providers")}
    assert {(found.name, found.value) for found in scan.entry_points("flux.providers").found} == theirs


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"\xff\xfe[flux.providers]", "is no UTF-8: invalid start byte at byte 0"),
        (b"#" * (1 << 20) + b"\n[flux.providers]\n", "has more than 1048576 bytes"),
        ("[flux.providers]\nacme flux_provider_acme.provider\n", "line 2"),
        ("[flux.providers]\nacme =\n", "line 2"),
        ("[flux.providers\nacme = x\n", "no .group."),
        ("acme = x\n[flux.providers]\n", "before any"),
    ],
)
def test_malformed_metadata_is_named_and_costs_the_others_nothing(site: Path, content: str | bytes, cause: str) -> None:
    install(site, "bad", entry_points=content)
    install(site, "good")
    seen = scan.entry_points("flux.providers")
    assert [found.name for found in seen.found] == ["good"]
    assert [(each.distribution, each.version) for each in seen.unreadable] == [("flux-provider-bad", "0.3")]
    assert cause in seen.unreadable[0].reason.replace("[", ".").replace("]", ".")


def _socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        folder = os.open(file.parent, os.O_PATH)
        made.bind(f"/proc/self/fd/{folder}/{file.name}")  # the path itself may be too long for a socket
        os.close(folder)


#: How to put something there that is no regular file.
IRREGULAR: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a link to a pipe": lambda file: (os.mkfifo(file.with_name("pipe")), file.symlink_to("pipe")),
}


@pytest.mark.parametrize("kind", IRREGULAR)
def test_what_is_no_regular_file_is_named_and_not_waited_for(site: Path, kind: str) -> None:
    file = install(site, "bad") / "entry_points.txt"
    file.unlink()
    IRREGULAR[kind](file)
    install(site, "good")
    seen = scan.entry_points("flux.providers")
    (unreadable,) = seen.unreadable
    assert unreadable.reason == f"Its entry points cannot be read: {str(file)!r} is no regular file."
    assert (unreadable.distribution, [found.name for found in seen.found]) == ("flux-provider-bad", ["good"])


def test_metadata_that_is_a_pipe_is_not_waited_for(site: Path) -> None:
    file = install(site, "acme", version="1.2") / "METADATA"
    file.unlink()
    os.mkfifo(file)
    (found,) = scan.entry_points("flux.providers").found
    assert (found.distribution, found.version) == ("flux_provider_acme", "1.2")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(site: Path) -> None:
    file = install(site, "bad") / "entry_points.txt"
    file.chmod(0)
    (unreadable,) = scan.entry_points("flux.providers").unreadable
    assert f"PermissionError: [Errno 13] Permission denied: {str(file)!r}" in unreadable.reason


def test_what_is_wrong_in_groups_of_others_is_none_of_ours(site: Path) -> None:
    install(site, "acme", entry_points="[gui]\nthis is no line\n[flux.providers]\nacme = acme.provider\n")
    assert names() == ["acme"]
    assert scan.entry_points("flux.providers").unreadable == ()


def test_the_first_of_two_installations_of_a_distribution_counts(
    site: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "acme", version="2.0")
    later = tmp_path_factory.mktemp("later")
    install(later, "acme", version="1.0", distribution="Flux.Provider_acme")
    monkeypatch.setattr(sys, "path", [*sys.path, str(later)])
    assert [found.version for found in scan.entry_points("flux.providers").found] == ["2.0"]


def test_of_two_metadata_folders_in_one_place_the_first_by_name_counts(site: Path) -> None:
    """Whichever the file system names first: an answer that changes between machines helps nobody."""
    for number in ("1.0", "1.1", "0.9"):
        metadata = install(site / number, "acme", version=number)
        metadata.rename(site / metadata.name)
    assert [found.version for found in scan.entry_points("flux.providers").found] == ["0.9"]


def test_what_a_failed_pip_left_is_not_installed(site: Path) -> None:
    metadata = install(site, "acme")
    metadata.rename(metadata.with_name("~" + metadata.name[1:]))
    assert names() == []


def test_an_egg_info_folder_is_read_with_its_version_from_pkg_info(site: Path) -> None:
    metadata = install(site, "acme")
    (metadata / "METADATA").rename(metadata / "PKG-INFO")
    metadata.rename(site / "flux_provider_acme.egg-info")
    assert [(found.name, found.version) for found in scan.entry_points("flux.providers").found] == [("acme", "0.3")]


def test_a_zip_archive_on_the_path_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = install(tmp_path / "site", "acme")
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in metadata.iterdir():
            packed.write(file, f"{metadata.name}/{file.name}")
    monkeypatch.syspath_prepend(str(archive))
    assert [str(found) for found in scan.entry_points("flux.providers").found] == ["'acme' (flux-provider-acme 0.3)"]


def test_an_importer_with_distributions_of_its_own_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = install(tmp_path, "acme")

    class Importer(importlib.metadata.DistributionFinder):
        def find_spec(self, *_: object) -> None:
            return None

        def find_distributions(
            self,
            context: importlib.metadata.DistributionFinder.Context = importlib.metadata.DistributionFinder.Context(),  # noqa: B008
        ) -> list[importlib.metadata.Distribution]:
            return [importlib.metadata.PathDistribution(metadata)]

    monkeypatch.setattr(sys, "meta_path", [Importer(), *sys.meta_path])
    monkeypatch.syspath_prepend(str(tmp_path / "nothing here"))
    assert names() == ["acme"]


def test_the_version_of_a_distribution_is_found_by_any_spelling(site: Path) -> None:
    install(site, "acme", version="1.7")
    assert scan.version("Flux_Provider.acme") == "1.7"
    assert scan.version("flux-core") == importlib.metadata.version("flux-core")
    assert scan.version("no-such-distribution") is None


def test_what_python_does_not_search_is_not_read(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site / "inner", "acme")
    monkeypatch.setattr(sys, "path", [*sys.path, site / "inner"])
    assert names() == []
    assert all(isinstance(entry, str) for entry in scan.search_path())


def test_the_same_line_twice_is_one_entry_point(site: Path) -> None:
    install(site, "acme", entry_points="[flux.providers]\nacme = a.b\nacme = a.b\n")
    assert names() == ["acme"]


def test_the_file_system_is_read_once(site: Path) -> None:
    install(site, "acme")
    assert names() == ["acme"]
    install(site, "later")
    assert names() == ["acme"]


def test_a_scan_loads_no_importlib_metadata(tmp_path: Path) -> None:
    """Its import costs more than the whole scan."""
    install(tmp_path, "acme")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from flux.plugins import scan;"
        "print([f.name for f in scan.entry_points('flux.providers').found], 'importlib.metadata' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    names, _, is_loaded = done.stdout.strip().rpartition(" ")
    assert "'acme'" in names
    assert is_loaded == "False"

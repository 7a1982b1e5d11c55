"""What is installed: the entry points of Flux, read once in a process for all groups. No third-party module, no cache.

Theory. An installed distribution has a folder of metadata beside its code, `name-version.dist-info` (a wheel, editable
or not) or `name.egg-info`; `entry_points.txt` in it maps names to objects, by group. Flux reads these files directly
in the folders of `sys.path`, in a few milliseconds; `importlib.metadata`, whose import alone costs more than that, is
asked for what is no folder: zip archives on the path, and importers that bring distributions of their own. Decision
0008 has the figures. Of two distributions of one name the first on the path counts, as for imports.

One distribution that cannot be read is named in `Scan.unreadable` and costs the others nothing. Only regular files of
at most a megabyte are read: a pipe or a device in the place of one could keep every command waiting.
"""

# ruff: noqa: PTH112, PTH113, PTH118, PTH119, PTH122, PTH208

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution

#: Beginnings of the groups that are read.
GROUPS = ("flux.", "flux_ui.")
#: The group of providers, one entry point each. (In two parts: the name in one piece is also that of a module above.)
PROVIDERS = "flux." + "providers"
#: Bytes of the largest `entry_points.txt` that is read, and of the beginning of METADATA that is looked at.
_MOST_BYTES = 1 << 20
_HEAD_BYTES = 2048
_NAME = re.compile(r"[-_.]+")


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """One entry point: a name for an object that nobody has imported yet."""

    name: str
    #: The distribution as it calls itself; None: not installed, but named by configuration.
    distribution: str | None
    version: str | None
    #: "package.module" or "package.module:Name".
    value: str
    #: As "flux.providers".
    group: str

    @property
    def module(self) -> str:
        """The module that is imported for it."""
        return self.value.partition(":")[0].strip()

    def __str__(self) -> str:
        return repr(self.name) if self.distribution is None else f"{self.name!r} ({self.owner})"

    @property
    def owner(self) -> str:
        """Distribution and version in words, or the module that configuration names."""
        if self.distribution is None:
            return f"the module {self.module}"
        return f"{self.distribution} {self.version}" if self.version else self.distribution


@dataclass(frozen=True, slots=True, order=True)
class Unreadable:
    """A distribution whose entry points cannot be read."""

    distribution: str
    #: None: it does not say.
    version: str | None
    #: One sentence.
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """The entry points of one group."""

    #: Sorted by name, then distribution.
    found: tuple[Found, ...]
    #: Of all groups, since what cannot be read says no group; sorted.
    unreadable: tuple[Unreadable, ...]


def entry_points(group: str) -> Scan:
    """Return the entry points of `group`, and what could not be read. Reads the file system at the first call only."""
    everything = _read(search_path())
    return Scan(tuple(found for found in everything.found if found.group == group), everything.unreadable)


def version(distribution: str) -> str | None:
    """Return the version of an installed distribution, by any spelling of its name; None: it is not installed."""
    wanted = _normalised(distribution)
    for folder in search_path():
        for metadata in _metadata_folders(folder):
            if metadata.key == wanted:
                return metadata.identity()[1]
    return None


def search_path() -> tuple[str, ...]:
    """Return `sys.path` without what Python does not search either, such as a `Path`."""
    entries: list[object] = list(sys.path)
    return tuple(entry for entry in entries if isinstance(entry, str))


@lru_cache(maxsize=1)
def _read(path: tuple[str, ...]) -> Scan:
    found: list[Found] = []
    unreadable: list[Unreadable] = []
    seen: set[str] = set()
    for distribution in _distributions(path):
        if distribution.key in seen:
            continue
        seen.add(distribution.key)
        try:
            found += distribution.entry_points()
        except Exception as error:  # whatever is in one distribution's files, the others are read
            reason = str(error) if isinstance(error, _Malformed) else f"{type(error).__name__}: {error}"
            unreadable.append(Unreadable(*distribution.identity(), f"Its entry points cannot be read: {reason}."))
    return Scan(tuple(sorted(set(found))), tuple(sorted(unreadable)))


class _Malformed(Exception):
    """The text of entry points breaks their format."""


class _Distribution:
    """The metadata folder of one distribution.

    Args:
        folder: that folder.
        stem: its name without the suffix: name and version, or the name alone.
    """

    def __init__(self, folder: str, stem: str) -> None:
        self._folder = folder
        self._stem = stem
        self.key = _normalised(stem.partition("-")[0])

    def entry_points(self) -> Iterable[Found]:
        path = os.path.join(self._folder, "entry_points.txt")
        try:
            data = _beginning(path, _MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return ()
        if len(data) > _MOST_BYTES:
            raise _Malformed(f"{path!r} has more than {_MOST_BYTES} bytes")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _Malformed(f"{path!r} is no UTF-8: {error.reason} at byte {error.start}") from error
        if not any(group in text for group in GROUPS):
            return ()
        rows = list(_rows(text))
        return [Found(name, *self.identity(), value, group) for group, name, value in rows]

    def identity(self) -> tuple[str, str | None]:
        """Name and version as METADATA has them, else as the folder's name has."""
        name, _, number = self._stem.partition("-")
        headers = {"name": name, "version": number}
        for file_name in ("METADATA", "PKG-INFO"):
            try:
                head = _beginning(os.path.join(self._folder, file_name), _HEAD_BYTES).decode(errors="replace")
            except (OSError, _Malformed):
                continue
            for line in head.splitlines():
                if not line:
                    break
                key, colon, value = line.partition(":")
                if colon and key.lower() in headers and value.strip():
                    headers[key.lower()] = value.strip()
            break
        return headers["name"], headers["version"] or None


class _Foreign(_Distribution):
    """A distribution that `importlib.metadata` found where there is no folder to read."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__("", distribution.name)
        self.key = _normalised(distribution.name)
        self._distribution = distribution

    def entry_points(self) -> Iterable[Found]:
        rows = _rows(self._distribution.read_text("entry_points.txt") or "")
        return [Found(name, *self.identity(), value, group) for group, name, value in rows]

    def identity(self) -> tuple[str, str | None]:
        return self._distribution.name, self._distribution.version


def _distributions(path: Iterable[str]) -> Iterator[_Distribution]:
    """Every distribution, in the order of the path."""
    for entry in path:
        if os.path.isdir(entry or "."):
            yield from _metadata_folders(entry)
        elif os.path.isfile(entry):
            yield from _foreign([entry])
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")]
    if any(getattr(finder, "__name__", "") != "PathFinder" for finder in finders):
        yield from _foreign(None)


def _metadata_folders(entry: str) -> Iterator[_Distribution]:
    """The distributions of one folder of the path, by name."""
    try:
        names = sorted(os.listdir(entry or "."))
    except OSError:
        return
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in (".dist-info", ".egg-info") and not name.startswith("~"):  # "~": left by a failed pip
            yield _Distribution(os.path.join(entry, name), stem)
        elif name == "EGG-INFO" and entry.endswith(".egg"):
            yield _Distribution(os.path.join(entry, name), os.path.splitext(os.path.basename(entry))[0])


def _beginning(path: str, length: int) -> bytes:
    """At most so many bytes of a regular file; anything else is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _Malformed(f"{path!r} is no regular file") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Malformed(f"{path!r} is no regular file")
        return os.read(descriptor, min(length, status.st_size))
    finally:
        os.close(descriptor)


def _foreign(path: list[str] | None) -> Iterator[_Distribution]:
    """What `importlib.metadata` finds: on `path`, or with None through every importer."""
    from importlib.metadata import distributions

    try:
        found = list(distributions() if path is None else distributions(path=path))
    except Exception:  # an importer of somebody else's; what is in folders has been found without it
        return
    for each in found:
        if each.metadata["Name"]:  # without one it belongs to nobody
            yield _Foreign(each)


def _rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (group, name, value) of the groups of Flux; what stands in other groups is none of ours."""
    group = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            if not line.endswith("]"):
                raise _Malformed(f"line {number} of entry_points.txt is {line!r}, which is no [group]")
            group = line[1:-1].strip()
        elif not group:
            raise _Malformed(f"line {number} of entry_points.txt is {line!r}, before any [group]")
        elif group.startswith(GROUPS):
            name, equals, value = (part.strip() for part in line.partition("="))
            if not (equals and name and value):
                raise _Malformed(f"line {number} of entry_points.txt is {line!r}, which is no 'name = package.module'")
            yield group, name, value


def _normalised(name: str) -> str:
    return _NAME.sub("-", name).lower()

"""What of the file system belongs to the DAGs folder: the folders below it, and the links on the way to it."""

# ruff: noqa: PTH115, PTH116, PTH118

from __future__ import annotations

import os
from collections.abc import Iterator

#: Device and inode: a folder that was put in the place of another is a new one.
Identity = tuple[int, int]

#: Names of a path, links followed; a way that takes more leads in a circle.
_LONGEST_WAY = 1000


def identity_of(path: str) -> Identity | None:
    """Return which file or folder is there, links followed; None: none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def way_to(root: str) -> set[str]:
    """Return what, replaced, makes `root` another folder: itself, each symbolic link on the way, where they lead.

    Args:
        root: absolute; nothing need be there.
    """
    found = {root}
    at, rest = "/", root.split("/")[::-1]
    for _ in range(_LONGEST_WAY):
        if not rest:
            break
        path = os.path.normpath(os.path.join(at, rest.pop()))
        try:
            target = os.readlink(path)
        except OSError:  # no link
            at = path
        else:
            found.add(path)
            at = "/" if target.startswith("/") else at
            rest += target.split("/")[::-1]
    return found | {at}


def folders_below(root: str) -> Iterator[tuple[str, Identity]]:
    """Yield the folders in which DAG files may be, `root` first, each once, whatever symbolic links there are."""
    seen: set[Identity] = set()
    to_visit = [root]
    while to_visit:
        folder = to_visit.pop()
        identity = identity_of(folder)
        if identity is None or identity in seen:
            continue
        try:
            names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
        except OSError:
            continue
        seen.add(identity)
        yield folder, identity
        shown = (name for name in names if not name.startswith(".") and name != "__pycache__")
        to_visit += [os.path.join(folder, name) for name in shown]

"""The files of the DAGs folder as they are on the disk: their stamps, their contents, their names."""

# ruff: noqa: PTH116, PTH118

from __future__ import annotations

import hashlib
import os

#: (modification time in ns, size, inode) of a file; None: it is not there.
Stamp = tuple[int, int, int] | None


def stamp(root: str, path: str) -> Stamp:
    """Return what changes with a file's content, nearly always, and costs no reading."""
    try:
        status = os.stat(os.path.join(root, path))
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def content_hash(root: str, path: str) -> str | None:
    """Return the SHA-256 of a file; None: it cannot be read."""
    try:
        with open(os.path.join(root, path), "rb", opener=_without_waiting) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def shown(path: str) -> str:
    """Return a path as text: bytes that are not UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that somebody put in its place is empty and not waited for."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)

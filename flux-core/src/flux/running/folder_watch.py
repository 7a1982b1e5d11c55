"""Notices that the DAGs folder may have changed: by what the kernel tells (inotify), and by a look at its root."""

# ruff: noqa: PTH120

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from flux import linux
from flux.loop import Loop, Timer
from flux.running.folder_paths import Identity, folders_below, identity_of, way_to

#: Changes that come together are looked at together.
_SETTLE_SECONDS = 0.01


class FolderWatch:
    """Watches a folder and all below it.

    Args:
        root: its absolute path; it need not be there yet.
        on_change: called in the loop when something that may matter has changed. Call `renew` then.
    """

    def __init__(self, root: str, loop: Loop, on_change: Callable[[], object]) -> None:
        self._root = root
        self._loop = loop
        self._on_change = on_change
        self._inotify: linux.Inotify | None = None
        self._watched: set[tuple[str, Identity]] = set()
        #: The entries that make the root what it is, and the watched folders in which nothing else matters.
        self._way: set[str] = set()
        self._beside: set[str] = set()
        #: Which folder the root was at the last glance.
        self._root_identity: Identity | None = None
        self._settling: Timer | None = None

    def start(self) -> None:
        """Have the kernel tell; where it cannot, `glance` and the caller's own scans are all there is."""
        try:
            self._inotify = linux.Inotify()
        except OSError as error:
            print(f"folder: no notice of changes ({error}); scanning only", file=sys.stderr, flush=True)
        else:
            self._loop.add_reader(self._inotify.fd, self._noticed)

    def renew(self) -> None:
        """Watch every folder that is below the root now.

        So that a root that is replaced, or a symbolic link to it that is moved on, is seen as well, the folders in
        which these are found are watched, and what else changes there is not looked at.
        """
        if self._inotify is None:
            return
        mask = linux.IN_MOVED_TO | linux.IN_MOVED_FROM | linux.IN_DELETE | linux.IN_CREATE
        folders = dict.fromkeys(folders_below(self._root), mask | linux.IN_CLOSE_WRITE)
        self._way = way_to(self._root)
        self._beside = {os.path.dirname(path) for path in self._way} - {path for path, _ in folders}
        for path in self._beside:
            identity = identity_of(path)
            if identity is not None:
                folders[path, identity] = mask
        for folder in folders.keys() - self._watched:
            try:
                self._inotify.add(folder[0], folders[folder])
            except OSError:
                continue  # gone again, or no watch left: the scan sees it
        self._watched = set(folders)

    def glance(self) -> bool:
        """Say whether the root is another folder than at the last glance, as far as the kernel has not told.

        Cheap enough to do often.
        """
        found = identity_of(self._root)
        if found is None:
            return False
        seen, self._root_identity = self._root_identity, found
        return seen is not None and seen != found

    def _noticed(self) -> None:
        assert self._inotify is not None
        if self._settling is None and any(self._matters(path) for path, _ in self._inotify.read()):
            self._settling = self._loop.call_later(_SETTLE_SECONDS, self._settled)

    def _matters(self, path: str) -> bool:
        """Whether a change of this entry may be one of the DAGs folder; "" stands for any entry."""
        return path in self._way or os.path.dirname(path) not in self._beside

    def _settled(self) -> None:
        self._settling = None
        self._on_change()

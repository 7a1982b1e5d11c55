"""An agent's private folder under the temporary one, and the folders that killed agents have left there.

An agent holds a lock on a file in its folder for as long as it lives, and so do the processes it forks. A folder whose
lock can be taken is nobody's, and goes: when another agent ends on that machine, or the supervisor loses one there.
A folder without a lock goes only if it is empty: then its agent has died before it had locked it, or takes another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

_PREFIX = "flux-agent-"
_LOCK = "lock"


class AgentFolder:
    """A new folder of this user's alone, locked until `remove`, or until nobody lives who holds it.

    Raises:
        OSError: the temporary folder cannot be written.
    """

    def __init__(self) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            with contextlib.suppress(FileNotFoundError, BlockingIOError):  # swept before it was locked
                self._lock = _lock(self.path, os.O_CREAT | os.O_EXCL)
                return

    def remove(self) -> None:
        """Delete it with all that is in it, and give the lock back."""
        _delete(self.path)
        os.close(self._lock)


def sweep() -> list[Path]:
    """Delete this user's folders whose agent is gone; return their paths. Safe beside agents and other sweeps."""
    try:
        found = list(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"))
    except OSError:
        return []
    return [path for path in found if _is_ours(path) and _sweep(path)]


def _is_ours(path: Path) -> bool:
    """Whether it is a folder of this user's, and no link to one."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _sweep(path: Path) -> bool:
    """Delete one folder if nobody holds it; False: somebody does, or it is none of an agent."""
    try:
        held = _lock(path)
    except FileNotFoundError:
        return _delete_empty(path)
    except OSError:
        return False
    _delete(path)
    os.close(held)
    return True


def _lock(folder: Path, flags: int = 0) -> int:
    """Return the lock file of a folder, open and locked by us.

    Raises:
        BlockingIOError: somebody else has it. FileNotFoundError: it is gone.
        OSError: it cannot be locked.
    """
    path = folder / _LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino != path.stat().st_ino:  # another's, in the place of one that was deleted
            raise BlockingIOError
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _delete(folder: Path) -> None:
    """Delete a folder that we hold: the lock last, so that what is left of it can be deleted by the next."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                path.unlink()
        lock = folder / _LOCK
        if list(folder.iterdir()) == [lock]:
            lock.unlink()
            folder.rmdir()


def _delete_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True

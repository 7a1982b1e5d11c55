"""Calls of the Linux kernel that Python's standard library lacks. The only user of ctypes, loaded at the first call.

Every function says what happens where the kernel or the C library cannot do it: they return False (or None) then and
the caller has another way, because Flux stays usable, if less strict, on other systems.
"""

# ruff: noqa: PTH112, PTH118

from __future__ import annotations

import errno
import functools
import os
import signal
import struct
import time
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02

IN_MODIFY = 0x002
IN_ATTRIB = 0x004
IN_CLOSE_WRITE = 0x008
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
#: Set in what is read: the queue ran over, look at everything again; the watched folder is gone; it is a folder.
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ISDIR = 0x40000000
_IN_ONLYDIR = 0x01000000
_IN_EVENT = struct.Struct("iIII")

_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_ITIMERSPEC = struct.Struct("qqqq")
#: Seconds since 1970 that no clock reaches: the timer is there for what happens before.
_NEVER = 2**40


@functools.cache
def _libc() -> Any:
    """The C library; None where there is none to load or the system is not Linux."""
    if not os.path.isdir("/proc/self"):
        return None
    import ctypes

    try:
        return ctypes.CDLL(None, use_errno=True)
    except OSError:
        return None


def _prctl(option: int, argument: Any) -> bool:
    libc = _libc()
    return libc is not None and libc.prctl(option, argument, 0, 0, 0) == 0


def die_with_parent(signum: int = signal.SIGKILL) -> bool:
    """Have the kernel send this process `signum` when its parent ends.

    A parent that ended before the call is not noticed: compare `os.getppid()` afterwards. Kept across exec, not
    across fork. False: not possible, the end of a pipe or socket must tell instead.
    """
    return _prctl(_PR_SET_PDEATHSIG, signum)


def become_subreaper() -> bool:
    """Make this process the parent of descendants whose own parent ends. Kept across exec, not across fork.

    False: orphans go to init, and are only found by their claim (`process.find`).
    """
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_inspection() -> bool:
    """Keep processes of the same user from reading this one's memory and environment. Undone by exec.

    False: nothing keeps them from it; separate users are the way out.
    """
    return _prctl(_PR_SET_DUMPABLE, 0)


def set_name(name: str) -> bool:
    """Show `name`, cut to 15 bytes, in `ps` and `top`. False: the old name stays."""
    return _prctl(_PR_SET_NAME, name.encode()[:15] + b"\0")


@functools.cache
def _environment_address(name: str, length: int) -> int | None:
    """Where the value of `name`, `length` bytes long, lies in the memory the kernel shows as our environment."""
    libc = _libc()
    if libc is None:
        return None
    import ctypes

    libc.getenv.restype = ctypes.c_void_p
    address: int | None = libc.getenv(name.encode())
    if address is None or len(ctypes.string_at(address)) != length:
        return None
    return address


def locate_in_environment(name: str, length: int) -> bool:
    """Remember where `name` lies, before anything in this process or its children sets it anew.

    False: it is not there with a value of `length` bytes, or there is no C library to ask.
    """
    return _environment_address(name, length) is not None


def overwrite_in_environment(name: str, value: str) -> bool:
    """Replace the bytes of a variable of the *initial* environment, so that `/proc/<pid>/environ` shows `value`.

    `os.environ` only changes what a later exec gets. The value must be as long as the one it replaces, which
    `locate_in_environment` has found, in this process or one it was forked from.

    False: nothing was changed; the process is then found by its log file and session alone.
    """
    data = value.encode()
    address = _environment_address(name, len(data))
    if address is None:
        return False
    import ctypes

    prefix = name.encode() + b"="
    if ctypes.string_at(address - len(prefix), len(prefix)) != prefix:
        return False
    ctypes.memmove(address, data, len(data))
    return True


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Free the disk space of a part of a file; its size stays, the part reads as NUL bytes.

    False: the file system cannot (NFS before 4.2, some overlays); the file is unchanged.
    """
    libc = _libc()
    if libc is None or not hasattr(libc, "fallocate64"):
        return False
    import ctypes

    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    return bool(libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0)


class Inotify:
    """Changes in watched folders, as they happen; `fd` can be read when there are some.

    Raises:
        OSError: there is no inotify here, or no instance left for this user. Compare time stamps instead.
    """

    def __init__(self) -> None:
        libc = _libc()
        if libc is None or not hasattr(libc, "inotify_init1"):
            raise OSError("this system has no inotify")
        self._libc = libc
        self._folders: dict[int, str] = {}
        self.fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _error("inotify_init1")

    def add(self, folder: str, mask: int) -> None:
        """Watch one folder, not those below it. Repeating it replaces the mask.

        Raises:
            OSError: it is gone or no folder, or the user's number of watches is used up (ENOSPC).
        """
        watch = self._libc.inotify_add_watch(self.fd, os.fsencode(folder), mask | _IN_ONLYDIR)
        if watch < 0:
            raise _error(folder)
        self._folders[watch] = folder

    def read(self) -> list[tuple[str, int]]:
        """Return what has changed as (path, mask), oldest first; empty when nothing is there.

        The path is that of the entry in the folder, or the folder's own. After `IN_Q_OVERFLOW` (path "") anything may
        have changed. A watch that the kernel gave up shows as `IN_IGNORED`.
        """
        changes: list[tuple[str, int]] = []
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return changes
            position = 0
            while position < len(data):
                watch, mask, _cookie, length = _IN_EVENT.unpack_from(data, position)
                position += _IN_EVENT.size
                name = os.fsdecode(data[position : position + length].rstrip(b"\0"))
                position += length
                folder = self._folders.get(watch, "")
                if mask & IN_IGNORED:
                    self._folders.pop(watch, None)
                changes.append((os.path.join(folder, name) if name else folder, mask))

    def close(self) -> None:
        os.close(self.fd)


class ClockWatch:
    """Tells when the wall clock is set, by anybody, or the machine wakes from a suspend; `fd` can be read then.

    A clock that is only slowed or sped up, as time servers do for small errors, is not told.

    Raises:
        OSError: the kernel or the C library cannot. Compare the clock with `time.monotonic` now and then instead.
    """

    def __init__(self) -> None:
        libc = _libc()
        if libc is None or not hasattr(libc, "timerfd_create") or struct.calcsize("l") < 8:
            raise OSError("this system does not tell when its clock is set")
        self.fd: int = libc.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _error("timerfd_create")
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        if libc.timerfd_settime(self.fd, flags, _ITIMERSPEC.pack(0, 0, _NEVER, 0), None) != 0:
            error = _error("timerfd_settime")
            os.close(self.fd)
            raise error

    def was_set(self) -> bool:
        """Whether the clock was set since the last call."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
        return True

    def close(self) -> None:
        os.close(self.fd)


def _error(what: str) -> OSError:
    """The error that the last call of the C library has left."""
    import ctypes

    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)

"""Notes what code does outside its own memory: files, network, processes, threads, and what it imports.

For a child process that ends soon: Python's audit hooks cannot be taken away again.
"""

# ruff: noqa: PTH208

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Effects", "foreign_modules"]

#: What an audit event means, by the beginning of its name.
_MEANING = {
    "socket.connect": "opens a network connection",
    "socket.bind": "opens a network port",
    "socket.sendto": "sends to the network",
    "socket.getaddrinfo": "looks up a host name",
    "socket.gethostby": "looks up a host name",
    "subprocess.Popen": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.system": "starts a process",
    "os.exec": "starts a program",
    "os.fork": "starts a process",
    "os.kill": "sends a signal",
    "_thread.start": "starts a thread",
    "open": "opens a file",
    "os.listdir": "reads a folder",
    "os.scandir": "reads a folder",
    "os.mkdir": "makes a folder",
    "os.remove": "removes a file",
    "os.rename": "renames a file",
    "os.rmdir": "removes a folder",
    "os.chdir": "changes the working folder",
    "os.putenv": "changes the environment",
    "os.unsetenv": "changes the environment",
    "shutil.": "changes files",
    "tempfile.": "makes a temporary file",
    "sqlite3.connect": "opens a database",
    "ftplib.": "uses the network",
    "smtplib.": "uses the network",
    "time.sleep": "sleeps",
}
#: Folders of the interpreter and of its libraries, whose own data may be read.
_LIBRARY = tuple(sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_HARMLESS = (*_LIBRARY, "/usr/share/zoneinfo", "/etc/localtime", "/dev/null", "/dev/urandom")
#: What `threading` calls to start a thread.
_START_THREAD = "_start_new_thread"
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH100, PTH120 - the flux package


class Effects:
    """A block whose effects are noted: `with Effects() as effects: …`, then `effects.found`, a line each."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._is_on = False
        self._modules: set[str] = set()
        self._threads = 0
        self._descriptors: set[str] = set()
        self._start_thread: Any = None

    def __enter__(self) -> Effects:
        self._modules = set(sys.modules)
        self._threads = threading.active_count()
        self._descriptors = _descriptors()
        sys.addaudithook(self._hear)
        if sys.version_info < (3, 12):  # until then Python does not tell of threads
            self._start_thread = getattr(threading, _START_THREAD)
            setattr(threading, _START_THREAD, self._threading)
        self._is_on = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_on = False
        if sys.version_info < (3, 12):
            setattr(threading, _START_THREAD, self._start_thread)
        if not self.found:  # a library in C opens and starts without Python's knowledge
            if threading.active_count() > self._threads:
                self.found.append("leaves a thread running")
            if len(_descriptors()) > len(self._descriptors):
                self.found.append("leaves a file or a connection open")

    @property
    def imported(self) -> list[str]:
        """Top-level names of the modules that were imported meanwhile."""
        return sorted({name.partition(".")[0] for name in set(sys.modules) - self._modules})

    def _threading(self, *arguments: Any) -> Any:
        self._hear("_thread.start_new_thread", ())
        return self._start_thread(*arguments)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        meaning = next((text for name, text in _MEANING.items() if event.startswith(name)), None)
        if meaning is None:
            return
        frame: FrameType | None = sys._getframe(1)
        if frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
            return  # the import of a module reads its file
        if event == "open" and _is_harmless(arguments[0], arguments[1]):
            return
        self._is_on = False
        what = _object(event, arguments)
        line = f"{meaning}{what and f' ({what})'} at {_place(frame)}"
        if line not in self.found:
            self.found.append(line)
        self._is_on = True


def foreign_modules(imported: list[str], own: str) -> list[str]:
    """Return those of the top-level names `imported` that are neither Python's, nor Flux's, nor the package `own`."""
    known = {*sys.stdlib_module_names, "flux", own.partition(".")[0]}
    return [name for name in imported if name not in known and not name.startswith(("_", "sitecustomize"))]


def _is_harmless(path: object, mode: object) -> bool:
    if isinstance(path, int):  # a descriptor that is open already
        return True
    text = os.fsdecode(path) if isinstance(path, str | bytes) else str(path)
    reads = not isinstance(mode, str) or not set(mode) & set("wax+")
    if reads and text.endswith(".py"):  # a warning or a traceback shows a line of it
        return True
    return reads and os.path.abspath(text).startswith(_HARMLESS)  # noqa: PTH100


def _object(event: str, arguments: tuple[Any, ...]) -> str:
    """What the event was about, as a short text."""
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        return f"{arguments[1]!r:.80}"
    if event.startswith("_thread"):
        return ""
    return f"{arguments[0]!r:.80}" if arguments else ""


def _place(frame: FrameType | None) -> str:
    """The innermost line that belongs neither to Python's library nor to Flux."""
    first = frame
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(("<frozen", _OWN, *_LIBRARY[:2])) or "site-packages" in name:
            return f"{os.path.basename(name)}:{frame.f_lineno}"  # noqa: PTH119
        frame = frame.f_back
    return "?" if first is None else f"{os.path.basename(first.f_code.co_filename)}:{first.f_lineno}"  # noqa: PTH119


def _descriptors() -> set[str]:
    try:
        return set(os.listdir("/proc/self/fd"))
    except OSError:
        return set()

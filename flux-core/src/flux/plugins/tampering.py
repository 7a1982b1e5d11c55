"""What a manifest's import must leave alone, watched in the judging process: Flux itself, builtins, a few system calls.

A provider that replaces a function of Flux would change how the tasks of all others run, in whichever process imports
it, without a trace. So the globals of Flux's modules and the attributes of its classes are noted when a module's import
ends, and compared by identity after each provider. What Flux does to itself by loading names on first use is an
addition, and its own; anything else is named.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import locale
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from operator import is_
from types import FunctionType, ModuleType
from typing import Any

#: What Python itself changes in a class or a module after it was made.
_PYTHONS_OWN = {
    "__abstractmethods__", "__annotate_func__", "__annotations__", "__annotations_cache__", "__builtins__",
    "__cached__", "__dict__", "__doc__", "__loader__", "__spec__", "__warningregistry__", "__weakref__", "_abc_impl",
}  # fmt: skip
#: Outside Flux: what its processes depend on, whoever runs in them; by module.
_SYSTEM = {
    "json": ("dump", "dumps", "load", "loads"),
    "os": ("_exit", "execve", "fork", "kill", "open", "read", "write"),
    "signal": ("set_wakeup_fd", "signal"),
    "socket": ("socket",),
    "subprocess": ("Popen",),
    "sys": ("excepthook", "exit", "unraisablehook"),
    "threading": ("Lock", "Thread", "excepthook"),
    "time": ("monotonic", "sleep", "time"),
}


class Watch:
    """Notes every module of Flux at the end of its import, from `begin` on, and says what differs."""

    def __init__(self) -> None:
        #: By dotted name: a module or class, and its attributes when it was noted.
        self._holders: dict[str, tuple[object, dict[str, object]]] = {}
        #: By dotted name: functions, which can be changed without being replaced, and the code they had.
        self._code: dict[str, tuple[FunctionType, object]] = {}

    def begin(self) -> None:
        """Note what is loaded, and be asked for modules of Flux before any other importer."""
        for name, module in list(sys.modules.items()):
            if _is_flux(name):
                self._note(name, module)
        self._hold("builtins", builtins, vars(builtins))
        for name, attributes in _SYSTEM.items():
            module = importlib.import_module(name)
            self._hold(name, module, {each: getattr(module, each) for each in attributes})
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module of Flux as Python would, and note it when it is complete."""
        if not _is_flux(name):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        loader: Any = spec and spec.loader
        if loader is None:
            return spec
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._note(name, module)

        loader.exec_module = exec_module
        return spec

    def changes(self) -> list[str]:
        """Return the dotted names that were replaced, removed or added since they were noted, sorted."""
        found = {name for name, (function, code) in self._code.items() if function.__code__ is not code}
        for name, (holder, seen) in self._holders.items():
            if isinstance(holder, ModuleType) and sys.modules.get(name) is not holder:
                found.add(name)
            elif not _is_same(holder, seen):
                found.update(_differ(name, holder, seen))
        return sorted(found)

    def _note(self, name: str, module: ModuleType) -> None:
        self._hold(name, module, vars(module))
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == name:
                self._hold(f"{name}.{value.__qualname__}", value, vars(value))

    def _hold(self, name: str, holder: object, values: Mapping[str, object]) -> None:
        self._holders[name] = holder, dict(values)
        if _is_flux(name):
            for key, value in values.items():
                if isinstance(value, FunctionType):
                    self._code[f"{name}.{key}"] = value, value.__code__


def _is_same(holder: object, seen: Mapping[str, object]) -> bool:
    """Whether nothing has changed: the usual case. By identity, since a value says itself what it is equal to."""
    values = vars(holder)
    return len(values) == len(seen) and all(map(is_, values, seen)) and all(map(is_, values.values(), seen.values()))


def _differ(name: str, holder: object, seen: Mapping[str, object]) -> Iterator[str]:
    values = vars(holder)
    for key in seen.keys() - _PYTHONS_OWN:
        if values.get(key, _GONE) is not seen[key]:
            yield f"{name}.{key}"
    if _is_flux(name):
        for key in values.keys() - seen.keys() - _PYTHONS_OWN:
            if not _is_fluxes_own(values[key]):
                yield f"{name}.{key}"


_GONE = object()


def _is_fluxes_own(value: object) -> bool:
    """Whether an added name is a module, or an object that a module of Flux defines."""
    return isinstance(value, ModuleType) or _is_flux(str(getattr(value, "__module__", "")))


def _is_flux(name: str) -> bool:
    return name == "flux" or name.startswith("flux.")


def surroundings() -> dict[str, object]:
    """Return what an import may change for whoever is imported after it, by name; `differing` compares two of them."""
    root = logging.getLogger()
    return {
        "sys.path": list(sys.path),
        "sys.meta_path": list(sys.meta_path),
        "the working folder": _folder(),
        "the environment": dict(os.environ),
        "standard output": (sys.stdout, sys.stderr),
        "the root logger": (list(root.handlers), root.level),
        "the warning filters": list(warnings.filters),
        "descriptors 0 to 2": [_open_file(number) for number in range(3)],
        "the umask": _umask(),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the recursion limit": sys.getrecursionlimit(),
        "the default time-out of sockets": socket.getdefaulttimeout(),
        "tracing": (sys.gettrace(), sys.getprofile()),
        "signal handlers": [signal.getsignal(number) for number in _SIGNALS],
    }


def differing(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return the names under which two `surroundings` differ, in their order."""
    return [name for name in before if not _is_alike(before[name], now[name])]


def _is_alike(one: object, other: object) -> bool:
    """Plain values by equality, what is in lists one by one, objects of any other type by identity."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_is_alike, one, other))
    return one == other if type(one) in _PLAIN else one is other


_PLAIN = (str, int, float, dict)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)


def _open_file(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:  # it is closed
        return None
    return status.st_dev, status.st_ino


def _umask() -> int:
    """It cannot be read without being set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:  # it was removed
        return ""

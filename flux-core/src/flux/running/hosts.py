"""The DAG hosts of a launcher: forking them, watching their imports from outside, finding one, ending idle ones.

A host is known by what it imported: the folder, the file and the hashes of its sources. Versions of several DAGs in one
file therefore share a host, and so do a reading and the versions made of it.
"""

# ruff: noqa: PTH100, PTH118, PTH120

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flux import linux, process
from flux.dag_file import Manifest
from flux.loop import Loop, Timer
from flux.running import dag_host
from flux.wire import Message, Wire

#: A host's identity: folder, file, and the hash of each source.
Key = tuple[str, str, frozenset[tuple[str, str]]]

#: How much of what an import prints is kept, and shown when the import fails without saying why.
_OUTPUT_BYTES = 16384
_OUTPUT_LINES = 20
#: What an import that takes too long gets to say where it is.
_WHERE_SECONDS = 0.3
#: A host that only read its file ends after so many seconds: hundreds of files are read at a start.
_READ_IDLE_SECONDS = 5.0
#: And so many of them are kept until then.
_MOST_READ = 8
#: A host whose sensors were poked lately is not idle.
_POKED_SECONDS = 7200.0


@dataclass
class Settings:
    """What the supervisor may set in its hello; the defaults are those of the options of the same names."""

    dag_hosts: int = 32
    dag_host_idle_seconds: float = 300.0
    import_timeout_seconds: float = 30.0
    #: What DAG hosts must know of the providers; see `providers.rules`. Empty: nothing.
    provider_rules: dict[str, Any] = field(default_factory=dict)
    adopt_timeout_seconds: float = 60.0


@dataclass(eq=False)
class Host:
    """A DAG host as the launcher sees it."""

    number: int
    pid: int
    wire: Wire
    #: The file; None: the host without DAG file.
    path: str | None
    folder: str | None
    key: Key | None
    #: Of the providers, as they were when it was started.
    rules: Mapping[str, Any] = field(default_factory=dict)
    #: Id of the `read` it answers; None: it was started for a version.
    read_id: int | None = None
    output: int = -1
    printed: bytearray = field(default_factory=bytearray)
    is_importing: bool = True
    #: Set when the time limit for the import has passed.
    timed_out: float | None = None
    timer: Timer | None = None
    #: Orders for after the import.
    waiting: list[Message] = field(default_factory=list)
    #: Attempts: what is known of each by claim. Pokes: the order each belongs to.
    claims: dict[int, Message] = field(default_factory=dict)
    pokes: dict[int, Message] = field(default_factory=dict)
    #: Ids of DAGs whose attempts it leaves to fresh interpreters.
    fresh: frozenset[str] = frozenset()
    used_at: float = field(default_factory=time.monotonic)
    poked_at: float | None = None
    #: It was given an order beyond its reading.
    has_worked: bool = False

    is_ending: bool = False

    @property
    def is_busy(self) -> bool:
        return self.is_importing or bool(self.claims or self.pokes)


class Hosts:
    """The hosts that are alive.

    Args:
        settings: may change at any time.
        take: called with every message of a host.
    """

    def __init__(self, loop: Loop, run_folder: str, settings: Settings, take: Callable[[Host, Message], None]) -> None:
        self._loop = loop
        self._run_folder = run_folder
        self._settings = settings
        self._take = take
        self._alive: dict[int, Host] = {}
        self._numbers = 0
        self._by_key: dict[Key, Host] = {}
        self._by_version: dict[str, Host] = {}
        self._without_file: Host | None = None
        #: Ids of DAGs that need fresh interpreters, by what was imported.
        self._fresh: dict[Key, frozenset[str]] = {}

    def __iter__(self) -> Iterator[Host]:
        return iter(list(self._alive.values()))

    def __len__(self) -> int:
        return len(self._alive)

    @property
    def pids(self) -> set[int]:
        return {host.pid for host in self}

    def get(self, number: int) -> Host | None:
        """Return the host of that number, None if it is gone."""
        return self._alive.get(number)

    def keep(self, host: Host, versions: Iterable[str]) -> None:
        """Let `host` run the attempts of these versions."""
        self._by_version.update((version, host) for version in versions)

    def for_version(self, version: str, dag_id: str) -> Host:
        """Return the host for a DAG of a version, a new one if needed.

        Raises:
            DagFileError: this machine does not have the version.
            OSError: no process can be started.
        """
        host = self._by_version.get(version)
        if host is None:
            manifest = Manifest.read(self._run_folder, version)
            key = (manifest.folder, manifest.file, frozenset(manifest.sources.items()))
            host = self._by_key.get(key)
            if host is None and dag_id in self._fresh.get(key, ()):
                return self._fresh_interpreters()
            if host is None:
                contents = manifest.contents(self._run_folder)
                host = self.start(folder=manifest.folder, path=manifest.file, contents=contents, key=key)
                self._by_key[key] = host
            self._by_version[version] = host
        return self._fresh_interpreters() if dag_id in host.fresh else host

    def _fresh_interpreters(self) -> Host:
        if self._without_file is None or self._without_file.rules != self._settings.provider_rules:
            self._without_file = self.start()
        return self._without_file

    def start(
        self,
        *,
        folder: str | None = None,
        path: str | None = None,
        contents: dict[str, bytes] | None = None,
        key: Key | None = None,
        timeout: float | None = None,
    ) -> Host:
        """Fork a DAG host and watch its import.

        Raises:
            OSError: no process can be started.
        """
        rules = self._settings.provider_rules
        order = dag_host.Order(self._run_folder, folder, path, contents, rules)
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        try:
            parent = os.getpid()
            pid = process.fork()
            if pid == 0:
                self._be_host(order, theirs, write_end, parent)
        except OSError:
            ours.close()
            os.close(read_end)
            raise
        finally:
            theirs.close()
            os.close(write_end)
        os.set_blocking(read_end, False)
        self._numbers += 1
        wire = Wire(ours, self._loop, lambda message: self._take(host, message), lambda: None)
        is_importing = path is not None
        host = Host(
            self._numbers, pid, wire, path, folder, key, rules=rules, output=read_end, is_importing=is_importing
        )
        self._alive[host.number] = host
        self._loop.add_reader(read_end, lambda: self._read_output(host))
        if host.is_importing:
            seconds = timeout or self._settings.import_timeout_seconds
            host.timer = self._loop.call_later(seconds, lambda: self._import_too_long(host, seconds))
        return host

    def _be_host(self, order: dag_host.Order, sock: socket.socket, output: int, parent: int) -> None:
        """In the new process: leave everything of the launcher behind and become the host. Does not return."""
        try:
            os.setsid()
            linux.die_with_parent()
            if os.getppid() == parent:
                self._loop.close()
                keep = sorted({0, 1, 2, sock.fileno(), output})
                for low, high in zip(keep, [*keep[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
                    os.closerange(low + 1, high)
                dag_host.serve(order, sock, output)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(70)

    def imported(self, host: Host, sources: dict[str, str], fresh: Iterable[str]) -> None:
        """The import is over and has succeeded; `sources` of a reading, empty for a version."""
        assert host.folder is not None
        assert host.path is not None
        host.key = host.key or (host.folder, host.path, frozenset(sources.items()))
        host.fresh = frozenset(fresh)
        self._by_key[host.key] = host
        if host.fresh:
            self._fresh[host.key] = host.fresh

    def gone(self, host: Host) -> None:
        """A host's process has ended: take its last messages and output, and forget it."""
        host.wire.drain()
        while host.output >= 0 and self._read_output(host):
            pass
        self._close_output(host)
        host.wire.close()
        if host.timer is not None:
            host.timer.cancel()
        del self._alive[host.number]
        self.forget(host)

    def _read_output(self, host: Host) -> bool:
        """Keep the end of what an import prints, whatever its length; False: nothing was there."""
        try:
            data = os.read(host.output, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._close_output(host)
            return False
        host.printed += data
        del host.printed[:-_OUTPUT_BYTES]
        return True

    def _close_output(self, host: Host) -> None:
        if host.output >= 0:
            self._loop.remove(host.output)
            os.close(host.output)
            host.output = -1

    def _import_too_long(self, host: Host, seconds: float) -> None:
        host.timed_out = seconds
        process.send(host.pid, dag_host.WHERE_SIGNAL)
        host.timer = self._loop.call_later(_WHERE_SECONDS, lambda: self.kill(host))

    def kill(self, host: Host) -> None:
        """End a host and what its import has started, now."""
        process.send_group(host.pid, signal.SIGKILL)
        process.send(host.pid, signal.SIGKILL)

    def forget(self, host: Host) -> None:
        """Give a host no further orders."""
        if host.key is not None and self._by_key.get(host.key) is host:
            del self._by_key[host.key]
        self._by_version = {version: other for version, other in self._by_version.items() if other is not host}
        if self._without_file is host:
            self._without_file = None

    def end(self, host: Host) -> None:
        """Let an idle host end."""
        if not host.is_ending:
            host.is_ending = True
            self.forget(host)
            host.wire.send({"op": "stop"})

    def end_idle(self) -> None:
        """End the hosts that were not used for their time, which is short for those that only read."""
        now = time.monotonic()
        longest = self._settings.dag_host_idle_seconds
        for host in self:
            poked = host.poked_at is not None and now - host.poked_at < _POKED_SECONDS
            idle = longest if host.has_worked else min(longest, _READ_IDLE_SECONDS)
            if not host.is_busy and not poked and now - host.used_at > idle:
                self.end(host)

    def limit(self) -> None:
        """End the idle hosts that were used longest ago while there are too many."""
        alive = [host for host in self if not host.is_ending]
        spare = [host for host in alive if not host.is_busy]
        spare.sort(key=lambda host: (host.poked_at is not None, host.used_at))
        read = [host for host in spare if not host.has_worked]
        too_many = max(0, len(alive) - self._settings.dag_hosts)
        for host in {*spare[:too_many], *read[: max(0, len(read) - _MOST_READ)]}:
            self.end(host)


def import_failure(host: Host, ended: process.Exit) -> dict[str, Any]:
    """Say why a host died while it imported its file, in which line, and what it printed last."""
    printed, frames = _split_dump(bytes(host.printed).decode(errors="replace"))
    beginning = f'  File "{os.path.join(host.folder or "", host.path or "")}", line '
    found = next((frame for frame in frames if frame.startswith(beginning)), None)
    line = int(found.removeprefix(beginning).partition(" ")[0]) if found else None
    where = f" It was in line {line}." if line else ""
    what = f"DAG file {host.path!r}"
    if host.timed_out is not None:
        message = f"{what} did not finish importing within {host.timed_out:g} s.{where}"
    elif ended.signal is not None:
        message = f"{what} killed its process ({process.signal_name(ended.signal)}) while it was imported.{where}"
    else:
        message = (
            f"{what} ended its process (exit status {ended.exit_status}) while it was imported. "
            "Remove the call of os._exit."
        )
    shown = [*printed[-_OUTPUT_LINES:], *(["Most recent call first:", *frames] if frames else [])]
    return {"message": message, "line": line, "traceback": "\n".join(shown)}


def _split_dump(printed: str) -> tuple[list[str], list[str]]:
    """Split what an import printed into its own lines and the frames, of author code, of a dump by faulthandler."""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    lines = printed.splitlines()
    starts = ("Fatal Python error: ", "Current thread 0x", "Thread 0x")
    dump = next((index for index, line in enumerate(lines) if line.startswith(starts)), len(lines))
    frames = [line for line in lines[dump:] if line.startswith('  File "')]
    machinery = (f'  File "{ours}', '  File "<frozen ')
    return lines[:dump], [line for line in frames if not line.startswith(machinery)]

"""The launcher as its one client sees it: a connection, and a method per order.

The supervisor of a system connects to the launcher's socket. A command without a system starts a launcher of its own
(`LauncherClient.private`), which ends with the command.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flux import process, wire
from flux.attempt import flat
from flux.loop import Loop, Timer
from flux.running.components import launcher_environ
from flux.wire import Message, Wire

if TYPE_CHECKING:
    from flux.attempt import AttemptSpec

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5


class LauncherClient:
    """A connection to one launcher, from the attempt to connect until it is lost.

    It connects as soon as there is a launcher, and says hello; the answer `{"op": "state", …}` comes before all other
    messages. Its `launcher` tells a new launcher from one that had only lost us. Orders without connection are dropped.

    Args:
        path: of the launcher's socket; None: `private` makes the connection.
        on_message: takes this client and a message; see `flux.running.launcher`.
        on_close: called once, when the connection is lost; make a new client then. Not called after `close`.
        settings: options for the launcher: dag_hosts, dag_host_idle_seconds, import_timeout_seconds,
            adopt_timeout_seconds, provider_rules.
    """

    def __init__(
        self,
        loop: Loop,
        path: str | os.PathLike[str] | None,
        on_message: Callable[[LauncherClient, Message], object],
        on_close: Callable[[], object] = lambda: None,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._loop = loop
        self._path = path
        self._on_message = on_message
        self._on_close = on_close
        self._settings = dict(settings or {})
        self._wire: Wire | None = None
        self._pause = _FIRST_PAUSE
        self._retry: Timer | None = None
        #: Of a private launcher, which is our child.
        self.pid: int | None = None
        if path is not None:
            self._retry = loop.call_later(0, self._connect)

    @classmethod
    def private(
        cls,
        loop: Loop,
        run_folder: str | os.PathLike[str],
        on_message: Callable[[LauncherClient, Message], object],
        on_close: Callable[[], object] = lambda: None,
        *,
        settings: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> LauncherClient:
        """Start a launcher for this process alone, which keeps its files in `run_folder`; `close` ends it.

        Its output is ours. `environ` None: our environment; secrets are taken out of either.
        """
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-P", "-m", "flux.running.launcher"]
        argv += ["--run-folder", os.fspath(run_folder), "--connection-fd", str(theirs.fileno())]
        client = cls(loop, None, on_message, on_close, settings=settings)
        try:
            env = launcher_environ(os.environ if environ is None else environ)
            client.pid = process.spawn(argv, env=env, pass_fds=[theirs.fileno()], new_group=True)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        client._connected(ours)
        return client

    @property
    def is_connected(self) -> bool:
        return self._wire is not None

    def close(self) -> None:
        """End the connection for good, and with it a private launcher, which is waited for."""
        if self._retry is not None:
            self._retry.cancel()
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if self.pid is not None:
            process.wait(self.pid)
            self.pid = None

    def set(self, settings: Mapping[str, Any]) -> None:
        """Have the launcher obey other settings from now on, and the next one from its beginning."""
        self._settings = dict(settings)
        self._send({"op": "set", "settings": self._settings})

    def read(self, number: int, folder: str, path: str, timeout: float) -> None:
        """Import a DAG file in a new host; answered by "read" with `id` = `number`."""
        self._send({"op": "read", "id": number, "folder": folder, "path": path, "timeout": timeout})

    def keep(self, host: int, versions: Iterable[str]) -> None:
        """Let the host of a reading run the attempts of these versions."""
        self._send({"op": "keep", "host": host, "version": list(versions)})

    def drop(self, host: int) -> None:
        """End the host of a reading."""
        self._send({"op": "drop", "host": host})

    def run(self, version: str, spec: AttemptSpec) -> None:
        """Start an attempt; answered by "started", then "exit". A claim that is known already is left alone."""
        self._send({"op": "run", "version": version, "spec": flat(spec)})

    def poke(
        self, version: str, batch: int, specs: Iterable[AttemptSpec], poke_timeout: float, *, isolated: bool = False
    ) -> None:
        """Poke sensors of one version once; answered by "poked" for each. `isolated`: each in a process of its own."""
        self._send(
            {
                "op": "poke",
                "version": version,
                "batch": batch,
                "isolated": isolated,
                "specs": [flat(spec) for spec in specs],
                "poke_timeout": poke_timeout,
            }
        )

    def cancel_poke(self, claim: int) -> None:
        """End the poke of a sensor within its kill_grace; answered by "poked" in any case."""
        self._send({"op": "cancel_poke", "claim": claim})

    def kill(self, claim: int, grace: float, reason: str) -> None:
        """SIGTERM to every process of an attempt, SIGKILL after `grace` seconds; answered by "exit"."""
        self._send({"op": "kill", "claim": claim, "grace": grace, "reason": reason})

    def kill_all(self, grace: float, reason: str) -> None:
        self._send({"op": "kill_all", "grace": grace, "reason": reason})

    def ack(self, claims: Iterable[int]) -> None:
        """Let the launcher forget exits whose ends are in the store."""
        self._send({"op": "ack", "claims": list(claims)})

    def stop(self) -> None:
        """End the launcher after its attempts and hosts."""
        self._send({"op": "stop"})

    def _send(self, message: Message) -> None:
        if self._wire is not None:
            self._wire.send(message)

    def _connect(self) -> None:
        assert self._path is not None
        try:
            sock = wire.connect(self._path)
        except OSError:
            self._retry = self._loop.call_later(self._pause, self._connect)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            return
        self._connected(sock)

    def _connected(self, sock: socket.socket) -> None:
        self._wire = Wire(sock, self._loop, lambda message: self._on_message(self, message), self._lost)
        self._send({"op": "hello", "supervisor": os.getpid(), "settings": self._settings})

    def _lost(self) -> None:
        self._wire = None
        self._on_close()

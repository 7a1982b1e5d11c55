"""The launcher: forks DAG hosts, passes orders to them, and keeps the exits of attempts until a supervisor has them.

One thread; no database, no TLS, no third-party module. Theory. Everything that runs author code is below this process
and dies with it. A supervisor connects, is told the state (claims that run, exits it has not acknowledged) and gives
orders; when it goes away, attempts go on for `adopt_timeout` while the hypervisor lives, and are killed when both are
gone. A *private* launcher serves one process over an inherited socket and ends with it.
"""

# ruff: noqa: PTH100, PTH118, PTH120

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from flux import linux, process, wire
from flux.errors import DagFileError
from flux.loop import Loop, Timer
from flux.running import attempt_processes, pokes
from flux.running.heart import BEAT_SECONDS, Heart
from flux.running.hosts import Host, Hosts, Settings, import_failure
from flux.wire import Message, Wire

_STRAY_GRACE = 2.0
_STOP_GRACE = 4.0
#: Python adapts a function's bytecode after some twenty calls; then a fork writes to fewer pages of its memory.
_WALKS = 20


class Launcher:
    """See the module's text.

    Args:
        hypervisor: what `--hypervisor-fd` names; None: nobody watches.
    """

    def __init__(self, run_folder: str, *, hypervisor: int | None = None, settings: Settings | None = None) -> None:
        self._run_folder = run_folder
        self._hypervisor = hypervisor
        self._settings = settings or Settings()
        self._id = os.urandom(16).hex()
        self._loop = Loop()
        self._listener: socket.socket | None = None
        self._supervisor: Wire | None = None
        self._is_private = False
        self._orphaned: Timer | None = None
        self._is_stopping = False
        self._hosts = Hosts(self._loop, run_folder, self._settings, self._from_host)
        self._reads: deque[Message] = deque()
        self._reading = 0
        self._exits: dict[int, Message] = {}
        #: Hosts that are gone, while what is left of their attempts is being killed.
        self._lost: list[tuple[Host, process.Exit]] = []
        self._strays_killed_from: float | None = None
        self._ops: dict[str, Callable[[Message], object]] = {
            "hello": self._hello,
            "set": self._set,
            "read": self._queue_read,
            "keep": self._keep,
            "drop": self._drop,
            "run": self._run_order,
            "poke": self._poke_order,
            "cancel_poke": self._cancel_poke,
            "kill": self._kill,
            "kill_all": lambda m: self._kill_everything(m["grace"], m["reason"]),
            "ack": self._ack,
            "stop": lambda m: self._stop("the launcher was stopped"),
        }

    def listen(self, path: str) -> None:
        """Take supervisors at a socket; a new one replaces the one before."""
        self._listener, _ = wire.listen(path)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def serve(self, sock: socket.socket) -> None:
        """Serve one process alone, and end with it."""
        self._is_private = True
        self._supervisor = Wire(sock, self._loop, self._take, self._supervisor_gone)

    def run(self) -> None:
        """Serve until stopped. Takes over the process's signals."""
        self._loop.on_signal(signal.SIGCHLD, self._reap)
        self._loop.on_signal(signal.SIGTERM, lambda: self._stop("the launcher was stopped (SIGTERM)"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._loop.every(BEAT_SECONDS, self._hosts.end_idle)
        Heart(self._loop, self._hypervisor, self._hypervisor_gone).say({"op": "ready"})
        self._loop.run()

    # The supervisor

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if self._supervisor is not None:
            self._supervisor.close()
        self._supervisor = Wire(sock, self._loop, self._take, self._supervisor_gone)
        if self._orphaned is not None:
            self._orphaned.cancel()
            self._orphaned = None

    def _supervisor_gone(self) -> None:
        self._supervisor = None
        if self._is_private:
            self._stop("its command ended")
        elif self._hypervisor is None:
            self._stop("hypervisor and supervisor ended")
        else:
            seconds = self._settings.adopt_timeout_seconds
            reason = f"no supervisor adopted it within {seconds:g} s"
            self._orphaned = self._loop.call_later(seconds, lambda: self._kill_everything(_STOP_GRACE, reason))

    def _take(self, message: Message) -> None:
        self._ops[message["op"]](message)

    def _tell(self, message: Message) -> None:
        if self._supervisor is not None:
            self._supervisor.send(message)

    def _set(self, message: Message) -> None:
        for name, value in message.get("settings", {}).items():
            if hasattr(self._settings, name):
                setattr(self._settings, name, value)

    def _hello(self, message: Message) -> None:
        self._set(message)
        claims = [known for host in self._all_hosts() for known in host.claims.values()]
        self._tell(
            {
                "op": "state",
                "launcher": self._id,
                "pid": os.getpid(),
                "claims": claims,
                "exits": list(self._exits.values()),
                "hosts": [
                    {"host": host.number, "pid": host.pid, "file": host.path, "attempts": len(host.claims)}
                    for host in self._hosts
                ],
            }
        )

    def _all_hosts(self) -> Iterable[Host]:
        return (*self._hosts, *(host for host, _ in self._lost))

    def _ack(self, message: Message) -> None:
        for claim in message["claims"]:
            self._exits.pop(claim, None)

    # The hypervisor, and the hosts

    def _hypervisor_gone(self) -> None:
        self._hypervisor = None
        if self._supervisor is None:
            self._stop("hypervisor and supervisor ended")

    def _from_host(self, host: Host, message: Message) -> None:
        host.used_at = time.monotonic()
        op = message["op"]
        if op == "started":
            known = {"claim": message["claim"], "pid": message["pid"], "started_at": message["at"]}
            host.claims[message["claim"]] = known
            self._tell(message)
        elif op == "exit":
            host.claims.pop(message["claim"], None)
            self._exit(message)
        elif op == "poked":
            host.pokes.pop(message["claim"], None)
            self._tell(message)
        elif op == "imported":
            self._imported(host, message)

    def _exit(self, message: Message) -> None:
        self._exits[message["claim"]] = message
        self._tell(message)
        if self._is_stopping:
            self._end_when_empty()

    def _imported(self, host: Host, message: Message) -> None:
        """The import is over: answer the read, or let the orders through that waited for it."""
        host.is_importing = False
        if host.timer is not None:
            host.timer.cancel()
        if host.read_id is not None:
            self._answer_read(host, message)
        if message["error"] is not None:
            self._hosts.forget(host)
            self._refuse_waiting(host, message["error"]["message"])
            return
        self._hosts.imported(host, message["sources"], message["fresh"])
        waiting, host.waiting = host.waiting, []
        for order in waiting:
            self._pass_on(host, order)
        self._hosts.limit()

    def _refuse_waiting(self, host: Host, error: str) -> None:
        """Answer the orders that waited for an import that failed."""
        waiting, host.waiting = host.waiting, []
        text = f"DAG file {host.path!r} could not be imported: {error}"
        for order in waiting:
            if order["op"] == "run":
                host.claims.pop(order["spec"]["claim"], None)
                self._exit(attempt_processes.exit_message(order["spec"]["claim"], error=text))
            else:
                for spec in order["specs"]:
                    host.pokes.pop(spec["claim"], None)
                    self._tell({**pokes.failure(spec["claim"], text), "batch": order["batch"]})

    # Reading files

    def _queue_read(self, message: Message) -> None:
        self._reads.append(message)
        self._read_next()

    def _read_next(self) -> None:
        """Start the next readings, as many beside each other as there are processors."""
        while self._reads and self._reading < (os.cpu_count() or 1):
            message = self._reads.popleft()
            try:
                host = self._hosts.start(folder=message["folder"], path=message["path"], timeout=message["timeout"])
            except OSError as error:
                self._tell(_unread(message["id"], f"No process can be started to read it: {error}."))
                continue
            host.read_id = message["id"]
            self._reading += 1

    def _answer_read(self, host: Host, message: Message) -> None:
        self._reading -= 1
        reply = {name: message[name] for name in ("structures", "sources", "warnings", "error", "forkable")}
        number = host.number if message["error"] is None else None
        self._tell({"op": "read", "id": host.read_id, "host": number, **reply})
        host.read_id = None
        self._read_next()

    def _keep(self, message: Message) -> None:
        host = self._hosts.get(message["host"])
        if host is not None:
            self._hosts.keep(host, message["version"])

    def _drop(self, message: Message) -> None:
        host = self._hosts.get(message["host"])
        if host is not None and not host.is_busy:
            self._hosts.end(host)

    # Attempts and pokes

    def _run_order(self, message: Message) -> None:
        claim = message["spec"]["claim"]
        if claim in self._exits or any(claim in host.claims for host in self._all_hosts()):
            return
        if message["spec"]["run_as_user"] not in (None, process.user_name()):
            user = message["spec"]["run_as_user"]
            self._exit(
                attempt_processes.exit_message(
                    claim, error=f"it asks for run_as_user={user!r}; this launcher is {process.user_name()!r}"
                )
            )
            return
        try:
            host = self._hosts.for_version(message["version"], message["spec"]["dag_id"])
        except (DagFileError, OSError) as error:
            self._exit(attempt_processes.exit_message(claim, error=str(error)))
            return
        host.claims[claim] = {"claim": claim, "pid": None, "started_at": None}
        self._give(host, message)

    def _poke_order(self, message: Message) -> None:
        try:
            host = self._hosts.for_version(message["version"], message["specs"][0]["dag_id"])
        except (DagFileError, OSError) as error:
            for spec in message["specs"]:
                self._tell({**pokes.failure(spec["claim"], str(error)), "batch": message["batch"]})
            return
        host.poked_at = time.monotonic()
        host.pokes.update((spec["claim"], message) for spec in message["specs"])
        self._give(host, message)

    def _give(self, host: Host, order: Message) -> None:
        host.used_at = time.monotonic()
        host.has_worked = True
        if host.is_importing:
            host.waiting.append(order)
        else:
            host.wire.send(order)

    def _pass_on(self, host: Host, order: Message) -> None:
        """Send on an order that waited for the import, to the host without DAG file if it has turned out so."""
        dag_id = order["spec"]["dag_id"] if order["op"] == "run" else order["specs"][0]["dag_id"]
        if dag_id not in host.fresh:
            host.wire.send(order)
            return
        if order["op"] == "run":
            del host.claims[order["spec"]["claim"]]
            self._run_order(order)
        else:
            for spec in order["specs"]:
                host.pokes.pop(spec["claim"], None)
            self._poke_order(order)

    def _cancel_poke(self, message: Message) -> None:
        claim = message["claim"]
        host = next((host for host in self._hosts if claim in host.pokes), None)
        if host is None:
            self._tell({**pokes.failure(claim, "no poke was running", cancelled=True), "batch": None})
        elif host.is_importing:  # the order to poke it waits as well
            order = host.pokes.pop(claim)
            order["specs"] = [spec for spec in order["specs"] if spec["claim"] != claim]
            if not order["specs"]:
                host.waiting.remove(order)
            self._tell({**pokes.failure(claim, "the poke had not begun", cancelled=True), "batch": order["batch"]})
        else:
            self._give(host, message)

    def _kill(self, message: Message) -> None:
        claim = message["claim"]
        host = next((host for host in self._hosts if claim in host.claims), None)
        if host is None:
            return
        waiting = [order for order in host.waiting if order["op"] == "run" and order["spec"]["claim"] == claim]
        if waiting:
            host.waiting.remove(waiting[0])
            del host.claims[claim]
            self._exit(attempt_processes.exit_message(claim, killed=message["reason"]))
        else:
            host.wire.send(message)

    def _kill_everything(self, grace: float, reason: str) -> None:
        for host in self._hosts:
            for order in list(host.waiting):
                if order["op"] == "run":
                    self._kill({"claim": order["spec"]["claim"], "reason": reason})
            if not host.is_importing:
                host.wire.send({"op": "kill_all", "grace": grace, "reason": reason})

    # Ends

    def _reap(self) -> None:
        by_pid = {host.pid: host for host in self._hosts}
        for ended in process.reap():
            host = by_pid.get(ended.pid)
            if host is not None:
                self._host_ended(host, ended)
        if set(process.children()) - self._hosts.pids:
            self._kill_strays()
        elif self._lost:
            self._report_lost()

    def _host_ended(self, host: Host, ended: process.Exit) -> None:
        """Take the last messages of a host that is gone; what it still had to do is lost."""
        self._hosts.gone(host)
        if host.is_importing:
            error = import_failure(host, ended)
            host.is_importing = False
            if host.read_id is not None:
                self._answer_read(host, {**_unread(0, ""), "error": error})
            self._refuse_waiting(host, error["message"])
        self._poke_again(host)
        if host.claims:
            self._lost.append((host, ended))
        if self._is_stopping:
            self._end_when_empty()

    def _poke_again(self, host: Host) -> None:
        """Give pokes that a dead host has not answered to a new one, once."""
        orders = {id(order): order for order in host.pokes.values()}
        for order in orders.values():
            specs = [spec for spec in order["specs"] if spec["claim"] in host.pokes]
            if order.get("again") or self._is_stopping:
                for spec in specs:
                    error = pokes.failure(spec["claim"], "the process that poked it ended")
                    self._tell({**error, "batch": order["batch"]})
            else:
                self._poke_order({**order, "specs": specs, "again": True})

    def _kill_strays(self) -> None:
        """Kill what hosts that are gone have left below us: SIGTERM, then SIGKILL until nothing is left."""
        if self._strays_killed_from is None:
            self._strays_killed_from = time.monotonic()
            self._signal_strays(signal.SIGTERM)
            self._loop.call_later(_STRAY_GRACE, self._kill_strays_now)

    def _kill_strays_now(self) -> None:
        if self._signal_strays(signal.SIGKILL):
            self._loop.call_later(0.1, self._kill_strays_now)
        else:
            self._report_lost()

    def _signal_strays(self, signum: int) -> set[int]:
        strays = process.descendants(os.getpid(), without=self._hosts.pids)
        for pid in strays:
            process.send(pid, signum)
        return strays

    def _report_lost(self) -> None:
        """Report the attempts of dead hosts as ended: nothing of them is left."""
        self._strays_killed_from = None
        lost, self._lost = self._lost, []
        for host, ended in lost:
            for claim, known in list(host.claims.items()):
                error = f"its DAG host died ({ended})"
                facts = {"pid": known["pid"], "started_at": known["started_at"]}
                self._exit(attempt_processes.exit_message(claim, **facts, error=error, lost=True))
            host.claims.clear()
        if self._is_stopping:
            self._end_when_empty()

    def _stop(self, reason: str) -> None:
        """End: kill the attempts, then the hosts, then leave."""
        if not self._is_stopping:
            self._is_stopping = True
            self._reads.clear()
            self._kill_everything(_STOP_GRACE, reason)
            self._end_when_empty()

    def _end_when_empty(self) -> None:
        for host in self._hosts:
            if host.is_importing:
                self._hosts.kill(host)
            elif not host.claims:
                host.wire.send({"op": "stop"})
        if not self._hosts and not self._lost:
            self._loop.call_later(0, self._loop.stop)


def _unread(number: int, message: str) -> Message:
    """The answer to a reading that never began."""
    return {
        "op": "read", "id": number, "host": None, "structures": [], "sources": {}, "warnings": [],
        "error": {"message": message, "line": None, "traceback": ""}, "forkable": False,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run a launcher; see `flux.running.launcher_client` for who starts it and how."""
    parser = argparse.ArgumentParser(prog="flux.running.launcher")
    parser.add_argument("--run-folder", required=True)
    parser.add_argument("--hypervisor-fd", type=int, help="takes a beat a second; its end is the hypervisor's")
    parser.add_argument("--connection-fd", type=int, help="serve this socket alone, and end with it")
    options = parser.parse_args(argv)
    linux.locate_in_environment("FLUX_CLAIM", len(process.NO_CLAIM))
    linux.become_subreaper()
    linux.set_name("flux-launcher")
    if options.hypervisor_fd is not None:
        os.set_inheritable(options.hypervisor_fd, False)
    run_folder = os.path.abspath(options.run_folder)
    for name in ("sources", "versions", "pokes", "results"):
        Path(run_folder, name).mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chdir(os.path.dirname(run_folder))
    launcher = Launcher(run_folder, hypervisor=options.hypervisor_fd)
    if options.connection_fd is not None:
        os.set_inheritable(options.connection_fd, False)
        launcher.serve(socket.socket(fileno=options.connection_fd))
    else:
        launcher.listen(os.path.join(run_folder, "launcher.sock"))
    _preload()
    gc.collect()
    gc.freeze()
    launcher.run()
    return 0


def _preload() -> None:
    """Import what every DAG host and attempt needs, once for all of them, and let Python adapt its bytecode to it."""
    import inspect
    import logging

    import flux.dag
    import flux.operator
    import flux.operators
    import flux.sensor
    import flux.sensors
    import flux.templating
    from flux.plugins import signpost
    from flux.running import channel, standby

    for _ in range(_WALKS):
        standby.dry_walk()
    del inspect, logging, flux, channel, signpost


if __name__ == "__main__":
    sys.exit(main())

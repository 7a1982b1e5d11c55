"""A DAG host: the process that imported one version of a DAG file, once, and forks each attempt of its tasks.

The launcher forks it and watches the import from outside: here it may hang, die or print without end. Afterwards the
host is small and single-threaded: its memory is frozen, and a fork of it is an attempt with everything it needs loaded.
A host whose import left a Python thread or a socket does not fork attempts, because a fork inherits held locks; nor
does one for `DAG(fork=False)`. These run in fresh interpreters, started by a host without a DAG file.
"""

# ruff: noqa: PTH103, PTH115, PTH120, PTH208

from __future__ import annotations

import faulthandler
import functools
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from flux import attempt, dag_file, linux, process, wire
from flux.attempt import AttemptSpec
from flux.dag_providers import DagProviders
from flux.errors import DagFileError
from flux.loop import Loop, Timer
from flux.running import attempt_processes, faults, pokes, runner
from flux.running.standby import Standby, await_order, dry_walk, has_order, nothing
from flux.wire import Message, Wire

#: The launcher asks an import that takes too long where it is; the answer goes to stderr.
WHERE_SIGNAL = signal.SIGRTMIN + 3

#: A standby is made as soon as the start of an attempt is told: while that runs there is time. If no processor was free
#: for it then, it is made this long after an end, when the message about that is on its way.
_STANDBY_AFTER_END = 0.001
#: It is ended this long after the last start.
_STANDBY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Order:
    """What a new host is for."""

    run_folder: str
    #: The DAGs folder and the file; None: a host without DAG file, which starts fresh interpreters.
    folder: str | None = None
    path: str | None = None
    #: Of a stored version; None: what is on the disk.
    contents: dict[str, bytes] | None = None
    #: Of the providers; see `flux.providers.rules`.
    rules: Mapping[str, Any] = field(default_factory=dict)


def serve(order: Order, sock: socket.socket, output: int) -> NoReturn:
    """Be a DAG host, in a process that the launcher has just forked.

    Args:
        sock: to the launcher.
        output: what takes the place of stdout and stderr while the file is imported.
    """
    linux.become_subreaper()
    linux.set_name("flux-dag-host")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file = None
    if order.path is not None:
        file, message = _import(order, output)
        sock.sendall(wire.encode(message))
        if file is None:
            os._exit(0)
    os.close(output)
    attempt.setup_logging()
    gc.collect()
    gc.freeze()
    gc.disable()
    DagHost(order, sock, file).run()
    os._exit(0)


def _import(order: Order, output: int) -> tuple[dag_file.DagFile | None, Message]:
    """Import the file; return it, None if it failed, and the message "imported" for the launcher."""
    assert order.folder is not None
    assert order.path is not None
    kept = [os.dup(1), os.dup(2)]
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    faulthandler.register(WHERE_SIGNAL, all_threads=True)
    sockets = _sockets()
    finder = dag_file.SourceFinder(order.folder, order.contents)
    try:
        file = dag_file.read(finder, order.path, DagProviders(order.rules))
        structures = file.structures()
        sources = {} if order.contents is not None else dag_file.store_sources(order.run_folder, file.sources())
        _preload(file)
        left_behind, notes = _left_behind(sockets)
    except DagFileError as error:
        return None, _failed(error, dag_file.hashes(finder.contents))
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in kept:
            os.close(descriptor)
        faulthandler.unregister(WHERE_SIGNAL)
    fresh = sorted(dag.dag_id for dag in file.dags.values() if left_behind or not dag.fork)
    if left_behind:
        notes.append(
            f"The import of {order.path} left {left_behind}: its attempts start in fresh interpreters, slower."
        )
    return file, {
        "op": "imported",
        "structures": structures,
        "sources": sources,
        "warnings": [*file.warnings, *notes],
        "error": None,
        "forkable": not left_behind,
        "fresh": fresh,
        "dag_ids": list(file.dags),
    }


def _failed(error: DagFileError, sources: dict[str, str]) -> Message:
    """The message for a failed import; `sources` is what it had read by then, whose change is worth another try."""
    fault = {"message": str(error), "line": error.line, "traceback": error.traceback}
    return {
        "op": "imported", "structures": [], "sources": sources, "warnings": [], "error": fault, "forkable": False,
        "fresh": [], "dag_ids": [],
    }  # fmt: skip


def _preload(file: dag_file.DagFile) -> None:
    """Import now what attempts would import after their forks."""
    if any(_has_brace([getattr(task, name, None) for name in task.template_fields]) or task.template_ext
           for dag in file.dags.values() for task in dag.tasks.values()):  # fmt: skip
        import jinja2  # noqa: F401


def _has_brace(value: Any) -> bool:
    if isinstance(value, str):
        return "{" in value
    if isinstance(value, dict):
        return any(map(_has_brace, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_brace, value))


def _left_behind(sockets: set[str]) -> tuple[str, list[str]]:
    """Name what the import left that makes forks unsafe, "" if nothing; and notes about what does not."""
    found = [f"thread {thread.name!r}" for thread in threading.enumerate() if thread is not threading.main_thread()]
    python_threads = len(sys._current_frames())
    if python_threads > 1 and not found:
        found = [f"{python_threads - 1} threads"]
    if opened := len(_sockets() - sockets):
        found.append("an open socket" if opened == 1 else f"{opened} open sockets")
    try:
        native = len(os.listdir("/proc/self/task")) - python_threads
    except OSError:
        native = 0
    notes = (
        [f"Its import started {native} native threads (as OpenBLAS does); attempts are forked."] if native > 0 else []
    )
    return " and ".join(found), notes


def _sockets() -> set[str]:
    """The sockets this process has open, as /proc names them."""
    found: set[str] = set()
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for number in numbers:
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


class DagHost:
    """Serves the launcher's orders until it says stop or is gone."""

    def __init__(self, order: Order, sock: socket.socket, file: dag_file.DagFile | None) -> None:
        self._order = order
        self._home = os.path.dirname(order.run_folder)
        self._file = file
        self._pid = os.getpid()
        self._loop = Loop()
        self._wire = Wire(sock, self._loop, self._take, self._launcher_gone)
        self._imports_children = set(process.children())
        self._batches: dict[int, pokes.Batch] = {}
        self._standby: Standby | None = None
        #: Standbys that are alive or not reaped yet.
        self._standbys: set[int] = set()
        self._standby_timer: Timer | None = None
        self._started_at = float("-inf")
        self._attempts = attempt_processes.AttemptProcesses(self._loop, self._report, self._own_children)
        self._ops: dict[str, Callable[[Message], object]] = {
            "run": self._run_attempt,
            "kill": lambda m: self._attempts.kill(m["claim"], m["grace"], m["reason"]),
            "kill_all": self._kill_all,
            "poke": self._poke,
            "cancel_poke": self._cancel_poke,
            "stop": lambda m: self._loop.stop(),
        }

    def run(self) -> None:
        self._loop.on_signal(signal.SIGCHLD, self._reap)
        self._loop.run()

    def _take(self, message: Message) -> None:
        self._ops[message["op"]](message)

    def _launcher_gone(self) -> None:
        """The kernel kills this process and its attempts with the launcher; here only where it cannot."""
        self._attempts.kill_all(0, "the launcher ended")
        self._loop.stop()

    def _report(self, message: Message) -> None:
        if message["op"] == "exit":
            faults.point("before_exit_message")
        self._wire.send(message)

    def _own_children(self) -> set[int]:
        return self._imports_children | self._standbys | self._batches.keys()

    def _reap(self) -> None:
        for ended in process.reap():
            if self._attempts.reaped(ended):
                self._plan_standby(_STANDBY_AFTER_END)
            elif ended.pid in self._batches:
                self._batch_ended(self._batches.pop(ended.pid), ended)
            self._imports_children.discard(ended.pid)
            self._standbys.discard(ended.pid)
            if self._standby is not None and self._standby.pid == ended.pid:
                self._standby.forget()
                self._standby = None
        something_left = self._attempts.settle()
        if something_left and not self._attempts and not self._batches:
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """Nothing runs here: whatever is left below this process was left by pokes."""
        own = self._own_children()
        if set(process.children()) - own:
            for pid in process.descendants(self._pid, without=own):
                process.send(pid, signal.SIGKILL)

    # Attempts

    def _run_attempt(self, message: Message) -> None:
        try:
            spec = AttemptSpec(**message["spec"])
            if self._file is not None:
                self._file.task(spec.dag_id, spec.task_id)
        except (DagFileError, TypeError) as error:
            self._wire.send(attempt_processes.exit_message(message["spec"]["claim"], error=str(error)))
            return
        self._attempts.start(spec, lambda log: self._launch(spec, message, log))

    def _launch(self, spec: AttemptSpec, message: Message, log: int) -> int:
        """Start the process of an attempt, the standby or a new one, and return its pid."""
        standby, self._standby = self._standby, None
        given = standby is not None and standby.give(message, log)
        self._started_at = time.monotonic()
        self._plan_standby(0.0)
        if standby is not None:
            if given:
                self._standbys.discard(standby.pid)
                return standby.pid
            standby.end()
        pid = process.fork()
        if pid == 0:
            attempt_processes.never_return(lambda: self._be_attempt(spec, message["version"], log))
        return pid

    def _be_attempt(self, spec: AttemptSpec, version: str, log: int) -> NoReturn:
        """In the new process: become the attempt."""
        self._leave()
        self._begin_attempt(spec, version, log)

    def _begin_attempt(self, spec: AttemptSpec, version: str, log: int) -> NoReturn:
        runner.begin(log, spec.claim)
        attempt_processes.write_header(spec)
        if self._file is not None:
            runner.run(self._file, spec)
        self._exec({"version": version, "spec": attempt.flat(spec)})

    def _leave(self) -> None:
        """In a new process: let go of what is the host's."""
        self._wire.sock.close()
        self._loop.close()
        if self._standby is not None:
            self._standby.forget()
        for batch in self._batches.values():
            if batch.socket is not None:
                batch.socket.close()
        runner.enter(self._pid, self._home)

    # The standby

    def _plan_standby(self, seconds: float) -> None:
        """See to the standby `seconds` from now, and not before."""
        if self._standby_timer is not None:
            self._standby_timer.cancel()
        self._standby_timer = self._loop.call_later(seconds, self._keep_standby)

    def _keep_standby(self) -> None:
        """Make a standby if a processor is free for it; end it when the last start was long ago.

        A host without DAG file has none: its attempts go on as another program.
        """
        left = self._started_at + _STANDBY_SECONDS - time.monotonic()
        if self._file is None:
            return
        if left <= 0:
            if self._standby is not None:
                self._standby.end()
                self._standby = None
        elif self._standby is not None:
            self._plan_standby(left)
        elif len(self._attempts) < (os.cpu_count() or 1):
            try:
                self._standby = Standby(self._be_standby)
            except OSError:  # attempts are forked
                return
            self._standbys.add(self._standby.pid)
            self._plan_standby(left)
            attempt_processes.dry_walk(self._loop, nothing()[1])

    def _be_standby(self, sock: socket.socket) -> NoReturn:
        self._leave()
        runner.carry(0)
        if not has_order(sock):
            dry_walk()
        order, log = await_order(sock)
        self._begin_attempt(AttemptSpec(**order["spec"]), order["version"], log)

    def _exec(self, order: Message, *, keep: Iterable[int] = ()) -> NoReturn:
        """Go on as a fresh interpreter that reads its order from standard input."""
        order = {"run_folder": self._order.run_folder, "rules": self._order.rules, **order}
        descriptor = os.memfd_create("flux-order")
        os.write(descriptor, json.dumps(order).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.dup2(descriptor, 0)
        for number in keep:
            os.set_inheritable(number, True)
        os.execv(sys.executable, [sys.executable, "-P", "-m", "flux.running.runner"])

    def _kill_all(self, message: Message) -> None:
        self._attempts.kill_all(message["grace"], message["reason"])
        for batch in self._batches.values():
            for claim in batch.specs:
                batch.cancelled[claim] = 0.0
            self._watch(batch)

    # Pokes

    def _poke(self, message: Message) -> None:
        specs = [AttemptSpec(**data) for data in message["specs"]]
        size = 1 if message["isolated"] else pokes.MOST_POKES
        for first in range(0, len(specs), size):
            part = {spec.claim: spec for spec in specs[first : first + size]}
            self._start_batch(
                pokes.Batch(message["batch"], message["version"], message["poke_timeout"], part, self._wire.send)
            )

    def _start_batch(self, batch: pokes.Batch) -> None:
        """Fork a process for the pokes of `batch`."""
        specs = list(batch.specs.values())
        alone = len(specs) == 1
        batch.log = specs[0].log if alone else f"{self._order.run_folder}/pokes/{self._pid}-{specs[0].claim}.log"
        theirs: socket.socket | None = None
        log: int | None = None
        try:
            for spec in specs:
                os.makedirs(os.path.dirname(spec.log), mode=0o700, exist_ok=True)
            log = attempt_processes.open_log(batch.log)
            batch.socket, theirs = socket.socketpair()
            batch.socket.setblocking(False)
            batch.pid = process.fork()
            if batch.pid == 0:
                self._be_pokes(batch, specs, theirs.fileno(), log)
        except OSError as error:
            if batch.socket is not None:
                batch.socket.close()
            for claim in batch.specs:
                batch.answer(pokes.failure(claim, f"its process cannot be started: {error}"))
            return
        finally:
            if theirs is not None:
                theirs.close()
            if log is not None:
                os.close(log)
        self._batches[batch.pid] = batch
        self._loop.add_reader(batch.socket.fileno(), lambda: self._hear(batch))

    def _be_pokes(self, batch: pokes.Batch, specs: list[AttemptSpec], report: int, log: int) -> NoReturn:
        try:
            assert batch.socket is not None
            batch.socket.close()
            self._leave()
            runner.begin(log, specs[0].claim if len(specs) == 1 else 0)
            if self._file is not None:
                pokes.run(self._file, specs, report)
            order = {"version": batch.version, "specs": [attempt.flat(spec) for spec in specs]}
            self._exec({**order, "report_fd": report}, keep=[report])
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(70)

    def _hear(self, batch: pokes.Batch) -> None:
        assert batch.socket is not None
        if not batch.hear():
            self._loop.remove(batch.socket.fileno())
        self._watch(batch)

    def _watch(self, batch: pokes.Batch) -> None:
        """Come back when the next poke's time is over; kill the process when one's is."""
        if batch.pid not in self._batches or batch.killed:
            return
        if not batch.give_up():
            process.send_group(batch.pid, signal.SIGKILL)
            return
        seconds = batch.seconds_left()
        if seconds is not None:
            if batch.timer is not None:
                batch.timer.cancel()
            batch.timer = self._loop.call_later(seconds, functools.partial(self._watch, batch))

    def _batch_ended(self, batch: pokes.Batch, ended: process.Exit) -> None:
        """Take the last answers; poke what is left in a new process, unless this one died by itself."""
        assert batch.socket is not None
        batch.hear()
        self._loop.remove(batch.socket.fileno())
        batch.socket.close()
        if batch.timer is not None:
            batch.timer.cancel()
        process.send_group(batch.pid, signal.SIGKILL)
        batch.tell_output()
        if not batch.killed:
            died = list(batch.begun) or list(batch.specs)
            for claim in died:
                del batch.specs[claim]
                batch.answer(pokes.failure(claim, f"the process that poked it ended: {ended}"))
        if batch.specs:
            again = pokes.Batch(batch.number, batch.version, batch.poke_timeout, batch.specs, batch.report)
            again.cancelled = batch.cancelled
            self._start_batch(again)
            self._watch(again)

    def _cancel_poke(self, message: Message) -> None:
        """Answer for a poke soon: by its end, or after the task's kill_grace without it."""
        claim = message["claim"]
        for batch in self._batches.values():
            spec = batch.specs.get(claim)
            if spec is not None:
                batch.cancel(claim, spec.kill_grace)
                self._watch(batch)
                return
        self._wire.send({**pokes.failure(claim, "no poke was running", cancelled=True), "batch": None})

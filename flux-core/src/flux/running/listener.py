"""The listener process: calls the events of providers. Started by the hypervisor only while a provider listens.

`python -m flux.running.listener`. It has neither database nor secrets: what happened to tasks and runs it hears from
the supervisor (`delivery`), what happens to components it reads from the run folder's list of them. All calls are made
in the loop's one thread, in order.

A provider that raises is named in the log, and the others are called all the same. The beat comes from between the
calls, so one that lasts too long silences it: the hypervisor kills the process and starts another, which finds in the
mapped memory of `CallMark` whose call it was. That counts like a raise, as does a call that ended the process. After
`listeners.MOST_FAILURES` in a row a provider is told nothing more until Flux starts anew or the provider changes.
Meanwhile nothing is lost: what was not acknowledged is delivered again.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flux import linux, wire
from flux.config import load
from flux.errors import PluginError
from flux.loop import Loop, Timer
from flux.plugins.host import Fault, Host
from flux.plugins.snapshots import Component, DagRun, TaskInstance
from flux.running import home, listeners
from flux.running.heart import BEAT_SECONDS, Heart
from flux.running.home import Running
from flux.running.listeners import CallMark, ListenerState
from flux.wire import Message, Wire

#: Events are called this long before the loop looks after everything else.
_SLICE_SECONDS = 0.05
#: Acknowledged at least so often, which is what may come again after a crash.
_ACKNOWLEDGE_SECONDS = 0.2
#: Failures are written down at most so often.
_PUBLISH_SECONDS = 0.5
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
#: After the order to end, until a call that still lasts is cut off.
_LAST_CALL_SECONDS = 0.8


class Listener:
    """The parts of the listener process.

    Args:
        system: names this start of Flux; failures of an earlier one are forgotten.
        hypervisor: what `--hypervisor-fd` names; None: there is none.
        on_end: called before the last calls are made.
    """

    def __init__(
        self,
        loop: Loop,
        run_folder: Path,
        system: str,
        *,
        hypervisor: int | None = None,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._loop = loop
        self._run_folder = run_folder
        self._system = system
        self._pid = os.getpid()
        self._host = Host(before_event=self._before)
        self._mark = CallMark(run_folder)
        self._marks: dict[str, bytes] = {}
        #: Number of the event that is being told; 0: it is none of the outbox.
        self._event = 0
        #: Whose turn it was in the event that is being told.
        self._called: list[str] = []
        self._loaded: list[Message] | None = None
        self._stamps: dict[str, str] = {}
        self._failing = listeners.of_system(run_folder, system)
        self._publishing: Timer | None = None
        self._queue: deque[Message] = deque()
        self._told: list[int] = []
        self._acknowledged_at = 0.0
        self._is_working = False
        self._wire: Wire | None = None
        self._pause = _FIRST_PAUSE
        self._components: dict[tuple[str, int], Component] = {}
        self._watch: linux.Inotify | None = None
        self._on_end = on_end
        self._is_ending = False
        self._heart = Heart(loop, hypervisor, self.end)
        self._beaten_at = time.monotonic()

    def start(self) -> None:
        """Connect to the supervisor, again and again while there is none."""
        left = self._mark.left()
        if left is not None:
            event, provider = left
            self._mark.end()
            self._failed(provider, "its call took too long or ended the process", stamp=None, event=event)
            self._publish()  # this process may end in the same call
        self._connect()

    def end(self) -> None:
        """Tell what still can be told, and stop the loop."""
        if self._is_ending:
            return
        self._is_ending = True
        self._acknowledge()
        self._on_end()
        self._components_changed()
        myself = self._components.pop(("listener", os.getpid()), None)
        if myself is not None:
            self._told_to(self._host.component_stopping, myself)
        self._publish()
        self._loop.stop()

    def close(self) -> None:
        """Let go of sockets and files."""
        if self._wire is not None:
            self._wire.close()
        if self._watch is not None:
            self._loop.remove(self._watch.fd)
            self._watch.close()
        self._mark.close()

    # --- the supervisor --------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        try:
            sock = wire.connect(self._run_folder / "endpoint")
        except OSError:
            self._loop.call_later(self._pause, self._connect)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            return
        self._pause = _FIRST_PAUSE
        self._wire = Wire(sock, self._loop, self._heard, self._lost)
        self._wire.send({"client": "listener"})

    def _lost(self) -> None:
        """The supervisor is gone: what it gave and was not told comes again from the next one."""
        self._wire = None
        self._queue.clear()
        self._told.clear()
        self._loop.call_later(self._pause, self._connect)

    def _heard(self, message: Message) -> None:
        match message["op"]:
            case "providers":
                self._load(message["providers"])
            case "events":
                self._queue.extend(message["events"])
                if not self._is_working:
                    self._work()

    def _load(self, providers: Sequence[Message]) -> None:
        """Register what listens; what was loaded cannot be loaded anew, so for others a new process is needed."""
        if self._loaded is not None and self._loaded != providers:
            self.end()
            return
        if self._loaded is None:
            self._loaded = list(providers)
            for each in providers:
                self._register(each["name"], each["module"], each["folder"], each["stamp"])
            self._watch_components()
        if self._wire is not None:
            self._wire.send({"op": "ready"})

    def _register(self, name: str, module: str, folder: str | None, stamp: str) -> None:
        """Import one provider's manifest, unless it is switched off; what that raises is named in the log."""
        self._stamps[name] = stamp
        state = self._failing.get(name)
        if state is not None and state.stamp not in (stamp, ""):
            del self._failing[name]
            self._publish_soon()
        elif state is not None and state.is_off:
            return
        self._before(name, "import")
        try:
            if folder is not None and folder not in sys.path:
                sys.path.insert(0, folder)
            self._host.register(name, import_module(module))
        except BaseException as error:  # a manifest that calls sys.exit must not take the others along
            cause = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            self._end_if_forked()
            self._failed(name, f"its manifest cannot be loaded: {cause}", stamp, for_good=True)
        self._end_if_forked()
        self._mark.end()

    # --- telling ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Tell the next events, then let the loop look after everything else."""
        until = time.monotonic() + _SLICE_SECONDS
        try:
            while self._queue:
                self._tell_event(self._queue.popleft())
                now = time.monotonic()
                if now - self._acknowledged_at > _ACKNOWLEDGE_SECONDS:
                    self._acknowledge()
                if now > until:
                    break
        finally:
            self._is_working = bool(self._queue)
            if self._is_working:
                self._loop.call_later(0, self._work)
            else:
                self._acknowledge()

    def _tell_event(self, event: Message) -> None:
        self._event = event["id"]
        try:
            if event["what"] == "task_state":
                self._told_to(self._host.task_state_changed, task_instance_of(event), event["previous"], event["state"])
            else:
                self._told_to(self._host.dag_run_state_changed, dag_run_of(event), event["previous"], event["state"])
        finally:
            self._told.append(event["id"])
            self._event = 0

    def _told_to(self, call: Callable[..., Sequence[Fault]], *arguments: Any) -> None:
        """Call every provider that listens, and keep count of those that fail."""
        self._called.clear()
        faults = call(*arguments)  # what gets out of it ends the process, with the mark of who it was
        self._end_if_forked()
        self._mark.end()
        failed = {fault.provider for fault in faults}
        for fault in faults:
            traceback.print_exception(fault.error)
            self._failed(fault.provider, f"{fault.hook} raised {fault.message}", self._stamps.get(fault.provider))
        if self._failing:
            for provider in self._failing.keys() & set(self._called) - failed:
                if self._failing[provider].event in (0, self._event):
                    del self._failing[provider]
                    self._publish_soon()

    def _before(self, provider: str, _hook: str) -> None:
        """A provider is about to be called: note it, and beat if the last call took long."""
        self._end_if_forked()
        mark = self._marks.get(provider)
        if mark is None:
            mark = self._marks[provider] = CallMark.encode(provider)
        self._mark.begin(self._event, mark)
        self._called.append(provider)
        now = time.monotonic()
        if now - self._beaten_at > BEAT_SECONDS:
            self._beaten_at = now
            self._heart.beat()

    def _end_if_forked(self) -> None:
        """End a child process that a provider forked and let go: it has this one's socket and would act as it."""
        if os.getpid() != self._pid:
            os._exit(0)

    def _acknowledge(self) -> None:
        self._acknowledged_at = time.monotonic()
        if self._told and self._wire is not None:
            self._wire.send({"op": "told", "ids": self._told})
            self._told = []

    # --- failures --------------------------------------------------------------------------------------------------

    def _failed(self, provider: str, reason: str, stamp: str | None, *, event: int = 0, for_good: bool = False) -> None:
        """Count a failure; the last in a row, or one that is `for_good`, switches the provider off."""
        before = self._failing.get(provider)
        failures = 1 if before is None else before.failures + 1
        is_off = for_good or failures >= listeners.MOST_FAILURES
        stamp = stamp if stamp is not None else before.stamp if before is not None else ""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._failing[provider] = ListenerState(provider, stamp, failures, is_off, reason, at, event)
        self._say(f"provider {provider!r}: {reason} ({failures} in a row)")
        if is_off:
            self._host.unregister(provider)
            self._say(f"provider {provider!r} is switched off: it is told nothing more until Flux starts anew")
            self._publish()
        else:
            self._publish_soon()

    def _publish_soon(self) -> None:
        if self._publishing is None:
            self._publishing = self._loop.call_later(_PUBLISH_SECONDS, self._publish)

    def _publish(self) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        try:
            listeners.publish(self._run_folder, self._system, self._failing.values())
        except OSError as error:
            self._say(f"{self._run_folder}/listeners.json could not be written: {error.strerror}")

    @staticmethod
    def _say(line: str) -> None:
        print(f"listener: {line}", file=sys.stderr, flush=True)

    # --- components ------------------------------------------------------------------------------------------------

    def _watch_components(self) -> None:
        """Tell of the components that run, and from now on of those that start and end."""
        try:
            self._watch = linux.Inotify()
            self._watch.add(str(self._run_folder), linux.IN_MOVED_TO)
        except OSError:
            self._loop.every(BEAT_SECONDS, self._components_changed)
        else:
            self._loop.add_reader(self._watch.fd, self._noticed)
        self._components_changed()

    def _noticed(self) -> None:
        assert self._watch is not None
        if any(path.endswith("components.json") for path, _ in self._watch.read()):
            self._components_changed()

    def _components_changed(self) -> None:
        """Tell of the components that came and went since the last look."""
        if self._loaded is None:
            return
        found = {(part.kind, part.pid): part for part in home.running(self._run_folder)}
        stays = {key for key, part in found.items() if part.state != "stopping"}
        for key in [key for key in self._components if key not in stays]:
            self._told_to(self._host.component_stopping, self._components.pop(key))
        for key in found:
            if key not in self._components and found[key].state == "running":
                self._components[key] = component_of(found[key])
                self._told_to(self._host.component_started, self._components[key])


def task_instance_of(event: Mapping[str, Any]) -> TaskInstance:
    """Build what a listener is given of a task instance."""
    return TaskInstance(
        event["dag_id"], event["run_id"], event["task_id"], event["map_index"], event["state"], event["attempt"],
        event["max_attempts"], event["operator"], _moment(event["started_at"]), _moment(event["ended_at"]),
        event["reason"],
    )  # fmt: skip


def dag_run_of(event: Mapping[str, Any]) -> DagRun:
    """Build what a listener is given of a DAG run."""
    conf = event["conf"]
    return DagRun(
        event["dag_id"], event["run_id"], event["kind"], event["state"], datetime.fromisoformat(event["logical_date"]),
        datetime.fromisoformat(event["interval_start"]), datetime.fromisoformat(event["interval_end"]),
        None if conf is None else MappingProxyType(conf), _moment(event["started_at"]), _moment(event["ended_at"]),
    )  # fmt: skip


def component_of(part: Running) -> Component:
    """Build what a listener is given of a component."""
    return Component(part.kind, part.pid, socket.gethostname(), datetime.fromisoformat(part.started_at))


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a listener process until the hypervisor ends it, or the supervisor has it load something else."""
    parser = argparse.ArgumentParser(prog="flux-listener")
    parser.add_argument("--hypervisor-fd", type=int)
    options = parser.parse_args(arguments)
    faulthandler.enable()
    linux.set_name("flux-listener")
    config = load(os.environ)
    loop = Loop()
    parent = os.getppid()
    listener = Listener(
        loop,
        config.run_folder,
        f"{parent}-{home.started_ticks(parent)}",
        hypervisor=options.hypervisor_fd,
        # The kernel cuts off a last call that lasts.
        on_end=lambda: signal.setitimer(signal.ITIMER_REAL, _LAST_CALL_SECONDS),
    )
    loop.on_signal(signal.SIGTERM, listener.end)
    listener.start()
    loop.run()
    listener.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

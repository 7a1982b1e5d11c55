"""The parent of a running system: starts its components, listens to their beats, restarts what dies or hangs, ends all.

`flux up` becomes `python -m flux.running.hypervisor`. Standard library only, and it never opens the database: what it
does must go on when everything else fails.

Theory. Each component (launcher, supervisor, UI) is a child in a process group of its own, so that only the hypervisor
gets the terminal's signals. A component has one end of a socket pair (`--hypervisor-fd`): what it writes there are its
beats, lines that are "." or a JSON message; end of file tells it that the hypervisor is gone. A component that is
*controlled* (the supervisor) also reads JSON lines from `--control-fd`. Rules:

- a component that ends is started again, at once after a healthy life, ever later after deaths that came early; after
  ten early deaths in five minutes the hypervisor gives it up, and with a vital component the whole system;
- one that is silent for too long gets SIGABRT (its stacks go to its log), then SIGKILL, and is started again. Silence
  counts only while the hypervisor itself was awake: after a suspend or a stop all deadlines begin anew;
- one that is *on demand* (the listener process) runs while a controlled component wants it, and is not given up; when
  it ends by itself without an error it is started again at once, for it has something else to load;
- to end, controlled components are told first and end the tasks; the others get SIGTERM when those are gone; what is
  left of all descendants at the deadline is killed. The hypervisor is their subreaper, so none escapes.

Messages of components: `{"op":"ready"}` (takes work now), `{"op":"refused","message":…}` (can never work here: the
system ends with that message), `{"op":"start","kind":…}` and `{"op":"end","kind":…}` (a component on demand is wanted,
or no longer). Orders on the control pipe: `{"op":"drain","reason":…}` (start nothing new, exit 0 when
nothing runs) and `{"op":"stop","grace":seconds,"reason":…}` (record the end of all tasks, kill them, exit).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flux import linux, process
from flux.config import load
from flux.errors import FluxError
from flux.loop import Loop, Timer
from flux.running import home
from flux.running.components import Component, bound_log, last_lines, of_system, open_log
from flux.running.heart import BEAT_SECONDS

#: After the moment at which all components beat, until the beats are there: one wake-up for all of them.
_AFTER_BEATS = 0.02
#: Exit codes, as cli.md 1 has them.
DONE, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the hypervisor waits for what, in seconds."""

    #: Without a beat before a component is taken for stuck; the first beat may take longer.
    stuck: float = 10
    first_beat: float = 30
    #: Between SIGABRT and SIGKILL.
    abort: float = 2
    #: Before a restart: the first pause, doubled after each early death up to the longest.
    shortest_pause: float = 0.2
    longest_pause: float = 30
    #: Beats over this time make a life healthy; a death before it is early.
    healthy: float = 5
    #: So many early deaths within `deaths_within` and the component is given up.
    deaths: int = 10
    deaths_within: float = 300
    #: What tasks get between SIGTERM and SIGKILL when the system ends, and when all must be gone.
    grace: float = 4
    end: float = 5.5
    #: What the supervisor gets to record the end of its tasks when everything else is killed at once.
    last_word: float = 1
    #: Between two looks at the beats, a moment after they were made; one that comes later than `overslept` was held up.
    look: float = BEAT_SECONDS
    overslept: float = 4


class _Job:
    """A component's process, its life so far, and the lives before it."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.pid: int | None = None
        self.is_wanted = not component.on_demand
        #: It was told to end while the system goes on.
        self.is_ending = False
        self.state = "starting"
        self.started_at = 0.0
        self.beats: socket.socket | None = None
        self.control: socket.socket | None = None
        self.heard = b""
        self.first_beat: float | None = None
        self.last_sign = 0.0
        self.aborted = False
        self.restart: Timer | None = None
        self.early_deaths: list[float] = []
        self.early_in_a_row = 0

    def tell(self, message: dict[str, Any]) -> bool:
        """Send an order; False when there is nobody to take it."""
        if self.control is None or self.pid is None or not self.component.controlled:
            return False
        try:
            self.control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True


class Hypervisor:
    """Runs `components` until a signal or a refusal ends them.

    Args:
        say: takes one line for people.
    """

    def __init__(
        self,
        run_folder: Path,
        components: Sequence[Component],
        *,
        patience: Patience | None = None,
        drain: float = 0,
        say: Callable[[str], None],
    ) -> None:
        self._run_folder = run_folder
        self._jobs = [_Job(component) for component in components]
        self._patience = patience or Patience()
        self._drain = drain
        self._say = say
        self._loop = Loop()
        self._started_at = time.time()
        self._looked_at = 0.0
        self._was_up = False
        self._draining: str | None = None
        self._stopping = False
        self._end_by = 0.0
        self._exit_code = DONE

    def run(self) -> int:
        """Run the system to its end and return the exit code. Blocks; takes over the process's signals."""
        for left in home.end_leftovers(self._run_folder, self._patience.end):
            self._say(f"The {left.kind} (pid {left.pid}) of a system that was killed has been ended.")
        on_signal = self._loop.on_signal
        on_signal(signal.SIGCHLD, self._reap)
        on_signal(signal.SIGINT, self._interrupt)
        on_signal(signal.SIGTERM, lambda: self._terminate("stopped (SIGTERM)"))
        on_signal(signal.SIGHUP, lambda: self._terminate("stopped (SIGHUP)"))
        for job in self._jobs:
            if job.is_wanted:
                self._start(job)
        self._looked_at = time.monotonic()
        self._loop.every(self._patience.look, self._look, after=min(_AFTER_BEATS, self._patience.look / 2))
        self._loop.run()
        home.withdraw(self._run_folder)
        self._loop.close()
        for job in self._jobs:
            self._hang_up(job)
        return self._exit_code

    # Starting and listening

    def _start(self, job: _Job) -> None:
        """Start the component's process; a failure to do so counts as an early death."""
        job.state, job.heard, job.first_beat, job.aborted, job.restart = "starting", b"", None, False, None
        job.is_ending = False
        job.started_at, job.last_sign = time.time(), time.monotonic()
        try:
            job.beats, beats = socket.socketpair()
            job.control, control = socket.socketpair()
            with beats, control, open_log(self._log(job)) as log:
                for end in (job.beats, beats, job.control):
                    end.setblocking(False)
                job.pid = self._spawn(job.component, beats.fileno(), control.fileno(), log.fileno())
        except OSError as error:
            self._ended(job, f"could not be started: {error}")
            return
        self._loop.add_reader(job.beats.fileno(), lambda: self._hear(job))
        if self._draining is not None:
            job.tell({"op": "drain", "reason": self._draining})
        self._publish()

    @staticmethod
    def _spawn(component: Component, beats: int, control: int, log: int) -> int:
        argv, pass_fds = [*component.argv, "--hypervisor-fd", str(beats)], [beats]
        if component.controlled:
            argv += ["--control-fd", str(control)]
            pass_fds.append(control)
        return process.spawn(argv, env=component.env, stdout=log, stderr=log, pass_fds=pass_fds, new_group=True)

    def _hear(self, job: _Job) -> None:
        """Take the beats and messages that have come."""
        while job.beats is not None:
            try:
                data = job.beats.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove(job.beats.fileno())
                return
            job.last_sign = time.monotonic()
            if job.first_beat is None:
                job.first_beat = job.last_sign
                if not job.component.controlled:
                    self._works(job)
            *lines, job.heard = (job.heard + data).split(b"\n")
            job.heard = job.heard.lstrip(b".")[:65536]
            for line in lines:
                if line.lstrip(b"."):
                    self._take_message(job, line.lstrip(b"."))

    def _works(self, job: _Job) -> None:
        """It does what it is there for, and has no more to say than its beats: the next look hears them."""
        job.state = "running"
        if job.beats is not None:
            self._loop.remove(job.beats.fileno())
        self._publish()

    def _take_message(self, job: _Job, line: bytes) -> None:
        try:
            message = dict(json.loads(line))
        except (ValueError, TypeError):
            self._say(f"The {job.component.kind} said something that is no message: {line[:100]!r}.")
            return
        op = message.get("op")
        if op == "ready" and job.component.controlled and job.state == "starting":
            self._works(job)
            if self._was_up:
                self._say(f"The {job.component.kind} works again (pid {job.pid}).")
            else:
                self._say(f"Flux is up in {self._run_folder.parent} (pid {os.getpid()}). Ctrl-C ends it.")
            self._was_up = True
        elif op == "refused":
            self._stop(f"{job.component.kind}: {str(message.get('message')).removesuffix('.')}", FAILED)
        elif op in ("start", "end") and job.component.controlled and not self._stopping:
            for other in self._jobs:
                if other.component.on_demand and other.component.kind == message.get("kind"):
                    self._want(other, op == "start")

    def _want(self, job: _Job, wanted: bool) -> None:
        """Have a component on demand from now on, or no longer."""
        is_new, job.is_wanted = wanted and not job.is_wanted, wanted
        if is_new and job.pid is None and job.restart is None:
            self._start(job)
        elif not wanted:
            self._end_job(job)

    def _end_job(self, job: _Job) -> None:
        """End one component, soon and in any case; nobody waits for it."""
        if job.restart is not None:
            job.restart.cancel()
            job.restart = None
        pid = job.pid
        if pid is not None:
            job.is_ending = True
            self._signal(job, signal.SIGTERM)
            self._loop.call_later(self._patience.last_word, lambda: self._signal(job, signal.SIGKILL, pid))

    # Watching and restarting

    def _look(self) -> None:
        """Find components that are silent for too long, and logs that grew too big."""
        for job in self._jobs:
            self._hear(job)
        now = time.monotonic()
        overslept = now - self._looked_at > self._patience.overslept
        self._looked_at = now
        for job in self._jobs:
            if job.pid is None:
                continue
            if overslept:
                job.last_sign = now
            limit = self._patience.first_beat if job.first_beat is None else self._patience.stuck
            # Beats are heard up to a look after they were made, so half a look more than the limit is one too many.
            if now - job.last_sign > limit + self._patience.look / 2 and not job.aborted and not self._stopping:
                self._abort(job, now - job.last_sign)
        for job in self._jobs:
            bound_log(self._log(job))

    def _abort(self, job: _Job, silent: float) -> None:
        job.aborted = True
        pid = job.pid
        self._say(f"The {job.component.kind} (pid {pid}) gave no sign of life for {silent:.0f} s: it is killed.")
        self._signal(job, signal.SIGABRT)
        self._loop.call_later(self._patience.abort, lambda: self._signal(job, signal.SIGKILL, pid))

    def _reap(self) -> None:
        """Collect every child that has ended: components, and orphans that came to us."""
        for ended in process.reap():
            for job in self._jobs:
                if job.pid == ended.pid:
                    self._ended(job, f"ended: {ended}", clean=ended.exit_status == 0)

    def _ended(self, job: _Job, how: str, *, clean: bool = False) -> None:
        """A component's process is gone: start it again in a while, or go on ending the system."""
        self._hear(job)
        for end in (job.beats, job.control):
            if end is not None:
                self._loop.remove(end.fileno())
        self._hang_up(job)
        gone, job.pid, job.state = job.pid, None, "starting"
        self._publish()
        if self._stopping:
            self._go_on_ending()
        elif self._draining is not None and clean and job.component.controlled:
            self._stop(self._draining, DONE)
        elif not job.is_wanted:
            pass  # it was told to end
        elif job.component.on_demand and (clean or job.is_ending):
            self._start(job)
        else:
            self._restart_later(job, f"The {job.component.kind} (pid {gone}) {how}")

    @staticmethod
    def _hang_up(job: _Job) -> None:
        for end in (job.beats, job.control):
            if end is not None:
                end.close()
        job.beats = job.control = None

    def _restart_later(self, job: _Job, what: str) -> None:
        now = time.monotonic()
        if job.first_beat is not None and job.last_sign - job.first_beat >= self._patience.healthy:
            job.early_in_a_row = 0
        else:
            job.early_in_a_row += 1
            job.early_deaths = [at for at in job.early_deaths if now - at < self._patience.deaths_within] + [now]
        if len(job.early_deaths) >= self._patience.deaths and not job.component.on_demand:
            self._give_up(job, what)
            return
        doublings = min(max(job.early_in_a_row - 1, 0), 16)
        pause = min(self._patience.shortest_pause * 2**doublings, self._patience.longest_pause)
        self._say(f"{what}. It is started again in {pause:.1f} s; its log is {self._log(job)}.")
        self._show_log(job, 1)
        job.restart = self._loop.call_later(pause, lambda: self._start(job))

    def _give_up(self, job: _Job, what: str) -> None:
        within = self._patience.deaths_within / 60
        self._say(f"{what}; {len(job.early_deaths)} deaths in {within:.0f} min. It is given up. The end of its log:")
        self._show_log(job, 20)
        if job.component.vital:
            self._stop(f"the {job.component.kind} cannot be kept alive", FAILED)

    # Ending

    def _interrupt(self) -> None:
        if self._stopping:
            self._kill_now()
        else:
            self._stop("interrupted (Ctrl-C)", INTERRUPTED)

    def _terminate(self, reason: str) -> None:
        """End after the time to drain, which ends earlier when the supervisor has nothing left to do."""
        if self._stopping or self._draining is not None:
            return
        if self._drain > 0 and self._tell_all({"op": "drain", "reason": reason}):
            self._draining = reason
            self._say(f"Nothing new starts; running tasks have {self._drain:g} s to end.")
            self._loop.call_later(self._drain, lambda: self._stop(reason, DONE))
        else:
            self._stop(reason, DONE)

    def _stop(self, reason: str, exit_code: int) -> None:
        """Let the controlled components end the tasks, then end the others; at the deadline kill what is left."""
        if self._stopping:
            return
        self._stopping, self._exit_code = True, exit_code
        self._say(f"Flux ends: {reason}.")
        for job in self._jobs:
            job.state = "stopping"
            if job.restart is not None:
                job.restart.cancel()
        self._publish()
        self._tell_all({"op": "stop", "grace": self._patience.grace, "reason": reason})
        self._loop.call_later(self._patience.end, self._kill_rest)
        self._go_on_ending()

    def _go_on_ending(self) -> None:
        """Take the next step when the last one is done: controlled components, then the others, then what is left."""
        alive = [job for job in self._jobs if job.pid is not None]
        if not alive:
            self._kill_rest()
        elif not any(job.component.controlled for job in alive):
            for job in alive:
                if job.component.on_demand:
                    self._end_job(job)
                else:
                    self._signal(job, signal.SIGTERM)

    def _kill_now(self) -> None:
        """Kill everything, but let the controlled components record it; they have had their order to stop already."""
        spared = {job.pid for job in self._jobs if job.component.controlled and job.pid is not None}
        for pid in process.descendants(os.getpid(), without=spared):
            process.send(pid, signal.SIGKILL)
        self._loop.call_later(self._patience.last_word if spared else 0, self._kill_rest)

    def _kill_rest(self) -> None:
        """Kill all descendants, again and again until none is left, and end; gives up after `last_word`."""
        now = time.monotonic()
        self._end_by = self._end_by or now + self._patience.last_word
        left = process.descendants(os.getpid())
        for pid in left:
            process.send(pid, signal.SIGKILL)
        if not left:
            self._loop.stop()
        elif now < self._end_by:
            self._loop.call_later(0.02, self._kill_rest)
        else:
            self._say(f"Processes {', '.join(map(str, sorted(left)))} cannot be killed; the kernel holds them.")
            self._loop.stop()

    # Small things

    def _tell_all(self, message: dict[str, Any]) -> bool:
        """Send an order to every controlled component; False when none took it."""
        told = [job.tell(message) for job in self._jobs]
        return any(told)

    def _signal(self, job: _Job, signum: int, pid: int | None = None) -> None:
        """Signal the component's process, unless `pid` is given and it is another one by now."""
        if job.pid is not None and pid in (None, job.pid):
            process.send(job.pid, signum)

    def _show_log(self, job: _Job, count: int) -> None:
        for line in last_lines(self._log(job), count):
            self._say(f"  {line}")

    def _log(self, job: _Job) -> Path:
        return self._run_folder / f"{job.component.kind}.log"

    def _publish(self) -> None:
        """Keep the list of what runs here up to date."""
        me = home.Running.now("hypervisor", os.getpid(), "stopping" if self._stopping else "running", self._started_at)
        jobs = [
            home.Running.now(job.component.kind, job.pid, job.state, job.started_at) for job in self._jobs if job.pid
        ]
        try:
            home.publish(self._run_folder, [me, *jobs])
        except OSError as error:  # a full disk must not stop a restart
            self._say(f"{self._run_folder}/components.json could not be written: {error.strerror}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the system of FLUX_HOME in the foreground, as `flux up` does, and return its exit code."""
    parser = argparse.ArgumentParser(prog="flux up")
    parser.add_argument("--no-ui", action="store_true")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--drain", type=float, default=0, metavar="SECONDS")
    options = parser.parse_args(arguments)
    try:
        config = load(os.environ)
        config.run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = home.lock(config.run_folder)
    except FluxError as error:
        say(str(error))
        return FAILED
    linux.set_name("flux-hypervisor")
    linux.become_subreaper()
    linux.forbid_inspection()
    has_ui = not options.no_ui and find_spec("flux_ui") is not None
    components = of_system(config.home, config.run_folder, os.environ, ui=has_ui, host=options.host, port=options.port)
    patience = Patience(stuck=config.stuck_seconds)
    try:
        return Hypervisor(config.run_folder, components, patience=patience, drain=options.drain, say=say).run()
    finally:
        os.close(held)


def say(line: str) -> None:
    """Print a line for people on stderr; the terminal may be gone."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())

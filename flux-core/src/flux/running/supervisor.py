"""The supervisor: makes runs, claims and launches tasks, records ends. Its process is `supervisor_process`.

One event loop and one database thread. The loop hears the launcher, attempts, commands, the DAGs folder and its
timers, and turns them into events; the thread writes whatever has piled up in one transaction (`writer`), whose outcome
the loop acts upon after the commit. It imports no author's code and never forks.

It may die at any time: what was committed is adopted by the next one (`recovery`), from the launcher that still holds
the attempts and their exit statuses.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flux import linux, providers
from flux.app import Flux
from flux.builtin import core_verdict
from flux.config import Config
from flux.drivers import Drivers
from flux.loop import Loop
from flux.plugins.catalogue import Catalogue
from flux.running import actions, recovery
from flux.running.agents import Agents
from flux.running.deferred import Deferred
from flux.running.delivery import Delivery
from flux.running.folder import Folder
from flux.running.heart import BEAT_SECONDS
from flux.running.judging import Judging, listening, to_load
from flux.running.launcher_client import LauncherClient
from flux.running.log_keeper import LogKeeper
from flux.running.lookups import Places, SavedCatalogue
from flux.running.open_attempts import Attempts
from flux.running.run_watch import RunWatch
from flux.running.scheduler import Scheduler
from flux.running.server import Answer, Server
from flux.running.sweep import Sweep
from flux.running.versions import Shelf, Shelved
from flux.running.writer import Writer, has_space, show
from flux.states import Outcome
from flux.store import announcing, jobs, outbox
from flux.store.advance import Outcomes
from flux.store.attempts import Claimed, End, Holder
from flux.store.dags import Registered
from flux.store.structures import StructureCache
from flux.times import SystemClock, iso, utc_now

if TYPE_CHECKING:
    import sqlalchemy as sa

#: Looks at the clock, the DAGs folder and what waits for space: with the beat, for which it wakes up anyway.
_TICK_SECONDS = BEAT_SECONDS
#: The wall clock was set when it moved against the monotonic one by more than this.
_CLOCK_SET_SECONDS = 2.0
#: Other processes may have written without telling (a lost message): looked at this often.
_SAFETY_LOOK_SECONDS = 10.0
#: After the grace of a kill, until the launcher is left to the hypervisor.
_LAST_EXITS_SECONDS = 1.5
#: What log handlers have at the end for the logs they are at; the others are kept after the next start.
_LAST_LOGS_SECONDS = 0.5
#: For an executor to stop.
_LAST_CALL_SECONDS = 2.0
#: Before what the database or the disk refused is tried again.
_AGAIN_SECONDS = 1.0
#: Between SIGTERM and SIGKILL for tasks when nobody says how long.
_ALONE_GRACE = 4.0
_NO_DRIVERS = Drivers()


class Supervisor:
    """The parts of a supervisor and what passes between them.

    Args:
        on_ready: called when the system takes work.
        drivers: the configured secrets backends and log handlers.
        catalogue: what the providers offer; None: there is nothing but core.
        tell_hypervisor: sends the hypervisor a message.

    Raises:
        FluxError: the configured executor is missing, or cannot be loaded.
    """

    def __init__(
        self,
        flux: Flux,
        loop: Loop,
        environ: Mapping[str, str],
        on_ready: Callable[[], object],
        drivers: Drivers = _NO_DRIVERS,
        *,
        catalogue: Catalogue | None = None,
        tell_hypervisor: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> None:
        config = flux.config
        self._flux = flux
        self._config = config
        self._loop = loop
        self._on_ready = on_ready
        self._clock = SystemClock()
        self._structures = StructureCache()
        self._tell_hypervisor = tell_hypervisor
        self._catalogue = catalogue or Catalogue([core_verdict()])
        self._executor = actions.executor_of(config, self._catalogue)
        self._host = socket.gethostname()
        #: What the launcher said when the connection was made; None: there is no connection.
        self._launcher_state: Mapping[str, Any] | None = None
        self._launcher_id = ""
        self._job_id = 0
        self._started_at = utc_now()
        #: Claims that are open and wait for their version to be loadable.
        self._unbegun: set[int] = set()
        #: Those of them whose run has taken too long meanwhile.
        self._given_up: set[int] = set()
        #: Claims whose interruption is to be committed before anything is signalled.
        self._interrupting: set[int] | None = None
        self._stop_order: Mapping[str, Any] = {}
        #: The transaction that was under way when the order to stop came is over: nothing is claimed any more.
        self._is_quiet = False
        self._is_draining = False
        self._is_ready = False
        #: What the launcher said of attempts before we knew which there are.
        self._early: list[Mapping[str, Any]] = []
        self._wall_offset = self._offset()
        self._clock_watch: linux.ClockWatch | None = None
        self._writer = Writer(
            flux.store,
            loop,
            self._clock,
            self._structures,
            parallelism=self._executor.parallelism,
            has_space=lambda: has_space(str(config.logs_folder), config.min_free_bytes),
            on_outcomes=self._advanced,
        )
        launcher = self._connected_launcher
        self._attempts = Attempts(config, loop, self._clock, self._writer, self._executor, launcher)
        self._agents = Agents(
            config,
            loop,
            self._clock,
            self._writer,
            self._executor,
            another=lambda: actions.executor_of(config, self._catalogue),
            rules=providers.rules(self._catalogue, config),
            on_left=self._end_if_all_have_gone,
        )
        self._deferred = Deferred(config, loop, self._clock, self._writer, launcher)
        self._scheduler = Scheduler(loop, self._clock, self._writer, self._structures)
        self._judging = Judging(config, loop, environ, self._judged, self._not_judged)
        self._folder = Folder(config, loop, self._writer, launcher, self._file_changed, self._judging.judge)
        self._shelf = Shelf(config, loop, self._writer)
        self._run_watch = RunWatch(loop, self._clock, self._writer, self._structures, self._give_up)
        self._sweep = Sweep(loop, self._clock, self._writer, self._structures)
        self._delivery = Delivery(loop, self._clock, self._writer, self._structures, to_load(self._catalogue, config))
        self._server = Server(
            config,
            loop,
            self._clock,
            self._writer,
            environ,
            {"wake": self._wake, "status": self._status, "sync": self._sync, "wait_run": self._run_watch.wait},
            Places(environ, drivers.secrets_backends, config.secret_key_file, SavedCatalogue(config)),
        )
        self._log_keeper = LogKeeper(flux.store, self._clock, config.logs_folder, drivers.log_handlers)

    # --- starting --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: connect to the launcher, take over what an earlier supervisor left, then take work."""
        self._announce_for_listeners()
        self._writer.start()
        self._log_keeper.start()
        self._server.agents = self._agents
        self._server.listener = self._delivery.came
        self._server.start()
        self._client = self._connect()
        try:
            self._clock_watch = linux.ClockWatch()
        except OSError as error:
            print(f"supervisor: {error}; looking at it every {_TICK_SECONDS:g} s", file=sys.stderr, flush=True)
        else:
            self._loop.add_reader(self._clock_watch.fd, self._clock_was_set)
        self._loop.every(_TICK_SECONDS, self._tick)
        self._loop.every(_SAFETY_LOOK_SECONDS, self._writer.look)

    def _job(self, connection: sa.Connection) -> int:
        """The row number of this supervisor's job, which is made with the first transaction."""
        return self._job_id or jobs.register(
            connection, "supervisor", self._host, recovery.boot_id(), os.getpid(), utc_now()
        )

    def _connect(self) -> LauncherClient:
        return LauncherClient(
            self._loop,
            self._config.run_folder / "launcher.sock",
            self._heard,
            self._launcher_gone,
            settings=launcher_settings(self._config, self._catalogue),
        )

    def _connected_launcher(self) -> LauncherClient | None:
        return self._client if self._launcher_state is not None else None

    def _launcher_gone(self) -> None:
        """The connection is lost; when it is back, its state says whether it is the same launcher."""
        self._launcher_state = None
        self._client = self._connect()
        self._end_if_all_have_gone()  # the launcher has ended after its last attempt

    def _heard(self, _: LauncherClient, message: Mapping[str, Any]) -> None:
        """Take a message of the launcher."""
        match message["op"]:
            case "state":
                self._launcher_came(message)
            case "started" | "exit" if not self._is_ready:
                self._early.append(message)
            case "started":
                self._attempts.started(message)
            case "exit":
                if not self._attempts.exited(message):
                    self._client.ack([message["claim"]])
            case "poked":
                self._deferred.poked(message)
            case "read":
                self._folder.read_done(message)

    def _launcher_came(self, state: Mapping[str, Any]) -> None:
        self._launcher_state = state
        if not self._is_ready:
            if not self._launcher_id:
                self._launcher_id = state["launcher"]
                self._take_over(state)
            return
        is_new, self._launcher_id = state["launcher"] != self._launcher_id, state["launcher"]
        if is_new:
            print("supervisor: the launcher died; another one is there", file=sys.stderr, flush=True)
            self._attempts.launcher_lost()
        self._folder.launcher_changed()
        self._deferred.launcher_lost()
        self._take_exits(state)
        self._attempts.launcher_came(known={item["claim"] for item in state["claims"]})
        self._deferred.launcher_came()
        self._begin_claiming()

    def _take_exits(self, state: Mapping[str, Any]) -> None:
        """Take the exits that no supervisor has acknowledged; those of claims that nobody holds are dropped."""
        self._client.ack([end["claim"] for end in state["exits"] if not self._attempts.exited(end)])

    def _take_over(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier supervisor left; again and again while the database or the disk refuses."""

        def take_stock(connection: sa.Connection) -> tuple[int, recovery.Stock]:
            job_id = self._job(connection)
            structures = self._structures.through(connection)
            return job_id, recovery.take_stock(connection, self._config, structures, job_id, state)

        def failed(error: Exception) -> None:
            show(error)
            self._loop.call_later(_AGAIN_SECONDS, lambda: self._take_over(state))

        self._writer.call(take_stock, lambda taken: self._recover(*taken, state), failed=failed)

    def _recover(self, job_id: int, stock: recovery.Stock, state: Mapping[str, Any]) -> None:
        """Act upon what an earlier supervisor left, then take work."""
        self._job_id = job_id
        for item, version, pid in stock.running:
            self._attempts.adopt(item, version, self._host, pid)
        for item, version in stock.queued:
            self._agents.begin(item, version)
        for item, version, agent, host, pid in stock.remote:
            self._agents.adopt(item, version, agent, host, pid)
        self._agents.ready()
        for item, version in stock.waiting:
            self._deferred.add(item, version, self._host, adopted=True)
        self._take_exits(state)
        self._writer.end(*stock.ends)
        recovery.clean_up(self._config, self._loop, stock.lost, lambda ends: self._writer.end(*ends))
        self._wake_later(stock.retrying)
        self._run_watch.started(stock.deadlines)
        self._is_ready = True
        for message in self._early:
            self._heard(self._client, message)
        self._early.clear()
        self._begin_claiming()
        if self._launcher_state is not None and self._launcher_state is not state:
            self._launcher_came(self._launcher_state)  # another one has come meanwhile
        self._folder.obey(providers.rules(self._catalogue, self._config))
        self._folder.start()
        self._scheduler.refresh()
        self._sweep.start()
        self._announce()

    def _announce(self) -> None:
        def failed(error: Exception) -> None:
            show(error)
            self._loop.call_later(_AGAIN_SECONDS, self._announce)

        self._writer.call(
            lambda connection: jobs.set_state(connection, self._job_id, "running"), self._say_ready, failed=failed
        )

    def _say_ready(self, _: bool) -> None:
        self._folder.sync(self._on_ready)

    def _begin_claiming(self) -> None:
        if self._interrupting is None and not self._is_draining:
            queues = not self._executor.uses_launcher
            holder = Holder(self._job_id, self._launcher_id, self._host, queues)
            self._writer.begin_claiming(holder, [*self._attempts.claims, *self._agents.claims])

    # --- providers ---------------------------------------------------------------------------------------------------

    def _announce_for_listeners(self) -> None:
        """Announce what somebody listens to, and have the listener process run; drop what nobody will be told."""
        kinds = announcing.kinds_of(hook for verdict in listening(self._catalogue) for hook in verdict.hooks)
        self._flux.store.announce(kinds)
        self._tell_hypervisor({"op": "start" if self._delivery.providers else "end", "kind": "listener"})
        unwanted = [kind for kind in announcing.KINDS if kind not in kinds]
        if unwanted:
            self._writer.call(lambda connection: outbox.drop(connection, unwanted))

    def _judged(self, catalogue: Catalogue) -> None:
        """The one-file provider has changed: what listens and what DAG files may import may be other."""
        providers.report(catalogue)
        self._catalogue = catalogue
        self._delivery.change_providers(to_load(catalogue, self._config))
        self._announce_for_listeners()
        rules = providers.rules(catalogue, self._config)
        self._client.set(launcher_settings(self._config, catalogue))
        self._agents.rules = rules
        self._folder.obey(rules)

    def _not_judged(self, error: Exception) -> None:
        show(error)
        self._folder.go_on()

    # --- after a commit --------------------------------------------------------------------------------------------

    def _advanced(self, outcomes: Outcomes, ends: Sequence[End]) -> None:
        """Act upon a committed transaction."""
        # What may run now goes first: the rest can wait until it is on its way.
        self._open(outcomes.claimed)
        self._attempts.committed(ends)
        self._agents.committed(ends)
        self._log_keeper.wake()
        for claim in outcomes.fenced:
            if self._interrupting is None:
                print(f"supervisor: claim {claim} ended, but nobody holds it any more", file=sys.stderr, flush=True)
        self._wake_later(outcomes.retrying)
        self._run_watch.started(outcomes.runs_started)
        self._run_watch.ended(outcomes.runs_ended)
        self._scheduler.made_room({run.dag_row for run in outcomes.runs_ended})
        self._delivery.look()
        if self._interrupting is not None:
            self._interrupting.difference_update(end.claim for end in ends)
            self._kill_all()
        elif self._is_draining:
            self._end_if_drained()

    def _open(self, claimed: Sequence[Claimed]) -> None:
        """Launch what was claimed, or give it back when the system ends."""
        self._unbegun.update(item.claim for item in claimed)
        if self._interrupting is None:
            for item in claimed:
                begin, fail = functools.partial(self._begin, item), functools.partial(self._cannot_begin, item)
                self._shelf.with_version(item.version_id, begin, fail)
        else:
            self._interrupting.update(self._give_back())

    def _give_back(self) -> list[int]:
        """End what was claimed and not launched, at no cost; return the claims."""
        claims, now = sorted(self._unbegun), self._clock.now()
        self._unbegun.clear()
        self._writer.end(*(End(claim, Outcome.NEVER_LAUNCHED, "never launched: Flux ended", now) for claim in claims))
        return claims

    def _cannot_begin(self, item: Claimed, error: Exception) -> None:
        if item.claim in self._unbegun:
            self._unbegun.remove(item.claim)
            reason = f"its DAG version cannot be loaded: {error}"
            self._writer.end(End(item.claim, Outcome.FAILED, reason, self._clock.now()))

    def _begin(self, item: Claimed, version: str) -> None:
        if item.claim not in self._unbegun:
            return  # given back meanwhile
        self._unbegun.remove(item.claim)
        if item.task.sensor is not None:
            self._deferred.add(item, version, self._host)
        elif self._executor.uses_launcher:
            self._attempts.begin(item, version, self._host)
        else:
            self._agents.begin(item, version)
        if item.claim in self._given_up:
            self._given_up.discard(item.claim)
            self._give_up([item.claim])

    def _wake_later(self, retrying: Sequence[tuple[int, datetime]]) -> None:
        for row, at in retrying:
            seconds = (at - self._clock.now()).total_seconds()
            self._loop.call_later(max(seconds, 0.0), functools.partial(self._writer.wake, row))

    def _give_up(self, claims: Sequence[int]) -> None:
        """Kill what runs of a run that has taken too long, and what is about to."""
        self._given_up.update(self._unbegun.intersection(claims))
        for claim in claims:
            self._attempts.kill(claim, Outcome.KILLED)
            self._agents.kill(claim, Outcome.KILLED)
            self._deferred.give_up(claim, "its run took longer than dagrun_timeout")
        self._writer.look()

    # --- the folder and commands -----------------------------------------------------------------------------------

    def _file_changed(self, registered: Sequence[Registered], shelved: Sequence[Shelved]) -> None:
        self._shelf.put(shelved)
        self._scheduler.consider([item.dag.id for item in registered])
        changed = [key for item in registered for key in item.changed_limits]
        if changed:
            self._writer.release(*changed)

    def _wake(self, question: Mapping[str, Any], answer: Answer) -> None:
        """Others have written: look for what they made ready; `dags` are the rows of DAGs that may have runs due."""
        self._writer.look()
        if question.get("dags"):
            self._scheduler.consider(question["dags"])
        self._run_watch.learn()
        answer({})

    def _sync(self, _: Mapping[str, Any], answer: Answer) -> None:
        self._folder.sync(lambda: answer({}))

    def _status(self, _: Mapping[str, Any], answer: Answer) -> None:
        trouble = self._writer.trouble or self._agents.trouble
        answer({"pid": os.getpid(), "started_at": iso(self._started_at), "trouble": trouble})

    # --- watching --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._folder.glance()
        self._compare_clocks()
        if self._writer.trouble:
            self._writer.look()

    def _clock_was_set(self) -> None:
        assert self._clock_watch is not None
        if self._clock_watch.was_set():
            self._compare_clocks()

    def _compare_clocks(self) -> None:
        """Plan all schedules anew when the wall clock has moved against the monotonic one since the last comparison."""
        offset = self._offset()
        if abs(offset - self._wall_offset) > _CLOCK_SET_SECONDS:
            print(f"supervisor: the clock was set by {offset - self._wall_offset:.0f} s", file=sys.stderr, flush=True)
            self._scheduler.refresh()
        self._wall_offset = offset

    def _offset(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    # --- stopping --------------------------------------------------------------------------------------------------

    def end_alone(self, reason: str) -> None:
        """End as if the hypervisor had said so."""
        self.order({"op": "stop", "grace": _ALONE_GRACE, "reason": reason})

    def order(self, order: Mapping[str, Any]) -> None:
        """Take an order of the hypervisor: `drain` or `stop`."""
        if order["op"] == "drain":
            self._is_draining = True
            self._writer.stop_claiming()
            self._end_if_drained()
        elif self._interrupting is None:
            self._stop_order = order
            self._begin_stop()

    def _end_if_drained(self) -> None:
        """End when nothing runs any more; the hypervisor then ends the launcher."""
        if not self._attempts.claims and not self._agents.claims and not self._unbegun:
            self._stop_order = {"reason": "drained", "is_drained": True}
            self._begin_stop()

    def _begin_stop(self) -> None:
        """Record what runs as interrupted; signals follow when that is committed."""
        self._writer.stop_claiming()
        reason = str(self._stop_order["reason"])
        self._interrupting = {
            *self._attempts.interrupt(reason), *self._agents.interrupt(reason), *self._give_back()
        }  # fmt: skip

        def no_more_claims(_: object) -> None:
            self._is_quiet = True
            self._kill_all()

        self._writer.call(lambda _: None, no_more_claims, failed=no_more_claims, reads_only=True)

    def _kill_all(self) -> None:
        if self._interrupting or not self._is_quiet or self._stop_order.get("is_carried_out"):
            return
        self._stop_order = {**self._stop_order, "is_carried_out": True}
        if self._stop_order.get("is_drained"):
            self._end()
            return
        grace, reason = float(self._stop_order["grace"]), str(self._stop_order["reason"])
        self._agents.kill_all(grace, reason)
        self._client.kill_all(grace, reason)
        self._client.stop()
        self._loop.call_later(grace + _LAST_EXITS_SECONDS, self._end)
        self._end_if_all_have_gone()

    def _end_if_all_have_gone(self) -> None:
        """End when launcher and agents have ended after their last attempts."""
        if self._stop_order.get("is_carried_out") and self._launcher_state is None and not self._agents.are_leaving:
            self._end()

    def _end(self) -> None:
        self._loop.stop()

    def close(self) -> None:
        """Write what is queued, end the job and stop serving."""
        self._server.stop()
        self._client.close()
        if self._clock_watch is not None:
            self._loop.remove(self._clock_watch.fd)
            self._clock_watch.close()
        self._delivery.close()
        self._writer.call(lambda connection: jobs.end(connection, self._job_id, "stopped", utc_now()))
        self._writer.stop(5.0)
        self._log_keeper.stop(_LAST_LOGS_SECONDS)
        self._agents.stop(_LAST_CALL_SECONDS)

    @property
    def is_well(self) -> bool:
        """False when the database thread hangs."""
        return self._writer.busy_seconds() < self._config.stuck_seconds


def launcher_settings(config: Config, catalogue: Catalogue | None = None) -> dict[str, Any]:
    """Return the options that the launcher obeys, and what its DAG hosts must know of the providers."""
    return {
        "provider_rules": {} if catalogue is None else providers.rules(catalogue, config),
        "dag_hosts": config.dag_hosts,
        "dag_host_idle_seconds": config.dag_host_idle_seconds,
        "import_timeout_seconds": config.import_timeout_seconds,
        "adopt_timeout_seconds": config.adopt_timeout_seconds,
    }

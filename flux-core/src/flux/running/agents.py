"""The attempts that an executor plugin starts, as the supervisor knows them: queued, then run by an agent.

The executor only causes an agent to run somewhere (`flux.running.agent`). The agent says `start`, and the first that
does has the attempt: others with its claim are refused, and so is one that comes late. From then on it beats, sends the
log, and tells the end. Nothing heard for `agent_silence_seconds` means that the attempt is lost. What is refused ends
what it runs, so one that was lost and wakes up does no more than that.

    queued ──start──> started ──end──> as the attempt says
      │                  └── silence, or its death on this machine ──> lost, retried by the normal rule
      ├── refused by `start`, or told as `gone` ──> never launched, put off (`flux.running.refusals`)
      └── `queued_timeout_seconds` ──> never launched, given to the executor again under a new claim
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux import process
from flux.attempt import AttemptEnd, AttemptSpec, flat
from flux.config import Config
from flux.dag_file import Manifest
from flux.errors import FluxError, Refused
from flux.executor import Assignment, BaseExecutor
from flux.loop import Loop, Repeated, Timer
from flux.running import agent_folder, agent_pieces, faults
from flux.running.executor_threads import ExecutorThreads
from flux.running.open_attempts import end_exit, end_told, make_assignment, make_spec, parse_result, read_text
from flux.running.refusals import Refusals
from flux.states import Outcome
from flux.store import transitions
from flux.store.attempts import Claimed, End
from flux.times import Clock, from_iso, iso

if TYPE_CHECKING:
    from flux.running.writer import Writer

Answer = Callable[[Any], None]

#: What an executor is to run: our interpreter, which searches no working folder for modules.
ARGV = (sys.executable, "-P", "-m", "flux.running.agent")
#: Between two looks for agents that have fallen silent; a look that is later than that by more was held up itself.
_LOOK_SECONDS = 1.0
_HELD_UP_SECONDS = 2.0
#: Between two questions to the executor what is gone.
_GONE_SECONDS = 1.0
#: After the grace of a kill, until the executor is told to end what does not.
_CANCEL_SECONDS = 5.0
#: What is left on this machine of an attempt that was lost gets so long to end.
_LOST_GRACE = 2.0
_LOST_DEADLINE = 20.0
#: What a dead agent has said is read for so long.
_LAST_WORDS_SECONDS = 0.1
#: Clocks of two machines that differ by less are taken for the same.
_SKEW = timedelta(seconds=1)
_AGENT = re.compile(r"agent-[0-9a-f]{16}")


@dataclass(slots=True)
class _Open:
    """An attempt whose end is not known yet."""

    claimed: Claimed
    #: Hash of its DAG version.
    version: str
    spec: AttemptSpec
    #: The agent that has it; None: it is queued.
    agent: str | None = None
    pid: int | None = None
    host: str = ""
    #: Answers that wait: for the commit of its start, or of its end.
    waiting: list[Answer] = field(default_factory=list)
    is_starting: bool = False
    #: Its executor said that nothing will begin.
    is_refused: bool = False
    #: The time limit: for being queued, then for the task.
    timer: Timer | None = None
    #: When it must have ended that was killed.
    cancel: Timer | None = None
    kill: Outcome | None = None
    #: What the agent is told to do, as long as it has not ended: {"grace", "reason"}.
    order: Mapping[str, Any] | None = None
    #: By `time.monotonic`.
    heard_at: float = 0.0
    #: Of the agent's process, where that is one of this machine.
    pidfd: int | None = None
    #: It was seen to end.
    is_dead: bool = False
    #: Says something to the agent, over the connection it asked by last.
    say: Callable[[dict[str, Any]], None] = lambda _: None


def is_agent(launcher: str | None) -> bool:
    """Whether what an attempt row names as its launcher is an agent."""
    return launcher is not None and _AGENT.fullmatch(launcher) is not None


class Agents:
    """What is queued at the executor, and what agents run.

    Args:
        rules: what attempts must know of the providers, see `flux.providers.rules`; may be set anew.
        another: makes a further executor of the same configuration, in whatever thread.
        on_left: called when the last agent has gone after `kill_all`.
    """

    def __init__(
        self,
        config: Config,
        loop: Loop,
        clock: Clock,
        writer: Writer,
        executor: BaseExecutor,
        *,
        another: Callable[[], BaseExecutor],
        rules: Mapping[str, Any] | None = None,
        on_left: Callable[[], object] = lambda: None,
    ) -> None:
        self._config = config
        self._loop = loop
        self._clock = clock
        self._writer = writer
        self._queues = not executor.uses_launcher
        self._executor = ExecutorThreads(loop, executor, another, limit_seconds=config.executor_call_seconds)
        self.rules = dict(rules or {})
        self._on_left = on_left
        self._open: dict[int, _Open] = {}
        self._refusals = Refusals(clock, config.queued_timeout_seconds)
        self._asks_gone: Timer | None = None
        #: Ended, not committed yet.
        self._ending: set[int] = set()
        #: Recorded as interrupted; their agents are still there.
        self._leaving: dict[int, _Open] = {}
        self._looks: Repeated | None = None
        self._looked_at = 0.0
        #: What the last supervisor left is known; before that nobody may be refused.
        self._is_ready = False
        self._verbs: dict[str, Callable[[_Open, Mapping[str, Any]], Any]] = {
            "source": lambda item, question: agent_pieces.source(config.run_folder, item.version, question),
            "beat": lambda item, _: {"kill": item.order},
            "log": lambda item, question: agent_pieces.take_log(item.spec, question),
            "file": lambda item, question: agent_pieces.take_file(item.spec, question),
        }

    @property
    def claims(self) -> list[int]:
        """The claims that are open."""
        return list(self._open)

    @property
    def are_leaving(self) -> bool:
        """Some agents were told to end and have not."""
        return bool(self._leaving)

    @property
    def trouble(self) -> str | None:
        """What is wrong with the executor, for people; None when all is well."""
        hanging = self._executor.hanging
        if not hanging:
            return None
        call, seconds = hanging[0].call, hanging[0].seconds
        text = f"The executor {self._config.executor!r} has not returned from {call} for {seconds:.0f} s"
        more = f", nor from {len(hanging) - 1} other calls" if len(hanging) > 1 else ""
        stuck = " Nothing is given to it until one of them returns." if self._executor.is_stuck else ""
        return f"{text}{more}.{stuck} If it does not come back, mend what it waits for, and start Flux again."

    # --- beginning -------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """What an earlier supervisor left was begun or adopted: who asks for anything else is refused from now on."""
        self._is_ready = True

    def begin(self, claimed: Claimed, version: str) -> None:
        """Give an attempt that was queued to the executor; after a restart that may be for the second time."""
        item = self._add(claimed, version)
        if not self._queues:
            reason = "never launched: its executor is configured no more"
            self._end(item, Outcome.NEVER_LAUNCHED, reason)
            return
        faults.point("after_claim_commit")
        self._executor.start(self._assignment(item), functools.partial(self._refused, item))
        item.timer = self._loop.call_later(
            self._config.queued_timeout_seconds, functools.partial(self._never_began, item)
        )
        self._ask_gone_later()

    def adopt(self, claimed: Claimed, version: str, agent: str, host: str | None, pid: int | None) -> None:
        """Take over an attempt that an agent has started; its silence counts from now."""
        item = self._add(claimed, version)
        item.agent, item.host, item.pid = agent, host or "", pid
        self._began(item, claimed.started_at)

    def _add(self, claimed: Claimed, version: str) -> _Open:
        item = _Open(claimed, version, make_spec(self._config, claimed, ""))
        self._open[claimed.claim] = item
        return item

    def _assignment(self, item: _Open) -> Assignment:
        env = {"FLUX_CLAIM": process.claim_text(item.claimed.claim), "FLUX_ENDPOINT": item.spec.endpoint}
        return make_assignment(item.claimed, argv=ARGV, env=env)

    def _ask_gone_later(self) -> None:
        if self._asks_gone is None and self._executor.tells_gone:
            self._asks_gone = self._loop.call_later(_GONE_SECONDS, self._ask_gone)

    def _ask_gone(self) -> None:
        """Ask the executor what is gone, for as long as anything is queued."""
        self._asks_gone = None
        self._executor.ask_gone(self._are_gone)
        if any(item.agent is None for item in self._open.values()):
            self._ask_gone_later()

    def _are_gone(self, why: Mapping[int, str]) -> None:
        for claim, words in why.items():
            item = self._open.get(claim)
            if item is not None:
                self._refused(item, f"what the executor began is gone: {words}")

    def _refused(self, item: _Open, words: str) -> None:
        """Nothing will begin: end it, unless that is under way; what an agent has begun ends by that, or by silence."""
        if item.agent is not None or item.is_refused or self._has_ended(item):
            return
        item.is_refused = True
        self._forget_timer(item)
        end = self._refusals.end(item.claimed, words)
        self._loop.call_later(self._refusals.pause(), functools.partial(self._give_back, item, end))

    def _never_began(self, item: _Open) -> None:
        seconds = self._config.queued_timeout_seconds
        reason = f"never launched: the executor {self._config.executor!r} began nothing for {seconds:g} s"
        self._give_back(item, End(item.claimed.claim, Outcome.NEVER_LAUNCHED, reason, self._clock.now()))

    def _give_back(self, item: _Open, end: End) -> None:
        if item.agent is None and not self._has_ended(item):
            self._executor.cancel(item.claimed.claim)
            self._push(item, end)

    def _has_ended(self, item: _Open) -> bool:
        claim = item.claimed.claim
        return claim in self._ending or self._open.get(claim) is not item

    # --- what agents ask -------------------------------------------------------------------------------------------

    def ask(
        self,
        claim: int,
        question: Mapping[str, Any],
        answer: Answer,
        failed: Callable[[Exception], None],
        say: Callable[[dict[str, Any]], None],
    ) -> None:
        """Answer an agent.

        Raises:
            Refused: the claim is over, or another agent has it.
            FluxError: not now.
        """
        agent = str(question.get("agent"))
        item = self._open.get(claim) or self._leaving.get(claim)
        if item is None:
            if not self._is_ready:
                raise FluxError("The supervisor has just begun. Ask again.")
            raise Refused("It is over: it has ended, was given up or was never queued here.")
        if question["verb"] == "start":
            self._start(item, agent, question, answer, failed)
            if item.agent == agent:
                item.say = say
            return
        if item.agent != agent:
            raise Refused(self._whose(item))
        item.heard_at, item.say = time.monotonic(), say
        if question["verb"] == "end":
            self._told_end(item, question, answer)
        else:
            answer(self._verbs[question["verb"]](item, question))

    #: The questions that are for `ask`.
    VERBS = frozenset({"start", "source", "beat", "log", "file", "end"})

    def _whose(self, item: _Open) -> str:
        if item.agent is None:
            return "It has not been started."
        return f"The agent with process {item.pid} on {item.host or 'an unknown host'} has started it already."

    def _start(
        self,
        item: _Open,
        agent: str,
        question: Mapping[str, Any],
        answer: Answer,
        failed: Callable[[Exception], None],
    ) -> None:
        claim = item.claimed.claim
        if not _AGENT.fullmatch(agent):
            raise Refused(f"{agent!r} is no agent.")
        if item.agent not in (None, agent):
            raise Refused(self._whose(item))
        if self._has_ended(item):
            raise Refused("It is over: it was ended before it was started.")
        if item.agent == agent and not item.is_starting:
            answer(self._what_to_run(item))  # our first answer was lost
            return
        item.waiting.append(answer)
        if item.is_starting:
            return
        host, pid, now = str(question["host"])[:255], int(question["pid"]), self._clock.now()
        item.agent, item.host, item.pid, item.is_starting = agent, host, pid, True

        def is_begun(begun: bool) -> None:
            item.is_starting = False
            waiting, item.waiting = item.waiting, []
            if not begun or self._has_ended(item):
                failed(Refused("It is over: it was ended before it was started."))
                if claim in self._leaving:
                    self._left(claim)
                return
            self._began(item, now)
            faults.point("after_agent_start")
            for told in waiting:
                told(self._what_to_run(item))

        def not_begun(error: Exception) -> None:
            item.agent, item.is_starting, item.waiting = None, False, []
            failed(error)

        self._writer.call(
            lambda connection: transitions.begin_attempt(connection, claim, agent=agent, host=host, pid=pid, now=now),
            is_begun,
            failed=not_begun,
        )

    def _began(self, item: _Open, at: datetime) -> None:
        item.heard_at = time.monotonic()
        self._refusals.began(item.claimed)
        self._forget_timer(item)
        limit, claim = item.claimed.task.execution_timeout, item.claimed.claim
        if limit is not None:
            left = limit - (self._clock.now() - at).total_seconds()
            item.timer = self._loop.call_later(max(left, 0.0), lambda: self.kill(claim, Outcome.TIMED_OUT))
        if item.kill is not None:
            self._order(item, item.claimed.task.kill_grace, item.kill)
        self._watch(item)
        if self._looks is None:
            self._looked_at = time.monotonic()
            self._looks = self._loop.every(_LOOK_SECONDS, self._look)

    def _what_to_run(self, item: _Open) -> dict[str, Any]:
        manifest = Manifest.read(self._config.run_folder, item.version)
        return {
            "spec": flat(item.spec),
            "version": item.version,
            "manifest": dataclasses.asdict(manifest),
            "rules": self.rules,
            "catalogue": read_text(Path(self.rules["file"])) if "file" in self.rules else None,
            "kill": item.order,
            "silence_seconds": self._config.agent_silence_seconds,
            "patience_seconds": self._config.adopt_timeout_seconds,
        }

    def _told_end(self, item: _Open, question: Mapping[str, Any], answer: Answer) -> None:
        """The agent says how its attempt ended; it is answered when that is in the store."""
        claim = item.claimed.claim
        if claim in self._leaving:
            answer({})
            self._left(claim)
            return
        item.waiting.append(answer)
        if claim in self._ending:
            return
        faults.point("before_end_commit")
        self._push(item, self._account(item, question))

    def _account(self, item: _Open, question: Mapping[str, Any]) -> End:
        """The end that an agent tells, in our time; what it says that cannot be is no end but its process's."""
        try:
            told = None if question["told"] is None else parse_result(question["told"])
            skew = self._clock.now() - from_iso(question["at"])
            message = _shifted(dict(question["exit"]), skew)
            if item.kill is not None:
                message |= {"killed": item.kill, "lost": False, "error": None}
            if told is not None:
                told = AttemptEnd(**_shifted(flat(told), skew))
                return end_told(item.claimed, item.spec.log, told, item.pid, message)
            return end_exit(item.claimed, item.spec.log, item.pid, message)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"its agent told an end that cannot be: {type(error).__name__}: {error}"
            return End(item.claimed.claim, Outcome.FAILED, reason, self._clock.now(), pid=item.pid)

    # --- silence ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Find the agents that have fallen silent; after being held up ourselves, everyone's silence begins anew."""
        now = time.monotonic()
        was_held_up, self._looked_at = now - self._looked_at > _LOOK_SECONDS + _HELD_UP_SECONDS, now
        started = [item for item in self._open.values() if item.agent is not None and not item.is_starting]
        for item in started:
            if was_held_up:
                item.heard_at = now
            elif now - item.heard_at > self._config.agent_silence_seconds and not self._has_ended(item):
                self._lost(item)
        if not started and self._looks is not None:
            self._looks.cancel()
            self._looks = None

    def _watch(self, item: _Open) -> None:
        """Learn of the agent's death at once, where the process of that number carries its claim: it is ours to see."""
        if item.pid is None or process.carried_claim(item.pid) != item.claimed.claim:
            return
        try:
            item.pidfd = os.pidfd_open(item.pid)
        except OSError:
            return
        self._loop.add_reader(item.pidfd, lambda: self._died(item))

    def _unwatch(self, item: _Open) -> None:
        if item.pidfd is not None:
            self._loop.remove(item.pidfd)
            os.close(item.pidfd)
            item.pidfd = None

    def _died(self, item: _Open) -> None:
        """Its process is gone. What it said last may still have to be read."""
        self._unwatch(item)
        item.is_dead = True
        self._loop.call_later(_LAST_WORDS_SECONDS, lambda: self._has_died(item))

    def _has_died(self, item: _Open) -> None:
        claim = item.claimed.claim
        if claim in self._leaving:
            self._left(claim)
        elif not self._has_ended(item):
            self._lost(item)

    def _lost(self, item: _Open) -> None:
        """Nobody knows what became of it: end what can be reached of it, then record the loss."""
        claim = item.claimed.claim
        self._forget_timer(item)
        self._ending.add(claim)
        self._executor.cancel(claim)

        def clean() -> None:
            # It may have run on this machine; elsewhere there is nothing to find.
            process.end_now([process.Owner(claim)], grace=_LOST_GRACE, deadline=_LOST_DEADLINE)
            agent_folder.sweep()
            self._loop.call_soon_threadsafe(lambda: self._end(item, item.kill or Outcome.LOST, self._of_loss(item)))

        threading.Thread(target=clean, name="leftovers", daemon=True).start()

    def _of_loss(self, item: _Open) -> str:
        host = item.host or "its host"
        silence = f"nothing was heard of its agent on {host} for {self._config.agent_silence_seconds:g} s"
        if item.is_dead:
            silence = f"its agent on {host}, process {item.pid}, ended without a word"
        match item.kill:
            case None:
                return f"lost: {silence}"
            case Outcome.TIMED_OUT:
                return f"timed out: execution_timeout is {item.claimed.task.execution_timeout:g} s; {silence}"
        return f"killed; {silence}"

    # --- ending ----------------------------------------------------------------------------------------------------

    def kill(self, claim: int, reason: Outcome) -> None:
        """Have an attempt ended; one that is queued ends here and now."""
        item = self._open.get(claim)
        if item is None or self._has_ended(item):
            return
        item.kill = item.kill or reason
        if item.agent is None:
            self._executor.cancel(claim)
            self._end(item, item.kill, "killed while it was queued")
        elif not item.is_starting:
            self._order(item, item.claimed.task.kill_grace, item.kill)

    def _order(self, item: _Open, grace: float, reason: str) -> None:
        """Tell the agent to kill, now and with each beat; what does not end is left to the executor."""
        if item.order is not None:
            return
        item.order = {"grace": grace, "reason": reason}
        item.say({"kill": item.order})
        claim = item.claimed.claim
        item.cancel = self._loop.call_later(grace + _CANCEL_SECONDS, lambda: self._executor.cancel(claim))

    def interrupt(self, reason: str) -> list[int]:
        """Record every open attempt as interrupted, before any agent is told; return their claims."""
        ends = []
        now = self._clock.now()
        for item in self._open.values():
            if item.claimed.claim in self._ending:
                continue
            self._forget_timer(item)
            self._ending.add(item.claimed.claim)
            again = item.claimed.on_interrupt == "retry"
            ends.append(
                End(
                    item.claimed.claim, Outcome.INTERRUPTED, reason, now, may_retry=again, must_retry=again,
                    pid=item.pid, rendered=read_text(Path(item.spec.rendered_file)),
                )
            )  # fmt: skip
            if item.agent is None:
                self._executor.cancel(item.claimed.claim)
            else:
                self._leaving[item.claimed.claim] = item
        self._writer.end(*ends)
        return [end.claim for end in ends]

    def kill_all(self, grace: float, reason: str) -> None:
        """Tell the agents of interrupted attempts to end them; `on_left` follows, or never."""
        for item in self._leaving.values():
            self._order(item, grace, reason)

    def _left(self, claim: int) -> None:
        item = self._leaving.pop(claim)
        self._forget_timer(item)
        self._unwatch(item)
        if not self._leaving:
            self._on_left()

    def _end(self, item: _Open, outcome: Outcome, reason: str) -> None:
        rendered = read_text(Path(item.spec.rendered_file))
        may_retry = outcome is not Outcome.KILLED
        end = End(
            item.claimed.claim, outcome, reason, self._clock.now(), may_retry=may_retry, pid=item.pid, rendered=rendered
        )
        self._push(item, end)

    def _push(self, item: _Open, end: End) -> None:
        self._forget_timer(item)
        self._ending.add(end.claim)
        self._writer.end(end)

    def _forget_timer(self, item: _Open) -> None:
        for timer in (item.timer, item.cancel):
            if timer is not None:
                timer.cancel()
        item.timer = item.cancel = None

    def committed(self, ends: Sequence[End]) -> None:
        """The ends are in the store: their agents may go."""
        for end in ends:
            item = self._open.pop(end.claim, None)
            self._ending.discard(end.claim)
            if item is not None:
                if end.outcome is not Outcome.NEVER_LAUNCHED:
                    self._refusals.forget(item.claimed)
                for answer in item.waiting:
                    answer({})
                if end.claim not in self._leaving:
                    self._unwatch(item)

    def stop(self, seconds: float) -> None:
        """Cancel what its agent did not end, and stop the executor."""
        for item in (*self._open.values(), *self._leaving.values()):
            self._unwatch(item)
        for claim in self._leaving:
            self._executor.cancel(claim)
        if self._asks_gone is not None:
            self._asks_gone.cancel()
        self._executor.stop(seconds)


def _shifted(values: dict[str, Any], skew: timedelta) -> dict[str, Any]:
    """Its moments by our clock, where the agent's differs from it by more than an answer takes."""
    for name in ("started_at", "ended_at"):
        if values.get(name) is not None:
            moment = from_iso(values[name])
            values[name] = iso(moment + skew if abs(skew) > _SKEW else moment)
    return values

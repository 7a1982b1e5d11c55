"""The supervisor's side of agents: who may start a claim, what an agent is told, silence, kills, and the end."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flux import wire
from flux.errors import FluxError, Refused
from flux.executor import Assignment, BaseExecutor
from flux.executors.local import LocalExecutor
from flux.running.agents import Agents, is_agent
from flux.running.attempt_processes import exit_message
from flux.running.server import Server
from flux.running.versions import shelve
from flux.states import Outcome
from flux.store.advance import Outcomes
from flux.store.attempts import Claimed, End, Holder, log_path
from flux.times import iso
from tests.parts import NOW, Parts


class NotingExecutor(BaseExecutor):
    """Notes what it is asked, and begins nothing."""

    def __init__(self, parallelism: int = 4) -> None:
        super().__init__(parallelism)
        self.started: list[Assignment] = []
        self.cancelled: list[int] = []
        self.is_stopped = False
        self.problem: BaseException | None = None
        #: Task ids that it refuses; None: all, when there is a problem.
        self.refuses: set[str] | None = None
        self.ended: dict[int, str] = {}
        #: `start` does not return before.
        self.go = threading.Event()
        self.go.set()

    def start(self, assignment: Assignment) -> None:
        self.started.append(assignment)
        self.go.wait(10)
        if self.problem is not None and (self.refuses is None or assignment.task_id in self.refuses):
            raise self.problem

    def gone(self) -> dict[int, str]:
        told, self.ended = self.ended, {}
        return told

    def cancel(self, claim: int) -> None:
        self.cancelled.append(claim)

    def stop(self) -> None:
        self.is_stopped = True


class PlayedAgent:
    """An agent's connection, played in the test's loop."""

    def __init__(self, parts: Parts, claim: int, name: str = "agent-0123456789abcdef") -> None:
        self.parts = parts
        self.name = name
        self.heard: list[dict[str, Any]] = []
        self._number = 0
        self._wire = wire.Wire(
            wire.connect(parts.config.run_folder / "endpoint"), parts.loop, self.heard.append, lambda: None
        )
        parts.at_close(self._wire.close)
        self._wire.send({"claim": claim})

    def send(self, verb: str, **arguments: Any) -> int:
        self._number += 1
        self._wire.send({"id": self._number, "verb": verb, "agent": self.name, **arguments})
        return self._number

    def answer(self, number: int) -> Any:
        """Wait for the answer to a question, and return its value or raise its error."""
        found = self.parts.until(
            lambda: [message for message in self.heard if message.get("id") == number], what="an answer"
        )
        if "error" in found[0]:
            raise wire.error_from(found[0]["error"])
        return found[0]["value"]

    def ask(self, verb: str, **arguments: Any) -> Any:
        return self.answer(self.send(verb, **arguments))

    def start(self) -> Any:
        return self.ask("start", host="node-1", pid=77)

    def send_end(self, told: dict[str, Any] | None = None, **facts: Any) -> int:
        end = {**exit_message(1, exit_status=0, started_at=iso(NOW)), "ended_at": iso(NOW), **facts}
        return self.send("end", exit=end, told=None if told is None else json.dumps(told), at=iso(NOW))

    @property
    def said(self) -> list[dict[str, Any]]:
        """What it was told without having asked."""
        return [message for message in self.heard if "id" not in message]


class Place:
    """A home whose executor is `NotingExecutor`, and what was given to it."""

    def __init__(self, home: Path, *, parallelism: int = 4, **options: str) -> None:
        self.parts = Parts(home, **options)
        self.executor = NotingExecutor()
        self.left = 0
        self.writer = self.parts.writer(parallelism, self._advanced, claims=False)
        self.agents = self.make(self.executor)
        self.server = Server(self.parts.config, self.parts.loop, self.parts.clock, self.writer, {}, {})
        self.server.agents = self.agents
        self.server.start()
        self.parts.at_close(self.server.stop)
        self.versions: dict[int, str] = {}

    def make(self, executor: BaseExecutor) -> Agents:
        parts = self.parts
        agents = Agents(
            parts.config, parts.loop, parts.clock, self.writer, executor, another=NotingExecutor, on_left=self._all_left
        )
        parts.at_close(lambda: agents.stop(5))
        return agents

    def _all_left(self) -> None:
        self.left += 1

    def _advanced(self, outcomes: Outcomes, ends: Any) -> None:
        for item in outcomes.claimed:
            self.agents.begin(item, self.version_of(item))
        self.agents.committed(ends)
        for row, at in outcomes.retrying:
            seconds = (at - self.parts.clock.now()).total_seconds()
            self.parts.loop.call_later(seconds, functools.partial(self.writer.wake, row))

    def version_of(self, item: Claimed) -> str:
        return self.parts.read(lambda connection: shelve(connection, self.parts.config, item.version_id)).hash

    def queue(self, ready: bool = True, **task: Any) -> Claimed:
        """Have one task queued at the executor and return its attempt."""
        return self.queue_all(task, ready=ready)[0]

    def queue_all(self, *tasks: dict[str, Any], ready: bool = True) -> list[Claimed]:
        """Have tasks queued, as many as there are slots, and return their attempts."""
        version = self.parts.define(tasks=list(tasks))
        self.parts.trigger(version)
        self.writer.begin_claiming(Holder(self.parts.job, "launcher-1", "here", queues=True), [])
        self.parts.until(lambda: self.executor.started, what="the executor's start")
        if ready:
            self.agents.ready()
        return self.parts.claimed

    def started(self, **task: Any) -> tuple[Claimed, PlayedAgent, Any]:
        """Have one task started by an agent."""
        claimed = self.queue(**task)
        agent = PlayedAgent(self.parts, claimed.claim)
        return claimed, agent, agent.start()

    def end(self) -> End:
        self.parts.until(lambda: self.parts.ended, what="an end")
        return self.parts.ended[0]

    @property
    def state(self) -> str:
        return self.parts.states()["t0"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.parts.close()


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Place]:
    """A place with short limits."""
    made = Place(tmp_path, agent_silence_seconds="0.2", queued_timeout_seconds="0.2")
    yield made
    made.parts.close()


def told(**changes: Any) -> dict[str, Any]:
    """The content of an attempt's result file."""
    end = {
        "outcome": "success", "reason": None, "retry": True, "results": {"return_value": "7"}, "result_files": {},
        "chosen": None, "started_at": iso(NOW), "ended_at": iso(NOW), "rendered": None,
    }  # fmt: skip
    return {**end, **changes}


# --- beginning -------------------------------------------------------------------------------------------------------


def test_executor_gets_what_to_run_and_nothing_secret(place: Place) -> None:
    claimed = place.queue(queue="big", resources={"cpus": 2})
    (assignment,) = place.executor.started
    assert assignment.argv[-2:] == ("-m", "flux.running.agent")
    assert assignment.env == {
        "FLUX_CLAIM": f"{claimed.claim:019d}",
        "FLUX_ENDPOINT": str(place.parts.config.run_folder / "endpoint"),
    }
    assert (assignment.queue, assignment.resources, assignment.attempt) == ("big", {"cpus": 2}, 1)
    assert place.state == "queued"


def test_first_agent_to_start_has_the_attempt_and_is_told_what_to_run(place: Place) -> None:
    claimed, agent, answer = place.started()
    assert answer["spec"]["claim"] == claimed.claim
    assert answer["spec"]["task_id"] == "t0"
    assert answer["version"] == place.version_of(claimed)
    (path, sha), *_ = answer["manifest"]["sources"].items()
    assert path == "sales.py"
    source = agent.ask("source", sha=sha, offset=0)
    assert len(base64.b64decode(source["data"])) == source["size"]
    assert place.state == "started"
    (row,) = place.parts.attempts()
    assert (row.launcher, row.host, row.pid) == (agent.name, "node-1", 77)


def test_source_of_another_version_is_refused(place: Place) -> None:
    _, agent, _ = place.started()
    with pytest.raises(Refused, match="no source of the version"):
        agent.ask("source", sha="../providers.json", offset=0)


def test_agent_whose_answer_was_lost_is_answered_again(place: Place) -> None:
    claimed, _, first = place.started()
    again = PlayedAgent(place.parts, claimed.claim)
    assert again.start() == first


def test_second_agent_is_refused_and_told_who_was_first(place: Place) -> None:
    claimed, _, _ = place.started()
    second = PlayedAgent(place.parts, claimed.claim, "agent-ffffffffffffffff")
    with pytest.raises(Refused, match="process 77 on node-1 has started it already"):
        second.start()
    with pytest.raises(Refused, match="has started it already"):
        second.ask("beat")


def test_of_two_that_start_at_once_one_is_refused(place: Place) -> None:
    claimed = place.queue()
    agents = [PlayedAgent(place.parts, claimed.claim, f"agent-{number:016x}") for number in range(2)]
    numbers = [agent.send("start", host="node", pid=number) for number, agent in enumerate(agents)]
    results = []
    for agent, number in zip(agents, numbers, strict=True):
        try:
            results.append(agent.answer(number)["spec"]["claim"])
        except Refused:
            results.append(None)
    assert sorted(results, key=str) == [claimed.claim, None]


def test_claim_that_is_over_or_unknown_is_refused(place: Place) -> None:
    claimed, agent, _ = place.started()
    agent.answer(agent.send_end(told()))
    assert place.state == "success"
    with pytest.raises(Refused, match="It is over"):
        PlayedAgent(place.parts, claimed.claim, "agent-ffffffffffffffff").start()
    with pytest.raises(Refused, match="It is over"):
        PlayedAgent(place.parts, 12345).start()


def test_nobody_is_refused_before_it_is_known_what_there_is(place: Place) -> None:
    with pytest.raises(FluxError, match="has just begun") as raised:
        PlayedAgent(place.parts, 12345).start()
    assert not isinstance(raised.value, Refused)


def test_what_is_no_agent_is_refused(place: Place) -> None:
    claimed = place.queue()
    with pytest.raises(Refused, match="is no agent"):
        PlayedAgent(place.parts, claimed.claim, "launcher-1").start()
    assert place.state == "queued"
    assert not is_agent("launcher-1")
    assert not is_agent(None)


def test_agent_that_has_not_started_may_not_speak(place: Place) -> None:
    claimed = place.queue()
    with pytest.raises(Refused, match="has not been started"):
        PlayedAgent(place.parts, claimed.claim).ask("beat")


@pytest.mark.slow
def test_executor_that_raises_gets_it_again_under_another_claim(place: Place) -> None:
    place.executor.problem = SystemExit("no cluster here")
    first = place.queue()
    end = place.end()
    assert end.reason == "never launched: the executor refused it: SystemExit: no cluster here"
    assert end.not_before == NOW + timedelta(seconds=1)
    assert place.state == "retrying"
    place.parts.until(lambda: len(place.executor.started) == 2, what="another start")
    assert place.executor.started[1].claim != first.claim
    assert place.executor.started[1].attempt == 2
    assert place.executor.cancelled[0] == first.claim


@pytest.mark.slow
def test_refusals_after_a_beginning_are_counted_and_said_anew(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    place.executor.problem = ConnectionError("no cluster here")
    place.queue(retries=1, retry_delay=0.0)
    place.end()
    place.executor.problem = None
    place.parts.until(lambda: len(place.executor.started) == 2, what="another start")
    agent = PlayedAgent(place.parts, place.executor.started[1].claim)
    agent.start()
    place.executor.problem = ConnectionError("no cluster here")
    agent.answer(agent.send_end(told(outcome="failed", reason="the first time")))
    place.parts.until(lambda: len(place.parts.ended) == 3, what="the refusal of the third")
    assert place.parts.ended[2].not_before == NOW + timedelta(seconds=1)
    assert capfd.readouterr().err.count("It is tried again") == 2


def test_what_is_refused_leaves_its_slots_to_others(tmp_path: Path) -> None:
    place = Place(tmp_path, parallelism=1)
    place.executor.problem, place.executor.refuses = ConnectionError("not that one"), {"t0"}
    place.queue_all({"priority_weight": 9}, {})
    place.parts.until(lambda: len(place.executor.started) == 2, what="the other's start")
    assert [assignment.task_id for assignment in place.executor.started] == ["t0", "t1"]
    assert place.parts.states() == {"t0": "retrying", "t1": "queued"}
    place.parts.close()


def test_what_is_refused_for_too_long_fails_in_the_words_of_its_executor(tmp_path: Path) -> None:
    place = Place(tmp_path, queued_timeout_seconds="0.15")
    place.executor.problem = ConnectionError("no cluster\nhere")
    place.queue()
    place.parts.until(lambda: place.state == "failed", what="the failure")
    (*others, last) = place.parts.attempts()
    assert [row.outcome for row in others] == ["never_launched"] * len(others)
    assert last.reason.startswith(f"never began: tried {len(others) + 1} times in ")
    assert last.reason.endswith("; the last time the executor refused it: ConnectionError: no cluster here")
    place.parts.close()


def test_task_that_is_refused_for_too_long_is_retried_as_its_author_says(tmp_path: Path) -> None:
    place = Place(tmp_path, queued_timeout_seconds="0.1")
    place.executor.problem = ConnectionError("no cluster here")
    place.queue(retries=1, retry_delay=1000.0)
    place.parts.until(lambda: place.state == "retrying" and place.parts.attempts()[-1].outcome == "failed")
    place.parts.close()


def test_refusal_is_said_once_and_not_for_each_task(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    place.executor.problem = ConnectionError("no cluster here")
    place.queue_all({}, {}, {})
    place.parts.until(lambda: len(place.parts.ended) == 3, what="the refusals")
    (line,) = capfd.readouterr().err.splitlines()
    assert "was never launched: the executor refused it: ConnectionError: no cluster here. It is tried again" in line


@pytest.mark.slow
def test_executor_that_refuses_everything_makes_no_storm(tmp_path: Path) -> None:
    place = Place(tmp_path, parallelism=2)
    place.executor.problem = ConnectionError("no cluster here")
    place.queue_all(*({} for _ in range(60)))
    place.parts.until(passing(place.parts, 1.0))
    assert 16 <= len(place.executor.started) <= 16 + 2 + 11
    place.parts.close()


@pytest.mark.slow
def test_start_that_does_not_return_is_a_refusal_and_is_told(tmp_path: Path) -> None:
    place = Place(tmp_path, executor_call_seconds="0.1")
    place.executor.go.clear()
    first = place.queue()
    end = place.end()
    assert end.reason == "never launched: the executor did not return from start() within 0.1 s"
    trouble = place.agents.trouble or ""
    assert "has not returned from start() of sales.t0, run " in trouble
    assert "mend what it waits for" in trouble
    place.executor.go.set()
    place.parts.until(lambda: place.executor.cancelled == [first.claim], what="its cancellation")
    place.parts.until(lambda: place.agents.trouble is None, what="the end of the trouble")
    place.parts.close()


@pytest.mark.slow
def test_queued_attempt_that_is_gone_comes_again(place: Place) -> None:
    first = place.queue()
    place.executor.ended = {first.claim: "exit status 1:\n No module named 'flux'", 12345: "of another time"}
    end = place.end()
    reason = "never launched: what the executor began is gone: exit status 1: No module named 'flux'"
    assert (end.claim, end.outcome, end.reason) == (first.claim, Outcome.NEVER_LAUNCHED, reason)
    place.parts.until(lambda: len(place.executor.started) == 2, what="another start")


@pytest.mark.slow
def test_what_is_told_as_gone_after_an_agent_has_begun_it_is_left_to_the_agent(place: Place) -> None:
    claimed, agent, _ = place.started(execution_timeout=1.3)
    place.executor.ended = {claimed.claim: "exit status 77"}
    place.parts.until(lambda: not place.executor.ended, what="the question")
    place.parts.until(lambda: agent.said, what="the order of its time limit, which still holds")
    agent.answer(agent.send_end(told()))
    assert place.parts.attempts()[0].outcome == "success"


@pytest.mark.slow
def test_nothing_is_asked_when_nothing_is_queued(place: Place) -> None:
    claimed, agent, _ = place.started()
    place.parts.until(passing(place.parts, 1.1))
    place.executor.ended = {claimed.claim: "nobody asks"}
    place.parts.until(passing(place.parts, 1.1))
    assert place.executor.ended
    assert agent.ask("beat") == {"kill": None}


def test_what_nothing_begins_is_cancelled_and_given_again(hasty: Place) -> None:
    first = hasty.queue()
    assert hasty.end().outcome is Outcome.NEVER_LAUNCHED
    hasty.parts.until(lambda: len(hasty.executor.started) == 2, what="another start")
    assert hasty.executor.cancelled == [first.claim]
    with pytest.raises(Refused, match="It is over"):
        PlayedAgent(hasty.parts, first.claim).start()


def test_queued_attempt_of_an_executor_that_is_configured_no_more_is_given_back(place: Place) -> None:
    claimed = place.queue()
    local = place.make(LocalExecutor(4))
    local.begin(claimed, place.version_of(claimed))
    assert place.end().reason == "never launched: its executor is configured no more"


# --- meanwhile -------------------------------------------------------------------------------------------------------


def log_of(place: Place, claimed: Claimed) -> Path:
    return place.parts.config.logs_folder / log_path(claimed.run, "t0", -1, claimed.attempt)


def test_log_is_written_at_its_offsets_whatever_comes_twice(place: Place) -> None:
    claimed, agent, _ = place.started()
    for offset, text in ((0, b"one "), (4, b"two "), (4, b"two "), (8, b"three")):
        agent.ask("log", name="", offset=offset, size=0, data=base64.b64encode(text).decode())
    log = log_of(place, claimed)
    assert log.read_bytes() == b"one two three"
    assert log.stat().st_mode & 0o777 == 0o600


def test_log_that_cannot_be_written_costs_nothing_else(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    claimed, agent, _ = place.started()
    log_of(place, claimed).mkdir(parents=True)
    agent.ask("log", name="", offset=0, size=3, data=base64.b64encode(b"one").decode())
    agent.answer(agent.send_end(told()))
    assert place.state == "success"
    assert "cannot be written" in capsys.readouterr().err


def test_file_beside_the_log_gets_its_name_when_it_is_whole(place: Place) -> None:
    claimed, agent, _ = place.started()
    folder = log_of(place, claimed).parent
    data = [base64.b64encode(part).decode() for part in (b"[1,", b"2]")]
    agent.ask("file", name="1.0.result", offset=0, size=5, data=data[0])
    assert not (folder / "1.0.result").exists()
    agent.ask("file", name="1.0.result", offset=3, size=5, data=data[1])
    assert (folder / "1.0.result").read_bytes() == b"[1,2]"


@pytest.mark.parametrize("name", ["../../../flux.toml", "1.log", "x.result", "1.0.result/../y", ""])
def test_agent_writes_no_other_files(place: Place, name: str) -> None:
    _, agent, _ = place.started()
    with pytest.raises(Refused, match="no file of an attempt"):
        agent.ask("file", name=name, offset=0, size=0, data="")


@pytest.mark.slow
def test_silent_agent_is_lost_and_cancelled(hasty: Place) -> None:
    claimed, _, _ = hasty.started()
    end = hasty.end()
    assert (end.outcome, end.reason) == (Outcome.LOST, "lost: nothing was heard of its agent on node-1 for 0.2 s")
    assert hasty.executor.cancelled == [claimed.claim]
    with pytest.raises(Refused, match="It is over"):
        PlayedAgent(hasty.parts, claimed.claim).ask("beat")


def sleeper(place: Place, **environ: str) -> subprocess.Popen[bytes]:
    """A process that stands for an agent on this machine; it is gone after the test."""
    program = subprocess.Popen(["sleep", "1000"], env={"PATH": os.defpath, **environ})
    place.parts.at_close(program.wait)
    place.parts.at_close(program.kill)
    return program


def test_agent_that_dies_on_this_machine_is_lost_at_once(place: Place) -> None:
    claimed = place.queue()
    program = sleeper(place, FLUX_CLAIM=f"{claimed.claim:019d}")
    PlayedAgent(place.parts, claimed.claim).ask("start", host="here", pid=program.pid)
    program.kill()
    program.wait()
    end = place.end()
    assert end.outcome is Outcome.LOST
    assert end.reason == f"lost: its agent on here, process {program.pid}, ended without a word"


def test_process_here_that_only_has_the_number_of_an_agent_elsewhere_is_not_watched(place: Place) -> None:
    claimed = place.queue()
    program = sleeper(place)
    agent = PlayedAgent(place.parts, claimed.claim)
    agent.ask("start", host="node-1", pid=program.pid)
    program.kill()
    program.wait()
    place.parts.until(passing(place.parts, 0.15))
    agent.answer(agent.send_end(told()))
    assert place.state == "success"


def test_interrupted_agent_that_dies_is_waited_for_no_longer(place: Place) -> None:
    claimed = place.queue()
    program = sleeper(place, FLUX_CLAIM=f"{claimed.claim:019d}")
    PlayedAgent(place.parts, claimed.claim).ask("start", host="here", pid=program.pid)
    place.agents.interrupt("interrupted")
    place.parts.until(lambda: not place.agents.claims, what="the commit")
    assert place.agents.are_leaving
    program.kill()
    program.wait()
    place.parts.until(lambda: place.left == 1, what="its death to be seen")


@pytest.mark.slow
def test_agent_that_beats_is_not_lost(hasty: Place) -> None:
    _, agent, _ = hasty.started()
    for _ in range(30):
        agent.ask("beat")
        hasty.parts.until(passing(hasty.parts, 0.05))
    assert hasty.parts.ended == []


def passing(parts: Parts, seconds: float) -> Callable[[], bool]:
    """A condition that comes true so much later."""
    begun = parts.clock.monotonic()
    return lambda: parts.clock.monotonic() - begun > seconds


def test_adopted_attempt_goes_on_with_its_agent_and_no_other(place: Place) -> None:
    claimed, agent, _ = place.started()
    place.agents = place.server.agents = place.make(place.executor)
    place.agents.adopt(claimed, place.version_of(claimed), agent.name, "node-1", None)
    place.agents.ready()
    assert agent.ask("beat") == {"kill": None}
    with pytest.raises(Refused, match="has started it already"):
        PlayedAgent(place.parts, claimed.claim, "agent-ffffffffffffffff").start()
    agent.answer(agent.send_end(told()))
    assert place.state == "success"


@pytest.mark.slow
def test_adopted_attempt_of_which_nothing_is_heard_is_lost(hasty: Place) -> None:
    claimed, agent, _ = hasty.started()
    hasty.agents = hasty.server.agents = hasty.make(hasty.executor)
    hasty.agents.adopt(claimed, hasty.version_of(claimed), agent.name, "node-1", None)
    assert hasty.end().outcome is Outcome.LOST


# --- ending ----------------------------------------------------------------------------------------------------------


def test_end_is_answered_when_it_is_in_the_store(place: Place) -> None:
    claimed, agent, _ = place.started()
    number = agent.send_end(told(outcome="skipped", reason="nothing today"), max_rss_bytes=5_000_000)
    assert agent.answer(number) == {}
    assert place.state == "skipped"
    (row,) = place.parts.attempts()
    assert (row.outcome, row.reason, row.pid, row.max_rss_bytes) == ("skipped", "nothing today", 77, 5_000_000)
    assert claimed.claim not in place.agents.claims


def test_end_told_twice_is_one_end(place: Place) -> None:
    _, agent, _ = place.started()
    numbers = [agent.send_end(told()), agent.send_end(told())]
    assert [agent.answer(number) for number in numbers] == [{}, {}]
    assert len(place.parts.ended) == 1


def test_end_without_a_result_is_told_by_its_process(place: Place) -> None:
    _, agent, _ = place.started()
    agent.answer(agent.send_end(None, exit_status=None, signal=11))
    (row,) = place.parts.attempts()
    assert row.reason == "killed by signal 11 (SIGSEGV)"


def test_agent_that_was_told_to_end_from_outside_is_lost(place: Place) -> None:
    _, agent, _ = place.started()
    agent.answer(agent.send_end(None, lost=True, error="its agent was told to end by SIGTERM"))
    assert place.parts.attempts()[0].outcome == "lost"


@pytest.mark.parametrize(
    "change", [{"outcome": "started"}, {"results": [1]}, {"ended_at": "yesterday"}, {"surprise": 1}]
)
def test_end_that_cannot_be_fails_the_attempt(place: Place, change: dict[str, Any]) -> None:
    _, agent, _ = place.started()
    agent.answer(agent.send_end(told(**change)))
    (row,) = place.parts.attempts()
    assert row.outcome == "failed"
    assert "told an end that cannot be" in row.reason


def test_moments_of_a_machine_whose_clock_is_wrong_are_put_right(place: Place) -> None:
    _, agent, _ = place.started()
    wrong = [iso(NOW + timedelta(hours=3, seconds=second)) for second in (0, 5)]
    end = told(started_at=wrong[0], ended_at=wrong[1])
    number = agent.send("end", exit={**exit_message(1, exit_status=0), "ended_at": wrong[1]}, told=json.dumps(end),
                        at=wrong[1])  # fmt: skip
    agent.answer(number)
    (row,) = place.parts.attempts()
    assert (row.started_at, row.ended_at) == (NOW - timedelta(seconds=5), NOW)


def test_kill_is_said_at_once_and_with_each_beat(place: Place) -> None:
    claimed, agent, _ = place.started(kill_grace=3.0)
    place.agents.kill(claimed.claim, Outcome.KILLED)
    order = {"grace": 3.0, "reason": "killed"}
    place.parts.until(lambda: agent.said, what="the order")
    assert agent.said == [{"kill": order}]
    assert agent.ask("beat") == {"kill": order}
    agent.answer(agent.send_end(None, exit_status=None, signal=15, killed="killed"))
    assert place.parts.attempts()[0].outcome == "killed"
    assert place.executor.cancelled == []


def test_time_limit_kills_and_is_the_reason(place: Place) -> None:
    _, agent, _ = place.started(execution_timeout=0.05)
    place.parts.until(lambda: agent.said, what="the order")
    agent.answer(agent.send_end(None, exit_status=None, signal=15, lost=True, error="whatever it says"))
    (row,) = place.parts.attempts()
    assert (row.outcome, row.reason) == ("timed_out", "timed out: execution_timeout is 0.05 s")


@pytest.mark.slow
def test_killed_agent_that_falls_silent_is_recorded_as_killed(hasty: Place) -> None:
    claimed, _, _ = hasty.started()
    hasty.agents.kill(claimed.claim, Outcome.KILLED)
    end = hasty.end()
    assert (end.outcome, end.may_retry) == (Outcome.KILLED, False)
    assert "nothing was heard" in (end.reason or "")


def test_kill_of_a_queued_attempt_ends_it_and_a_late_agent_is_refused(place: Place) -> None:
    claimed = place.queue()
    place.agents.kill(claimed.claim, Outcome.KILLED)
    assert place.end().outcome is Outcome.KILLED
    place.parts.until(lambda: place.executor.cancelled == [claimed.claim], what="the executor to be told")
    with pytest.raises(Refused, match="It is over"):
        PlayedAgent(place.parts, claimed.claim).start()


def test_interruption_is_recorded_before_agents_are_told_and_they_may_still_tell_their_log(place: Place) -> None:
    claimed, agent, _ = place.started()
    log = log_of(place, claimed)
    assert place.agents.interrupt("interrupted (Ctrl-C)") == [claimed.claim]
    place.parts.until(lambda: not place.agents.claims, what="the commit")
    assert agent.said == []
    place.agents.kill_all(2.0, "interrupted")
    place.parts.until(lambda: agent.said, what="the order")
    assert agent.said == [{"kill": {"grace": 2.0, "reason": "interrupted"}}]
    agent.ask("log", name="", offset=0, size=3, data=base64.b64encode(b"end").decode())
    assert place.agents.are_leaving
    agent.answer(agent.send_end(None, signal=15))
    assert (place.left, place.agents.are_leaving) == (1, False)
    assert log.read_bytes() == b"end"
    assert place.parts.attempts()[0].outcome == "interrupted"
    with pytest.raises(Refused):
        PlayedAgent(place.parts, claimed.claim).start()


def test_attempt_that_is_interrupted_while_its_start_is_written_is_not_begun(place: Place) -> None:
    claimed = place.queue()
    gate = threading.Event()
    place.writer.call(lambda _: gate.wait(10), reads_only=True)
    agent = PlayedAgent(place.parts, claimed.claim)
    number = agent.send("start", host="node-1", pid=77)
    place.parts.until(passing(place.parts, 0.05))
    place.agents.interrupt("interrupted")
    gate.set()
    with pytest.raises(Refused, match="It is over"):
        agent.answer(number)
    assert place.end().outcome is Outcome.INTERRUPTED
    assert (place.left, place.agents.are_leaving) == (1, False)


def test_interrupted_queue_is_cancelled_and_waits_for_nobody(place: Place) -> None:
    claimed = place.queue()
    place.agents.interrupt("interrupted")
    assert not place.agents.are_leaving
    place.parts.until(lambda: place.executor.cancelled == [claimed.claim], what="the executor to be told")


def test_stop_cancels_what_its_agent_did_not_end(tmp_path: Path) -> None:
    place = Place(tmp_path)
    claimed, _, _ = place.started()
    place.agents.interrupt("interrupted")
    place.parts.close()
    assert place.executor.cancelled == [claimed.claim]
    assert place.executor.is_stopped


def test_assignment_is_data(place: Place) -> None:
    """What a plugin writes into a job's description must survive that."""
    place.queue(resources={"cpus": 2})
    (assignment,) = place.executor.started
    assert Assignment(**json.loads(json.dumps(dataclasses.asdict(assignment)))).claim == assignment.claim

"""The agent: a real one, and the supervisor's side of its socket played by the test."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux import process, wire
from flux.dag_file import Manifest
from flux.loop import Loop
from flux.running.agent import Status
from tests.attempts import spec_of

pytestmark = pytest.mark.slow
#: Another for each run of the tests: an agent that ends its attempt ends whatever carries its claim.
CLAIM = 4 * 10**18 + random.getrandbits(48)


class _Task:
    """As much of a task as `spec_of` looks at."""

    class dag:
        dag_id = "sales"

    task_id = "load"


class Desk:
    """Plays the supervisor of one claim: answers `start`, `source`, `log`, `file` and `beat`, keeps what it hears."""

    def __init__(self, folder: Path, source: str, **spec: Any) -> None:
        self.folder = folder
        self.loop = Loop()
        self.asked: list[dict[str, Any]] = []
        self.log = bytearray()
        self.files: dict[str, bytes] = {}
        #: What is answered in place of the usual, by verb; an error is {"error": …}, None is silence.
        self.instead: dict[str, Any] = {}
        self.silence = 30.0
        sources = {"sales.py": textwrap.dedent(source).encode()}
        self._sources = {hashlib.sha256(data).hexdigest(): data for data in sources.values()}
        shas = {path: hashlib.sha256(data).hexdigest() for path, data in sources.items()}
        self._manifest = Manifest("/nowhere/dags", "sales.py", shas, ["sales"])
        values = {"claim": CLAIM, "run_id": "manual__1", "kind": "manual", **spec}
        self._spec = dataclasses.asdict(spec_of(_Task, Path("/nowhere/logs"), **values))
        self.agents: list[subprocess.Popen[str]] = []
        self.connections: list[wire.Wire] = []
        self.listen()

    def listen(self) -> None:
        self._socket, path = wire.listen(self.folder / "supervisor.sock")
        wire.write_file(str(self.folder / "endpoint"), path.encode())
        self.loop.add_reader(self._socket.fileno(), self._accept)

    def hang_up(self) -> None:
        """Be gone, as a supervisor that died."""
        self.loop.remove(self._socket.fileno())
        self._socket.close()
        for connection in self.connections:
            connection.close()
        self.connections.clear()

    def start_agent(self, **environ: str) -> subprocess.Popen[str]:
        """Start an agent in a bare environment, in another folder."""
        env = {"FLUX_CLAIM": process.claim_text(CLAIM), "FLUX_ENDPOINT": str(self.folder / "endpoint"), **environ}
        agent = subprocess.Popen(
            [sys.executable, "-P", "-m", "flux.running.agent"],
            env={name: value for name, value in env.items() if value},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.agents.append(agent)
        return agent

    def close(self) -> None:
        for agent in self.agents:
            agent.kill()
            agent.communicate()
        self.hang_up()
        self.loop.close()

    def until(self, predicate: Callable[[], Any], seconds: float = 20) -> Any:
        deadline = time.monotonic() + seconds
        value: Any = None

        def look() -> None:
            nonlocal value
            value = predicate()
            if value or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_later(0.005, look)

        self.loop.call_later(0, look)
        self.loop.run()
        assert value, f"waited {seconds} s; asked: {[each['verb'] for each in self.asked]}, {self._what_agents_say()}"
        return value

    def _what_agents_say(self) -> str:
        ended = [agent.poll() for agent in self.agents]
        for agent in self.agents:
            agent.kill()
        return f"log: {bytes(self.log)!r}, agents: {ended} {[agent.communicate() for agent in self.agents]}"

    def wait_exit(self, agent: subprocess.Popen[str], seconds: float = 20) -> int:
        """Serve until the agent has ended; return its exit status."""
        self.until(lambda: agent.poll() is not None, seconds)
        return agent.returncode

    def heard(self, verb: str) -> list[dict[str, Any]]:
        return [question for question in self.asked if question["verb"] == verb]

    def wait_log(self, text: str) -> str:
        self.until(lambda: text.encode() in self.log)
        return self.log.decode(errors="replace")

    def say(self, message: dict[str, Any]) -> None:
        self.connections[-1].send(message)

    def _accept(self) -> None:
        sock, _ = self._socket.accept()
        connection = wire.Wire(sock, self.loop, lambda message: self._take(connection, message), lambda: None)
        self.connections.append(connection)

    def _take(self, connection: wire.Wire, message: dict[str, Any]) -> None:
        if "verb" not in message:
            assert message == {"claim": CLAIM}
            return
        self.asked.append(message)
        verb = message["verb"]
        if verb in self.instead:
            answer = self.instead[verb]
            if answer is not None:
                connection.send({"id": message["id"], **answer})
            return
        connection.send({"id": message["id"], "value": getattr(self, f"_{verb}")(message)})

    def _start(self, message: dict[str, Any]) -> dict[str, Any]:
        return {
            "spec": self._spec,
            "version": "v1",
            "manifest": dataclasses.asdict(self._manifest),
            "rules": {"file": "/nowhere/providers.json"},
            "catalogue": "[]",
            "kill": None,
            "silence_seconds": self.silence,
            "patience_seconds": 1.0,
        }

    def _source(self, message: dict[str, Any]) -> dict[str, Any]:
        data = self._sources[message["sha"]]
        part = data[message["offset"] : message["offset"] + 1000]
        return {"data": base64.b64encode(part).decode(), "size": len(data)}

    def _beat(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"kill": None}

    def _log(self, message: dict[str, Any]) -> None:
        data = base64.b64decode(message["data"])
        self.log[message["offset"] : message["offset"] + len(data)] = data

    def _file(self, message: dict[str, Any]) -> None:
        assert message["offset"] == len(self.files.get(message["name"], b""))
        self.files[message["name"]] = self.files.get(message["name"], b"") + base64.b64decode(message["data"])

    def _end(self, message: dict[str, Any]) -> dict[str, Any]:
        return {}

    @property
    def end(self) -> dict[str, Any]:
        (end,) = self.heard("end")
        return end


@pytest.fixture
def desk_of(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(body: str, top: str = "", **spec: Any) -> Desk:
        source = "\n".join([
            "import os, subprocess, sys, time",
            "from flux import DAG, task",
            top,
            "with DAG('sales', schedule=None):",
            "    @task",
            "    def load():",
            textwrap.indent(textwrap.dedent(body).strip(), "        "),
            "    load()",
        ])  # fmt: skip
        made.append(Desk(tmp_path, source, **spec))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


WAITS = """
print("waits", os.getpid(), flush=True)
while True:
    time.sleep(0.01)
"""


def waiting_pid(desk: Desk) -> int:
    return int(desk.wait_log("waits ").partition("waits ")[2].split()[0])


def told(desk: Desk) -> dict[str, Any]:
    end: dict[str, Any] = json.loads(desk.end["told"])
    return end


def test_attempt_is_run_and_its_log_and_end_are_told(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of("print('in', os.getcwd(), __file__, os.environ['FLUX_CLAIM'])\nreturn 7", top="#" * 5000)
    agent = desk.start_agent()
    assert desk.wait_exit(agent) == Status.RECORDED
    assert told(desk)["outcome"] == "success"
    assert told(desk)["results"] == {"return_value": "7"}
    assert desk.end["exit"]["exit_status"] == 0
    log = desk.log.decode()
    assert log.startswith(f"--- flux: sales.load, run manual__1, attempt 1 of 1, claim {CLAIM}")
    assert f"/nowhere/dags/sales.py {CLAIM}" in log
    assert "exit status 0" in log.splitlines()[-1]
    where = log.partition("in ")[2].split()[0]
    assert Path(where).name.startswith("flux-agent-")
    assert not Path(where).exists()
    assert len(desk.heard("source")) > 1, "it was to come in pieces"


def test_agent_sweeps_what_one_that_was_killed_has_left_and_nothing_of_one_that_lives(
    desk_of: Callable[..., Desk], tmp_path: Path
) -> None:
    desk = desk_of(WAITS)
    killed = desk.start_agent(TMPDIR=str(tmp_path))
    attempt = waiting_pid(desk)
    (folder,) = tmp_path.glob("flux-agent-*")
    desk.instead["start"] = {"error": {"code": "refused", "message": "It is another's."}}
    assert desk.wait_exit(desk.start_agent(TMPDIR=str(tmp_path))) == Status.REFUSED
    assert folder.exists()
    killed.kill()
    desk.until(lambda: not process.is_alive(attempt))
    assert desk.wait_exit(desk.start_agent(TMPDIR=str(tmp_path))) == Status.REFUSED
    assert not folder.exists()


def test_large_results_and_rendered_fields_are_sent_as_files(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of("return 'x' * 300_000")
    assert desk.wait_exit(desk.start_agent()) == Status.RECORDED
    assert told(desk)["result_files"] == {"return_value": "1.0.result"}
    assert json.loads(desk.files["1.0.result"]) == "x" * 300_000


def test_log_is_sent_while_the_attempt_runs(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(WAITS)
    desk.start_agent()
    waiting_pid(desk)
    assert not desk.heard("end")


def test_failed_import_is_told_as_an_attempt_that_failed(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of("pass", top="import no_such_module")
    assert desk.wait_exit(desk.start_agent()) == Status.RECORDED
    assert "could not be imported: ModuleNotFoundError" in told(desk)["reason"]


def test_attempt_that_dies_is_told_by_its_signal(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of("os.kill(os.getpid(), 11)")
    assert desk.wait_exit(desk.start_agent()) == Status.RECORDED
    assert desk.end["told"] is None
    assert desk.end["exit"]["signal"] == signal.SIGSEGV


def test_refused_start_runs_nothing(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(WAITS)
    desk.instead["start"] = {"error": {"code": "refused", "message": "Another has started it already."}}
    agent = desk.start_agent()
    assert desk.wait_exit(agent) == Status.REFUSED
    assert agent.stderr is not None
    assert "Another has started it already." in agent.stderr.read()
    assert [question["verb"] for question in desk.asked] == ["start"]


def test_refused_beat_ends_the_attempt_and_everything_it_started(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of("print('child', subprocess.Popen(['sleep', '1000'], start_new_session=True).pid)\n" + WAITS)
    desk.silence = 3.0
    agent = desk.start_agent()
    pid = waiting_pid(desk)
    child = int(desk.log.decode().partition("child ")[2].split()[0])
    desk.instead["beat"] = {"error": {"code": "refused", "message": "It is over."}}
    assert desk.wait_exit(agent) == Status.REFUSED
    assert not process.is_alive(pid)
    assert not process.is_alive(child)
    assert not desk.heard("end")


def test_order_to_kill_ends_the_attempt_and_names_the_reason(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(WAITS)
    agent = desk.start_agent()
    waiting_pid(desk)
    desk.say({"kill": {"grace": 2.0, "reason": "timed_out"}})
    assert desk.wait_exit(agent) == Status.RECORDED
    assert desk.end["exit"]["killed"] == "timed_out"
    assert desk.end["exit"]["signal"] == signal.SIGTERM


def test_order_to_kill_that_comes_with_the_start_runs_nothing(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(WAITS)
    usual = desk._start({})
    desk.instead["start"] = {"value": {**usual, "kill": {"grace": 1.0, "reason": "killed"}}}
    assert desk.wait_exit(desk.start_agent()) == Status.RECORDED
    assert desk.end["exit"]["killed"] == "killed"
    assert desk.log == b""


def test_agent_told_to_end_by_its_cluster_ends_the_attempt_and_says_that_it_is_lost(
    desk_of: Callable[..., Desk],
) -> None:
    desk = desk_of(WAITS)
    agent = desk.start_agent()
    pid = waiting_pid(desk)
    agent.send_signal(signal.SIGTERM)
    assert desk.wait_exit(agent) == Status.RECORDED
    assert desk.end["exit"]["lost"]
    assert "SIGTERM" in desk.end["exit"]["error"]
    assert not process.is_alive(pid)


def test_killed_agent_takes_its_attempt_along(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(WAITS)
    agent = desk.start_agent()
    pid = waiting_pid(desk)
    agent.kill()
    desk.wait_exit(agent)
    desk.until(lambda: not process.is_alive(pid))


def test_questions_are_asked_again_of_the_next_supervisor(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of("return 7")
    desk.instead["end"] = None
    agent = desk.start_agent()
    desk.until(lambda: desk.heard("end"))
    desk.hang_up()
    del desk.instead["end"]
    first = desk.asked.pop()
    desk.listen()
    assert desk.wait_exit(agent) == Status.RECORDED
    assert desk.heard("end") == [first]


def test_supervisor_that_cannot_answer_now_is_asked_again(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of("return 7")
    desk.instead["start"] = {"error": {"code": "database-unavailable", "message": "away"}}
    agent = desk.start_agent()
    desk.until(lambda: desk.heard("start"))
    desk.instead.clear()
    assert desk.wait_exit(agent) == Status.RECORDED
    assert len(desk.heard("start")) == 2


def test_agent_gives_up_when_no_supervisor_comes_back(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(WAITS)
    desk.silence = 3.0
    agent = desk.start_agent()
    pid = waiting_pid(desk)
    desk.hang_up()
    assert desk.wait_exit(agent) == Status.UNANSWERED
    assert not process.is_alive(pid)
    desk.listen()


def test_agent_that_is_not_answered_ends_its_attempt_before_it_is_taken_for_lost(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of(WAITS)
    desk.silence = 2.0
    agent = desk.start_agent()
    pid = waiting_pid(desk)
    silent_at = time.monotonic()
    desk.instead |= {"beat": None, "log": None}
    desk.until(lambda: not process.is_alive(pid))
    assert time.monotonic() - silent_at < 10
    assert desk.wait_exit(agent) == Status.UNANSWERED


def test_agent_of_another_user_than_the_task_asks_for_runs_nothing(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of("return 7", run_as_user="somebody-else")
    assert desk.wait_exit(desk.start_agent()) == Status.RECORDED
    assert "run_as_user='somebody-else'" in desk.end["exit"]["error"]
    assert desk.end["told"] is None


def test_agent_of_another_flux_says_that_it_cannot_begin(desk_of: Callable[..., Desk]) -> None:
    desk = desk_of("return 7")
    usual = desk._start({})
    desk.instead["start"] = {"value": {**usual, "spec": {**usual["spec"], "of_the_future": 1}}}
    assert desk.wait_exit(desk.start_agent()) == Status.RECORDED
    assert "unexpected keyword argument 'of_the_future'" in desk.end["exit"]["error"]


@pytest.mark.parametrize("change", [{"FLUX_CLAIM": ""}, {"FLUX_CLAIM": "0" * 19}, {"FLUX_ENDPOINT": ""}])
def test_agent_without_its_variables_says_what_is_missing(desk_of: Callable[..., Desk], change: dict[str, str]) -> None:
    desk = desk_of("return 7")
    agent = desk.start_agent(**change)
    _, err = agent.communicate(timeout=20)
    assert agent.returncode == Status.USAGE
    assert "FLUX_CLAIM and FLUX_ENDPOINT" in err
    assert "FLUX_DATABASE_URL" not in os.environ

"""Attempts with a process: launching, killing, what each kind of end is recorded as. The test plays the launcher."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from flux import process
from flux.attempt import AttemptEnd
from flux.executors.local import LocalExecutor
from flux.running.open_attempts import Attempts, explain_exit, read_result, rendered_file, result_file
from flux.states import Outcome
from flux.store.advance import Outcomes
from flux.store.attempts import Claimed, End
from flux.times import iso
from tests.parts import NOW, Parts, PlayedLauncher

STARTED, ENDED = "2026-01-05T02:00:01+00:00", "2026-01-05T02:00:09+00:00"


class Office:
    """Claims tasks and has the launcher that the test plays run them."""

    def __init__(self, home: Path, *, with_launcher: bool = True) -> None:
        self.parts = Parts(home)
        self.has_launcher = with_launcher
        self.launcher = PlayedLauncher(self.parts)
        self.executor = LocalExecutor(8)
        self.writer = self.parts.writer(8, self._advanced)
        self.attempts = Attempts(
            self.parts.config, self.parts.loop, self.parts.clock, self.writer, self.executor,
            lambda: self.launcher.client if self.has_launcher else None,
        )  # fmt: skip

    def _advanced(self, outcomes: Outcomes, ends: Sequence[End]) -> None:
        self.attempts.committed(ends)
        for item in outcomes.claimed:
            self.attempts.begin(item, "version-1", "here")

    def run(self, **task: Any) -> Claimed:
        """Trigger a DAG of one task with these fields, and return the attempt once it is claimed."""
        count = len(self.parts.claimed)
        on_interrupt = task.pop("on_interrupt", "fail")
        self.parts.trigger(self.parts.define(tasks=[task], on_interrupt=on_interrupt))
        self.writer.look()
        item = self.parts.until(lambda: self.parts.claimed[count:])[0]
        if self.has_launcher:
            self.launcher.await_order("run")
        return item

    def tell(self, item: Claimed, **changes: Any) -> None:
        """Write the result file of an attempt."""
        told = AttemptEnd("success", None, True, {}, {}, None, STARTED, ENDED)
        self.write_result(item, json.dumps(dataclasses.asdict(dataclasses.replace(told, **changes))))

    def write_result(self, item: Claimed, text: str) -> None:
        path = result_file(self.parts.config, item.claim)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def exit(self, item: Claimed, **changes: Any) -> bool:
        message = {
            "op": "exit", "claim": item.claim, "pid": 4711, "exit_status": 0, "signal": None, "killed": None,
            "started_at": STARTED, "ended_at": ENDED, "max_rss_bytes": 30_000_000, "strays": 0, "error": None,
        }  # fmt: skip
        return self.attempts.exited({**message, **changes})

    def ended(self, item: Claimed) -> Any:
        """The attempt's row, once it is closed."""
        self.parts.until(lambda: item.claim in [end.claim for end in self.parts.ended])
        return next(row for row in self.parts.attempts() if row.claim == item.claim)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path / "home")
    yield office
    office.parts.close()


# --- beginning ---


def test_the_launcher_gets_everything_the_attempt_knows_at_its_start(office: Office) -> None:
    item = office.run(task_id="load", retries=2, kill_grace=7.0, pool_slots=1)
    order = office.launcher.ordered("run")[0]
    spec, config = order["spec"], office.parts.config
    assert (order["version"], spec["claim"], spec["host"]) == ("version-1", item.claim, "here")
    assert (spec["attempt"], spec["max_attempts"], spec["kill_grace"]) == (1, 3, 7.0)
    assert (spec["logical_date"], spec["kind"]) == (iso(NOW), "manual")
    assert spec["log"] == str(config.logs_folder / "sales" / item.run.run_id / "load" / "-" / "1.log")
    assert spec["endpoint"] == str(config.run_folder / "endpoint")


def test_without_a_launcher_it_is_sent_when_one_comes(office: Office) -> None:
    office.has_launcher = False
    item = office.run()
    assert office.launcher.ordered("run") == []
    office.has_launcher = True
    office.attempts.launcher_came(known=set())
    assert office.launcher.await_order("run")["spec"]["claim"] == item.claim


def test_what_the_launcher_knows_is_not_sent_again(office: Office) -> None:
    item = office.run()
    office.attempts.launcher_came(known={item.claim})
    office.attempts.launcher_came(known=set())
    office.launcher.await_order("run", 2)
    assert len(office.launcher.ordered("run")) == 2


def test_an_executor_that_refuses_costs_no_attempt(office: Office) -> None:
    office.executor.stop()
    office.parts.trigger(office.parts.define())
    office.writer.look()
    office.parts.until(lambda: office.parts.ended)
    office.writer.stop_claiming()
    office.parts.after(office.writer)
    first = office.parts.attempts()[0]
    assert first.outcome == "never_launched"
    assert "executor" in first.reason


# --- ends ---


def told_as(**changes: Any) -> str:
    """A result file that is right but for these fields."""
    right = AttemptEnd("success", None, True, {}, {}, None, STARTED, ENDED)
    return json.dumps({**dataclasses.asdict(right), **changes})


def test_the_result_file_says_how_it_ended(office: Office) -> None:
    item = office.run()
    office.tell(item, results={"return_value": "7"}, result_files={"big": "1.big.result"})
    rendered = rendered_file(Path(office.launcher.ordered("run")[0]["spec"]["log"]))
    rendered.parent.mkdir(parents=True)
    rendered.write_text('{"bash_command": "echo"}')
    assert office.exit(item)
    row = office.ended(item)
    assert (row.outcome, iso(row.started_at), iso(row.ended_at)) == ("success", STARTED, ENDED)
    assert (row.pid, row.exit_status, row.max_rss_bytes) == (4711, 0, 30_000_000)
    end = office.parts.ended[0]
    assert end.results == {"return_value": "7"}
    assert end.result_files == {"big": f"sales/{item.run.run_id}/t0/-/1.big.result"}
    assert end.rendered == '{"bash_command": "echo"}'
    assert office.parts.states() == {"t0": "success"}


def test_after_the_commit_launcher_and_disk_may_forget_it(office: Office) -> None:
    item = office.run()
    office.tell(item)
    office.exit(item)
    assert office.launcher.ordered("ack") == []
    office.ended(item)
    assert office.launcher.await_order("ack")["claims"] == [item.claim]
    assert not result_file(office.parts.config, item.claim).exists()
    assert office.attempts.claims == []


def test_an_exit_told_twice_is_recorded_once(office: Office) -> None:
    item = office.run()
    office.tell(item)
    assert [office.exit(item), office.exit(item)] == [True, True]
    office.ended(item)
    office.parts.after(office.writer)
    assert len(office.parts.ended) == 1
    assert not office.exit(item), "it is not one of ours any more"


def test_a_killed_process_that_had_written_its_result_has_ended_as_that_says(office: Office) -> None:
    item = office.run()
    office.tell(item)
    office.exit(item, exit_status=None, signal=9, killed="timed_out")
    assert office.ended(item).outcome == "success"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"outcome": "success"}', "\ufffd",
        told_as(outcome="won"), told_as(ended_at="later"), told_as(results=[1]), told_as(results={"a": 1}),
        told_as(chosen="all"), told_as(more=1), told_as(reason=7),
    ],
)  # fmt: skip
def test_a_broken_result_file_is_no_result(office: Office, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Author code runs as the same user: it can write there."""
    item = office.run()
    office.write_result(item, text)
    assert read_result(office.parts.config, item.claim) is None
    office.exit(item)
    row = office.ended(item)
    assert (row.outcome, row.reason) == ("failed", "process ended without a result (exit status 0)")
    assert f"result file of claim {item.claim} is broken" in capfd.readouterr().err


def test_rendered_fields_that_are_no_text_do_not_keep_the_end_back(office: Office) -> None:
    item = office.run()
    rendered = rendered_file(Path(office.launcher.ordered("run")[0]["spec"]["log"]))
    rendered.parent.mkdir(parents=True)
    rendered.write_bytes(b"\xff\xfe")
    office.tell(item)
    office.exit(item)
    assert office.ended(item).outcome == "success"


@pytest.mark.parametrize(
    ("message", "outcome", "words", "may_retry"),
    [
        ({"exit_status": 3}, "failed", "without a result (exit status 3)", True),
        ({"signal": 11}, "failed", "killed by signal 11 (SIGSEGV)", True),
        ({"signal": 9, "max_rss_bytes": 5e9}, "failed", "probably out of memory (peak 5000 MB)", True),
        ({"signal": 15, "killed": "timed_out"}, "timed_out", "execution_timeout is 2.5 s", True),
        ({"signal": 15, "killed": "killed"}, "killed", "killed", False),
        ({"signal": 15, "killed": "interrupted by ada"}, "interrupted", "interrupted by ada", False),
        ({"error": "DAG 'sales' no longer exists"}, "failed", "no longer exists", True),
        ({"lost": True, "error": "its DAG host died"}, "lost", "its DAG host died", True),
    ],
)
def test_an_exit_without_a_result_is_explained(
    message: dict[str, Any], outcome: str, words: str, may_retry: bool
) -> None:
    found = explain_exit(message, 2.5)
    assert (found[0], found[2]) == (outcome, may_retry)
    assert words in found[1]


# --- kills ---


def test_an_attempt_that_takes_too_long_is_killed_from_its_beginning_on(office: Office) -> None:
    item = office.run(execution_timeout=0.02, kill_grace=3.0)
    assert office.launcher.ordered("kill") == []
    office.attempts.started({"claim": item.claim, "pid": 4711})
    order = office.launcher.await_order("kill")
    assert (order["claim"], order["grace"], order["reason"]) == (item.claim, 3.0, "timed_out")


def test_an_adopted_attempt_has_only_the_time_that_is_left(office: Office) -> None:
    item = office.run(execution_timeout=3600.0)
    office.parts.clock.pass_time(hours=2)
    office.attempts.adopt(item, "version-1", "here", 4711)
    assert office.launcher.await_order("kill")["reason"] == "timed_out"


def test_the_time_limit_ends_with_the_attempt(office: Office) -> None:
    item = office.run(execution_timeout=0.05)
    office.attempts.started({"claim": item.claim, "pid": 4711})
    office.tell(item)
    office.exit(item)
    office.ended(item)
    fired: list[bool] = []
    office.parts.loop.call_later(0.1, lambda: fired.append(True))
    office.parts.until(lambda: fired)
    assert office.launcher.ordered("kill") == []


def test_a_kill_without_a_launcher_is_carried_out_when_one_comes(office: Office) -> None:
    item = office.run()
    office.has_launcher = False
    office.attempts.kill(item.claim, Outcome.TIMED_OUT)
    assert office.launcher.ordered("kill") == []
    office.has_launcher = True
    office.attempts.launcher_came(known={item.claim})
    assert office.launcher.await_order("kill")["reason"] == "timed_out"


def test_an_attempt_that_is_killed_before_it_was_sent_is_killed_at_once(office: Office) -> None:
    office.has_launcher = False
    item = office.run()
    office.attempts.kill(item.claim, Outcome.KILLED)
    office.has_launcher = True
    office.attempts.launcher_came(known=set())
    office.launcher.await_order("kill")
    assert [order["op"] for order in office.launcher.orders[-2:]] == ["run", "kill"]


def test_the_first_reason_for_a_kill_stands(office: Office) -> None:
    item = office.run()
    office.attempts.kill(item.claim, Outcome.TIMED_OUT)
    office.attempts.kill(item.claim, Outcome.KILLED)
    office.launcher.await_order("kill", 2)
    assert {order["reason"] for order in office.launcher.ordered("kill")} == {"timed_out"}


def test_a_kill_of_what_is_not_open_is_nothing(office: Office) -> None:
    office.attempts.kill(7, Outcome.KILLED)
    office.run()
    assert office.launcher.ordered("kill") == []


# --- interruption ---


@pytest.mark.parametrize(("on_interrupt", "state"), [("fail", "failed"), ("retry", "retrying")])
def test_an_interruption_is_recorded_before_anything_is_signalled(
    office: Office, on_interrupt: str, state: str
) -> None:
    item = office.run(on_interrupt=on_interrupt)
    office.writer.stop_claiming()
    assert office.attempts.interrupt("interrupted by ada") == [item.claim]
    row = office.ended(item)
    assert (row.outcome, row.reason, office.parts.states()["t0"]) == ("interrupted", "interrupted by ada", state)
    assert office.launcher.ordered("kill") == []
    assert not office.exit(item, signal=15, exit_status=None, killed="interrupted by ada")


def test_what_has_ended_already_is_not_interrupted(office: Office) -> None:
    item = office.run()
    office.tell(item)
    office.exit(item)
    assert office.attempts.interrupt("interrupted") == []
    assert office.ended(item).outcome == "success"


# --- a launcher that died ---


def test_with_the_launcher_its_attempts_are_lost_and_tried_again(office: Office) -> None:
    item = office.run(retries=1, retry_delay=0.0)
    log = Path(office.launcher.ordered("run")[0]["spec"]["log"])
    log.parent.mkdir(parents=True)
    log.touch()
    office.attempts.launcher_lost()
    row = office.ended(item)
    assert (row.outcome, row.reason) == ("lost", "lost: its launcher died")
    assert office.parts.states()["t0"] == "retrying"


def test_what_it_had_not_begun_costs_no_attempt(office: Office) -> None:
    """Its log is opened before its process begins: without one there was none."""
    item = office.run()
    office.attempts.launcher_lost()
    assert office.ended(item).outcome == "never_launched"
    office.parts.until(lambda: len(office.parts.claimed) == 2)
    assert office.parts.claimed[1].max_attempts == item.max_attempts + 1


def test_what_had_written_its_result_is_done(office: Office) -> None:
    item = office.run()
    office.tell(item, results={"return_value": "1"})
    office.attempts.launcher_lost()
    assert office.ended(item).outcome == "success"


def test_what_was_not_sent_to_it_goes_to_the_next(office: Office) -> None:
    office.has_launcher = False
    item = office.run()
    office.attempts.launcher_lost()
    office.parts.after(office.writer)
    assert office.parts.ended == []
    office.has_launcher = True
    office.attempts.launcher_came(known=set())
    assert office.launcher.await_order("run")["spec"]["claim"] == item.claim


@pytest.mark.slow
def test_what_a_launcher_left_behind_is_gone_before_the_loss_is_recorded(office: Office) -> None:
    item = office.run()
    environ = {"FLUX_CLAIM": process.claim_text(item.claim)}
    script = "import signal; signal.signal(15, signal.SIG_IGN); print('on', flush=True); signal.pause()"
    left = subprocess.Popen([sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE, text=True)
    assert left.stdout is not None
    assert left.stdout.readline() == "on\n"
    office.attempts.started({"claim": item.claim, "pid": left.pid})
    office.attempts.launcher_lost()
    office.parts.until(lambda: office.parts.ended, seconds=20)
    assert left.poll() == -9
    assert office.ended(item).outcome == "lost"
    left.stdout.close()

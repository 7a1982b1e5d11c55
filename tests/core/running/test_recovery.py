"""What a starting supervisor makes of the attempts that an earlier one left open."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux import process
from flux.attempt import AttemptEnd
from flux.running import recovery
from flux.running.open_attempts import result_file
from flux.running.recovery import Stock, clean_up, reap, take_stock
from flux.states import Outcome
from flux.store import held, jobs, transitions
from flux.store.attempts import Claimed, End, Holder
from flux.structure import SensorStructure
from flux.times import utc_now
from tests.parts import NOW, Parts


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path / "home")
    yield parts
    parts.close()


def left_open(parts: Parts, tasks: Any = 1, *, queues: bool = False, **fields: Any) -> list[Claimed]:
    """Attempts of a supervisor that has died, given to "launcher-1", or to an executor that queues."""
    parts.trigger(parts.define(tasks=tasks, **fields))
    writer = parts.writer(64, claims=False)
    writer.begin_claiming(Holder(parts.job, "launcher-1", "here", queues), [])
    parts.after(writer)
    writer.stop(10)
    return parts.claimed


def stock_of(parts: Parts, launcher: str = "launcher-1", **state: Any) -> tuple[Stock, int]:
    """Take stock as a new job, beside a launcher of this state."""
    job = parts.job
    message = {"launcher": launcher, "claims": [], "exits": [], **state}
    stock = parts.write(
        lambda connection: take_stock(connection, parts.config, parts.structures.through(connection), job, message)
    )
    return stock, job


def log_of(parts: Parts, item: Claimed) -> Path:
    row = next(row for row in parts.attempts() if row.claim == item.claim)
    return parts.config.logs_folder / row.log


def tell(parts: Parts, item: Claimed, **changes: Any) -> None:
    told = AttemptEnd("success", None, True, {"return_value": "7"}, {}, None, "2026-01-05T02:00:01+00:00",
                      "2026-01-05T02:00:02+00:00")  # fmt: skip
    path = result_file(parts.config, item.claim)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**dataclasses.asdict(told), **changes}))


def cleaned(parts: Parts, stock: Stock) -> list[End]:
    """The ends of what was lost, after its leftovers were ended."""
    found: list[End] = []
    clean_up(parts.config, parts.loop, stock.lost, found.extend)
    parts.until(lambda: found, seconds=20)
    return found


# --- the three facts ---


def test_what_the_launcher_still_runs_is_adopted(parts: Parts) -> None:
    (item,) = left_open(parts)
    stock, job = stock_of(parts, claims=[{"claim": item.claim, "pid": 4711, "started_at": "…"}])
    ((claimed, version, pid),) = stock.running
    assert (claimed.claim, pid, stock.ends, stock.lost) == (item.claim, 4711, [], [])
    assert (parts.config.run_folder / "versions" / f"{version}.json").exists()
    ((found),) = parts.read(lambda connection: held.everything(connection, parts.structures.through(connection)))
    assert found.job_id == job


def test_what_an_agent_runs_and_what_is_queued_is_nobody_elses_loss(parts: Parts) -> None:
    begun, queued = left_open(parts, 2, queues=True)
    agent = "agent-0123456789abcdef"
    parts.write(
        lambda connection: transitions.begin_attempt(
            connection, begun.claim, agent=agent, host="node-1", pid=77, now=NOW
        )
    )
    stock, job = stock_of(parts, launcher="launcher-2")
    ((claimed, _, *of_agent),) = stock.remote
    assert (claimed.claim, of_agent) == (begun.claim, [agent, "node-1", 77])
    assert [claimed.claim for claimed, _ in stock.queued] == [queued.claim]
    assert (stock.ends, stock.lost, stock.running) == ([], [], [])
    found = parts.read(lambda connection: held.everything(connection, parts.structures.through(connection)))
    assert {item.job_id for item in found} == {job}


def test_what_has_ended_and_the_launcher_remembers_is_recorded_as_it_ended(parts: Parts) -> None:
    (item,) = left_open(parts)
    tell(parts, item)
    stock, _ = stock_of(parts, exits=[{"claim": item.claim, "pid": 4711}])
    assert [(found[0].claim, found[2]) for found in stock.running] == [(item.claim, 4711)]
    assert stock.lost == []


def test_what_the_same_launcher_never_heard_of_was_never_launched(parts: Parts) -> None:
    (item,) = left_open(parts)
    stock, _ = stock_of(parts)
    assert [(end.claim, end.outcome) for end in stock.ends] == [(item.claim, Outcome.NEVER_LAUNCHED)]
    assert stock.lost == []


def test_what_another_launcher_ran_is_lost(parts: Parts) -> None:
    (item,) = left_open(parts)
    log = log_of(parts, item)
    log.parent.mkdir(parents=True)
    log.touch()
    stock, _ = stock_of(parts, "launcher-2")
    assert [(claimed.claim, path) for claimed, path in stock.lost] == [(item.claim, str(log))]
    (end,) = cleaned(parts, stock)
    assert (end.claim, end.outcome, end.reason) == (item.claim, Outcome.LOST, "lost: its launcher died")


def test_what_another_launcher_had_not_begun_was_never_launched(parts: Parts) -> None:
    left_open(parts)
    stock, _ = stock_of(parts, "launcher-2")
    (end,) = cleaned(parts, stock)
    assert end.outcome is Outcome.NEVER_LAUNCHED


@pytest.mark.parametrize("launcher", ["launcher-1", "launcher-2"])
def test_what_has_written_its_result_is_done_whatever_launcher_it_had(parts: Parts, launcher: str) -> None:
    """It must not run again: what it did is done."""
    (item,) = left_open(parts)
    tell(parts, item)
    stock, _ = stock_of(parts, launcher)
    assert stock.ends == []
    (end,) = cleaned(parts, stock)
    assert (end.claim, end.outcome, end.results) == (item.claim, Outcome.SUCCESS, {"return_value": "7"})


def test_a_broken_result_is_none(parts: Parts) -> None:
    (item,) = left_open(parts)
    tell(parts, item, outcome="won")
    log = log_of(parts, item)
    log.parent.mkdir(parents=True)
    log.touch()
    stock, _ = stock_of(parts, "launcher-2")
    (end,) = cleaned(parts, stock)
    assert end.outcome is Outcome.LOST


def test_what_is_left_of_a_lost_attempt_is_ended_first(parts: Parts) -> None:
    (item,) = left_open(parts)
    environ = {"FLUX_CLAIM": process.claim_text(item.claim)}
    left = subprocess.Popen(
        [sys.executable, "-c", "import signal; print('on', flush=True); signal.pause()"],
        env=environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert left.stdout is not None
    assert left.stdout.readline() == "on\n"
    stock, _ = stock_of(parts, "launcher-2")
    cleaned(parts, stock)
    assert left.wait(0) == -15
    left.stdout.close()


# --- the rest ---


def test_waiting_sensors_go_on_waiting(parts: Parts) -> None:
    (item,) = left_open(parts, [{"sensor": SensorStructure(60, 10, 3600)}])
    stock, job = stock_of(parts, "launcher-2")
    ((claimed, _),) = stock.waiting
    assert (claimed.claim, claimed.deadline_at) == (item.claim, item.deadline_at)
    assert (stock.running, stock.ends, stock.lost) == ([], [], [])
    (found,) = parts.read(lambda connection: held.everything(connection, parts.structures.through(connection)))
    assert found.job_id == job


def test_each_of_many_is_sorted_by_itself(parts: Parts) -> None:
    items = left_open(parts, 4)
    tell(parts, items[3])
    stock, _ = stock_of(
        parts, claims=[{"claim": items[0].claim, "pid": 1}], exits=[{"claim": items[1].claim, "pid": 2}]
    )
    assert [found[0].claim for found in stock.running] == [items[0].claim, items[1].claim]
    assert [end.claim for end in stock.ends] == [items[2].claim]
    assert [claimed.claim for claimed, _ in stock.lost] == [items[3].claim]


def test_retries_and_time_limits_of_runs_are_taken_over(parts: Parts) -> None:
    parts.trigger(parts.define(tasks=[{"retries": 1, "retry_delay": 600.0}], dagrun_timeout=3600.0))
    writer = parts.writer()
    parts.after(writer)
    writer.end(End(parts.claimed[0].claim, Outcome.FAILED, "no", NOW))
    parts.until(lambda: parts.ended)
    writer.stop(10)
    stock, _ = stock_of(parts)
    ((_, wakes),) = stock.retrying
    assert 600 <= (wakes - NOW).total_seconds() <= 720
    assert [run.deadline_at is not None for run in stock.deadlines] == [True]


def test_earlier_supervisors_are_recorded_as_lost(parts: Parts) -> None:
    left_open(parts)
    _, job = stock_of(parts)
    states = {row.id: row.state for row in parts.read(jobs.every)}
    assert {state for number, state in states.items() if number != job} == {"lost"}
    assert states[job] != "lost"


def test_nothing_left_is_nothing_to_do(parts: Parts) -> None:
    stock, _ = stock_of(parts)
    called: list[Any] = []
    clean_up(parts.config, parts.loop, stock.lost, called.append)
    assert (stock, called) == (Stock(), [])


# --- reap: for commands, when no system runs ---


def ended_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def orphan(parts: Parts, host: str, boot: str | None, pid: int, tasks: Any = 1) -> Claimed:
    """An attempt of a supervisor of that host, boot and pid."""
    from flux.store.attempts import Holder

    job = parts.write(lambda connection: jobs.register(connection, "supervisor", host, boot, pid, utc_now()))
    parts.trigger(parts.define(tasks=tasks))
    writer = parts.writer(claims=False)
    writer.begin_claiming(Holder(job, "launcher-1", host), [])
    parts.after(writer)
    writer.stop(10)
    return parts.claimed[-1]


def test_a_command_records_what_a_dead_supervisor_left_started(parts: Parts) -> None:
    item = orphan(parts, socket.gethostname(), recovery.boot_id(), ended_pid())
    log = log_of(parts, item)
    log.parent.mkdir(parents=True)
    log.touch()
    assert reap(parts.flux) == 1
    assert parts.states() == {"t0": "failed"}
    assert parts.runs()[0].state == "failed"
    assert reap(parts.flux) == 0


def test_a_command_records_what_had_succeeded_as_such(parts: Parts) -> None:
    item = orphan(parts, socket.gethostname(), recovery.boot_id(), ended_pid())
    tell(parts, item)
    assert reap(parts.flux) == 1
    assert parts.states() == {"t0": "success"}


def test_a_supervisor_of_an_earlier_boot_is_dead_whatever_its_pid(parts: Parts) -> None:
    orphan(parts, socket.gethostname(), "another boot", os.getpid())
    assert reap(parts.flux) == 1


@pytest.mark.parametrize("where", ["alive", "elsewhere"])
def test_a_supervisor_that_lives_or_is_elsewhere_is_left_alone(parts: Parts, where: str) -> None:
    host, pid = (socket.gethostname(), os.getpid()) if where == "alive" else ("elsewhere", ended_pid())
    orphan(parts, host, recovery.boot_id(), pid)
    assert reap(parts.flux) == 0
    assert parts.states() == {"t0": "started"}


def test_waiting_sensors_are_no_loss(parts: Parts) -> None:
    sensor = [{"sensor": SensorStructure(60, 10, 3600)}]
    orphan(parts, socket.gethostname(), recovery.boot_id(), ended_pid(), tasks=sensor)
    reap(parts.flux)
    assert parts.states() == {"t0": "deferred"}

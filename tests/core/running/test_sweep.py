"""The consistency check as the supervisor runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from flux.running.sweep import Sweep
from flux.store.schema import dag, dag_run, task_instance
from tests.parts import Parts


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path / "home")
    yield parts
    parts.close()


def test_a_healthy_system_is_left_as_it_is(parts: Parts, capfd: pytest.CaptureFixture[str]) -> None:
    parts.trigger(parts.define(tasks=3))
    writer = parts.writer()
    parts.after(writer)
    advances = len(parts.outcomes)
    Sweep(parts.loop, parts.clock, writer, parts.structures)._check()
    parts.after(writer)
    assert (capfd.readouterr().err, len(parts.outcomes)) == ("", advances)


def test_a_wrong_counter_is_put_right_said_and_what_waited_for_it_runs(
    parts: Parts, capfd: pytest.CaptureFixture[str]
) -> None:
    version = parts.define(max_active_tasks=1)
    parts.write(lambda connection: connection.execute(
        sa.update(dag).where(dag.c.id == version.dag_row).values(active_tasks=1)
    ))  # fmt: skip
    parts.trigger(version)
    writer = parts.writer()
    parts.after(writer)
    assert parts.states() == {"t0": "ready"}
    Sweep(parts.loop, parts.clock, writer, parts.structures)._check()
    parts.until(lambda: parts.states() == {"t0": "started"})
    assert "sweep: dag 'sales' counted 1 in use, there are 0" in capfd.readouterr().err


def test_a_run_that_cannot_go_on_is_moved(parts: Parts, capfd: pytest.CaptureFixture[str]) -> None:
    """Its counters were spoiled, as by hand: its one task waits for an upstream that is not there."""
    run = parts.trigger(parts.define())
    parts.write(lambda connection: connection.execute(
        sa.update(task_instance).values(state="waiting", upstream_total=1)
    ))  # fmt: skip
    parts.clock.pass_time(minutes=1)
    writer = parts.writer()
    Sweep(parts.loop, parts.clock, writer, parts.structures)._check()
    parts.until(lambda: parts.states() == {"t0": "started"})
    assert f"run {run.run_id!r} could not go on" in capfd.readouterr().err


def test_a_run_without_open_tasks_that_was_left_open_is_closed(parts: Parts) -> None:
    parts.trigger(parts.define())
    parts.write(lambda connection: connection.execute(sa.update(task_instance).values(state="success")))
    parts.clock.pass_time(minutes=1)
    writer = parts.writer()
    Sweep(parts.loop, parts.clock, writer, parts.structures)._check()
    parts.until(lambda: parts.runs()[0].state == "success")
    assert parts.read(lambda connection: connection.execute(sa.select(dag_run.c.open_tasks)).scalar_one()) == 0
    assert parts.dag().active_runs == 0


def test_a_check_that_fails_is_shown_and_the_next_one_comes(parts: Parts, capfd: pytest.CaptureFixture[str]) -> None:
    writer = parts.writer(claims=False)
    parts.write(lambda connection: connection.exec_driver_sql("ALTER TABLE pool RENAME TO aside"))
    sweep = Sweep(parts.loop, parts.clock, writer, parts.structures)
    sweep._check()
    parts.after(writer)
    assert "no such table: pool" in capfd.readouterr().err
    parts.write(lambda connection: connection.exec_driver_sql("ALTER TABLE aside RENAME TO pool"))
    sweep._check()
    parts.after(writer)
    assert capfd.readouterr().err == ""

"""The database thread: one transaction for what piled up, nothing lost, and no end that stops the others."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from flux.errors import StoreError
from flux.running.writer import Writer, has_space
from flux.states import Outcome
from flux.store.attempts import Claimed, End
from flux.store.schema import dag
from tests.parts import NOW, Parts


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path / "home")
    yield parts
    parts.close()


def success(item: Claimed, **fields: object) -> End:
    return End(item.claim, Outcome.SUCCESS, None, NOW, **fields)  # type: ignore[arg-type]


def running(parts: Parts, tasks: int, **arguments: int) -> tuple[Writer, list[Claimed]]:
    """A writer with this many tasks claimed."""
    parts.trigger(parts.define(tasks=tasks))
    writer = parts.writer(**arguments)
    parts.after(writer)
    return writer, parts.claimed


def test_nothing_is_claimed_before_it_is_told_to(parts: Parts) -> None:
    parts.trigger(parts.define())
    writer = parts.writer(claims=False)
    writer.look()
    parts.after(writer)
    assert (parts.claimed, parts.states()) == ([], {"t0": "ready"})


def test_what_is_queued_while_the_thread_is_busy_becomes_one_transaction(parts: Parts) -> None:
    writer, items = running(parts, 4)
    before = len(parts.outcomes)
    held = sqlite3.connect(str(parts.config.database_file))
    held.execute("BEGIN IMMEDIATE")
    writer.look()
    parts.until(lambda: writer.busy_seconds() > 0)
    for item in items:
        writer.end(success(item))
    held.rollback()
    held.close()
    parts.until(lambda: len(parts.ended) == 4)
    assert len(parts.outcomes) == before + 2
    assert parts.runs()[0].state == "success"


def test_no_more_is_claimed_than_there_are_slots_and_an_end_frees_one(parts: Parts) -> None:
    writer, items = running(parts, 5, parallelism=2)
    assert len(items) == 2
    writer.look()
    parts.after(writer)
    assert len(parts.claimed) == 2
    writer.end(success(items[0]))
    parts.after(writer)
    assert len(parts.claimed) == 3


def test_an_end_told_twice_frees_one_slot(parts: Parts) -> None:
    writer, items = running(parts, 6, parallelism=2)
    writer.end(success(items[0]), success(items[0]))
    writer.end(success(items[0]))
    parts.after(writer)
    assert len(parts.claimed) == 3


def test_attempts_that_run_already_take_their_slots(parts: Parts) -> None:
    from flux.store.attempts import Holder

    parts.trigger(parts.define(tasks=3))
    writer = parts.writer(parallelism=2, claims=False)
    writer.begin_claiming(Holder(parts.job, "launcher-1", "here"), [4711])
    parts.after(writer)
    assert len(parts.claimed) == 1


def test_sensors_take_no_slot(parts: Parts) -> None:
    from flux.structure import SensorStructure

    parts.trigger(parts.define(tasks=[{"sensor": SensorStructure(60, 10, 3600)}, {}, {}]))
    parts.after(parts.writer(parallelism=1))
    assert parts.states() == {"t0": "deferred", "t1": "started", "t2": "ready"}


def test_after_stop_claiming_ends_are_still_recorded(parts: Parts) -> None:
    writer, items = running(parts, 2, parallelism=1)
    writer.stop_claiming()
    writer.end(success(items[0]))
    parts.after(writer)
    assert parts.states() == {"t0": "success", "t1": "ready"}


def test_stop_writes_what_is_queued_and_ends_the_thread(parts: Parts) -> None:
    writer, items = running(parts, 3)
    writer.end(*map(success, items))
    assert writer.stop(10)
    assert set(parts.states().values()) == {"success"}


def test_without_room_on_the_disk_nothing_starts_and_status_says_so(parts: Parts) -> None:
    parts.has_space = False
    parts.trigger(parts.define(tasks=[{}]))
    writer = parts.writer()
    parts.after(writer)
    assert parts.states() == {"t0": "ready"}
    assert "disk" in (writer.trouble or "")
    parts.has_space = True
    writer.look()
    parts.after(writer)
    assert parts.states() == {"t0": "started"}
    assert writer.trouble is None


def test_trouble_is_over_even_when_every_slot_is_taken(parts: Parts) -> None:
    """Sensors and inline tasks need no slot: they must not wait for one to be free."""
    writer, _ = running(parts, 1, parallelism=1)
    parts.has_space = False
    parts.trigger(parts.define("quick", tasks=[{"inline": True, "task_id": "gate"}]))
    writer.look()
    parts.after(writer)
    assert writer.trouble is not None
    parts.has_space = True
    writer.look()
    parts.after(writer)
    assert parts.states()["gate"] == "success"
    assert writer.trouble is None


def test_ends_wait_while_the_database_is_away_and_claiming_goes_on_after_it(
    parts: Parts, capfd: pytest.CaptureFixture[str]
) -> None:
    writer, items = running(parts, 3, parallelism=1)
    file = parts.config.database_file
    assert file is not None
    aside = file.with_name("aside")

    def lose(connection: sa.Connection) -> None:
        file.rename(aside)
        file.mkdir()

    parts.flux.store.close()  # connections of the pool would keep the file open
    writer.call(lose, reads_only=True)
    parts.after(writer)
    parts.flux.store.close()
    writer.end(success(items[0]))
    parts.until(lambda: writer.trouble, seconds=30)
    assert parts.ended == []
    file.rmdir()
    aside.rename(file)
    parts.until(lambda: len(parts.ended) == 1, seconds=30)
    parts.until(lambda: len(parts.claimed) == 2, seconds=30)
    assert writer.trouble is None
    assert str(file) in capfd.readouterr().err


def poison(item: Claimed) -> End:
    """An end that no database takes: a value of a kind that no column has."""
    return success(item, results={"return_value": object()})  # type: ignore[dict-item]


def test_one_end_that_cannot_be_recorded_does_not_stop_the_others(
    parts: Parts, capfd: pytest.CaptureFixture[str]
) -> None:
    writer, items = running(parts, 4, parallelism=3)
    writer.end(success(items[0]), poison(items[1]), success(items[2]))
    parts.until(lambda: len(parts.ended) == 3 and len(parts.claimed) == 4)
    assert parts.states() == {"t0": "success", "t1": "failed", "t2": "success", "t3": "started"}
    bad = next(row for row in parts.attempts() if row.claim == items[1].claim)
    assert bad.outcome == "failed"
    assert "could not be recorded" in bad.reason
    assert "Error binding parameter" in capfd.readouterr().err
    assert writer.trouble is None


def test_a_task_whose_end_cannot_be_recorded_is_retried_like_any_other_failure(parts: Parts) -> None:
    parts.trigger(parts.define(tasks=[{"retries": 1}]))
    writer = parts.writer()
    parts.after(writer)
    writer.end(poison(parts.claimed[0]))
    parts.until(lambda: len(parts.ended) == 1)
    assert parts.states() == {"t0": "retrying"}


def test_a_bad_wake_or_release_does_not_stop_the_others(parts: Parts) -> None:
    writer, items = running(parts, 2)
    writer.wake(object())  # type: ignore[arg-type]
    writer.release("nonsense")
    writer.end(success(items[0]))
    parts.until(lambda: parts.states()["t0"] == "success")
    parts.until(lambda: writer.busy_seconds() == 0)


def test_a_damaged_version_does_not_take_the_ends_of_other_dags_along(parts: Parts) -> None:
    """Its structure cannot be read: what belongs to it stays, everything else goes on."""
    bad, good = parts.define("bad"), parts.define("good")
    parts.trigger(bad)
    parts.trigger(good)
    writer = parts.writer()
    parts.after(writer)
    of_bad, of_good = sorted(parts.claimed, key=lambda item: item.run.dag_id)
    from flux.store.schema import dag_version

    query = sa.update(dag_version).where(dag_version.c.id == bad.id).values(structure="{}")
    parts.write(lambda connection: connection.execute(query))
    parts.structures._known.clear()
    writer.end(success(of_bad), success(of_good))
    parts.until(lambda: parts.runs("good")[0].state == "success")
    parts.after(writer)
    assert parts.runs("bad")[0].state == "running"
    assert [end.claim for end in parts.ended] == [of_good.claim]


def test_a_damaged_version_is_said_once_and_others_start(parts: Parts, capfd: pytest.CaptureFixture[str]) -> None:
    from flux.store.schema import dag_version

    bad, good = parts.define("bad", tasks=3), parts.define("good")
    parts.trigger(bad)
    parts.trigger(good)
    query = sa.update(dag_version).where(dag_version.c.id == bad.id).values(structure="{}")
    parts.write(lambda connection: connection.execute(query))
    parts.structures._known.clear()
    writer = parts.writer()
    parts.after(writer)
    writer.look()
    parts.after(writer)
    assert {item.run.dag_id for item in parts.claimed} == {"good"}
    said = capfd.readouterr().err
    assert said.count("supervisor: ") == said.count(f"DAG version {bad.id} cannot be read") == 1


def test_calls_answer_in_the_loop_with_the_value_or_the_error(parts: Parts) -> None:
    writer = parts.writer()
    values: list[object] = []
    errors: list[Exception] = []

    def refuse(_: sa.Connection) -> None:
        raise StoreError("no")

    writer.call(lambda connection: connection.execute(sa.select(sa.literal(7))).scalar_one(), values.append)
    writer.call(refuse, values.append, failed=errors.append)
    parts.until(lambda: values and errors)
    assert (values, [str(error) for error in errors]) == ([7], ["no"])


def test_a_call_that_fails_is_rolled_back_and_shown(parts: Parts, capfd: pytest.CaptureFixture[str]) -> None:
    writer = parts.writer()
    version = parts.define()

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.update(dag).where(dag.c.id == version.dag_row).values(paused=True))
        raise ValueError("half way")

    writer.call(work)
    parts.after(writer)
    assert not parts.dag().paused
    assert "half way" in capfd.readouterr().err


def test_a_thread_that_died_is_not_well(parts: Parts, recwarn: pytest.WarningsRecorder) -> None:
    """The heart beats no more, so that the hypervisor makes a new supervisor."""
    writer = parts.writer(claims=False)
    assert writer.busy_seconds() == 0

    def die() -> None:
        raise SystemExit

    writer._queue.put(lambda _: die())
    parts.until(lambda: writer.busy_seconds() == float("inf"))
    assert not writer.stop(0) or writer.busy_seconds() == 0


def test_a_slow_transaction_shows_as_busy(parts: Parts) -> None:
    writer = parts.writer()
    held = sqlite3.connect(str(parts.config.database_file))
    held.execute("BEGIN IMMEDIATE")
    writer.look()
    parts.until(lambda: writer.busy_seconds() > 0.05)
    held.rollback()
    held.close()
    parts.until(lambda: writer.busy_seconds() == 0)


def test_a_folder_that_is_not_there_has_no_space(tmp_path: Path) -> None:
    assert has_space(str(tmp_path), 0)
    assert not has_space(str(tmp_path / "gone"), 0)


def test_an_attempt_that_ended_before_claiming_began_takes_no_slot(parts: Parts) -> None:
    """A starting supervisor has told of its end already, but not heard of the commit."""
    from flux.store.attempts import Holder

    first, items = running(parts, 2, parallelism=1)
    first.stop(10)
    writer = parts.writer(parallelism=1, claims=False)
    writer.end(success(items[0]))
    parts.until(lambda: parts.ended)
    writer.begin_claiming(Holder(parts.job, "launcher-1", "here"), [items[0].claim])
    parts.until(lambda: len(parts.claimed) == 2)
    assert parts.states() == {"t0": "success", "t1": "started"}


def test_beginning_again_does_not_lose_count_of_the_slots(parts: Parts) -> None:
    """Another launcher came: what its supervisor knows of the slots is older than what was committed."""
    from flux.store.attempts import Holder

    writer, items = running(parts, 3, parallelism=1)
    writer.begin_claiming(Holder(parts.job, "launcher-2", "here"), [])
    parts.after(writer)
    assert len(parts.claimed) == 1
    writer.end(success(items[0]))
    parts.until(lambda: len(parts.claimed) == 2)
    writer.begin_claiming(Holder(parts.job, "launcher-3", "here"), [items[0].claim])
    writer.end(success(parts.claimed[1]))
    parts.until(lambda: len(parts.claimed) == 3)
    assert parts.states() == {"t0": "success", "t1": "success", "t2": "started"}

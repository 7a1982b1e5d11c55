"""The checker notices what it is there for, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from flux.states import Outcome
from tests.chaos import checker, journal
from tests.chaos.checker import Rows
from tests.chaos.database import Database
from tests.chaos.journal import Journal
from tests.parts import Parts
from tests.store_engine import Engine


class Ended:
    """A run of two tasks that ended: `first`, which needed two attempts, and after it `second`."""

    def __init__(self, home: Path) -> None:
        self._parts = Parts(home)
        version = self._parts.define(
            tasks=[
                {"task_id": "first", "downstream": (1,), "retries": 1, "retry_delay": 0.0},
                {"task_id": "second", "upstream": (0,)},
            ]
        )
        engine = Engine(self._parts.flux.store, lambda *_: version)
        engine.run(version)
        engine.claim()
        engine.end("first", Outcome.FAILED, room=None)
        engine.drain()
        self.database = Database(self._parts.config.database_url)
        self.journals = home / "journal"
        self.journals.mkdir()
        rows = self.rows()
        at = int(checker._time(rows.attempts[0].ended_at) * 1e9)
        for row in rows.attempts:
            name = " ".join(rows.name(rows.instances[row.task_instance_id]))
            end = f"end {at}\n" if row.outcome == "success" else ""
            (self.journals / str(row.claim)).write_text(f"begin {at} 1 {name} {row.attempt}\n{end}")

    def close(self) -> None:
        self._parts.close()

    def rows(self) -> Rows:
        return Rows(self.database)

    def read(self) -> list[Journal]:
        return journal.read(self.journals)

    def sql(self, text: str) -> None:
        self._parts.write(lambda connection: connection.execute(sa.text(text)))

    def of_rows(self) -> list[str]:
        rows = self.rows()
        found = (checker.states, checker.counters, checker.upstream_counters, checker.attempts)
        return [line for check in found for line in check(rows)]

    def of_journals(self) -> list[str]:
        rows, journals = self.rows(), self.read()
        return [
            *checker.journals_against_rows(rows, journals, set()),
            *checker.order(rows, journals, set()),
            *checker.active_runs(rows, set()),
        ]


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[Ended]:
    ended = Ended(tmp_path / "home")
    yield ended
    ended.close()


def test_a_sound_home_has_no_findings(ended: Ended) -> None:
    assert ended.of_rows() == []
    assert ended.of_journals() == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE task_instance SET state = 'started' WHERE task_id = 'second'", "is started, claim None"),
        ("UPDATE task_instance SET state = 'ready' WHERE task_id = 'second'", "is ready, blocked on ''"),
        ("UPDATE task_instance SET upstream_ok = 0 WHERE task_id = 'second'", "counts upstream_ok 0, there are 1"),
        ("UPDATE task_instance SET attempt = 1", "counts 1 attempts, there are [1, 2]"),
        ("UPDATE task_instance SET max_attempts = 1", "had 2 attempts, 1 were allowed"),
        ("UPDATE dag_run SET open_tasks = 1", "counts 1 open tasks, there are 0"),
        ("UPDATE dag_run SET state = 'running'", "is running with 0 open tasks"),
        ("UPDATE dag SET active_runs = 1", "counts 1 active runs, there are 0"),
        ("UPDATE dag SET active_tasks = 2", "counts 2 active tasks, there are 0"),
        ("INSERT INTO pool (name, slots, used) VALUES ('wide', 1, 1)", "pool wide counts 1, there are 0"),
        ("UPDATE attempt SET outcome = 'success' WHERE attempt = 1", "the attempts [1, 2] succeeded"),
        ("UPDATE attempt SET outcome = NULL WHERE attempt = 2", "with an open attempt"),
        ("UPDATE attempt SET started_at = '2020-01-01 00:00:00' WHERE attempt = 2", "began attempt 2 before 1 ended"),
    ],
)
def test_a_wrong_row_is_noticed(ended: Ended, damage: str, said: str) -> None:
    ended.sql(damage)
    assert any(said in line for line in ended.of_rows()), ended.of_rows()


def test_a_retry_that_was_forgotten_is_noticed(ended: Ended) -> None:
    ended.sql("UPDATE attempt SET outcome = 'failed'")
    ended.sql("UPDATE task_instance SET state = 'failed', max_attempts = 2 WHERE task_id = 'first'")
    assert not any("failed in attempt 2 of 2" in line for line in ended.of_rows())
    ended.sql("UPDATE task_instance SET max_attempts = 3 WHERE task_id = 'first'")
    assert any("failed in attempt 2 of 3" in line for line in ended.of_rows())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text + "over 1 instance 0/1\n", "over instance 0/1"),
        (lambda text: text + text, "began 2 times"),
        (lambda text: text.split("\n")[0] + "\n", "it began 1 times and ended 0"),
        (lambda text: text.replace("begin 1", "begin 0"), "began before its claim"),
        (lambda text: text.replace("end 1", "end 9"), "ended after its recorded end"),
        (lambda text: text.replace(" second ", " first "), "ran as ('sales', "),
    ],
)
def test_a_journal_that_contradicts_the_rows_is_noticed(ended: Ended, change: Callable[[str], str], said: str) -> None:
    last = ended.rows().attempts[-1].claim
    path = ended.journals / str(last)
    path.write_text(change(path.read_text()))
    assert any(said in line for line in ended.of_journals()), ended.of_journals()


def test_a_journal_without_an_attempt_is_noticed_unless_its_run_was_deleted(ended: Ended) -> None:
    path = next(ended.journals.iterdir())
    path.rename(path.with_name("17"))
    rows, journals = ended.rows(), ended.read()
    assert any("is no attempt" in line for line in checker.journals_against_rows(rows, journals, set()))
    run = next((entry.instance or ("", "", ""))[:2] for entry in journals)
    assert not any("is no attempt" in line for line in checker.journals_against_rows(rows, journals, {run}))


def test_a_task_that_began_before_its_upstream_ended_is_noticed(ended: Ended) -> None:
    ended.sql("UPDATE task_instance SET ended_at = '2030-01-01 00:00:00' WHERE task_id = 'first'")
    assert any("began before ['first'] ended" in line for line in ended.of_journals())


def test_more_runs_at_once_than_allowed_are_noticed(ended: Ended) -> None:
    ended.sql("UPDATE dag_run SET started_at = '2020-01-01 00:00:00'")
    assert not any("runs running" in line for line in ended.of_journals())
    ended.sql("UPDATE dag SET max_active_runs = 0")
    assert any("had 1 runs running" in line for line in ended.of_journals())

"""What becomes of DAG files that are broken, clash, or cannot be stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import DatabaseUnavailable
from flux.running.folder import Folder
from flux.store import dags
from flux.store.schema import source
from tests.parts import Parts
from tests.watched_folder import Watched

# --- broken files ---


def test_a_broken_file_keeps_its_last_good_version_until_it_is_mended(watched: Watched) -> None:
    watched.dag("sales.py")
    watched.start()
    watched.sync()
    watched.write("sales.py", "1 / 0\n")
    watched.sync()
    assert watched.errors() == {"sales.py": "ZeroDivisionError: division by zero"}
    assert (watched.active(), watched.tasks("sales")) == (["sales"], ["t"])
    watched.dag("sales.py", task_id="mended")
    watched.sync()
    assert (watched.errors(), watched.tasks("sales")) == ({}, ["mended"])


def test_a_file_whose_process_dies_is_read_again_once_it_changes(watched: Watched) -> None:
    watched.write("sales.py", "import os; os._exit(3)\n")
    watched.start()
    watched.sync()
    assert "exit status 3" in watched.errors()["sales.py"]
    reads = len(watched.reads)
    watched.sync()
    assert len(watched.reads) == reads
    watched.dag("sales.py")
    watched.sync()
    assert (watched.errors(), watched.active()) == ({}, ["sales"])


def test_a_dag_id_of_another_file_is_an_error_until_it_is_free(watched: Watched) -> None:
    watched.dag("first.py", "sales")
    watched.start()
    watched.sync()
    watched.dag("second.py", "sales", task_id="of_second")
    watched.sync()
    assert "already defined in 'first.py'" in watched.errors()["second.py"]
    assert watched.tasks("sales") == ["t"]
    (watched.root / "first.py").unlink()
    watched.sync()
    assert (watched.errors(), watched.tasks("sales")) == ({}, ["of_second"])


def test_a_dag_id_that_its_file_gives_up_goes_to_the_file_that_was_refused(watched: Watched) -> None:
    watched.dag("first.py", "sales")
    watched.start()
    watched.sync()
    watched.dag("second.py", "sales", task_id="of_second")
    watched.sync()
    watched.dag("first.py", "shop", more="import time; time.sleep(0.2)")  # stored after second.py was looked at again
    watched.sync()
    assert (watched.errors(), watched.active()) == ({}, ["sales", "shop"])
    assert watched.tasks("sales") == ["of_second"]


def test_a_clash_is_still_known_after_a_restart(watched: Watched) -> None:
    watched.dag("first.py", "sales")
    watched.start()
    watched.sync()
    watched.dag("second.py", "sales")
    watched.sync()
    watched.end()
    (watched.root / "first.py").unlink()
    watched.start()
    watched.sync()
    assert (watched.errors(), list(watched.files())) == ({}, ["second.py"])


def test_files_that_clash_with_each_other_do_not_have_each_other_read_for_ever(watched: Watched) -> None:
    for name in ("a.py", "b.py", "c.py"):
        watched.dag(name, "sales")
    watched.start()
    watched.sync()
    reads = len(watched.reads)
    assert len(watched.errors()) == 2
    watched.sync()
    watched.sync()
    assert len(watched.reads) == reads


# --- what cannot be stored ---


@pytest.mark.slow
def test_a_version_whose_bytes_are_lost_is_not_accepted_but_read_again(
    watched: Watched, capfd: pytest.CaptureFixture[str]
) -> None:
    watched.start()
    watched.sync()
    sources = watched.parts.config.run_folder / "sources"
    lost: list[bool] = []

    def lose(message: Mapping[str, Any]) -> None:
        if not lost:
            for sha in message["sources"].values():
                (sources / sha).unlink()
            lost.append(True)

    watched.on_answer = lose
    watched.dag("sales.py")
    watched.parts.until(lambda: watched.active() == ["sales"], seconds=20)
    assert lost
    assert "'sales.py' were lost" in capfd.readouterr().err
    version = watched.parts.dag("sales").dag_version_id
    assert version is not None
    hashes = watched.parts.read(lambda connection: dags.version(connection, version)).sources.values()
    assert watched.parts.read(lambda connection: dags.contents(connection, hashes)).keys() == set(hashes)


def test_bytes_that_the_store_has_already_need_not_be_on_the_disk(watched: Watched) -> None:
    watched.start()
    watched.dag("sales.py")
    watched.sync()
    (watched.root / "sales.py").rename(watched.root / "shop.py")
    watched.sync()
    assert watched.parts.read(lambda connection: connection.execute(sa.select(source.c.hash)).all())
    assert watched.active() == ["sales"]


def test_a_reading_that_the_database_refuses_is_an_error_of_that_file(
    watched: Watched, capfd: pytest.CaptureFixture[str]
) -> None:
    """A trigger stands for whatever a database may not like, such as a text that is too long for it."""
    watched.start()
    watched.sync()
    watched.parts.write(
        lambda connection: connection.exec_driver_sql(
            "CREATE TRIGGER no_big BEFORE INSERT ON dag WHEN NEW.dag_id = 'big' "
            "BEGIN SELECT RAISE(ABORT, 'too big'); END"
        )
    )
    watched.dag("big.py")
    watched.dag("good.py")
    watched.sync()
    assert watched.active() == ["good"]
    assert "cannot be stored" in watched.errors()["big.py"]
    assert "too big" in capfd.readouterr().err
    reads = len(watched.reads)
    watched.sync()
    assert len(watched.reads) == reads
    watched.parts.write(lambda connection: connection.exec_driver_sql("DROP TRIGGER no_big"))
    watched.dag("big.py", task_id="mended")
    watched.sync()
    assert (watched.active(), watched.errors()) == (["big", "good"], {})


class Away:
    """A database that is away for its first calls."""

    def __init__(self, parts: Parts, database: Any, times: int) -> None:
        self._parts = parts
        self._database = database
        self.left = times

    def call(self, work: Any, done: Any = lambda _: None, *, failed: Any = None, reads_only: bool = False) -> None:
        if self.left == 0:
            self._database.call(work, done, failed=failed, reads_only=reads_only)
            return
        self.left -= 1
        self._parts.loop.call_soon_threadsafe(lambda: failed(DatabaseUnavailable("The database is away.")))


@pytest.mark.slow
def test_a_database_that_was_away_at_the_start_is_asked_again(
    watched: Watched, capfd: pytest.CaptureFixture[str]
) -> None:
    watched.dag("sales.py")
    away = Away(watched.parts, watched.database, 2)  # the question for what it knows, and then the first reading
    watched.folder = Folder(watched.parts.config, watched.parts.loop, away, watched._launcher, watched._changed)
    watched.start()
    watched.parts.until(lambda: watched.active() == ["sales"], seconds=20)
    assert (away.left, "away" in capfd.readouterr().err) == (0, True)


@pytest.mark.slow
def test_a_removal_that_could_not_be_stored_is_stored_later(
    watched: Watched, capfd: pytest.CaptureFixture[str]
) -> None:
    watched.dag("sales.py")
    away = Away(watched.parts, watched.database, 0)
    watched.folder = Folder(watched.parts.config, watched.parts.loop, away, watched._launcher, watched._changed)
    watched.start()
    watched.sync()
    away.left = 1
    (watched.root / "sales.py").unlink()
    watched.parts.until(lambda: watched.active() == [], seconds=20)
    assert "away" in capfd.readouterr().err

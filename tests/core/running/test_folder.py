"""What becomes of a change in the DAGs folder: a real launcher reads it, a real store keeps it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import DatabaseUnavailable, FluxError
from flux.loop import Loop
from flux.running.folder import Folder, sync_here
from flux.running.launcher_client import LauncherClient
from flux.running.versions import Shelved
from flux.store import dags
from flux.store.dags import DagFile, Registered
from flux.store.schema import source
from tests.parts import Parts

DAG = """
from flux import DAG
from flux.operators import PythonOperator
{more}
with DAG("{dag_id}") as dag:
    PythonOperator(task_id="{task_id}", python_callable=print)
"""


class Watched:
    """A DAGs folder, watched with a launcher of its own."""

    def __init__(self, home: Path, **options: str) -> None:
        self.parts = Parts(home, **{"import_timeout_seconds": "20", "scan_seconds": "1", **options})
        self.root = self.parts.config.dags_folder
        #: dag_ids of each file that was stored; [] for one that is gone, broken or without DAGs.
        self.changes: list[list[str]] = []
        self.reads: list[str] = []
        self.launcher: LauncherClient | None = None
        #: Called with each answer of the launcher before the folder has it.
        self.on_answer: Callable[[Mapping[str, Any]], object] = lambda message: None
        self.database = self.parts.writer(claims=False)
        self.folder = Folder(self.parts.config, self.parts.loop, self.database, self._launcher, self._changed)
        self.parts.at_close(self.end_launcher)

    def end(self) -> None:
        """End as a supervisor does; what is started afterwards knows only what is in the store."""
        self.end_launcher()
        self.database.stop(10)
        self.parts.loop.close()
        self.parts.loop = Loop()
        self.database = self.parts.writer(claims=False)
        self.folder = Folder(self.parts.config, self.parts.loop, self.database, self._launcher, self._changed)

    def _launcher(self) -> LauncherClient | None:
        return self.launcher

    def start_launcher(self) -> None:
        self.launcher = LauncherClient.private(self.parts.loop, self.parts.config.run_folder, self._heard)

    def end_launcher(self) -> None:
        if self.launcher is not None:
            self.launcher.close()
            self.launcher = None

    def _heard(self, _: LauncherClient, message: Mapping[str, Any]) -> None:
        if message["op"] == "read":
            self.reads.append(self.folder._reading.get(message["id"], ("?",))[0])
            self.on_answer(message)
            self.folder.read_done(message)

    def _changed(self, registered: Sequence[Registered], shelved: Sequence[Shelved]) -> None:
        self.changes.append([item.dag.dag_id for item in registered])

    def start(self) -> None:
        self.start_launcher()
        self.folder.start()

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def dag(self, path: str, dag_id: str | None = None, task_id: str = "t", more: str = "") -> None:
        """Write a DAG file with one task."""
        self.write(path, DAG.format(dag_id=dag_id or Path(path).stem, task_id=task_id, more=textwrap.dedent(more)))

    def sync(self) -> None:
        """Have everything read that has changed by now."""
        done: list[bool] = []
        self.folder.sync(lambda: done.append(True))
        self.parts.until(lambda: done, seconds=30, what="sync")

    def files(self) -> dict[str, DagFile]:
        return {file.path: file for file in self.parts.read(dags.files) if file.hash is not None}

    def errors(self) -> dict[str, str]:
        return {file.path: (file.error or {})["message"] for file in self.parts.read(dags.errors)}

    def active(self) -> list[str]:
        return [dag.dag_id for dag in self.parts.read(dags.every)]

    def tasks(self, dag_id: str) -> list[str]:
        """The tasks of a DAG's newest version."""
        row = self.parts.dag(dag_id).dag_version_id
        assert row is not None
        structure = self.parts.read(lambda connection: dags.version(connection, row)).structure
        return [task.task_id for task in structure.tasks]

    def number(self, dag_id: str) -> int:
        row = self.parts.dag(dag_id).dag_version_id
        assert row is not None
        return self.parts.read(lambda connection: dags.version(connection, row)).number


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path / "home")
    yield watched
    watched.parts.close()


# --- files ---


def test_a_new_file_is_noticed_without_a_scan(watched: Watched) -> None:
    watched.start()
    watched.sync()
    watched.dag("sales.py")
    watched.parts.until(lambda: watched.active() == ["sales"])
    assert watched.changes[-1] == ["sales"]


def test_a_folder_behind_a_link_that_moves_on_is_seen_at_the_next_glance(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "home", scan_seconds="3600")
    try:
        watched.dag("sales.py")
        first, second = tmp_path / "first", tmp_path / "second"
        watched.root.rename(first)
        watched.root.symlink_to(first)
        watched.start()
        watched.sync()
        watched.folder.glance()
        second.mkdir()
        (second / "stock.py").write_text((first / "sales.py").read_text().replace("sales", "stock"))
        watched.root.unlink()
        watched.root.symlink_to(second)
        watched.folder.glance()
        watched.parts.until(lambda: watched.active() == ["stock"])
    finally:
        watched.parts.close()


def test_a_file_in_a_new_folder_is_found(watched: Watched) -> None:
    watched.start()
    watched.sync()
    watched.dag("shop/eu/sales.py")
    watched.parts.until(lambda: watched.active() == ["sales"])
    watched.dag("shop/eu/sales.py", task_id="other")
    watched.parts.until(lambda: watched.tasks("sales") == ["other"])


def test_a_change_makes_a_new_version_and_the_same_content_none(watched: Watched) -> None:
    watched.start()
    watched.dag("sales.py")
    watched.sync()
    watched.dag("sales.py", task_id="second")
    watched.sync()
    assert (watched.number("sales"), watched.tasks("sales")) == (2, ["second"])
    reads = len(watched.reads)
    os.utime(watched.root / "sales.py", ns=(1, 1))
    watched.sync()
    assert (watched.number("sales"), len(watched.reads)) == (2, reads)


def test_what_is_taken_back_is_the_old_version_again(watched: Watched) -> None:
    watched.start()
    for task_id in ("first", "second", "first"):
        watched.dag("sales.py", task_id=task_id)
        watched.sync()
    assert watched.number("sales") == 1


def test_a_file_that_is_gone_takes_its_dags_along_and_brings_them_back(watched: Watched) -> None:
    watched.start()
    watched.dag("sales.py")
    watched.sync()
    text = (watched.root / "sales.py").read_text()
    (watched.root / "sales.py").unlink()
    watched.sync()
    assert (watched.active(), watched.changes[-1]) == ([], [])
    watched.write("sales.py", text)
    watched.sync()
    assert (watched.active(), watched.number("sales")) == (["sales"], 1)


def test_a_file_that_is_renamed_keeps_its_dag(watched: Watched) -> None:
    watched.start()
    watched.dag("sales.py", "sales")
    watched.sync()
    (watched.root / "sales.py").rename(watched.root / "shop.py")
    watched.sync()
    assert (watched.active(), watched.errors()) == (["sales"], {})
    assert list(watched.files()) == ["shop.py"]


def test_ignored_and_hidden_files_are_no_dag_files(watched: Watched) -> None:
    watched.start()
    for path in ("sales.py", "old/shop.py", ".hidden.py"):
        watched.dag(path)
    watched.write(".fluxignore", "old/\n")
    watched.sync()
    assert watched.active() == ["sales"]
    watched.write(".fluxignore", "sales.py\n")
    watched.parts.until(lambda: watched.active() == ["shop"])
    (watched.root / ".fluxignore").unlink()
    watched.parts.until(lambda: watched.active() == ["sales", "shop"])


@pytest.mark.slow
def test_many_files_are_read(watched: Watched) -> None:
    for number in range(30):
        watched.dag(f"d{number}.py")
    watched.start()
    watched.sync()
    assert len(watched.active()) == 30
    assert sorted(watched.reads) == sorted({f"d{number}.py" for number in range(30)})


def test_folders_that_link_to_each_other_are_watched_once(watched: Watched) -> None:
    watched.dag("shop/sales.py")
    for name in ("a", "b", "c"):
        (watched.root / name).symlink_to(watched.root)
        (watched.root / "shop" / name).symlink_to(watched.root)
    watched.start()
    watched.sync()
    assert watched.active() == ["sales"]
    assert len(watched.folder._watched) == 2


def test_a_restart_reads_only_what_changed_meanwhile(watched: Watched) -> None:
    watched.start()
    watched.dag("same.py")
    watched.dag("other.py")
    watched.dag("gone.py")
    watched.sync()
    watched.end()
    watched.dag("other.py", task_id="new")
    (watched.root / "gone.py").unlink()
    watched.reads.clear()
    watched.start()
    watched.sync()
    assert (watched.reads, watched.active()) == (["other.py"], ["other", "same"])


@pytest.mark.slow
def test_what_a_launcher_that_died_was_reading_is_asked_again(watched: Watched) -> None:
    watched.dag("sales.py", more="import time; time.sleep(0.3)")
    watched.start()
    watched.parts.until(lambda: watched.folder._reading)
    watched.end_launcher()
    watched.start_launcher()
    watched.folder.launcher_changed()
    watched.sync()
    assert watched.active() == ["sales"]


# --- what else a file is made from ---


def test_a_change_of_a_helper_module_makes_a_new_version(watched: Watched) -> None:
    watched.write("lib/names.py", "TASK = 'first'\n")
    watched.dag("sales.py", more="from lib.names import TASK\n")
    watched.write("sales.py", (watched.root / "sales.py").read_text().replace('"t"', "TASK"))
    watched.start()
    watched.sync()
    watched.write("lib/names.py", "TASK = 'second'\n")
    watched.parts.until(lambda: watched.tasks("sales") == ["second"])
    assert watched.number("sales") == 2


def test_a_change_of_a_template_file_makes_a_new_version(watched: Watched) -> None:
    watched.write(
        "sales.py",
        """
        from flux import DAG
        from flux.operators import BashOperator
        with DAG("sales"):
            BashOperator(task_id="t", bash_command="load.sh")
        """,
    )
    watched.write("load.sh", "echo one\n")
    watched.start()
    watched.sync()
    watched.write("load.sh", "echo two\n")
    watched.parts.until(lambda: watched.number("sales") == 2)
    assert "load.sh" in watched.files()["sales.py"].sources


def test_a_missing_helper_that_appears_mends_the_file(watched: Watched) -> None:
    watched.dag("sales.py", more="import helper")
    watched.start()
    watched.sync()
    assert "helper" in watched.errors()["sales.py"]
    watched.write("helper.py", "x = 1\n")
    watched.sync()
    assert (watched.errors(), watched.active()) == ({}, ["sales"])


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


# --- at the same moment ---

#: Says that its import has begun, and waits until it may go on.
SLOW = """
import pathlib, time
pathlib.Path({began!r}).touch()
while not pathlib.Path({go!r}).exists():
    time.sleep(0.01)
"""


class Slow:
    """A file whose import lasts until it is let go."""

    def __init__(self, folder: Path) -> None:
        self.began, self.go = folder / "began", folder / "go"
        self.text = SLOW.format(began=str(self.began), go=str(self.go))


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(tmp_path)


def test_a_file_that_changes_while_it_is_read_is_read_again(watched: Watched, slow: Slow) -> None:
    watched.dag("sales.py", task_id="old", more=slow.text)
    watched.start()
    watched.parts.until(slow.began.exists)
    watched.dag("sales.py", task_id="new")
    done: list[bool] = []
    watched.folder.sync(lambda: done.append(True))
    slow.go.touch()
    watched.parts.until(lambda: done, seconds=30)
    assert (watched.tasks("sales"), watched.number("sales")) == (["new"], 2)


def test_a_file_whose_process_dies_while_it_is_mended_is_read_again(watched: Watched, slow: Slow) -> None:
    """The error belongs to the old content: it must not be taken for the new one's."""
    watched.write("sales.py", slow.text + "import os; os._exit(3)\n")
    watched.start()
    watched.parts.until(slow.began.exists)
    watched.dag("sales.py")
    slow.go.touch()
    watched.parts.until(lambda: watched.active() == ["sales"], seconds=20)
    assert watched.errors() == {}


def test_a_file_that_is_gone_while_it_is_read_is_no_error(watched: Watched, slow: Slow) -> None:
    watched.dag("sales.py", more=slow.text)
    watched.start()
    watched.parts.until(slow.began.exists)
    (watched.root / "sales.py").unlink()
    done: list[bool] = []
    watched.folder.sync(lambda: done.append(True))
    slow.go.touch()
    watched.parts.until(lambda: done, seconds=30)
    assert (watched.active(), watched.errors(), watched.files()) == ([], {}, {})


def test_a_sync_waits_for_what_is_being_read(watched: Watched) -> None:
    for number in range(4):
        watched.dag(f"d{number}.py")
    watched.start()
    watched.parts.until(lambda: watched.folder._reading)
    watched.sync()
    assert len(watched.active()) == 4


def test_a_sync_before_anything_is_loaded_waits_for_it(watched: Watched) -> None:
    watched.dag("sales.py")
    done: list[bool] = []
    watched.folder.sync(lambda: done.append(True))
    watched.start()
    watched.parts.until(lambda: done)
    assert watched.active() == ["sales"]


def test_a_sync_without_changes_answers_at_once(watched: Watched) -> None:
    watched.start()
    watched.sync()
    done: list[bool] = []
    watched.folder.sync(lambda: done.append(True))
    assert done == [True]


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


# --- without a system ---


def test_a_command_reads_the_folder_by_itself(watched: Watched) -> None:
    watched.dag("sales.py")
    watched.write("bad.py", "1 / 0\n")
    sync_here(watched.parts.flux)
    assert (watched.active(), list(watched.errors())) == (["sales"], ["bad.py"])
    sync_here(watched.parts.flux)
    assert watched.active() == ["sales"]


def test_a_command_ends_when_something_cannot_be_stored(watched: Watched, capfd: pytest.CaptureFixture[str]) -> None:
    watched.parts.write(
        lambda connection: connection.exec_driver_sql(
            "CREATE TRIGGER none BEFORE INSERT ON dag_version BEGIN SELECT RAISE(ABORT, 'no more'); END"
        )
    )
    watched.dag("sales.py")
    sync_here(watched.parts.flux)
    assert "cannot be stored" in watched.errors()["sales.py"]
    assert "no more" in capfd.readouterr().err


def test_a_command_whose_launcher_dies_does_not_take_the_folder_for_read(watched: Watched) -> None:
    watched.write("sales.py", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n")
    with pytest.raises(FluxError, match="died"):
        sync_here(watched.parts.flux)
    assert watched.active() == []

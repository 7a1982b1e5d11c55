"""What becomes of a change in the DAGs folder: a real launcher reads it, a real store keeps it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flux.errors import FluxError
from flux.running.folder_sync import sync_here
from tests.watched_folder import Watched

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


@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_in_the_place_of_another_is_seen_at_once(tmp_path: Path, is_link: bool) -> None:
    watched = Watched(tmp_path / "home", scan_seconds="3600")
    try:
        watched.dag("sales.py")
        first, second = tmp_path / "first", tmp_path / "second"
        second.mkdir()
        (second / "stock.py").write_text((watched.root / "sales.py").read_text().replace("sales", "stock"))
        if is_link:
            watched.root.rename(first)
            watched.root.symlink_to(first)
        watched.start()
        watched.sync()
        assert watched.active() == ["sales"]
        if is_link:
            (tmp_path / "next").symlink_to(second)
            (tmp_path / "next").rename(watched.root)
        else:
            watched.root.rename(first)
            second.rename(watched.root)
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


def test_folders_that_link_to_each_other_are_read_once(watched: Watched) -> None:
    watched.dag("shop/sales.py")
    for name in ("a", "b", "c"):
        (watched.root / name).symlink_to(watched.root)
        (watched.root / "shop" / name).symlink_to(watched.root)
    watched.start()
    watched.sync()
    assert watched.active() == ["sales"]
    assert watched.reads == ["shop/sales.py"]


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


def test_a_one_file_provider_that_comes_changes_or_goes_is_told_and_is_no_dag_file(watched: Watched) -> None:
    file = watched.root / "flux_provider.py"
    watched.start()
    watched.sync()
    assert watched.provider_changes == 0
    file.write_text("x = 1\n")
    watched.parts.until(lambda: watched.provider_changes == 1)
    file.write_text("x = 1000\n")
    watched.parts.until(lambda: watched.provider_changes == 2)
    file.unlink()
    watched.parts.until(lambda: watched.provider_changes == 3)
    watched.sync()
    assert (watched.provider_changes, watched.reads) == (3, [])

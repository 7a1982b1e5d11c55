"""The watch over the DAGs folder: what it tells of, what it leaves alone, and a root that becomes another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux.loop import Loop
from flux.running.folder_watch import FolderWatch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


class Watching:
    """A watch over `root`, and how often it told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told = 0
        self.loop = Loop()
        self.watch = FolderWatch(str(root), self.loop, self._tell)
        self.watch.start()
        self.watch.renew()

    def _tell(self) -> None:
        self.told += 1
        self.watch.renew()
        self.loop.stop()

    def hear(self, seconds: float = 10.0) -> int:
        """Wait until it tells something, at most `seconds`; return how often it has told so far."""
        late = self.loop.call_later(seconds, self.loop.stop)
        self.loop.run()
        late.cancel()
        return self.told


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Watching]:
    root = tmp_path / "home" / "dags"
    root.mkdir(parents=True)
    watching = Watching(root)
    yield watching
    watching.loop.close()


def test_changes_that_come_together_are_told_once(watching: Watching) -> None:
    for number in range(20):
        (watching.root / f"d{number}.py").write_text("")
    assert watching.hear() == 1


def test_a_change_in_a_new_folder_is_told(watching: Watching) -> None:
    (watching.root / "shop").mkdir()
    watching.hear()
    (watching.root / "shop" / "sales.py").write_text("")
    assert watching.hear() == 2


def test_what_else_changes_beside_the_folder_is_not_told(watching: Watching) -> None:
    (watching.root.parent / "other").write_text("the kernel tells of this first")
    (watching.root / "sales.py").write_text("")
    assert watching.hear() == 1
    (watching.root.parent / "other").write_text("again")
    assert watching.hear(seconds=0.1) == 1


def test_a_root_that_is_replaced_is_told_and_watched(watching: Watching) -> None:
    watching.root.rename(watching.root.with_name("before"))
    watching.hear()
    watching.root.mkdir()
    told = watching.hear()
    (watching.root / "sales.py").write_text("")
    assert watching.hear() > told


def test_folders_that_link_to_each_other_are_watched_once(tmp_path: Path) -> None:
    root = tmp_path / "dags"
    (root / "shop").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (root / name).symlink_to(root)
        (root / "shop" / name).symlink_to(root)
    watching = Watching(root)
    try:
        assert len(watching.watch._watched) == 3, "the two folders, and that in which the first one lies"
        (root / "shop" / "sales.py").write_text("")
        assert watching.hear() == 1
    finally:
        watching.loop.close()


def test_a_glance_sees_that_the_root_is_another_folder(tmp_path: Path) -> None:
    root = tmp_path / "dags"
    loop = Loop()
    watch = FolderWatch(str(root), loop, lambda: None)
    assert not watch.glance(), "there is none yet"
    root.mkdir()
    assert not watch.glance(), "the first look has nothing to compare with"
    assert not watch.glance()
    root.rename(tmp_path / "before")
    assert not watch.glance(), "nothing there is no other folder"
    root.mkdir()
    assert watch.glance()
    assert not watch.glance()
    loop.close()

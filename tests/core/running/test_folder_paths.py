from __future__ import annotations

from pathlib import Path

import pytest

from flux.running.folder_paths import folders_below, identity_of, way_to


def test_the_way_to_a_plain_folder_is_itself(tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    assert way_to(f"{tmp_path}/dags") == {f"{tmp_path}/dags"}


def test_the_way_has_every_link_and_where_it_ends(tmp_path: Path) -> None:
    (tmp_path / "releases" / "5" / "dags").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/5")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dags").symlink_to(tmp_path / "current" / "dags")
    assert way_to(f"{tmp_path}/home/dags") == {
        f"{tmp_path}/home/dags",
        f"{tmp_path}/current",
        f"{tmp_path}/releases/5/dags",
    }


def test_a_link_upwards_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "dags").symlink_to("../b")
    assert way_to(f"{tmp_path}/a/dags") == {f"{tmp_path}/a/dags", f"{tmp_path}/b"}


@pytest.mark.parametrize("target", ["round", "nowhere"])
def test_a_way_in_a_circle_or_to_nothing_is_no_error(tmp_path: Path, target: str) -> None:
    (tmp_path / "round").symlink_to(target)
    assert f"{tmp_path}/round" in way_to(f"{tmp_path}/round")
    assert list(folders_below(f"{tmp_path}/round")) == []
    assert identity_of(f"{tmp_path}/round") is None


def test_folders_that_hold_no_dag_files_are_left_out(tmp_path: Path) -> None:
    for name in ("shop/eu", "__pycache__", ".git", "shop/.hidden"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "shop" / "again").symlink_to(tmp_path)
    assert dict(folders_below(str(tmp_path))) == {
        str(path): identity_of(str(path)) for path in (tmp_path, tmp_path / "shop", tmp_path / "shop" / "eu")
    }

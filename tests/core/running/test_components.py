from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flux.running import components
from flux.running.components import bound_log, last_lines, launcher_environ, of_system


def test_the_launcher_gets_no_secrets_and_a_claim_to_overwrite() -> None:
    environ = {
        "FLUX_DATABASE_URL": "postgresql://flux:secret@db/flux",
        "FLUX_SECRET_KEY_FILE": "/etc/flux.key",
        "FLUX_SECRET_KEY": "key",
        "FLUX_CONN_HIVE": "hive://user:secret@host",
        "FLUX_PARALLELISM": "4",
        "PATH": "/usr/bin",
    }
    assert launcher_environ(environ) == {"FLUX_PARALLELISM": "4", "PATH": "/usr/bin", "FLUX_CLAIM": "0" * 19}


def test_the_supervisor_gets_everything_but_a_claim(tmp_path: Path) -> None:
    environ = {"FLUX_DATABASE_URL": "sqlite:///x", "FLUX_CLAIM": "0000000000000000007"}
    launcher, supervisor, _ = of_system(tmp_path, tmp_path / "run", environ, ui=False)
    assert supervisor.env == {"FLUX_DATABASE_URL": "sqlite:///x", "FLUX_HOME": str(tmp_path)}
    assert supervisor.controlled
    assert not launcher.controlled
    assert launcher.env == {"FLUX_HOME": str(tmp_path), "FLUX_CLAIM": "0" * 19}
    assert launcher.argv[-4:] == ("-m", "flux.running.launcher", "--run-folder", str(tmp_path / "run"))
    assert launcher.argv[0] == sys.executable


def test_relative_folders_mean_the_same_to_components_that_work_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = of_system(tmp_path / "home", tmp_path / "run", {"FLUX_DAGS_FOLDER": "pipelines"}, ui=True)
    assert {each.env["FLUX_DAGS_FOLDER"] for each in made} == {str(tmp_path / "pipelines")}


def test_the_ui_is_not_vital_and_gets_its_address(tmp_path: Path) -> None:
    *_, ui = of_system(tmp_path, tmp_path / "run", {}, ui=True, host="0.0.0.0", port=0)
    assert not ui.vital
    assert ui.argv[-6:] == ("-m", "flux_ui", "--host", "0.0.0.0", "--port", "0")


def test_without_an_address_the_ui_uses_its_own(tmp_path: Path) -> None:
    *_, ui = of_system(tmp_path, tmp_path / "run", {}, ui=True)
    assert ui.argv[-2:] == ("-m", "flux_ui")


def test_a_log_within_its_bound_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "launcher.log"
    bound_log(log)
    log.write_bytes(b"x" * components.LOG_BYTES)
    bound_log(log)
    assert log.stat().st_size == components.LOG_BYTES
    assert not (tmp_path / "launcher.log.1").exists()


def test_a_log_over_its_bound_keeps_its_end_beside_it_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "launcher.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"first" + b"x" * components.LOG_BYTES)
        writer.write(b"last")
        bound_log(log)
        writer.write(b"next\n")
    kept = (tmp_path / "launcher.log.1").read_bytes()
    assert len(kept) == components.LOG_BYTES
    assert kept.endswith(b"xlast")
    assert log.read_bytes() == b"next\n"


def test_last_lines_of_a_long_log_with_any_bytes(tmp_path: Path) -> None:
    log = tmp_path / "launcher.log"
    log.write_bytes(b"".join(b"line %d \xff\n" % number for number in range(100_000)))
    assert last_lines(log, 2) == ["line 99998 \N{REPLACEMENT CHARACTER}", "line 99999 \N{REPLACEMENT CHARACTER}"]


def test_last_lines_of_a_short_log_are_all_of_it(tmp_path: Path) -> None:
    log = tmp_path / "launcher.log"
    assert last_lines(log, 20) == []
    log.write_bytes(b"one\n")
    assert last_lines(log, 20) == ["one"]

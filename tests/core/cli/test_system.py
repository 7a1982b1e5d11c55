"""`flux init`, `status`, `doctor`, `config`, `db`, `job`, `audit`, `version`."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from flux.store import dags, jobs
from flux.structure import DagStructure, TaskStructure
from flux.times import utc_now

if TYPE_CHECKING:
    from tests.core.cli.conftest import Cli


def test_init_makes_the_home_and_may_be_repeated(bare: Cli) -> None:
    bare.ok("init")
    bare.ok("pool", "set", "warehouse", "4")
    bare.ok("init")
    assert sorted(path.name for path in bare.home.iterdir() if path.is_dir()) == ["dags", "logs", "run"]
    assert [pool["name"] for pool in bare.ok("pool", "list", "--json").json] == ["warehouse"]


def test_status_of_a_home_where_nothing_runs_is_down_and_exit_code_1(cli: Cli) -> None:
    done = cli("status", "--json")
    assert done.code == 1
    assert (done.json["state"], done.json["components"]) == ("down", [])
    assert set(done.json) >= {"state", "components", "version", "database"}


def test_database_of_a_newer_flux_is_refused_in_one_line(cli: Cli) -> None:
    with sqlite3.connect(cli.home / "flux.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    for arguments in (["run", "list"], ["db", "check"], ["dag", "list"], ["status"], ["init"]):
        done = cli(*arguments)
        assert (done.code, done.out) == (1, ""), arguments
        assert "newer Flux" in done.err
        assert len(done.err.strip().splitlines()) == 1


def test_doctor_finds_nothing_wrong_in_a_new_home(cli: Cli) -> None:
    findings = cli.ok("doctor", "--json").json
    assert {finding["state"] for finding in findings} <= {"ok", "warning"}
    assert all(set(finding) == {"check", "state", "message", "remedy"} for finding in findings)


def test_doctor_names_what_is_missing_and_exits_1(bare: Cli) -> None:
    done = bare("doctor", "--json")
    wrong = [finding for finding in done.json if finding["state"] == "error"]
    assert done.code == 1
    assert "home" in [finding["check"] for finding in wrong]
    assert all(finding["remedy"] for finding in wrong)


def test_doctor_survives_an_option_that_cannot_be_used(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_PARALLELISM", "many")
    done = bare("doctor", "--json")
    assert (done.code, "FLUX_PARALLELISM" in done.out) == (1, True)


def test_doctor_notices_a_clock_that_was_set_back(cli: Cli) -> None:
    later = utc_now() + timedelta(hours=2)
    with cli.opened() as flux:
        flux.store.write(lambda connection: jobs.register(connection, "supervisor", "here", None, 1, later))
    done = cli("doctor", "--json")
    assert done.code == 1
    assert [row["check"] for row in done.json if row["state"] == "error"] == ["clock"]


def test_doctor_names_pools_that_nobody_made_and_files_that_do_not_import(cli: Cli) -> None:
    with cli.opened() as flux:
        reading = dags.Reading("0" * 64, sources={"a.py": "0" * 64}, error={"message": "boom", "line": 1})
        flux.store.write(lambda connection: dags.register(connection, "a.py", reading, utc_now()))
        structure = DagStructure("d", "d.py", 1, (TaskStructure(0, "t", "X", "x", pool="warehouse"),))
        reading = dags.Reading("1" * 64, [structure.to_json()], {"d.py": "1" * 64})
        flux.store.write(lambda connection: dags.register(connection, "d.py", reading, utc_now()))
    found = {row["check"]: row for row in cli("doctor", "--json").json}
    assert (found["import errors"]["state"], "a.py" in found["import errors"]["message"]) == ("error", True)
    assert (found["pools"]["state"], "warehouse" in found["pools"]["remedy"]) == ("warning", True)


def test_config_list_says_where_a_value_comes_from_and_masks_passwords(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_DATABASE_URL", "postgresql://flux:s3cret@db/flux")
    done = cli.ok("config", "list", "--json")
    row = next(row for row in done.json if row["name"] == "database_url")
    assert row["source"] == "FLUX_DATABASE_URL"
    assert "s3cret" not in done.out


def test_db_upgrade_makes_what_is_missing_and_check_agrees(bare: Cli) -> None:
    assert bare("db", "check").code == 1
    bare.ok("db", "upgrade")
    bare.ok("db", "check")


def test_audit_lists_the_newest_first(cli: Cli) -> None:
    cli.ok("pool", "set", "one", "1")
    cli.ok("pool", "delete", "one")
    rows = cli.ok("audit", "list", "--json").json
    assert [row["action"] for row in rows] == ["pool.delete", "pool.set"]
    assert set(rows[0]) == {"at", "who", "action", "object", "detail"}
    assert rows[0]["at"].endswith("+00:00")


@pytest.mark.parametrize("noun", ["job", "audit", "run", "pool", "variable", "connection"])
def test_empty_list_is_an_empty_array(cli: Cli, noun: str) -> None:
    assert cli.ok(noun, "list", "--json").json == []


def test_people_are_told_that_a_list_is_empty_on_stderr(cli: Cli) -> None:
    done = cli.ok("run", "list")
    assert (done.out, "No such runs" in done.err) == ("", True)


def test_version_is_that_of_the_distribution(bare: Cli) -> None:
    from importlib.metadata import version

    assert bare.ok("version").out.strip() == version("flux-core")

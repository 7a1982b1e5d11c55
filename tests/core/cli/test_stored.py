"""`flux pool`, `flux variable`, `flux connection`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.core.cli.conftest import Cli


def test_pool_is_made_changed_and_deleted(cli: Cli) -> None:
    cli.ok("pool", "set", "warehouse", "4", "--description", "queries")
    cli.ok("pool", "set", "warehouse", "2")
    assert cli.ok("pool", "list", "--json").json == [
        {"name": "warehouse", "slots": 2, "used": 0, "queued": 0, "description": "queries"}
    ]
    cli.ok("pool", "delete", "warehouse")
    assert cli.ok("pool", "list", "--json").json == []


def test_pool_that_is_not_there_is_answered_with_near_ones(cli: Cli) -> None:
    cli.ok("pool", "set", "warehouse", "4")
    done = cli("pool", "delete", "warehose")
    assert (done.code, "warehouse" in done.err) == (1, True)


def test_variable_is_set_read_and_deleted(cli: Cli) -> None:
    cli.ok("variable", "set", "region", "north")
    assert cli.ok("variable", "get", "region").out == "north\n"
    assert cli.ok("variable", "list", "--json").json == [{"name": "region", "value": "north"}]
    cli.ok("variable", "delete", "region")
    assert cli("variable", "get", "region").code == 1


def test_exported_variables_can_be_imported(cli: Cli, tmp_path: Path) -> None:
    cli.ok("variable", "set", "region", "nörth\n")
    cli.ok("variable", "set", "other", "1")
    file = tmp_path / "variables.json"
    cli.ok("variable", "export", str(file))
    cli.ok("variable", "delete", "region")
    cli.ok("variable", "import", str(file))
    assert json.loads(cli.ok("variable", "export").out) == {"region": "nörth\n", "other": "1"}


@pytest.mark.parametrize("text", ["[1]", "not json"])
def test_file_that_holds_no_variables_is_refused_and_sets_none(cli: Cli, tmp_path: Path, text: str) -> None:
    file = tmp_path / "variables.json"
    file.write_text(text)
    done = cli("variable", "import", str(file))
    assert (done.code, "JSON" in done.err) == (1, True)
    assert cli.ok("variable", "list", "--json").json == []


def test_connection_of_the_environment_is_shown_without_its_password(
    bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_CONN_WAREHOUSE", "mysql://etl:s3cret@db.example:3306/sales?token=t0ken")
    shown = bare.ok("connection", "show", "warehouse", "--json")
    assert shown.json == {
        "conn_id": "warehouse",
        "type": "mysql",
        "host": "db.example",
        "port": 3306,
        "login": "etl",
        "schema": "sales",
        "source": "FLUX_CONN_WAREHOUSE",
        "extra": {"token": "***"},
        "has_secrets": True,
    }
    for done in (shown, bare.ok("connection", "list"), bare.ok("connection", "show", "warehouse")):
        assert "s3cret" not in done.out
        assert "t0ken" not in done.out


def test_connection_that_is_not_there_is_answered_with_how_to_define_it(bare: Cli) -> None:
    done = bare("connection", "show", "warehouse")
    assert (done.code, "FLUX_CONN_WAREHOUSE" in done.err) == (1, True)


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("n" * 201, "x"), ("n", "a\0b"), ("n", "\udcff")])
def test_variable_that_not_every_server_can_store_is_refused(cli: Cli, name: str, value: str) -> None:
    done = cli("variable", "set", name, value)
    assert (done.code, "Variable" in done.err) == (1, True), done
    assert cli.ok("variable", "list", "--json").json == []


def test_variables_of_an_editor_that_marks_its_files_are_imported(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "variables.json"
    file.write_text('{"region": "north"}', encoding="utf-8-sig")
    cli.ok("variable", "import", str(file))
    assert cli.ok("variable", "get", "region").out == "north\n"


def test_json_that_is_nested_without_end_is_refused(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "variables.json"
    file.write_text("[" * 100_000)
    assert cli("variable", "import", str(file)).code == 1

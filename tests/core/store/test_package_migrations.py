"""Tables of other packages in the metadata database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from flux.errors import DatabaseTooNew, StoreError
from flux.store import package_migrations
from flux.store.engine import Store

SCRIPT = '''
"""{revision}"""
import sqlalchemy as sa
from alembic import op
revision = {revision!r}
down_revision = {down!r}
def upgrade():
    {body}
'''
FIRST = 'op.create_table("ledger_entry", sa.Column("id", sa.Integer(), primary_key=True))'
SECOND = 'op.add_column("ledger_entry", sa.Column("text", sa.String(50)))'


def script(folder: Path, revision: str, down: str | None, body: str) -> None:
    (folder / "versions").mkdir(exist_ok=True)
    (folder / "versions" / f"{revision}.py").write_text(SCRIPT.format(revision=revision, down=down, body=body))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    script(folder, "a1", None, FIRST)
    return folder


@pytest.fixture
def new_store(database_url: str) -> Store:
    return Store.open(database_url, create=True)


def columns(store: Store) -> list[str]:
    return [each["name"] for each in store.read(lambda c: sa.inspect(c).get_columns("ledger_entry"))]


def test_a_package_is_brought_to_its_newest_revision_apart_from_core(new_store: Store, folder: Path) -> None:
    with new_store as store:
        revision = store.revision()
        assert store.read(lambda c: package_migrations.is_behind(c, "ledger", folder))
        assert package_migrations.upgrade(store, "ledger", folder) is True
        assert package_migrations.upgrade(store, "ledger", folder) is False
        assert columns(store) == ["id"]
        script(folder, "a2", "a1", SECOND)
        assert store.read(lambda c: package_migrations.is_behind(c, "ledger", folder))
        assert package_migrations.upgrade(store, "ledger", folder) is True
        assert columns(store) == ["id", "text"]
        assert not store.read(lambda c: package_migrations.is_behind(c, "ledger", folder))
        assert store.revision() == revision
        tables = store.read(lambda c: sa.inspect(c).get_table_names())
        assert "alembic_version_ledger" in tables


@pytest.mark.parametrize("failure", ['raise RuntimeError("half-way")', 'raise SystemExit("half-way")'])
def test_a_script_that_fails_is_named_and_leaves_what_was_there(new_store: Store, folder: Path, failure: str) -> None:
    with new_store as store:
        package_migrations.upgrade(store, "ledger", folder)
        script(folder, "a2", "a1", f"{SECOND}; {failure}")
        with pytest.raises(StoreError, match=r"migrations of 'ledger' in .* failed: .*: half-way"):
            package_migrations.upgrade(store, "ledger", folder)
        assert columns(store) == (["id", "text"] if store.dialect in ("mysql", "mariadb") else ["id"])
        assert store.read(lambda c: package_migrations.is_behind(c, "ledger", folder))


def test_a_script_that_looks_at_what_is_there_may_be_interrupted_anywhere(new_store: Store, folder: Path) -> None:
    """Also where the database keeps half of it: what was done before it is not done again."""
    careful = 'if "text" not in [c["name"] for c in sa.inspect(op.get_bind()).get_columns("ledger_entry")]: ' + SECOND
    with new_store as store:
        script(folder, "a2", "a1", 'op.create_table("ledger_page", sa.Column("id", sa.Integer(), primary_key=True))')
        script(folder, "a3", "a2", f'{careful}\n    raise RuntimeError("half-way")')
        with pytest.raises(StoreError, match="half-way"):
            package_migrations.upgrade(store, "ledger", folder)
        script(folder, "a3", "a2", careful)
        assert package_migrations.upgrade(store, "ledger", folder) is True
        assert columns(store) == ["id", "text"]


def test_tables_of_a_newer_release_are_not_touched(new_store: Store, folder: Path) -> None:
    with new_store as store:
        package_migrations.upgrade(store, "ledger", folder)
        (folder / "versions" / "a1.py").unlink()
        script(folder, "b1", None, FIRST)
        with pytest.raises(DatabaseTooNew, match="'ledger' have revision 'a1'"):
            package_migrations.upgrade(store, "ledger", folder)


def test_scripts_that_fork_are_refused(new_store: Store, folder: Path) -> None:
    script(folder, "a2", "a1", SECOND)
    script(folder, "a3", "a1", SECOND)
    with new_store as store, pytest.raises(StoreError, match=r"'ledger' in .* cannot be used"):
        package_migrations.upgrade(store, "ledger", folder)


@pytest.mark.parametrize(
    "text", ["def def", "raise SystemExit(3)", SCRIPT.format(revision="a2", down="zz", body="pass")]
)
def test_scripts_that_cannot_be_read_are_named(new_store: Store, folder: Path, text: str) -> None:
    (folder / "versions" / "a2.py").write_text(text)
    with new_store as store, pytest.raises(StoreError, match=r"'ledger' in .* cannot be used"):
        package_migrations.upgrade(store, "ledger", folder)


def test_a_statement_that_the_database_refuses_is_told_in_one_line(new_store: Store, folder: Path) -> None:
    script(folder, "a2", "a1", 'op.execute("create nonsense")')
    with new_store as store:
        with pytest.raises(StoreError, match=r"'ledger' in .* failed: ") as caught:
            package_migrations.upgrade(store, "ledger", folder)
        assert "sqlalche.me" not in str(caught.value)


def test_what_is_no_word_in_a_name_is_none_in_its_table() -> None:
    assert package_migrations.version_table("flux-ui.x") == "alembic_version_flux_ui_x"


@pytest.mark.slow
def test_an_installed_package_is_migrated_by_init_and_upgrade_and_looked_at_by_check(tmp_path: Path) -> None:
    site, home = tmp_path / "site", tmp_path / "home"
    package = site / "ledger_tables"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    script(package, "a1", None, FIRST)
    metadata = site / "ledger-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ledger\nVersion: 1.0\n")
    entry_points = metadata / "entry_points.txt"

    def flux(*arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "FLUX_HOME": str(home), "PYTHONPATH": str(site)}
        argv = [sys.executable, "-m", "flux.cli.main", *arguments]
        return subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)

    assert flux("init").returncode == 0
    entry_points.write_text("[flux.migrations]\nledger = ledger_tables\n")
    done = flux("db", "check")
    assert (done.returncode, "Tables of ledger" in done.stderr, "`flux db upgrade`" in done.stderr) == (1, True, True)
    for command in ("init", "upgrade"):
        assert flux(*(["init"] if command == "init" else ["db", "upgrade"])).returncode == 0
        assert flux("db", "check").returncode == 0
        script(package, "a2", "a1", SECOND)
        assert (flux("db", "check").returncode == 1) is (command == "init")
    entry_points.write_text("[flux.migrations]\nledger = ledger_table\n")
    done = flux("db", "upgrade")
    assert (done.returncode, "ledger 1.0" in done.stderr, "Traceback" in done.stderr) == (1, True, False), done
    assert flux("variable", "list", "--json").stdout.strip() == json.dumps([])

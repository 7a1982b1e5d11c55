"""The schema a database gets: the same by the fast path, by the revisions, and under several openers at once."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flux.errors import DatabaseTooNew, DatabaseTooOld, StoreError
from flux.store import engine, migrations, schema
from flux.store.engine import Store
from tests.databases import SESSION, end_session


def unmigrated(url: str) -> Store:
    """A store on a database whose schema nobody looks at."""
    return Store(engine._engine(engine._parse(url), "fast", 30), None)


def described(connection: sa.Connection) -> dict[str, Any]:
    """Everything a server knows of the tables, in a form that does not depend on the order of constraints."""
    inspector = sa.inspect(connection)
    found: dict[str, Any] = {}
    for table in inspector.get_table_names():
        found[table] = {
            "columns": [
                (item["name"], str(item["type"]), item["nullable"], bool(item["default"]))
                for item in inspector.get_columns(table)
            ],
            "key": inspector.get_pk_constraint(table),
            "unique": sorted((item["name"], item["column_names"]) for item in inspector.get_unique_constraints(table)),
            "foreign": sorted(
                (item["name"], item["constrained_columns"], item["referred_table"])
                for item in inspector.get_foreign_keys(table)
            ),
            "indexes": sorted(_indexes(connection, table)),
        }
    return found


def _indexes(connection: sa.Connection, table: str) -> list[str]:
    """The statements that make the table's indexes: reflection does not tell descending ones."""
    of_mysql = (
        "SELECT concat_ws(' ', index_name, non_unique, group_concat(column_name, ' ', collation ORDER BY seq_in_index))"
        " FROM information_schema.statistics WHERE table_schema = database() AND table_name = :table"
        " GROUP BY index_name, non_unique"
    )
    query = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = :table",
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename = :table",
        "mysql": of_mysql,
        "mariadb": of_mysql,
    }[connection.dialect.name]
    return [re.sub(r"\s+", " ", text) for text in connection.scalars(sa.text(query), {"table": table})]


@pytest.mark.slow
def test_the_revisions_make_what_the_schema_says(database_url: str) -> None:
    with unmigrated(database_url) as store:
        store.write(migrations.run_scripts)
        migrated = store.read(described)
        assert store.revision() == migrations.HEAD
        store.write(lambda connection: schema.metadata.drop_all(connection))
        store.write(lambda connection: connection.exec_driver_sql("DROP TABLE alembic_version"))
        store.upgrade()
        assert store.revision() == migrations.HEAD
        assert store.read(described) == migrated
    assert set(migrated) == {*schema.metadata.tables, "alembic_version"}


def test_the_list_of_revisions_is_that_of_the_scripts() -> None:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == migrations.REVISIONS


def test_alembic_is_not_loaded_where_there_is_nothing_to_migrate(tmp_path: Path) -> None:
    script = (
        "import sys; from flux.store import Store; "
        "Store.open(sys.argv[1], create=True).close(); Store.open(sys.argv[1]).close(); "
        "sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, f"sqlite:///{tmp_path}/flux.db"], check=False).returncode == 0


def test_many_may_open_an_empty_database_at_once(database_url: str) -> None:
    def opened(_: int) -> str | None:
        with Store.open(database_url, durability="fast", create=True) as store:
            return store.revision()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(opened, range(4))) == [migrations.HEAD] * 4


def test_opening_twice_with_create_keeps_what_is_there(database_url: str) -> None:
    for _ in range(2):
        with Store.open(database_url, create=True) as store:
            store.write(lambda c: engine.insert_missing(c, schema.variable, [{"name": "a", "value": "1"}]))
    with Store.open(database_url) as store:
        assert store.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(schema.variable))) == 1


def test_a_database_without_tables_needs_an_upgrade(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        Path(database_url.removeprefix("sqlite:///")).touch()
    with pytest.raises(DatabaseTooOld, match="flux db upgrade"):
        Store.open(database_url)


@pytest.mark.parametrize("create", [False, True])
def test_a_newer_database_is_refused_and_not_touched(database_url: str, create: bool) -> None:
    with Store.open(database_url, create=True) as store:
        store.write(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
        before = store.read(described)
    with pytest.raises(DatabaseTooNew, match="'9999'"):
        Store.open(database_url, create=create)
    with unmigrated(database_url) as store:
        assert store.revision() == "9999"
        assert store.read(described) == before


@pytest.mark.slow
@pytest.mark.parametrize("made", [0, 1, 4, 25])
def test_an_interrupted_upgrade_is_done_again(database_url: str, made: int) -> None:
    """Also where the server keeps the tables that were made, and the lock that keeps other migrations out."""
    statements = 0

    def interrupted(_: sa.Connection, __: object, statement: str, *___: object) -> None:
        nonlocal statements
        if statement.lstrip().startswith("CREATE"):
            statements += 1
            if statements > made:
                raise KeyboardInterrupt

    with unmigrated(database_url) as store:
        sa.event.listen(store._writer, "before_cursor_execute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.upgrade()
        with pytest.raises(DatabaseTooOld, match="flux db upgrade"):
            Store.open(database_url)
        with Store.open(database_url, create=True) as whole:
            assert whole.revision() == migrations.HEAD
            found = whole.read(described)
            whole.write(lambda connection: schema.metadata.drop_all(connection))
            whole.write(lambda connection: connection.exec_driver_sql("DROP TABLE alembic_version"))
            whole.upgrade()
            assert found == whole.read(described)


def test_a_session_that_ends_in_the_middle_of_an_upgrade_is_replaced(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("SQLite has no sessions")
    ended: list[int] = []

    def end_once(connection: sa.Connection, _: object, statement: str, *__: object) -> None:
        if "CREATE TABLE task_instance" in statement and not ended:
            raw = connection.connection.dbapi_connection
            cursor = raw.cursor()  # type: ignore[union-attr]
            cursor.execute(SESSION[store.dialect])
            ended.append(cursor.fetchone()[0])
            end_session(database_url, ended[0])

    with unmigrated(database_url) as store:
        sa.event.listen(store._writer, "before_cursor_execute", end_once)
        store.upgrade()
        assert store.revision() == migrations.HEAD
    assert len(ended) == 1


def test_what_others_have_in_tables_of_our_names_is_not_touched(database_url: str) -> None:
    """Though an empty table of revisions looks as if making ours had been interrupted."""
    with unmigrated(database_url) as store:
        for statement in ("alembic_version (version_num VARCHAR(32))", "pool (depth INTEGER)"):
            store.write(lambda c, statement=statement: c.exec_driver_sql(f"CREATE TABLE {statement}"))
        store.write(lambda c: c.exec_driver_sql("INSERT INTO pool VALUES (3)"))
        with pytest.raises(StoreError, match=r"pool.*database of its own"):
            store.upgrade()
        assert store.read(lambda c: c.exec_driver_sql("SELECT depth FROM pool").scalar_one()) == 3


def test_the_tables_of_others_are_not_taken_for_ours(database_url: str) -> None:
    with unmigrated(database_url) as store:
        store.write(lambda c: c.exec_driver_sql("CREATE TABLE pool (depth INTEGER)"))
        with pytest.raises(StoreError, match=r"pool.*database of its own"):
            store.upgrade()

"""The schema's revisions, and bringing a database to the newest. Alembic is imported only to migrate an old one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from flux.errors import DatabaseTooNew, DatabaseUnavailable, StoreError
from flux.store import schema

#: Every revision, oldest first; `versions/` has a file for each.
REVISIONS = ("0001",)
HEAD = REVISIONS[-1]

_version = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
_CURRENT = sa.select(_version.c.version_num)
#: Of PostgreSQL's advisory lock around a migration; any constant that is ours.
_LOCK = 0x666C7578


def current(connection: sa.Connection) -> str | None:
    """Return the revision of a database that has been migrated once; the server's error if it has not."""
    return connection.scalar(_CURRENT)


def migrate(connection: sa.Connection) -> None:
    """Bring the database to the newest revision, in the transaction of `connection`. Safe to repeat.

    Raises:
        DatabaseTooNew: a newer Flux made it.
        StoreError: it has tables of these names that are not Flux's.
    """
    with alone(connection):
        _migrate(connection)


def _migrate(connection: sa.Connection) -> None:
    tables = set(sa.inspect(connection).get_table_names())
    revision = current(connection) if _version.name in tables else None
    if revision == HEAD:
        return
    if revision is not None:
        if revision not in REVISIONS:
            raise DatabaseTooNew(f"The database's schema {revision!r} is of a newer Flux. Upgrade this installation.")
        run_scripts(connection)
    elif strangers := sorted(tables & set(schema.metadata.tables)):
        raise StoreError(
            f"The database has tables that Flux did not make ({', '.join(strangers)}). Give Flux a database of its own."
        )
    else:
        _create(connection)


def run_scripts(
    connection: sa.Connection, folder: Path = Path(__file__).parent, *, version_table: str = _version.name
) -> None:
    """Run every revision in the folder's `versions/` that the database lacks, in the transaction of `connection`."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext, MigrationStep
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(folder))

    def missing(heads: tuple[str, ...], _: MigrationContext) -> list[MigrationStep]:
        newest_first = list(scripts.iterate_revisions("head", heads or "base"))
        return [MigrationStep.upgrade_from_script(scripts.revision_map, script) for script in reversed(newest_first)]

    context = MigrationContext.configure(connection, opts={"fn": missing, "version_table": version_table})
    with Operations.context(context):
        context.run_migrations()


def _create(connection: sa.Connection) -> None:
    """Make the newest schema in an empty database: the same as running every revision, many times faster."""
    schema.metadata.create_all(connection, checkfirst=False)
    _version.create(connection, checkfirst=False)
    connection.execute(_version.insert().values(version_num=HEAD))


@contextmanager
def alone(connection: sa.Connection) -> Iterator[None]:
    """Keep other migrations out. On SQLite the write transaction does; on PostgreSQL the lock ends with it."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if connection.dialect.name not in ("mysql", "mariadb"):
        yield
        return
    if connection.scalar(sa.select(sa.func.get_lock("flux_migrate", 60))) != 1:
        raise DatabaseUnavailable("Another process has been migrating the database for 60 s. Wait for it to end.")
    try:
        yield
    finally:
        connection.execute(sa.select(sa.func.release_lock("flux_migrate")))

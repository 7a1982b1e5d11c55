"""The schema's revisions, and bringing a database to the newest. Alembic is imported only to migrate an old one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
#: Servers that commit before and after each statement that changes the schema: what is interrupted stays half done.
_COMMIT_DDL = ("mysql", "mariadb")
#: Their lock belongs to the session and its name to the whole server, so that it names the database.
_name = sa.func.concat("flux_migrate_", sa.func.md5(sa.func.database()))
_TAKE_LOCK, _RELEASE_LOCK = sa.select(sa.func.get_lock(_name, 60)), sa.select(sa.func.release_lock(_name))


def current(connection: sa.Connection) -> str | None:
    """Return the revision of a database that has been migrated once; the server's error if it has not."""
    return connection.scalar(_CURRENT)


def migrate(connection: sa.Connection) -> None:
    """Bring the database to the newest revision, in the transaction of `connection`. Safe to repeat, also half done.

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
        return
    found = sorted(tables & set(schema.metadata.tables))
    if found and not (_version.name in tables and _is_half_made(connection, found)):
        raise StoreError(
            f"The database has tables that Flux did not make ({', '.join(found)}). Give Flux a database of its own."
        )
    _create(connection, found, has_version=_version.name in tables)


def run_scripts(
    connection: sa.Connection, folder: Path = Path(__file__).parent, *, version_table: str = _version.name
) -> None:
    """Run every revision in the folder's `versions/` that the database lacks, in the transaction of `connection`.

    MySQL and MariaDB commit each change of the schema by itself: there the revisions that ended are kept when a later
    one fails, and what that one had changed stays. Such a script is run again, and must look at what is there.
    """
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext, MigrationStep
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(folder))

    def missing(heads: tuple[str, ...], _: MigrationContext) -> list[MigrationStep]:
        newest_first = list(scripts.iterate_revisions("head", heads or "base"))
        return [MigrationStep.upgrade_from_script(scripts.revision_map, script) for script in reversed(newest_first)]

    def keep(**_: object) -> None:
        if connection.dialect.name in _COMMIT_DDL:
            connection.exec_driver_sql("COMMIT")

    opts = {"fn": missing, "version_table": version_table, "on_version_apply": (keep,)}
    context = MigrationContext.configure(connection, opts=opts)
    with Operations.context(context):
        context.run_migrations()


def _is_half_made(connection: sa.Connection, tables: Sequence[str]) -> bool:
    """Say whether making the schema was interrupted: these tables are there, and nothing is in them."""
    return connection.dialect.name in _COMMIT_DDL and not any(
        connection.scalar(sa.select(sa.literal(1)).select_from(sa.table(name)).limit(1)) for name in tables
    )


def _create(connection: sa.Connection, half_made: Sequence[str], *, has_version: bool) -> None:
    """Make the newest schema in an empty database: the same as running every revision, many times faster.

    The revision is written last. Where an interruption leaves tables, the empty table of revisions, made first, tells
    that they are ours, and they are made anew.
    """
    schema.metadata.drop_all(connection, [schema.metadata.tables[name] for name in half_made], checkfirst=False)
    if not has_version:
        _version.create(connection, checkfirst=False)
    schema.metadata.create_all(connection, checkfirst=False)
    connection.execute(_version.insert().values(version_num=HEAD))


@contextmanager
def alone(connection: sa.Connection) -> Iterator[None]:
    """Keep other migrations out. On SQLite the write transaction does; on PostgreSQL the lock ends with it."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if connection.dialect.name not in _COMMIT_DDL:
        yield
        return
    if connection.scalar(_TAKE_LOCK) != 1:
        raise DatabaseUnavailable("Another process has been migrating the database for 60 s. Wait for it to end.")
    try:
        yield
    finally:
        # A broken connection has lost the lock already; its error is the one to tell.
        with suppress(sa.exc.DBAPIError, sa.exc.InvalidRequestError):
            connection.execute(_RELEASE_LOCK)

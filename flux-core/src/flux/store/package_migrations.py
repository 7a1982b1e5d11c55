"""Tables of other packages in the metadata database, such as flux-ui's users: brought to their newest revision.

Each such package has Alembic scripts in its folder `versions/` and a version table of its own, so that it and core are
upgraded apart from each other. Its tables are its own: core reads none of them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flux.errors import DatabaseTooNew, StoreError
from flux.store import migrations

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

    from flux.store.engine import Store


def upgrade(store: Store, name: str, folder: Path) -> bool:
    """Bring the tables of a package to its newest revision, in one transaction where the server can do that.

    Safe to repeat; on MySQL and MariaDB as far as the scripts are, see `migrations.run_scripts`.

    Returns:
        False when they were at it already.

    Raises:
        DatabaseTooNew: a newer release of the package made them.
        StoreError: its scripts cannot be read, do not form one line, or fail.
    """
    try:
        return store.write(lambda connection: _migrate(connection, name, folder))
    except DBAPIError as error:
        raise _failed(name, folder, error.orig or error) from error


def _migrate(connection: sa.Connection, name: str, folder: Path) -> bool:
    with migrations.alone(connection):
        if not is_behind(connection, name, folder):
            return False
        try:
            migrations.run_scripts(connection, folder, version_table=version_table(name))
        except (KeyboardInterrupt, DBAPIError):  # the store may try again
            raise
        except BaseException as error:  # a script that calls sys.exit must not end its host without a word
            raise _failed(name, folder, error) from error
    return True


def is_behind(connection: sa.Connection, name: str, folder: Path) -> bool:
    """Say whether the tables of a package are missing or of an older revision; errors as `upgrade`."""
    scripts = _scripts(name, folder)
    table = version_table(name)
    revision = None
    if table in sa.inspect(connection).get_table_names():
        revision = connection.scalar(sa.select(sa.column("version_num")).select_from(sa.table(table)))
    known = {script.revision for script in scripts.walk_revisions()}
    if revision is not None and revision not in known:
        raise DatabaseTooNew(
            f"The tables of {name!r} have revision {revision!r}, which this release of it does not know. "
            "Upgrade that package; nothing was touched."
        )
    return revision != scripts.get_current_head()


def version_table(name: str) -> str:
    """Return the name of the table that holds a package's revision."""
    return "alembic_version_" + re.sub(r"\W", "_", name)


def _failed(name: str, folder: Path, error: BaseException) -> StoreError:
    return StoreError(
        f"The migrations of {name!r} in {str(folder)!r} failed: {type(error).__name__}: {error}. "
        "That package must mend them; uninstall it until then."
    )


def _scripts(name: str, folder: Path) -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(folder))
    try:
        scripts.get_current_head()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # they are imported here, and may do anything
        raise StoreError(
            f"The migrations of {name!r} in {str(folder)!r} cannot be used: {type(error).__name__}: {error}."
        ) from error
    return scripts

"""Flux, the open object: configuration and store together, and the home folder they live in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flux import config as options
from flux import drivers
from flux.config import Config
from flux.errors import ConfigError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from flux.store import Store


class Flux:
    """An installation, opened. Close it, or use it in a `with`."""

    def __init__(self, config: Config, store: Store) -> None:
        self.config = config
        self.store = store
        store.announce(_listened(config))

    @classmethod
    def open(cls, config: Config, *, create: bool = False, busy_seconds: float | None = None) -> Flux:
        """Open the store; with `create` first make whatever is missing.

        Args:
            busy_seconds: how long one statement waits for another writer of SQLite; None: the store's default.

        Raises:
            ConfigError: the home folder cannot be made or written.
            StoreError: the database cannot be reached, or its schema is not this version's.
            PluginError: with `create`, the migrations of another package cannot be loaded.
        """
        from flux.store import Store

        if create:
            _make_home(config)
        waits = {} if busy_seconds is None else {"busy_seconds": busy_seconds}
        flux = cls(config, Store.open(config.database_url, durability=config.durability, create=create, **waits))
        flux.store.keep_logs(config.log_handlers)
        try:
            if create:
                flux.migrate_packages()
        except BaseException:
            flux.close()
            raise
        return flux

    @classmethod
    def init(cls, config: Config) -> None:
        """Make the home folder with its `flux.toml`, and the database at the newest schema. Safe to repeat."""
        cls.open(config, create=True).close()

    def migrate_packages(self) -> None:
        """Bring the tables of other packages (namespace `flux.migrations`) to their newest revision.

        Raises:
            PluginError: one of them cannot be loaded. StoreError: its tables cannot be brought there.
        """
        packages = drivers.migrations()
        if packages:
            from flux.store import package_migrations

            for name, folder in packages.items():
                package_migrations.upgrade(self.store, name, folder)

    def packages_behind(self) -> list[str]:
        """Return the names of packages whose tables are missing or of an older revision; errors as above."""
        packages = drivers.migrations()
        if not packages:
            return []
        from flux.store import package_migrations

        def behind(connection: sa.Connection) -> list[str]:
            found = packages.items()
            return [name for name, folder in found if package_migrations.is_behind(connection, name, folder)]

        return self.store.read(behind)

    @property
    def store_path(self) -> Path | None:
        """The file of a SQLite database; None for a server."""
        return self.config.database_file

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def __enter__(self) -> Flux:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listened(config: Config) -> Callable[[], frozenset[str]]:
    """Return a function that says to which kinds of state changes the providers listen, as a supervisor judged last."""
    from flux import providers
    from flux.store import announcing

    seen: tuple[int, int] | None = None
    kinds: frozenset[str] = frozenset()

    def listened() -> frozenset[str]:
        nonlocal seen, kinds
        stamp = providers.saved_at(config)
        if stamp != seen:
            catalogue = None if stamp is None else providers.saved(config)
            good = () if catalogue is None else (verdict for verdict in catalogue.verdicts if verdict.is_ok)
            seen, kinds = stamp, announcing.kinds_of(hook for verdict in good for hook in verdict.hooks)
        return kinds

    return listened


def lock_path(config: Config) -> Path | None:
    """Return the file whose lock makes a supervisor the only one of a SQLite database; None for a server."""
    file = config.database_file
    return None if file is None else file.with_name(f"{file.name}.supervisor.lock")


def _make_home(config: Config) -> None:
    """Make the home and its folders, readable by their owner alone; those that are there stay as they are."""
    try:
        for folder in (config.home, config.dags_folder, config.logs_folder, config.run_folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.run_folder.chmod(0o700)
        if not config.file.exists():
            _write_template(config.file)
    except OSError as error:
        raise ConfigError(
            f"Folder {error.filename!r} cannot be made or written: {error.strerror}. "
            f"Set FLUX_HOME (now {str(config.home)!r}) to a folder of your own."
        ) from error
    if not os.access(config.home, os.W_OK | os.X_OK):
        raise ConfigError(f"FLUX_HOME {str(config.home)!r} cannot be written. Set it to a folder of your own.")


def _write_template(file: Path) -> None:
    """Write a new `flux.toml`; the one that another process wrote meanwhile stays."""
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(options.template())
    except FileExistsError:
        return

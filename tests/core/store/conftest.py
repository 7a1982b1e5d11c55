"""The store on every database, and factories of what is in it.

To add a server: its name in `tests.databases` and among the parameters here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa

from flux.store import dags, schema
from flux.store.dags import DagVersion, Reading
from flux.store.engine import Store
from flux.structure import DagStructure, TaskStructure
from tests.databases import empty_database, parameters
from tests.store_engine import Engine

NOW = datetime(2026, 1, 5, 2, tzinfo=UTC)

MakeVersion: TypeAlias = Callable[..., DagVersion]
#: Modules whose subject differs from server to server: sessions, types, locks, the schema; and one that tries it all.
_REPRESENTATIVE = (
    "dags", "engine", "limits", "migrations", "mysql_sessions", "package_migrations", "prepared", "properties",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem.removeprefix("test_") in _REPRESENTATIVE:
            item.add_marker(pytest.mark.representative)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def server_store() -> Iterator[Callable[[str], Store]]:
    """Open the store of this session on a kind of server: a database of its own, made at the first call."""
    with ExitStack() as stack:

        @cache
        def opened(kind: str) -> Store:
            url = stack.enter_context(empty_database(kind))
            return stack.enter_context(Store.open(url, create=True))

        yield opened


@pytest.fixture(params=parameters("sqlite", "postgresql", "mariadb", "mysql"))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store at the newest schema, on each database."""
    if request.param == "sqlite":
        with Store.open(f"sqlite:///{tmp_path}/flux.db", durability="fast", create=True) as store:
            yield store
    else:
        yield request.getfixturevalue("empty_server_store")(request.param)


@pytest.fixture
def empty_server_store(server_store: Callable[[str], Store]) -> Callable[[str], Store]:
    """Give the store of the session on a kind of server, emptied."""

    def emptied(kind: str) -> Store:
        store = server_store(kind)
        store.write(_truncate)
        return store

    return emptied


@pytest.fixture(params=parameters("postgresql", "mariadb", "mysql"))
def remote_store(request: pytest.FixtureRequest, empty_server_store: Callable[[str], Store]) -> Store:
    """An empty store on each server, for what SQLite does not have: sessions that end, deadlocks."""
    return empty_server_store(request.param)


@pytest.fixture(params=parameters("sqlite", "postgresql", "mariadb", "mysql"))
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables, on each server."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/flux.db"
        return
    with empty_database(request.param) as url:
        yield url


@pytest.fixture(scope="session")
def clear() -> Callable[[Store], None]:
    """Empty a store, for tests that begin many times in one."""
    return lambda store: store.write(_truncate)


def _truncate(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        for name in schema.metadata.tables:
            connection.exec_driver_sql(f'DELETE FROM "{name}"')
        return
    if connection.dialect.name == "postgresql":
        tables = ", ".join(f'"{name}"' for name in schema.metadata.tables)
        connection.exec_driver_sql(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        return
    # TRUNCATE makes each table anew there, which takes a hundred times as long.
    connection.exec_driver_sql("SET SESSION foreign_key_checks = OFF")
    for name in schema.metadata.tables:
        connection.exec_driver_sql(f"DELETE FROM `{name}`")
    connection.exec_driver_sql("SET SESSION foreign_key_checks = ON")


@pytest.fixture
def make_structure() -> Callable[..., DagStructure]:
    """Build the structure of a DAG; see `structure_of`."""
    return structure_of


@pytest.fixture
def make_reading() -> Callable[..., Reading]:
    """Build a good reading of a file that defines these structures."""
    return reading_of


@pytest.fixture
def make_version() -> MakeVersion:
    """Register a DAG in a file of its own, and return its version; after a connection, arguments as `structure_of`."""

    def make(connection: sa.Connection, *args: Any, now: datetime = NOW, **fields: Any) -> DagVersion:
        structure = structure_of(*args, **fields)
        registered = dags.register(connection, structure.file, reading_of(structure), now)
        return dags.version(connection, registered[0].version_id)

    return make


@pytest.fixture
def engine(store: Store, make_version: MakeVersion) -> Engine:
    """The store engine with an empty store; see `tests.store_engine`."""
    return Engine(store, make_version)


def structure_of(
    tasks: Mapping[str, Mapping[str, Any]] | None = None, *, dag_id: str = "sales", **fields: Any
) -> DagStructure:
    """Build a structure from {task_id: fields of TaskStructure}, in topological order.

    `upstream` and `gates` of a task are task_ids; what is not given has its default. Without tasks: one, "load".
    """
    tasks = {"load": {}} if tasks is None else tasks
    index = {task_id: number for number, task_id in enumerate(tasks)}
    downstream: dict[str, list[int]] = {task_id: [] for task_id in tasks}
    for task_id, given in tasks.items():
        for above in given.get("upstream", ()):
            downstream[above].append(index[task_id])
    records = []
    for task_id, given in tasks.items():
        own = {"operator": "EmptyOperator", "module": "flux.operators", **given}
        for name in ("upstream", "gates"):
            own[name] = tuple(sorted(index[other] for other in given.get(name, ())))
        records.append(
            TaskStructure(index=index[task_id], task_id=task_id, downstream=tuple(downstream[task_id]), **own)
        )
    return DagStructure(**{"dag_id": dag_id, "file": f"{dag_id}.py", "line": 1, "tasks": tuple(records), **fields})


def reading_of(*structures: DagStructure, content: bytes = b"", path: str | None = None) -> Reading:
    path = path or (structures[0].file if structures else "empty.py")
    digest = hashlib.sha256(content).hexdigest()
    return Reading(
        hash=digest,
        structures=[structure.to_json() for structure in structures],
        sources={path: digest},
        contents={digest: content},
    )

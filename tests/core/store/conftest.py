"""The store on every database, and factories of what is in it.

To add a server: a fixture that makes an empty database on it, and its name among the parameters of `database_url`.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa

from flux.store import dags, schema
from flux.store.dags import DagVersion, Reading
from flux.store.engine import Store
from flux.structure import DagStructure, TaskStructure
from tests.store_engine import Engine

NOW = datetime(2026, 1, 5, 2, tzinfo=UTC)

MakeVersion: TypeAlias = Callable[..., DagVersion]


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty database of this session's own on the server that FLUX_TEST_POSTGRES names."""
    server = os.environ.get("FLUX_TEST_POSTGRES")
    if not server:
        reason = "FLUX_TEST_POSTGRES names no server; tests/services/services.sh starts one"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    name = f"flux_test_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield engine.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        engine.dispose()


@pytest.fixture(scope="session")
def postgres_store(postgres_url: str) -> Iterator[Store]:
    with Store.open(postgres_url, create=True) as store:
        yield store


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store at the newest schema, on each database."""
    if request.param == "sqlite":
        with Store.open(f"sqlite:///{tmp_path}/flux.db", durability="fast", create=True) as store:
            yield store
    else:
        store = request.getfixturevalue("postgres_store")
        store.write(_truncate)
        yield store


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables, on each server."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/flux.db"
        return
    url = sa.make_url(request.getfixturevalue("postgres_url"))
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"{url.database}_{uuid.uuid4().hex[:8]}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield url.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


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
    tables = ", ".join(f'"{name}"' for name in schema.metadata.tables)
    connection.exec_driver_sql(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")


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

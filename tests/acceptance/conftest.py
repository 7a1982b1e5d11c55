"""A system in a temporary home for each test, and the invariants after it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.acceptance import invariants
from tests.acceptance.system import System


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.acceptance)
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """A home that does not exist yet, on SQLite, or on what `both_databases` says; afterwards the invariants hold.

    A system that still runs is checked, interrupted, and checked again.
    """
    with _database(getattr(request, "param", "sqlite")) as url:
        system = System(tmp_path / "home", url)
        try:
            yield system
            if system.is_up:
                invariants.check(system)
                system.stop()
            if system.home.exists():
                invariants.check(system)
        finally:
            system.show()
            system.close()


@contextmanager
def _database(kind: str) -> Iterator[str | None]:
    """An empty database: None is SQLite in the home."""
    if kind == "sqlite":
        yield None
        return
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

"""A system in a temporary home for each test, and the invariants after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance import invariants
from tests.acceptance.system import System
from tests.databases import empty_database


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.acceptance)
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """A home that does not exist yet, on SQLite, or on what such as `both_databases` says; afterwards invariants hold.

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
    with empty_database(kind) as url:
        yield url

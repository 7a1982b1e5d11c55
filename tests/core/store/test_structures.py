"""Structures of versions are parsed once, and no more of them are kept than was said."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from flux.errors import DamagedVersion
from flux.store.schema import dag_version
from flux.store.structures import StructureCache
from tests.store_engine import Engine


def test_a_structure_is_read_once(engine: Engine) -> None:
    version = engine.dag({"a": {}})
    cache = StructureCache()
    first = engine.store.read(lambda c: cache.through(c)(version.id))
    assert first == version.structure
    assert engine.store.read(lambda c: cache.through(c)(version.id)) is first


def test_those_used_last_are_kept(engine: Engine) -> None:
    versions = [engine.dag(dag_id=f"d{number}").id for number in range(3)]
    cache = StructureCache(most=2)
    get = lambda number: engine.store.read(lambda c: cache.through(c)(versions[number]))  # noqa: E731
    first, second = get(0), get(1)
    assert get(0) is first
    get(2)
    assert get(0) is first
    assert get(1) is not second


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"tasks": [{}]}'])
def test_a_structure_that_cannot_be_read_is_named_and_not_kept(engine: Engine, text: str) -> None:
    version = engine.dag({"a": {}})
    cache = StructureCache()
    engine.sql(sa.update(dag_version).where(dag_version.c.id == version.id).values(structure=text))
    with pytest.raises(DamagedVersion, match=f"DAG version {version.id} cannot be read"):
        engine.store.read(lambda c: cache.through(c)(version.id))
    engine.sql(
        sa.update(dag_version).where(dag_version.c.id == version.id).values(structure=version.structure.to_json())
    )
    assert engine.store.read(lambda c: cache.through(c)(version.id)) == version.structure

"""Pools: named limits on how many task instances run at once.

A pool that a task names has a row, even when nobody has made it: `slots` is then None and its tasks wait. Deleting a
pool returns its row to that state, so that row numbers, and the keys of `blocked_on` built from them, never change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import NotFound, Refused
from flux.states import TERMINAL, State
from flux.store import schema
from flux.store.engine import insert_missing


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool and how full it is."""

    id: int
    name: str
    #: None: tasks name it, but nobody has made it.
    slots: int | None
    #: Slots taken; may exceed `slots` after these were lowered.
    used: int
    #: Task instances that are ready and wait for a slot.
    queued: int
    description: str | None


_pool, _instance = schema.pool, schema.task_instance
_key = sa.literal("pool:").concat(sa.cast(_pool.c.id, sa.String(20)))
_POOLS = sa.select(
    _pool.c.id,
    _pool.c.name,
    _pool.c.slots,
    _pool.c.used,
    sa.select(sa.func.count())
    .select_from(_instance)
    .where(_instance.c.blocked_on == _key, _instance.c.state == State.READY.value)
    .correlate(_pool)
    .scalar_subquery(),
    _pool.c.description,
).order_by(_pool.c.name)
_MADE = _POOLS.where(_pool.c.slots.is_not(None))
_TOO_SMALL = (
    sa.select(_pool.c.name, _pool.c.slots, sa.func.max(schema.task_instance.c.pool_slots))
    .join_from(_pool, schema.task_instance, schema.task_instance.c.pool_id == _pool.c.id)
    .where(schema.task_instance.c.state == State.READY, schema.task_instance.c.pool_slots > _pool.c.slots)
    .group_by(_pool.c.name, _pool.c.slots)
    .order_by(_pool.c.name)
)
_MISSING = _POOLS.where(_pool.c.slots.is_(None))
_BY_NAME = _MADE.where(_pool.c.name == bindparam("name"))
_IDS = sa.select(_pool.c.name, _pool.c.id).where(_pool.c.name.in_(bindparam("names", expanding=True)))
_NAMES = sa.select(_pool.c.name).where(_pool.c.slots.is_not(None))
_LOCK = sa.select(_pool.c.id, _pool.c.used).where(_pool.c.name == bindparam("name")).with_for_update()
_UPDATE = _pool.update().where(_pool.c.name == bindparam("pool_name"))
_OPEN_INSTANCES = (
    sa.select(sa.func.count())
    .select_from(_instance)
    .where(_instance.c.pool_id == bindparam("pool_row"))
    .where(_instance.c.state.in_([state.value for state in State if state not in TERMINAL]))
)


def every(connection: sa.Connection) -> list[Pool]:
    """Return the pools that somebody made, by name."""
    return [Pool(*row) for row in connection.execute(_MADE)]


def missing(connection: sa.Connection) -> list[Pool]:
    """Return the pools that tasks name and nobody made, by name."""
    return [Pool(*row) for row in connection.execute(_MISSING)]


def too_small(connection: sa.Connection) -> list[tuple[str, int, int]]:
    """Return (name, slots, slots asked) of the pools in which a ready task instance can never find room, by name."""
    return [(name, slots, asked) for name, slots, asked in connection.execute(_TOO_SMALL)]


def by_name(connection: sa.Connection, name: str) -> Pool:
    """Return the pool of that name; NotFound names the nearest ones."""
    row = connection.execute(_BY_NAME, {"name": name}).first()
    if row is None:
        raise NotFound.named(
            "Pool", name, connection.scalars(_NAMES), hint=f"Make it with `flux pool set {name} SLOTS`."
        )
    return Pool(*row)


def ids(connection: sa.Connection, names: Iterable[str]) -> dict[str, int]:
    """Return {name: row number} of the pools that have a row, made or not."""
    return {row.name: row.id for row in connection.execute(_IDS, {"names": list(dict.fromkeys(names))})}


def set(  # noqa: A001
    connection: sa.Connection, name: str, slots: int, description: str | None = None
) -> Pool:
    """Make a pool or change its slots; a description of None keeps the old one. What runs in it goes on.

    The caller then releases the key `pool:<row>`, for more slots may let waiting task instances start.
    """
    if slots < 0:
        raise Refused(f"Pool {name!r} cannot have {slots} slots. Give 0 or more; with 0 nothing in it starts.")
    insert_missing(connection, _pool, [{"name": name, "used": 0}])
    values: dict[str, object] = {"slots": slots}
    if description is not None:
        values["description"] = description
    connection.execute(_UPDATE.values(values), {"pool_name": name})
    return by_name(connection, name)


def delete(connection: sa.Connection, name: str) -> None:
    """Delete a pool. Refused while unfinished task instances are in it; tasks that name it will wait."""
    pool = by_name(connection, name)
    connection.execute(_LOCK, {"name": name})
    inside = connection.scalar(_OPEN_INSTANCES, {"pool_row": pool.id})
    if inside:
        raise Refused(
            f"Pool {name!r} has {inside} unfinished task instances in it. Wait for them, or lower it to 0 slots."
        )
    connection.execute(_UPDATE.values(slots=sa.null(), description=sa.null()), {"pool_name": name})

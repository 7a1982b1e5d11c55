"""The counted limits (pools, max_active_tasks of a DAG, max_active_tis_per_dag of a task) within one transaction.

A `Ledger` reads each counter once, keeps what the transaction takes and gives in memory, so that a task which ends and
its downstream which starts cancel out, and writes the difference once. Writing more use is guarded by the limit itself:
if another process was faster, the transaction begins again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.dependencies import Limit
from flux.errors import StaleState
from flux.store.keyed import Keyed
from flux.store.prepared import Prepared
from flux.store.schema import dag, pool, task_limit

#: (kind, row number); `key_text` writes it as `blocked_on` holds it.
Key = tuple[str, int]

_COLUMNS = {
    "dag": (dag, dag.c.dag_id, dag.c.max_active_tasks, dag.c.active_tasks),
    "task": (task_limit, task_limit.c.task_id, task_limit.c.slots, task_limit.c.used),
    "pool": (pool, pool.c.name, pool.c.slots, pool.c.used),
}
_ALL = {kind: sa.select(table.c.id, name, slots, used) for kind, (table, name, slots, used) in _COLUMNS.items()}
_READ = {kind: Keyed(statement, _COLUMNS[kind][0].c.id) for kind, statement in _ALL.items()}
_LOCK = {
    kind: Prepared(statement.where(_COLUMNS[kind][0].c.id == bindparam("id")).with_for_update(key_share=True))
    for kind, statement in _ALL.items()
}
_CHANGE = {
    kind: sa.update(table).where(table.c.id == bindparam("b_id")).values({used: used + bindparam("b_change")})
    for kind, (table, _, _, used) in _COLUMNS.items()
}
_GIVE = {kind: Prepared(statement) for kind, statement in _CHANGE.items()}
_TAKE = {
    kind: Prepared(_CHANGE[kind].where(sa.or_(slots.is_(None), used + bindparam("b_change") <= slots)))
    for kind, (_, _, slots, used) in _COLUMNS.items()
}


def key_text(key: Key) -> str:
    """Return the key as `blocked_on` holds it, such as "pool:3"."""
    return f"{key[0]}:{key[1]}"


def parse_key(text: str) -> Key:
    """Split "pool:3" into its kind and row number."""
    kind, _, number = text.partition(":")
    return kind, int(number)


@dataclass(slots=True)
class _Counter:
    name: str
    slots: int | None
    used: int
    change: int = 0
    is_locked: bool = False


class Ledger:
    """What one transaction knows of the limits it touches.

    Args:
        locks: `room` reads under a lock that lasts until the commit, so that nobody changes the limit in between.
    """

    def __init__(self, connection: sa.Connection, *, locks: bool = False) -> None:
        self._connection = connection
        self._locks = locks
        self._counters: dict[Key, _Counter] = {}

    def load(self, keys: Iterable[Key]) -> None:
        """Read the counters of `keys` that are not known yet: one query for each kind."""
        missing: dict[str, list[int]] = {}
        for key in keys:
            if key not in self._counters:
                missing.setdefault(key[0], []).append(key[1])
        for kind, ids in missing.items():
            for number, name, slots, used in _READ[kind].rows(self._connection, ids):
                self._counters[(kind, number)] = _Counter(name, slots, used)

    def limit(self, key: Key, wanted: int = 1) -> Limit | None:
        """Return how the limit stands now, this transaction counted; None where a DAG has none."""
        counter = self._counters[key]
        if counter.slots is None and key[0] == "dag":
            return None
        return Limit(key_text(key), counter.name, counter.slots, counter.used + counter.change, wanted)

    def is_limited(self, key: Key) -> bool:
        """Say whether somebody can be waiting for what this transaction gives back; the key must be loaded."""
        return self._counters[key].slots is not None

    def room(self, key: Key) -> int | None:
        """Return how many slots are free; None: the DAG has no limit (any more)."""
        self.load([key])
        counter = self._counters[key]
        if self._locks and not counter.is_locked:
            _, _, counter.slots, counter.used = _LOCK[key[0]].rows(self._connection, {"id": key[1]})[0]
            counter.is_locked = True
        if counter.slots is None:
            return None if key[0] == "dag" else 0
        return max(0, counter.slots - counter.used - counter.change)

    def change(self, key: Key, slots: int) -> None:
        """Take (positive) or give back (negative) slots; the key must be loaded."""
        self._counters[key].change += slots

    def write(self) -> None:
        """Write what changed.

        Raises:
            StaleState: another process took the room in between.
        """
        for (kind, number), counter in sorted(self._counters.items()):
            if not counter.change:
                continue
            statement = (_TAKE if counter.change > 0 else _GIVE)[kind]
            if statement.run(self._connection, {"b_id": number, "b_change": counter.change}) != 1:
                raise StaleState(f"{kind} {counter.name!r} has no room any more.")
            counter.used += counter.change
            counter.change = 0

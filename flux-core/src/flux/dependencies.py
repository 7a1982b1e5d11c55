"""Why a task instance may not run yet: the one predicate that the scheduler obeys and `flux why` prints. Pure.

Two kinds of reasons. While a task instance is *waiting*, its upstream and the gates above it decide
(`trigger_rules.verdict`). Once it is *ready*, the conditions of `unmet` decide, in this fixed order: its DAG is not
paused; its own past allows it; the DAG's, the task's and the pool's limit have room. The key of the first unmet one is
stored as `blocked_on`; whatever makes a key true again evaluates those that wait for it once more.

To add a condition: a field of `Facts`, a line in `unmet`, the event that releases its key (`store/advance.py`),
a code in `docs/reference`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that keeps a task instance from running."""

    #: upstream, gate, paused, past, dag_limit, task_limit, pool, parallelism, retry, poke, broken_file ...
    code: str
    message: str
    #: What it is about: a dag_id, task_id, pool name ...
    object: str
    #: What `blocked_on` holds while this is the first unmet condition; empty where nothing is stored.
    key: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A counted limit and what one task instance wants of it."""

    key: str
    name: str
    #: None: nobody defined it.
    slots: int | None
    used: int
    wanted: int = 1

    @property
    def has_room(self) -> bool:
        return self.slots is not None and self.used + self.wanted <= self.slots


@dataclass(frozen=True, slots=True)
class Past:
    """The first task instance of the previous run that must still end well."""

    key: str
    task_id: str
    run_id: str
    state: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a ready task instance when it asks to run. None: the condition does not apply."""

    dag_id: str
    paused_key: str | None = None
    past: Past | None = None
    dag_limit: Limit | None = None
    task_limit: Limit | None = None
    pool: Limit | None = None


def unmet(facts: Facts) -> Iterator[Reason]:
    """Yield what keeps a ready task instance from running, in the order it will be met; nothing: it may run."""
    if facts.paused_key is not None:
        yield Reason(
            "paused",
            f"DAG {facts.dag_id!r} is paused. `flux dag unpause {facts.dag_id}` lets it go on.",
            facts.dag_id,
            facts.paused_key,
        )
    if (past := facts.past) is not None:
        yield Reason(
            "past",
            f"Task {past.task_id!r} of the previous run {past.run_id!r} is {past.state}; "
            "it must be success or skipped.",
            past.task_id,
            past.key,
        )
    if (limit := facts.dag_limit) is not None and not limit.has_room:
        yield Reason(
            "dag_limit",
            f"DAG {limit.name!r} runs {limit.used} task instances, max_active_tasks is {limit.slots}.",
            limit.name,
            limit.key,
        )
    if (limit := facts.task_limit) is not None and not limit.has_room:
        yield Reason(
            "task_limit",
            f"Task {limit.name!r} runs {limit.used} times, max_active_tis_per_dag is {limit.slots}.",
            limit.name,
            limit.key,
        )
    if (limit := facts.pool) is not None and not limit.has_room:
        yield Reason("pool", _pool_message(limit), limit.name, limit.key)


def _pool_message(pool: Limit) -> str:
    if pool.slots is None:
        return f"Pool {pool.name!r} does not exist. Make it with `flux pool set {pool.name} {pool.wanted}`."
    if pool.wanted > pool.slots:
        return (
            f"Pool {pool.name!r} has {pool.slots} slots, the task asks for {pool.wanted}. "
            f"Enlarge it with `flux pool set {pool.name} {pool.wanted}`."
        )
    return f"Pool {pool.name!r} has {pool.used} of {pool.slots} slots used, the task asks for {pool.wanted}."

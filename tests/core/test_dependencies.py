"""Why a ready task instance may not run: each condition, their order, and what people read."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from flux.dependencies import Facts, Limit, Past, Reason, unmet

FREE = Limit("pool:2", "etl", 3, 2)
FULL = Facts(
    "sales",
    paused_key="paused:1",
    past=Past("past:7", "load", "scheduled__1", "failed"),
    dag_limit=Limit("dag:1", "sales", 2, 2),
    task_limit=Limit("task:9", "load", 1, 1),
    pool=Limit("pool:2", "etl", 3, 3),
)
#: Field of `Facts`, code and key, in the order in which they are met.
CONDITIONS = (
    ("paused_key", "paused", "paused:1"),
    ("past", "past", "past:7"),
    ("dag_limit", "dag_limit", "dag:1"),
    ("task_limit", "task_limit", "task:9"),
    ("pool", "pool", "pool:2"),
)
SUBSETS = [chosen for size in range(6) for chosen in itertools.combinations(CONDITIONS, size)]


@pytest.mark.parametrize("chosen", SUBSETS, ids=lambda chosen: "+".join(code for _, code, _ in chosen) or "none")
def test_every_unmet_condition_is_told_in_its_order_and_no_other(chosen: tuple[tuple[str, str, str], ...]) -> None:
    facts = Facts("sales", **{field: getattr(FULL, field) for field, _, _ in chosen})
    assert [(reason.code, reason.key) for reason in unmet(facts)] == [(code, key) for _, code, key in chosen]


def test_limits_with_room_hold_nobody_back() -> None:
    roomy = Facts("sales", dag_limit=FREE, task_limit=FREE, pool=FREE)
    assert list(unmet(roomy)) == []


@pytest.mark.parametrize(
    ("slots", "used", "wanted", "room"),
    [(3, 2, 1, True), (3, 2, 2, False), (3, 3, 1, False), (0, 0, 1, False), (None, 0, 1, False), (1, 4, 1, False)],
)
def test_a_limit_has_room_for_what_is_wanted(slots: int | None, used: int, wanted: int, room: bool) -> None:
    assert Limit("pool:1", "etl", slots, used, wanted).has_room is room


def pool_reason(limit: Limit) -> Reason:
    (reason,) = unmet(Facts("sales", pool=limit))
    return reason


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Limit("pool:2", "etl", None, 0, 2), "Pool 'etl' does not exist. Make it with `flux pool set etl 2`."),
        (
            Limit("pool:2", "etl", 1, 0, 2),
            "Pool 'etl' has 1 slots, the task asks for 2. Enlarge it with `flux pool set etl 2`.",
        ),
        (Limit("pool:2", "etl", 3, 2, 2), "Pool 'etl' has 2 of 3 slots used, the task asks for 2."),
    ],
)
def test_a_pool_says_what_to_do_about_it(limit: Limit, text: str) -> None:
    assert pool_reason(limit).message == text


def test_the_other_reasons_name_the_object_and_the_numbers() -> None:
    told = {reason.code: (reason.object, reason.message) for reason in unmet(FULL)}
    assert told["paused"] == ("sales", "DAG 'sales' is paused. `flux dag unpause sales` lets it go on.")
    assert told["past"] == (
        "load",
        "Task 'load' of the previous run 'scheduled__1' is failed; it must be success or skipped.",
    )
    assert told["dag_limit"] == ("sales", "DAG 'sales' runs 2 task instances, max_active_tasks is 2.")
    assert told["task_limit"] == ("load", "Task 'load' runs 1 times, max_active_tis_per_dag is 1.")


def test_facts_are_not_changed_by_asking() -> None:
    before = dataclasses.replace(FULL)
    list(unmet(FULL))
    assert before == FULL

"""Every rule over every set of up to four upstream outcomes, in every order of arrival, with and without gates."""

from __future__ import annotations

from itertools import combinations_with_replacement, permutations, product

import pytest

from flux.trigger_rules import TRIGGER_RULES, Verdict, verdict

OUTCOMES = ("ok", "bad", "skipped")
SETS = [outcomes for size in range(5) for outcomes in combinations_with_replacement(OUTCOMES, size)]


def judge(rule: str, arrived: tuple[str, ...], total: int, *, gates_open: int = 0, gates_closed: int = 0) -> Verdict:
    return verdict(
        rule,
        total=total,
        ok=arrived.count("ok"),
        bad=arrived.count("bad"),
        skipped=arrived.count("skipped"),
        gates_open=gates_open,
        gates_closed=gates_closed,
    )


def expected(rule: str, outcomes: tuple[str, ...]) -> Verdict:
    """authoring.md's table, read once everything is done, written in another way than the code's."""
    u, (ok, bad, skip) = len(outcomes), (outcomes.count(name) for name in OUTCOMES)
    runs = {
        "all_success": ok == u,
        "all_failed": bad == u,
        "all_done": True,
        "all_skipped": skip == u,
        "one_success": ok > 0,
        "one_failed": bad > 0,
        "one_done": ok + bad > 0,
        "none_failed": bad == 0,
        "none_failed_min_one_success": bad == 0 and ok > 0,
        "none_skipped": skip == 0,
        "always": True,
    }[rule]
    if u == 0 or runs:
        return Verdict.RUN
    fails = rule in ("all_success", "one_success", "none_failed", "none_failed_min_one_success") and bad > 0
    return Verdict.FAIL if fails else Verdict.SKIP


@pytest.mark.parametrize("rule", TRIGGER_RULES)
@pytest.mark.parametrize("outcomes", SETS, ids="-".join)
def test_the_last_verdict_is_the_tables_in_every_order_of_arrival(rule: str, outcomes: tuple[str, ...]) -> None:
    """The first verdict that is not WAIT is final: no later arrival changes it, and none waits for ever."""
    for arrival in set(permutations(outcomes)):
        verdicts = [judge(rule, arrival[:count], len(arrival)) for count in range(len(arrival) + 1)]
        decided = [found for found in verdicts if found is not Verdict.WAIT]
        assert decided, f"{rule} waits for ever on {arrival}"
        assert set(decided) == {expected(rule, outcomes)}, f"{rule} depends on the order {arrival}: {verdicts}"


AT_ONCE = [
    ("all_success", "bad", Verdict.FAIL),
    ("none_failed", "bad", Verdict.FAIL),
    ("none_failed_min_one_success", "bad", Verdict.FAIL),
    ("one_success", "ok", Verdict.RUN),
    ("one_failed", "bad", Verdict.RUN),
    ("one_done", "ok", Verdict.RUN),
    ("one_done", "bad", Verdict.RUN),
    ("always", None, Verdict.RUN),
]


@pytest.mark.parametrize(("rule", "outcome", "found"), AT_ONCE)
def test_what_the_table_decides_at_once_is_decided_with_the_first_arrival(
    rule: str, outcome: str | None, found: Verdict
) -> None:
    assert judge(rule, (outcome,) if outcome else (), 3) is found


@pytest.mark.parametrize(("rule", "outcome"), list(product(TRIGGER_RULES, OUTCOMES)))
def test_everything_else_waits_for_the_last_upstream(rule: str, outcome: str) -> None:
    at_once = {(name, arrived) for name, arrived, _ in AT_ONCE}
    if (rule, outcome) not in at_once and rule != "always":
        assert judge(rule, (outcome,) * 2, 3) is Verdict.WAIT


@pytest.mark.parametrize(("rule", "outcomes"), list(product(TRIGGER_RULES, SETS)))
def test_nothing_is_decided_while_a_gate_is_open_and_a_closed_one_skips(rule: str, outcomes: tuple[str, ...]) -> None:
    total = len(outcomes)
    assert judge(rule, outcomes, total, gates_open=1) is Verdict.WAIT
    assert judge(rule, outcomes, total, gates_open=1, gates_closed=1) is Verdict.WAIT
    assert judge(rule, outcomes, total, gates_closed=1) is Verdict.SKIP
    assert judge(rule, outcomes[: total // 2], total, gates_closed=2) is Verdict.SKIP


@pytest.mark.parametrize(
    "counts", [{"ok": 2, "bad": 0, "skipped": 0}, {"ok": 1, "bad": 1, "skipped": 0}, {"ok": 2, "bad": -1, "skipped": 0}]
)
def test_counts_that_cannot_be_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no verdict"):
        verdict("all_done", total=1, **counts)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'most_success'"):
        verdict("most_success", total=0, ok=0, bad=0, skipped=0)

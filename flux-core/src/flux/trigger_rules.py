"""Whether a task may run, seen from its direct upstream: the table of authoring.md, as one pure function.

The verdict never depends on the order in which upstreams end: a rule that answers before all are done gives an
answer that no later upstream changes, and no answer is given while a gate above (a branch directly above, a
short-circuit or latest-only anywhere above) is open.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What becomes of a waiting task."""

    #: Not decided yet.
    WAIT = "wait"
    RUN = "run"
    SKIP = "skip"
    #: It becomes upstream_failed.
    FAIL = "fail"


TRIGGER_RULES: tuple[str, ...] = (
    "all_success",
    "all_failed",
    "all_done",
    "all_skipped",
    "one_success",
    "one_failed",
    "one_done",
    "none_failed",
    "none_failed_min_one_success",
    "none_skipped",
    "always",
)


def verdict(
    rule: str, *, total: int, ok: int, bad: int, skipped: int, gates_open: int = 0, gates_closed: int = 0
) -> Verdict:
    """Return the verdict of `rule` over direct upstream task instances, each mapped one by itself.

    Args:
        total: those that count: neither removed nor without a row in this run.
        ok, bad, skipped: those that ended in success; failed or upstream_failed; skipped.
        gates_open: gates above that have not ended.
        gates_closed: gates above that ended and closed this task.
    """
    done = ok + bad + skipped
    if rule not in TRIGGER_RULES or min(ok, bad, skipped) < 0 or done > total:
        raise ValueError(f"no verdict for {rule!r} over {total} upstream: {ok} ok, {bad} bad, {skipped} skipped")
    if gates_open:
        return Verdict.WAIT
    if gates_closed:
        return Verdict.SKIP
    if total == 0 or rule == "always":
        return Verdict.RUN
    if rule == "one_success":
        return _once(ok > 0, done == total, Verdict.FAIL if bad else Verdict.SKIP)
    if rule == "one_failed":
        return _once(bad > 0, done == total, Verdict.SKIP)
    if rule == "one_done":
        return _once(ok + bad > 0, done == total, Verdict.SKIP)
    if bad and rule in _FAIL_AT_ONCE:
        return Verdict.FAIL
    if done < total:
        return Verdict.WAIT
    return Verdict.RUN if _holds(rule, total, ok, bad, skipped) else Verdict.SKIP


_FAIL_AT_ONCE = frozenset({"all_success", "none_failed", "none_failed_min_one_success"})


def _once(holds: bool, all_done: bool, otherwise: Verdict) -> Verdict:
    """The verdict of a rule that runs at once when it holds."""
    if holds:
        return Verdict.RUN
    return otherwise if all_done else Verdict.WAIT


def _holds(rule: str, total: int, ok: int, bad: int, skipped: int) -> bool:
    """Whether a rule that waits for everything holds, now that everything is done."""
    match rule:
        case "all_success":
            return ok == total
        case "all_failed":
            return bad == total
        case "all_skipped":
            return skipped == total
        case "none_failed_min_one_success":
            return ok > 0
        case "none_skipped":
            return skipped == 0
        case _:  # all_done; none_failed, whose failures are dealt with before
            return True

"""What is kept of providers that listen: failures in a row, and the call that is under way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from flux import process
from flux.running import listeners
from flux.running.listeners import CallMark, ListenerState

ACME = ListenerState(
    "acme", "1.0", 3, False, "flux_task_state_changed raised ValueError: no", "2026-01-05T02:00:00+00:00"
)
LATE = ListenerState("late", "", 5, True, "its call took too long or ended the process", "2026-01-05T02:00:01+00:00", 7)


def test_nothing_is_known_before_anything_failed(tmp_path: Path) -> None:
    assert listeners.states(tmp_path) == []
    assert listeners.of_system(tmp_path, "1-2") == {}


def test_failures_are_found_by_the_next_process_and_by_people(tmp_path: Path) -> None:
    listeners.publish(tmp_path, "1-2", [LATE, ACME])
    assert listeners.states(tmp_path) == [ACME, LATE]
    assert listeners.of_system(tmp_path, "1-2") == {"acme": ACME, "late": LATE}


def test_failures_of_an_earlier_start_of_flux_are_forgotten(tmp_path: Path) -> None:
    listeners.publish(tmp_path, "1-2", [ACME])
    assert listeners.of_system(tmp_path, "3-4") == {}


def test_a_file_that_is_no_list_of_failures_counts_as_none(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"system": "1-2", "failing": [{"other": 1}]}'):
        (tmp_path / "listeners.json").write_text(text)
        assert listeners.states(tmp_path) == []


def test_a_call_that_never_ended_is_found_after_the_process_was_killed(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        mark = CallMark(tmp_path)
        mark.begin(41, CallMark.encode("other"))
        mark.end()
        mark.begin(2**40, CallMark.encode("acmé"))
        os.kill(os.getpid(), signal.SIGKILL)
    process.wait(pid)
    mark = CallMark(tmp_path)
    assert mark.left() == (2**40, "acmé")
    mark.end()
    assert mark.left() is None
    mark.close()


def test_a_name_of_any_length_is_noted(tmp_path: Path) -> None:
    mark = CallMark(tmp_path)
    assert mark.left() is None
    mark.begin(0, CallMark.encode("p" * 5000))
    event, provider = mark.left() or (None, "")
    assert (event, set(provider)) == (0, {"p"})
    mark.close()

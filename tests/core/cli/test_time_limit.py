"""Time limits for author code in a command's own process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from flux.cli.time_limit import within
from flux.errors import PluginError


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """Set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


def test_what_is_in_time_is_returned() -> None:
    assert within(10, lambda: None, lambda: "late") is None
    assert within(10, lambda: [1], lambda: "late") == [1]


def test_what_is_raised_in_time_is_raised_here() -> None:
    with pytest.raises(SystemExit, match="3"):
        within(10, lambda: sys.exit(3), lambda: "late")


def test_what_is_late_is_an_error_in_the_words_given(held: threading.Event) -> None:
    with pytest.raises(PluginError, match="the vault is away"):
        within(0.01, held.wait, lambda: "the vault is away")


def in_a_process(block: str) -> subprocess.CompletedProcess[str]:
    code = (
        "from flux.cli.time_limit import ending_after\n"
        "def words(frames): return f'line {next(frames).f_lineno}'\n"
        f"with ending_after(0.3, words):\n    {block}\nprint('after', __import__('threading').active_count())\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_a_block_in_time_leaves_no_thread() -> None:
    done = in_a_process("pass")
    assert (done.returncode, done.stdout, done.stderr) == (0, "after 1\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("block", ["while True: pass", "__import__('select').select([], [], [])"])
def test_a_block_that_takes_longer_ends_the_process_with_the_line_where_it_was(block: str) -> None:
    done = in_a_process(block)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Error: line 4\n")


@pytest.mark.slow
def test_a_block_that_lets_no_other_thread_run_ends_too() -> None:
    done = in_a_process("sum(range(10**15))")
    assert (done.returncode, done.stdout, "line 4 in <module>" in done.stderr) == (1, "", True)

"""What code does outside its memory is seen, and what every import does is not."""

from __future__ import annotations

import linecache
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flux.testing.children import call_in_child
from flux.testing.effects import Effects, foreign_modules


def effects_of(function: Callable[[], object]) -> list[str]:
    """Run a function in a child, since a process cannot be unwatched."""

    def watched() -> list[str]:
        with Effects() as effects:
            function()
        return effects.found

    answer = call_in_child(watched, limit_seconds=10)
    assert answer.error is None, answer
    found: list[str] = answer.value
    return found


def opens_socket() -> None:
    with socket.socket() as line:
        line.connect_ex(("127.0.0.1", 9))


def starts_thread() -> None:
    threading.Thread(target=lambda: None).start()


def starts_process() -> None:
    subprocess.run(["true"], check=True)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (opens_socket, "opens a network connection (('127.0.0.1', 9)) at test_effects.py:"),
        (starts_thread, "starts a thread at test_effects.py:"),
        (starts_process, "starts a process ('true') at test_effects.py:"),
        (lambda: Path("x").write_text("y"), "opens a file ('x') at test_effects.py:"),
        (lambda: Path("/etc/passwd").read_text(), "opens a file ('/etc/passwd') at test_effects.py:"),
        (lambda: os.mkdir("x"), "makes a folder ('x') at test_effects.py:"),  # noqa: PTH102
    ],
)
def test_an_effect_is_told_with_its_place(function: Callable[[], object], words: str) -> None:
    assert [line for line in effects_of(function) if line.startswith(words)]


def test_what_a_library_in_c_opens_is_seen_by_what_it_leaves() -> None:
    assert effects_of(lambda: os.dup(0)) == ["leaves a file or a connection open"]


def test_imports_time_zones_and_arithmetic_have_no_effects() -> None:
    def harmless() -> None:
        import colorsys
        from zoneinfo import ZoneInfo

        assert colorsys.rgb_to_hls(0, 0, 0)
        assert ZoneInfo("Europe/Berlin").key
        assert os.urandom(4)
        assert linecache.getline(__file__, 1)

    assert effects_of(harmless) == []


def test_nothing_is_noted_after_the_block() -> None:
    def after() -> list[str]:
        with Effects() as effects:
            pass
        starts_thread()
        Path("x").touch()
        return effects.found

    assert call_in_child(after, limit_seconds=10).value == []


def test_foreign_modules_are_neither_python_s_nor_flux_s_nor_its_own() -> None:
    imported = ["json", "flux", "flux_provider_acme", "pandas", "_cffi_backend"]
    assert foreign_modules(imported, "flux_provider_acme.operators") == ["pandas"]


def test_a_child_that_dies_or_hangs_is_told_and_gone() -> None:
    assert call_in_child(lambda: os._exit(4), limit_seconds=10).error == "the process ended by itself: exit status 4"
    hung = call_in_child(threading.Event().wait, limit_seconds=0.1)
    assert hung.error == "did not end within 0.1 s"

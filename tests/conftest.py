"""What all tests share: an environment without the developer's Flux in it, and why tests were skipped, in few lines."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from flux import secret


def pytest_configure() -> None:
    """Undo what a shell does to background jobs: with SIGINT ignored, what tests start would not hear Ctrl-C either."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every `FLUX_` variable away, but for those that name test services, so that a test sees only its own."""
    for name in list(os.environ):
        if name.startswith("FLUX_") and not name.startswith("FLUX_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_secrets() -> Iterator[None]:
    """Forget what became secret in a test: all that is printed later is searched for every secret of the process."""
    before = secret.forms()
    yield
    if secret.forms() is not before:
        secret._seen.intersection_update(before)
        secret._forms = before


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say each reason for skipping once, with how many tests it holds for."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")

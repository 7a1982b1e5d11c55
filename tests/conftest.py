"""What all tests share: an environment without the developer's Flux in it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every `FLUX_` variable away, but for those that name test services, so that a test sees only its own."""
    for name in list(os.environ):
        if name.startswith("FLUX_") and not name.startswith("FLUX_TEST_"):
            monkeypatch.delenv(name)

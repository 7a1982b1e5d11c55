"""The tests' own executor passes the kit, so that what the acceptance tests prove is proven with a sound one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from flux import testing

pytestmark = pytest.mark.slow

_FILE = Path(__file__).parents[1] / "providers/hopping/src/flux_provider_hopping/executor.py"
_SPEC = importlib.util.spec_from_file_location("hopping_executor", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)


class TestHoppingExecutor(testing.ExecutorConformance):
    executor = _MODULE.HoppingExecutor

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FLUX_HOPPING_FOLDER", str(tmp_path))

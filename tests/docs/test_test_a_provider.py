"""The page about testing a provider: its tests pass, for a provider as it has in mind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "test-a-provider.md"
FENCE = re.compile(r"```python\n# (\S+)\n(.*?)```", re.DOTALL)

PROVIDER = {
    "flux_provider_acme/__init__.py": "",
    "flux_provider_acme/py.typed": "",
    "flux_provider_acme/provider.py": """
from flux.plugins import Ref, hookimpl
FLUX_API = ">=1.0,<2"
@hookimpl
def flux_operators() -> list[Ref]:
    return [Ref("AcmeLoadOperator", "flux_provider_acme.operators:AcmeLoadOperator")]
""",
    "flux_provider_acme/operators.py": '''
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from flux import BaseOperator, Context
class AcmeLoadOperator(BaseOperator):
    """Write rows to a file.

    Args:
        path: of the file, which is replaced.
        rows: how many.
    """

    template_fields: Sequence[str] = ("path",)

    def __init__(self, *, path: str, rows: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.rows = rows

    def execute(self, context: Context) -> int:
        Path(self.path).write_text("".join(f"row {number}\\n" for number in range(self.rows)))
        return self.rows
''',
    "flux_provider_acme-0.1.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: flux-provider-acme\nVersion: 0.1\nRequires-Dist: flux-core>=0.1,<0.2\n"
    ),
    "flux_provider_acme-0.1.dist-info/entry_points.txt": "[flux.providers]\nacme = flux_provider_acme.provider\n",
}
#: What the page leaves to its reader: a server for the world that it shows.
SERVER = """
import pytest

class Server:
    port = 4711
    def __init__(self, folder):
        self.folder = folder
    def tables(self):
        return {path.name: path.read_text() for path in self.folder.iterdir()}
    def jobs(self):
        return []

@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)
"""


@pytest.mark.slow
def test_the_tests_that_the_page_shows_pass(tmp_path: Path) -> None:
    files = {**PROVIDER, "acme_server.py": SERVER}
    files |= {name.removeprefix("tests/"): text for name, text in FENCE.findall(PAGE.read_text(encoding="utf-8"))}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    options = ["-q", "-p", "no:cacheprovider", "-p", "acme_server", "-c", os.devnull, "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d\d passed", done.stdout.splitlines()[-1]), done.stdout
    assert {"test_load.py", "test_conformance.py", "conftest.py"} <= files.keys()

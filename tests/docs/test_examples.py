"""The DAG files that the documentation and the examples show can be read."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEATTLE = ROOT / "examples" / "seattle"
#: Without what a note precedes: the tests of those pages save and run it.
FENCE = re.compile(r"(?<!-->\n)```python\n(.*?)```", re.DOTALL)


def dag_files() -> dict[str, str]:
    """Every Python block of a page that makes a whole DAG, and every example."""
    found = {}
    pages = [
        ROOT / "README.md",
        *sorted(ROOT.glob("flux-*/*.md")),
        *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    ]
    for page in pages:
        for number, text in enumerate(FENCE.findall(page.read_text(encoding="utf-8"))):
            if "with DAG(" in text and "import DAG" in text:
                found[f"{page.relative_to(ROOT)}-{number}"] = text
    for path in sorted([*(ROOT / "examples").rglob("*.py"), *ROOT.glob("flux-*/examples/*.py")]):
        if path.name != "demo.py":
            found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", dag_files())
def test_a_dag_file_that_is_shown_can_be_read(name: str, tmp_path: Path) -> None:
    file = tmp_path / "shown.py"
    file.write_text(dag_files()[name], encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).with_name("flux"), "dag", "check", str(file)],
        env={"FLUX_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("day", "hours"), [("2010-03-14", 23), ("2010-03-10", 24)])
def test_the_seattle_example_runs_a_day_without_a_server(day: str, hours: int, tmp_path: Path) -> None:
    """The short day, and the one on which a task fails once; the numbers are those of the data."""
    data = (SEATTLE / "seattle-temps-2010-03.csv").read_text(encoding="utf-8").splitlines()
    rows = [row for row in data[1:] if row.startswith(day.replace("-", "/"))]
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / f"{day}.csv").write_text("\n".join([data[0], *rows]) + "\n", encoding="utf-8")
    subprocess.run(
        [sys.executable, str(SEATTLE / "seattle.py"), "run", day],
        env={"FLUX_VAR_SEATTLE_FOLDER": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        check=True,
    )
    with closing(sqlite3.connect(tmp_path / "seattle.db")) as connection:
        found = connection.execute("SELECT ds, hours, low, high FROM day").fetchall()
    readings = [float(row.partition(",")[2]) for row in rows]
    assert found == [(day, hours, min(readings), max(readings))]


def test_there_are_dag_files_to_read() -> None:
    assert len(dag_files()) >= 4

"""Bad providers, installed for real: wheels in a virtual environment, all together and one by one, next to good ones.

Whatever they do, `flux --help`, `flux version` and `flux provider list` end well, the JSON is clean, each bad one is
named with its state and reason, and a DAG that uses a good one runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import flux
from tests.bad_providers import BROKEN, CLASHING, CONFLICT, JUDGED, OK, TOLERATED, Bad
from tests.installed import manifest, operators

DAG_FILE = """
from flux import DAG
from flux_provider_alpha.operators import AlphaOperator

with DAG("uses_alpha") as dag:
    AlphaOperator(task_id="say")
"""
ALPHA = """
from flux import BaseOperator

class AlphaOperator(BaseOperator):
    def execute(self, context):
        print("alpha was here on", context["ds"])
"""
CASES = {f"case{number:02}": case for number, case in enumerate([*JUDGED, *TOLERATED, *CLASHING], 1)}
BAD: Mapping[str, Bad] = {**JUDGED, **TOLERATED, **CLASHING}
TWINS = ("twin-one", "twin-two")
SHARING = ("share1", "share2")
#: {distribution: what its entry_points.txt becomes after the installation}
SPOILT = {
    "spoilt-bytes": b"\xff\xfe[flux.providers]\nspoilt = x\n",
    "spoilt-line": b"[flux.providers]\nno equals sign here\n",
    "spoilt-header": b"[flux.providers\nspoilt = x\n",
}


def wheel(folder: Path, name: str, modules: Mapping[str, str], *, distribution: str | None = None) -> Path:
    """Build a wheel of provider `name`; `{package}` in its texts is its package."""
    distribution = distribution or f"flux-provider-{name}"
    package = distribution.replace("-", "_")
    info = f"{package}-0.3.dist-info"
    files = {
        f"{package}/__init__.py": "",
        **{f"{package}/{file}": text for file, text in modules.items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.3\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[flux.providers]\n{name} = {package}.provider\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = folder / f"{package}-0.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def wheels(folder: Path) -> list[Path]:
    """Two good providers, and every bad one."""
    built = [
        wheel(folder, "alpha", {"provider.py": operators("AlphaOperator"), "operators.py": ALPHA}),
        wheel(folder, "omega", {"provider.py": manifest(sensors='[Ref("OmegaSensor", "a:B")]')}),
    ]
    built += [wheel(folder, name, {"provider.py": BAD[case].text}) for name, case in CASES.items()]
    built += [wheel(folder, "twin", {"provider.py": operators("T")}, distribution=name) for name in TWINS]
    built += [wheel(folder, name, {"provider.py": manifest(executors='[Ref("far", "a:B")]')}) for name in SHARING]
    built += [wheel(folder, name, {"provider.py": operators("S")}, distribution=name) for name in SPOILT]
    heavy = wheel(folder, "heavy", {"provider.py": operators("HeavyOperator")}, distribution="heavy-library")
    return [*built, heavy]


@dataclass(frozen=True)
class Installation:
    """A virtual environment with Flux and all these providers."""

    folder: Path

    def flux(self, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Flux there."""
        environ = {"FLUX_HOME": str(self.folder / "home"), "PATH": os.environ["PATH"], **options}
        return subprocess.run(
            [self.folder / "bin" / "python", "-P", "-m", "flux.cli.main", *arguments],
            env=environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def providers(self, **options: str) -> dict[str, list[dict[str, Any]]]:
        """The rows of `flux provider list --json` by name; its output is JSON and nothing else."""
        done = self.flux("provider", "list", "--json", **options)
        assert done.returncode == 0, done.stderr
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in json.loads(done.stdout):
            rows.setdefault(row["name"], []).append(row)
        return rows


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Made by venv and pip, offline. Flux and what it needs come from this environment, by a path file."""
    folder = tmp_path_factory.mktemp("installation")
    (folder / "wheels").mkdir()
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*install, *wheels(folder / "wheels")], check=True, capture_output=True, text=True)
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", query], check=True, capture_output=True, text=True).stdout.strip())
    paths = [str(Path(flux.__file__).parents[1]), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (site / "reach_flux.pth").write_text("\n".join(dict.fromkeys(paths)))
    for distribution, content in SPOILT.items():
        (site / f"{distribution.replace('-', '_')}-0.3.dist-info" / "entry_points.txt").write_bytes(content)
    (folder / "home" / "dags").mkdir(parents=True)
    (folder / "home" / "dags" / "uses_alpha.py").write_text(DAG_FILE)
    return Installation(folder)


def check_case(name: str, row: dict[str, Any], notes: str) -> None:
    """Hold the row of one bad provider against what is known of it; notes are on stderr."""
    bad = BAD[CASES[name]]
    assert row["state"] == bad.state, (CASES[name], row)
    says = (bad.says or "").replace("flux_provider_bad", f"flux_provider_{name}")
    where = notes if bad.state == OK else row["reason"]
    assert says in where, (CASES[name], row)


def test_together_each_is_named_and_the_good_ones_work(installation: Installation) -> None:
    for arguments in (["--help"], ["version"]):
        done = installation.flux(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    listed = installation.flux("provider", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(listed.stdout):
        rows.setdefault(row["name"], []).append(row)
    assert [rows[name][0]["state"] for name in ("core", "alpha", "omega")] == [OK, OK, OK]
    assert rows["alpha"][0]["operators"] == ["AlphaOperator"]
    for name in CASES:
        check_case(name, rows[name][0], listed.stderr)
    for name, other in (SHARING, SHARING[::-1]):
        assert rows[name][0]["state"] == OK
        assert f"Provider {name!r}: Its executor 'far' is also offered by {other}" in listed.stderr
    assert {row["distribution"]: row["state"] for row in rows["twin"]} == dict.fromkeys(TWINS, CONFLICT)
    for distribution in SPOILT:
        assert rows[distribution][0]["state"] == BROKEN
        assert "entry_points" in rows[distribution][0]["reason"] or "decode" in rows[distribution][0]["reason"]


def test_together_the_list_for_people_is_whole_too(installation: Installation) -> None:
    """All but those that run forever: these take seconds at each start, and the list of the others is as long."""
    quick = [name for name, case in CASES.items() if not case.endswith("forever")]
    done = installation.flux(
        "provider", "list", FLUX_PROVIDERS_ONLY=",".join(["alpha", "omega", *quick, "twin", *SPOILT])
    )
    assert done.returncode == 0, done.stderr
    assert "hello from the provider" not in done.stdout
    for name in ("core", "alpha", "omega", *CASES, "twin", *SPOILT):
        assert name in done.stdout


def test_together_a_dag_that_uses_a_good_one_runs(installation: Installation) -> None:
    done = installation.flux("dag", "test", "uses_alpha", "2026-01-05")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "alpha was here on 2026-01-05" in done.stdout


def test_strict_and_required_keep_no_list_from_being_shown(installation: Installation) -> None:
    only = {"FLUX_PROVIDERS_ONLY": "alpha,case01"}
    for options in ({"FLUX_STRICT": "1", **only}, {"FLUX_PROVIDERS_REQUIRED": "case01", **only}):
        assert "alpha" in installation.providers(**options)
        assert installation.flux("--help", **options).returncode == 0
        assert installation.flux("version", **options).returncode == 0


@pytest.mark.parametrize("name", CASES, ids=CASES.get)
def test_one_by_one_it_is_named_and_the_good_ones_work(name: str, installation: Installation) -> None:
    only = {"FLUX_PROVIDERS_ONLY": f"alpha,omega,{name}"}
    for arguments in (["--help"], ["version"]):
        assert installation.flux(*arguments, **only).returncode == 0
    done = installation.flux("provider", "list", "--json", **only)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    check_case(name, rows[name], done.stderr)
    assert (rows["alpha"]["state"], rows["omega"]["state"]) == (OK, OK)
    assert {row["state"] for other, row in rows.items() if other in CASES and other != name} == {"disabled"}


@pytest.mark.parametrize("name", ["twin", *SPOILT])
def test_one_by_one_what_is_not_even_judged_is_named(name: str, installation: Installation) -> None:
    rows = installation.providers(FLUX_PROVIDERS_ONLY=f"alpha,omega,{name}")
    assert {row["state"] for row in rows[name]} == {CONFLICT if name == "twin" else BROKEN}
    assert rows["alpha"][0]["state"] == OK

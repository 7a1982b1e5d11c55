"""What `flux provider new` writes installs, and passes its own tests, lint and strict types, as it is written."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import flux

#: Arguments of `flux provider new`, by what is written.
WHOLE: Mapping[str, list[str]] = {
    "an operator": ["acme", "--operator", "AcmeOperator"],
    "everything": [
        *("acme_x", "--operator", "AcmeXOperator", "--operator", "AcmeLoadOperator", "--sensor", "AcmeXSensor"),
        *("--executor", "acme_grid", "--macro", "month_start"),
    ],
    "a connection": ["acme", "--operator", "AcmeOperator", "--sensor", "AcmeSensor", "--connection"],
}
#: More of them, for what shows without an installation.
WRITTEN: Mapping[str, list[str]] = {
    **WHOLE,
    "a sensor": ["acme", "--sensor", "AcmeSensor"],
    "an executor": ["acme", "--executor", "acme"],
    "a macro": ["acme", "--macro", "first"],
    "long names": [
        *("a" * 30, "--operator", f"{'B' * 42}Operator", "--operator", "ZOperator", "--sensor", f"{'C' * 44}Sensor"),
        *("--executor", "e" * 30, "--macro", "m" * 30, "--connection"),
    ],
}
TOOLS = ("hatchling", "mypy", "ruff")
missing = [name for name in TOOLS if importlib.util.find_spec(name) is None]
if missing and os.environ.get("CI"):
    raise RuntimeError(f"In CI these must be installed: {missing}")
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@dataclass(frozen=True)
class Workplace:
    """A virtual environment with Flux, and a folder to write into."""

    folder: Path
    #: What mypy knows of Flux, from one test to the next.
    cache: Path

    def run(self, *arguments: str | Path, cwd: Path | None = None, **options: str) -> str:
        """Run a module of Python that must end well, `flux` standing for its command line; return what it prints."""
        module = ["flux.cli.main"] if arguments[0] == "flux" else [str(arguments[0])]
        done = subprocess.run(
            [self.folder / "bin" / "python", "-m", *module, *arguments[1:]],
            cwd=cwd or self.folder,
            env={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "FLUX_HOME": str(self.folder / "home"),
                "MYPY_CACHE_DIR": str(self.cache),
                **options,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def write(self, arguments: list[str]) -> Path:
        """Write a package; return its folder."""
        self.run("flux", "provider", "new", *arguments, "--into", self.folder)
        return self.folder / f"flux-provider-{arguments[0].replace('_', '-')}"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


@pytest.fixture
def workplace(tmp_path: Path, cache: Path) -> Workplace:
    """Made by venv, offline. Flux, what it needs and the tools come from this environment, by a path file."""
    folder = tmp_path / "workplace"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    argv = [folder / "bin" / "python", "-c", query]
    site = Path(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip())
    paths = [str(Path(flux.__file__).parents[1]), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (site / "reach_flux.pth").write_text("\n".join(dict.fromkeys(paths)))
    return Workplace(folder, cache)


@pytest.mark.parametrize("case", WHOLE)
def test_it_installs_and_passes_its_own_tests_within_a_minute(case: str, workplace: Workplace) -> None:
    began = time.monotonic()
    folder = workplace.write(WHOLE[case])
    workplace.run("pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", folder)
    tested = workplace.run("pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert " passed" in tested
    assert "failed" not in tested
    assert time.monotonic() - began < 60
    name = WHOLE[case][0]
    assert f"{name}: ok" in workplace.run("flux", "provider", "check", name)
    if "--connection" not in WHOLE[case]:
        example = workplace.run(
            "flux", "dag", "test", f"{name}_example", "2026-01-05", FLUX_DAGS_FOLDER=f"{folder}/examples"
        )
        assert "2026-01-05.txt: 10 characters" in example
    workplace.run("flux", "dag", "check", folder / "examples")


@pytest.mark.parametrize("case", WRITTEN)
def test_it_passes_lint_and_strict_types(case: str, workplace: Workplace) -> None:
    folder = workplace.write(WRITTEN[case])
    workplace.run("ruff", "check", "--no-cache", cwd=folder)
    workplace.run("ruff", "format", "--no-cache", "--check", cwd=folder)
    assert "no issues found" in workplace.run("mypy", cwd=folder)


def test_types_find_a_hook_that_returns_something_else(workplace: Workplace) -> None:
    """The two lines that come with the package are at work."""
    folder = workplace.write(WHOLE["an operator"])
    manifest = folder / "src" / "flux_provider_acme" / "provider.py"
    manifest.write_text(manifest.read_text().replace("-> list[Ref]", "-> list[str]").replace("Ref(", "str("))
    checked = subprocess.run(
        [workplace.folder / "bin" / "python", "-m", "mypy", "--cache-dir", workplace.cache],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1
    assert "tests/manifest_types.py" in checked.stdout

"""What a developer does with this repository, one session each. `nox -l` lists them.

Every session has an environment of its own, made from PyPI with the versions of `constraints.txt`. A session that runs
tests takes pytest's arguments after `--`: `nox -s tests -- tests/core/test_schedule.py -k dst`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
#: Every package of this repository, in the order in which they need each other.
PACKAGES = ("flux-core",)
#: Seconds that a session's child has to end by itself after Ctrl-C: `flux up` promises 6.
PATIENCE = 12.0


def install(session: nox.Session, *tools: str, extras: str = "") -> None:
    """Install every package of the repository, editable, and `tools`, in one command so that versions agree.

    Args:
        extras: of flux-core, as in "[postgres,testing]".
    """
    editable: list[str] = []
    for package in PACKAGES:
        editable += ["-e", f"./{package}{extras if package == 'flux-core' else ''}"]
    session.install("-c", "constraints.txt", *editable, *tools)


def run_pytest(session: nox.Session, *defaults: str, env: dict[str, str] | None = None) -> None:
    """Run pytest on the session's arguments, or on `defaults` when there are none."""
    session.run("python", "-m", "pytest", *(session.posargs or defaults), env=env, interrupt_timeout=PATIENCE)


@nox.session
def demo(session: nox.Session) -> None:
    """Start the whole system in a temporary home and run the example pipeline over real input."""
    install(session)
    session.run("python", "examples/seattle/demo.py", *session.posargs, interrupt_timeout=PATIENCE)


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make `.venv` into a developer's environment: every package editable, with the tools."""
    python = ROOT / ".venv" / "bin" / "python"
    if not python.exists():
        session.run(sys.executable, "-m", "venv", ".venv", external=True)
    editable = [part for package in PACKAGES for part in ("-e", f"./{package}")]
    editable[1] += "[postgres,testing]"
    tools = ("nox", "ruff", "mypy")
    session.run(str(python), "-m", "pip", "install", "-q", "-c", "constraints.txt", *editable, *tools, external=True)
    session.log("Ready: `. .venv/bin/activate`, then `flux --help` or `pytest tests/core`.")


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests but those of whole systems. What needs a database server skips unless one is named."""
    install(session, extras="[postgres,testing]")
    run_pytest(session, "tests", "--ignore=tests/acceptance", "--ignore=tests/benchmarks")


@nox.session
def integration(session: nox.Session) -> None:
    """Start a private PostgreSQL and run the tests that use one; a missing service is a failure here."""
    install(session, extras="[postgres,testing]")
    run_pytest(session, "tests/core/store", "tests/core/running", env={"CI": "true", **start_services(session)})


@nox.session
def acceptance(session: nox.Session) -> None:
    """Run whole systems: start, kill, restart, interrupt, and look at what is left."""
    install(session, extras="[postgres,testing]")
    if os.environ.get("CI"):  # at home the test that forks after them skips without them
        session.install("numpy", "pandas", "pyarrow")
    run_pytest(session, "tests/acceptance")


@nox.session
def house(session: nox.Session) -> None:
    """Hold the rules of the house: layers, one writer of state, everything documented."""
    install(session, extras="[testing]")
    run_pytest(session, "tests/house")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and layout; `-- --fix` mends what can be mended."""
    session.install("-c", "constraints.txt", "ruff")
    mend = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if mend else []), ".")
    session.run("ruff", "format", *([] if mend else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    install(session, "mypy", "nox", extras="[postgres,testing]")
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Write the generated pages under docs/reference/; `-- --check` fails when one is out of date."""
    install(session)
    session.run("python", "docs/generate.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheel and sdist of every package into dist/, and try the wheels in an empty environment."""
    session.install("-c", "constraints.txt", "build", "hatchling")
    shutil.rmtree("dist", ignore_errors=True)
    for package in PACKAGES:
        session.run("python", "-m", "build", "--no-isolation", "--outdir", "dist", package)
    empty = Path(session.create_tmp()) / "empty"
    session.run("python", "-m", "venv", "--clear", str(empty))
    wheels = [str(path) for path in sorted((ROOT / "dist").glob("*.whl"))]
    pip = [str(empty / "bin" / "python"), "-m", "pip"]
    session.run(*pip, "install", "-q", "-c", "constraints.txt", *wheels, external=True)
    session.run(*pip, "check", external=True)
    session.run(str(empty / "bin" / "flux"), "version", external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, print the table, and keep it under docs/benchmarks/; `-- --peers` measures Luigi and Huey as well."""
    install(session, extras="[postgres,testing]")
    arguments = list(session.posargs)
    if "--peers" in arguments:
        arguments.remove("--peers")
        peers = Path(session.create_tmp()).absolute() / "peers"
        session.run("python", "-m", "venv", str(peers))
        python = str(peers / "bin" / "python")
        session.run(python, "-m", "pip", "install", "-q", "luigi==3.8.1", "huey==3.5.4", external=True)
        arguments += ["--peers-python", python]
    session.run("python", "-m", "tests.benchmarks", *arguments, interrupt_timeout=PATIENCE)


def start_services(session: nox.Session) -> dict[str, str]:
    """Start the test services that are not named by the environment yet; return the variables that name them.

    They go on running, so that a second call costs nothing; `tests/services/services.sh stop` ends them.
    """
    if "FLUX_TEST_POSTGRES" in os.environ:
        return {}
    script = str(ROOT / "tests" / "services" / "services.sh")
    for verb in ("install", "start"):
        session.run(script, verb, "postgres", external=True)
    lines = subprocess.run([script, "env", "postgres"], check=True, capture_output=True, text=True).stdout.splitlines()
    pairs = (line.removeprefix("export ").partition("=") for line in lines if "=" in line)
    return {name: value.strip("'\"") for name, _, value in pairs}

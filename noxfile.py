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
PACKAGES = ("flux-core", "flux-provider-mysql")
#: The servers that tests need, by the variable that names each.
SERVICES = {"FLUX_TEST_POSTGRES": "postgres", "FLUX_TEST_MARIADB": "mariadb", "FLUX_TEST_MYSQL": "mysql"}
#: Of the store's tests MariaDB and MySQL run those that differ there; `-- --all` runs all of them.
SELECTION = ("-m", "representative or not (mariadb or mysql)")
#: Of each provider with an example: its DAG, its connection, and the variables of the servers that it runs against.
EXAMPLES = {
    "flux-provider-mysql": ("mysql_example", "FLUX_CONN_MYSQL_DEFAULT", ("FLUX_TEST_MARIADB", "FLUX_TEST_MYSQL")),
}
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
    """Run pytest on the session's arguments, or on `defaults` when there are none; on `--all` without a selection."""
    given = session.posargs or defaults
    if session.posargs == ["--all"]:
        given = [each for each in defaults if each not in SELECTION]
    session.run("python", "-m", "pytest", *given, env=env, interrupt_timeout=PATIENCE)


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
    """Run all tests but those of whole systems. What needs a database server skips unless one is named.

    On MariaDB and MySQL only a selection; `-- --all` runs the whole there too.
    """
    install(session, extras="[postgres,testing]")
    run_pytest(
        session, "tests", *(f"--ignore=tests/{name}" for name in ("acceptance", "benchmarks", "chaos")), *SELECTION
    )


@nox.session
def integration(session: nox.Session) -> None:
    """Start private servers and run the tests that use them; a missing service is a failure here.

    On MariaDB and MySQL only a selection; `-- --all` runs the whole there too.
    """
    install(session, extras="[postgres,testing]")
    folders = ("tests/core/store", "tests/core/running", "tests/provider_mysql", "tests/services")
    run_pytest(session, *folders, *SELECTION, env={"CI": "true", **start_services(session)})


@nox.session
def acceptance(session: nox.Session) -> None:
    """Run whole systems: start, kill, restart, interrupt, and look at what is left."""
    # The tools are for what `flux provider new` writes.
    install(session, "editables", "hatchling", "mypy", "ruff", extras="[postgres,testing]")
    if os.environ.get("CI"):  # at home the test that forks after them skips without them
        session.install("numpy", "pandas", "pyarrow")
    run_pytest(session, "tests/acceptance")


@nox.session
def chaos(session: nox.Session) -> None:
    """Live through a random day: `-- --seed N --minutes 5 --database postgresql`. The seed is printed first."""
    install(session, extras="[postgres,testing]")
    session.run("python", "-m", "pytest", "-q", "tests/chaos")
    session.run("python", "-m", "tests.chaos", *session.posargs, interrupt_timeout=PATIENCE)


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
    """Check types, strictly, and what they tell the author of a manifest."""
    install(session, "mypy", "nox", extras="[postgres,testing]")
    session.run("mypy", *session.posargs)
    if not session.posargs:
        session.run("python", "-m", "pytest", "-q", "tests/core/plugins/test_protocols.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Write the generated pages of docs/; `-- --check` fails when one is out of date."""
    install(session, extras="[testing]")
    session.run("python", "docs/generate.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheel and sdist of every package into dist/, and try the wheels in an empty environment."""
    session.install("-c", "constraints.txt", "build", "hatchling")
    shutil.rmtree("dist", ignore_errors=True)
    for package in PACKAGES:
        session.run("python", "-m", "build", "--no-isolation", "--outdir", "dist", package)
    programs = empty_environment(session, *sorted((ROOT / "dist").glob("*.whl")))
    session.run(str(programs / "flux"), "version", external=True)


@nox.session
def alone(session: nox.Session) -> None:
    """Run each provider's example where only its wheel and that of flux-core are installed.

    At home an example without a server is left out; in CI that is a failure.
    """
    session.install("-c", "constraints.txt", "build", "hatchling")
    folder = Path(session.create_tmp()).absolute()
    for package, (dag, connection, variables) in EXAMPLES.items():
        servers = [os.environ[name] for name in variables if name in os.environ]
        if len(servers) < len(variables):
            missing = f"{package} needs {' and '.join(variables)}; tests/services/services.sh starts these servers"
            if os.environ.get("CI"):
                session.error(missing)
            session.warn(missing)
            continue
        shutil.rmtree(folder / package, ignore_errors=True)
        for each in ("flux-core", package):
            build = ("python", "-m", "build", "--no-isolation", "--wheel")
            session.run(*build, "--outdir", str(folder / package), each, silent=True)
        programs = empty_environment(session, *sorted((folder / package).glob("*.whl")))
        home = {"FLUX_HOME": str(folder / package / "home"), "FLUX_DAGS_FOLDER": str(ROOT / package / "examples")}
        flux = str(programs / "flux")
        session.run(flux, "provider", "check", package.rpartition("-")[2], env=home, external=True)
        for server in servers:
            session.run(flux, "dag", "test", dag, "2026-01-05", env={**home, connection: server}, external=True)


def empty_environment(session: nox.Session, *wheels: Path) -> Path:
    """Install the wheels where nothing else is; return the folder of the programs there."""
    empty = Path(session.create_tmp()).absolute() / "empty"
    session.run("python", "-m", "venv", "--clear", str(empty))
    pip = [str(empty / "bin" / "python"), "-m", "pip"]
    session.run(*pip, "install", "-q", "-c", "constraints.txt", *map(str, wheels), external=True)
    session.run(*pip, "check", external=True)
    return empty / "bin"


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
    names = [service for variable, service in SERVICES.items() if variable not in os.environ]
    if not names:
        return {}
    script = str(ROOT / "tests" / "services" / "services.sh")
    for verb in ("install", "start"):
        session.run(script, verb, *names, external=True)
    lines = subprocess.run([script, "env", *names], check=True, capture_output=True, text=True).stdout.splitlines()
    pairs = (line.removeprefix("export ").partition("=") for line in lines if "=" in line)
    return {name: value.strip("'\"") for name, _, value in pairs}

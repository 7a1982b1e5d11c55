"""What a process may have loaded: importing has no effect, and nothing heavy comes before it is needed.

Milliseconds are for `nox -s bench`; here are the modules.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import modules

HEAVY = (
    "sqlalchemy",
    "alembic",
    "jinja2",
    "croniter",
    "cryptography",
    "stevedore",
    "pluggy",
    "asyncio",
    "multiprocessing",
)
THIRD_PARTY = (
    *HEAVY,
    "click",
    "mako",
    "markupsafe",
    "dateutil",
    "psycopg",
    "pymysql",
    "cffi",
    "typing_extensions",
    "tzdata",
)

SMALL_DAG_FILE = """
from flux import DAG, task
from flux.operators import BashOperator
from flux.sensors import FileSensor
with DAG("d") as dag:
    FileSensor(task_id="a", filepath="x") >> BashOperator(task_id="b", bash_command="true")
"""

#: What is run: (statement or arguments, modules that must not be loaded then).
CASES = {
    "import flux": ("import flux", (*THIRD_PARTY, "flux.store", "ctypes", "logging.config")),
    "from flux import DAG": (
        "from flux import DAG, task, TaskGroup, chain",
        (*THIRD_PARTY, "flux.store", "flux.running"),
    ),
    "a small DAG file": (SMALL_DAG_FILE, (*THIRD_PARTY, "flux.store", "flux.running")),
    "the launcher": ("import flux.running.launcher", (*THIRD_PARTY, "flux.store")),
    "the hypervisor": ("import flux.running.hypervisor", (*THIRD_PARTY, "flux.store")),
    "the attempt runner": ("import flux.running.runner", (*THIRD_PARTY, "flux.store")),
    "the agent": ("import flux.running.agent", (*THIRD_PARTY, "flux.store")),
    "what a manifest imports": ("import flux.plugins", (*THIRD_PARTY, "flux.store", "flux.plugins.host")),
    "whoever looks up providers": ("import flux.providers", (*THIRD_PARTY, "flux.store", "flux.plugins.host")),
    "a client of the channel": ("import flux.running.channel", (*THIRD_PARTY, "flux.store")),
}
COMMANDS = (["--help"], ["version"], ["dag", "--help"], ["config", "list"], ["provider", "list"])


def loaded_after(code: str, home: Path) -> set[str]:
    """Run `code` in a fresh interpreter and return the names of all modules loaded at its end."""
    probe = f"{code}\nimport sys, json\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        env={"FLUX_HOME": str(home), "PATH": "/usr/bin:/bin"},
        cwd=home,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def forbidden(loaded: set[str], names: tuple[str, ...]) -> list[str]:
    return sorted(name for name in loaded if any(name == each or name.startswith(each + ".") for each in names))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_nothing_heavy_is_loaded_before_it_is_needed(case: str, tmp_path: Path) -> None:
    code, names = CASES[case]
    assert forbidden(loaded_after(code, tmp_path), names) == []


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_small_command_loads_neither_store_nor_templates(arguments: list[str], tmp_path: Path) -> None:
    code = f"from flux.cli.main import main\nassert main({arguments!r}) == 0"
    assert forbidden(loaded_after(code, tmp_path), HEAVY) == []


@pytest.mark.slow
def test_importing_any_module_has_no_effect(tmp_path: Path) -> None:
    """No file, no thread, no logging set-up, no open descriptor, no signal handler, nothing printed."""
    names = [
        name
        for name in modules()
        if not name.endswith("__main__") and ".versions" not in name and not name.endswith(".env")
    ]
    code = f"""
import importlib, logging, os, signal, sys, threading
handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
open_files = set(os.listdir("/proc/self/fd"))
for name in {names!r}:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
assert not logging.getLogger().handlers and not logging.getLogger("flux").handlers
assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
assert set(os.listdir("/proc/self/fd")) == open_files
"""
    loaded_after(code, tmp_path)
    assert list(tmp_path.iterdir()) == []

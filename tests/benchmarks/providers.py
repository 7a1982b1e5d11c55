"""What installed providers cost that nobody uses: commands, the supervisor's start, events, and reading a DAG file."""

from __future__ import annotations

import compileall
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from flux.plugins import hookimpl
from flux.plugins.host import Host
from flux.plugins.snapshots import TaskInstance
from tests import installed
from tests.benchmarks import processes
from tests.benchmarks.measure import Row, percentile
from tests.benchmarks.system import FLUX, System

_PROVIDERS = 100
_OPERATORS = 20
_STARTS = 5
_LISTENERS = 10
_BATCHES = 200
#: Events in a batch: together long enough for the clock.
_EVENTS = 100
#: What a whole event to all listeners takes.
_MICROSECONDS = 1e6
_USED = "p42"

_OPERATOR = """

class {name}(BaseOperator):
    def __init__(self, *, path, **kwargs):
        super().__init__(**kwargs)
        self.path = path

    def execute(self, context):
        from . import client
        client.note(self.path)
"""
_CLIENT = """
import sys

def note(path):
    with open(path, "w") as file:
        file.write("\\n".join(sorted(name for name in sys.modules if name.startswith("flux_provider_"))))
"""
_DAG = """
import sys

from flux import DAG
from flux_provider_{used}.operators import {used_title}N0Operator

with DAG("uses_one", schedule=None) as dag:
    {used_title}N0Operator(task_id="one", path={run!r})

with open({read!r}, "w") as file:
    file.write("\\n".join(sorted(name for name in sys.modules if name.startswith("flux_provider_"))))
"""


def rows() -> list[Row]:
    """Measure them all."""
    return [*_commands(), *_start(), _event(), *_reading()]


@contextmanager
def _environ(providers: int = _PROVIDERS) -> Iterator[dict[str, str]]:
    """An environment in which providers are installed: a folder on the path, with metadata as pip leaves it."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        site = Path(folder)
        for number in range(providers):
            name = f"p{number:02}"
            package = f"flux_provider_{name}"
            names = [f"{name.title()}N{each}Operator" for each in range(_OPERATORS)]
            classes = "".join(_OPERATOR.format(name=each) for each in names)
            modules = {"operators.py": f"from flux import BaseOperator\n{classes}", "client.py": _CLIENT}
            installed.install(site, name, installed.operators(*names, package=package), modules=modules)
        compileall.compile_dir(folder, quiet=1)  # as pip does
        yield {"PYTHONPATH": folder}


def _commands() -> Iterator[Row]:
    with _environ() as installation, tempfile.TemporaryDirectory(prefix="flux-bench-") as home:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
        environ = {**clean, **installation, "FLUX_HOME": home}
        for arguments, must, aim in ((["--help"], 150, 100), (["provider", "list"], 400, None)):
            cpu = processes.cpu_of([str(FLUX), *arguments], environ)
            yield Row(f"flux {' '.join(arguments)}, {_PROVIDERS} providers: CPU", "ms", cpu, None, must, aim)


def _start() -> Iterator[Row]:
    """The CPU that the supervisor and its judging process use until it takes work, for each provider but the first."""
    own: dict[int, list[float]] = {1: [], _PROVIDERS: []}
    judging: dict[int, list[float]] = {1: [], _PROVIDERS: []}
    with _environ(1) as one, _environ() as all_of_them, System() as system:
        system.up().stop()  # makes the home
        for _ in range(_STARTS):
            for number, installation in ((1, one), (_PROVIDERS, all_of_them)):
                system.environ.update(installation)
                system.up()
                system.settle(1.0)
                itself, children = processes.split_seconds(system.pid_of("supervisor"))
                system.stop()
                own[number].append(itself * 1e3)
                judging[number].append(children * 1e3)
    for what, cpu, must in (
        ("supervisor start, each provider: its CPU", own, 1),
        ("  the judging process beside it, each provider: CPU", judging, None),
    ):
        few = percentile(cpu[1], 0.5)
        yield Row(what, "ms", [(many - few) / (_PROVIDERS - 1) for many in cpu[_PROVIDERS]], None, must)


def _event() -> Row:
    host = Host()

    def listener() -> SimpleNamespace:
        @hookimpl
        def flux_task_state_changed(task_instance: TaskInstance, previous: str, state: str) -> None:
            """Be told."""

        return SimpleNamespace(flux_task_state_changed=flux_task_state_changed)

    for number in range(_LISTENERS):
        host.register(f"p{number}", listener())
    task = TaskInstance("dag", "run", "task", None, "success", 1, 1, "BashOperator", None, None, None)
    samples = []
    for _ in range(_BATCHES):
        began = time.perf_counter()
        for _ in range(_EVENTS):
            host.task_state_changed(task, "running", "success")
        samples.append((time.perf_counter() - began) / _EVENTS * _MICROSECONDS)
    return Row(f"an event, {_LISTENERS} listeners told", "µs", samples, None, 20)


def _reading() -> Iterator[Row]:
    """Modules that a DAG host, and then an attempt, has imported for a DAG of one operator beyond what that needs."""
    with _environ() as installation, System(installation) as system:
        read, run = system.home / "read.txt", system.home / "run.txt"
        system.up()
        system.dag("uses_one.py", _DAG.format(used=_USED, used_title=_USED.title(), read=str(read), run=str(run)))
        system.run("uses_one")
        package = f"flux_provider_{_USED}"
        wanted = {"read": {package, f"{package}.operators"}}
        wanted["run"] = wanted["read"] | {f"{package}.client"}
        for what, file, text in (
            ("read", read, f"read a DAG file that uses 1 of {_PROVIDERS} providers: modules too many"),
            ("run", run, "  run its task: modules too many"),
        ):
            found = set(file.read_text().splitlines())
            if not wanted[what] <= found:
                raise RuntimeError(f"to {what} it, {sorted(found)} were imported, not {sorted(wanted[what])}")
            yield Row(text, "", [float(len(found - wanted[what]))], None, 0)

"""What a manifest's import must leave alone: each change is named, and what Flux does to itself is none."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: A class whose objects say that they are equal to everything.
EQUAL = "Equal = type('Equal', (), {'__eq__': lambda *_: True, '__hash__': lambda _: 7, '__call__': print})"


def changes_after(code: str) -> list[str]:
    """What a watch names after `code`, in an interpreter of its own."""
    begin = "from flux.plugins.tampering import Watch\nwatch = Watch()\nwatch.begin()"
    program = f"{begin}\n{code}\nprint(*watch.changes(), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import flux.operator as o; o.BaseOperator.execute = print", "flux.operator.BaseOperator.execute"),
        ("import flux.operator as o; del o.BaseOperator.execute", "flux.operator.BaseOperator.execute"),
        ("import flux.operator as o; o.BaseOperator.extra = print", "flux.operator.BaseOperator.extra"),
        ("import flux.operator as o; o.BaseOperator = object", "flux.operator.BaseOperator"),
        ("import flux.operator as o; o.helper = print", "flux.operator.helper"),
        ("import flux; flux.HiveOperator = int", "flux.HiveOperator"),
        ("import flux.wire as w; w.encode.__code__ = (lambda message: b'').__code__", "flux.wire.encode"),
        ("import sys, types; import flux.retries; sys.modules['flux.retries'] = types.ModuleType('x')", "flux.retries"),
        ("import builtins; keep = builtins.open; builtins.open = 1", "builtins.open"),
        ("import sys; sys.excepthook = print", "sys.excepthook"),
        ("import time; time.sleep = print", "time.sleep"),
        ("import socket; socket.socket = object", "socket.socket"),
        ("import os; os.fork = None", "os.fork"),
        (f"{EQUAL}; import flux.operator as o; o.BaseOperator.execute = Equal()", "flux.operator.BaseOperator.execute"),
        (f"{EQUAL}; import flux.wire as w; w.encode = Equal()", "flux.wire.encode"),
        (f"{EQUAL}; import builtins; builtins.ascii = Equal()", "builtins.ascii"),
    ],
)  # fmt: skip
def test_a_change_is_named(code: str, name: str) -> None:
    (change,) = changes_after(code)
    assert change.startswith(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import flux\n[getattr(flux, name) for name in flux.__all__]",
        "import flux.operators as o\n[getattr(o, name) for name in o.__all__]",
        "import flux.sensors as s\n[getattr(s, name) for name in s.__all__]",
        "from flux import BaseOperator\nclass A(BaseOperator):\n    def execute(self, context): ...\nA(task_id='a')",
        "import flux.plugins.protocols, flux.config, flux.attempt, flux.executors.local",
        "import gettext; gettext.install('x')",
        "import json, logging, decimal",
    ],
)
def test_using_flux_is_no_change(code: str) -> None:
    assert changes_after(code) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("pass", []),
        ("import sys; sys.path = list(sys.path)", []),
        ("import sys; sys.path.append('x')", ["sys.path"]),
        (f"{EQUAL}; import sys; sys.meta_path[0] = Equal()", ["sys.meta_path"]),
        (f"{EQUAL}; import sys; sys.stdout = Equal()", ["standard output"]),
        (f"{EQUAL}; import signal; signal.signal(15, Equal())", ["signal handlers"]),
        ("import os; os.environ['NEW'] = 'x'", ["the environment"]),
    ],
)
def test_surroundings_differ_where_something_was_replaced(code: str, names: list[str]) -> None:
    begin = "import sys\nfrom flux.plugins.tampering import differing, surroundings\nbefore = surroundings()"
    end = "print(differing(before, surroundings()), file=sys.__stdout__)\nsys.stdout = sys.__stdout__"
    program = f"{begin}\n{code}\n{end}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(names)

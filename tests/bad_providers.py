"""Manifests that are wrong, one defect each: what they are, and what Flux says of them."""

from __future__ import annotations

from typing import NamedTuple

from tests.installed import HEAD, manifest, operators

GOOD = operators("GoodOperator")
BROKEN, INCOMPATIBLE, CONFLICT, OK = "broken", "incompatible", "conflict", "ok"


class Bad(NamedTuple):
    """A manifest and the verdict on it."""

    text: str
    #: Part of the reason; of one that is ok, of a note; None: neither.
    says: str | None
    state: str = BROKEN


def hook(text: str) -> str:
    """A manifest with one hook function, written out."""
    return f"{HEAD}@hookimpl\n{text}\n"


#: Seen by judging one manifest; the names of these that hang end in "forever".
JUDGED: dict[str, Bad] = {
    "imports what is missing": Bad(f"import no_such_library\n{GOOD}", "No module named 'no_such_library'"),
    "exits at import": Bad("import sys\nsys.exit(3)\n", "SystemExit: 3 (flux_provider_bad/provider.py:2)"),
    "asserts at import": Bad("assert False, 'never'\n", "AssertionError: never"),
    "raises its own exception": Bad("class E(BaseException): ...\nraise E('e')\n", "E: e"),
    "interrupts at import": Bad("raise KeyboardInterrupt\n", "SIGINT"),
    "is no Python": Bad("\n\ndef f(:\n", "SyntaxError: invalid syntax (flux_provider_bad/provider.py:3)"),
    "ends the process": Bad("import os\nos._exit(3)\n", "ended its process with exit status 3"),
    "crashes": Bad("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "killed by SIGSEGV"),
    "kills its parent": Bad(f"import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(60)\n{GOOD}", "killed by SIGKILL"),
    "closes descriptors": Bad(f"import os\nos.closerange(3, 1024)\n{GOOD}", "Its manifest"),
    "is imported forever": Bad("while True: ...\n", "took longer than"),
    "has no range": Bad(GOOD.replace("FLUX_API", "API"), "has no FLUX_API"),
    "has a number as range": Bad(GOOD.replace('">=1.0,<2"', "1.0"), "FLUX_API = 1.0 of its manifest is no text"),
    "has a malformed range": Bad(GOOD.replace(">=1.0,<2", "^1"), "'^1' is no range"),
    "is made for a newer API": Bad(
        GOOD.replace(">=1.0,<2", ">=2"), "needs API >=2, and this Flux serves 1.0", INCOMPATIBLE
    ),
    "is made for an older API": Bad(GOOD.replace(">=1.0,<2", ">=0.5,<1"), "needs API >=0.5,<1", INCOMPATIBLE),
    "imports what only a newer API has": Bad(
        'from flux.plugins import NotYetThere\nFLUX_API = ">=2"\n', "needs API >=2", INCOMPATIBLE
    ),
    "misspells a hook": Bad(manifest(operator="[]"), "'flux_operator', which is no hook. Did you mean flux_operators"),
    "wants an unknown argument": Bad(hook("def flux_operators(colour): return []"), "takes the argument 'colour'"),
    "has a hook that raises": Bad(hook("def flux_macros(): raise ValueError('no')"), "flux_macros: ValueError: no"),
    "has a generator that raises": Bad(
        hook("def flux_operators():\n    yield Ref('A', 'a:A')\n    1 / 0"), "flux_operators: ZeroDivisionError"
    ),
    "has a hook that exits": Bad(hook("def flux_sensors(): raise SystemExit(3)"), "SystemExit: 3"),
    "has a hook that runs forever": Bad(hook("def flux_sensors():\n    while True: ..."), "took longer than"),
    "offers a class": Bad(manifest(operators="[int]"), "<class 'int'>, which is no Ref"),
    "offers a malformed reference": Bad(manifest(operators="[Ref('A', 'nowhere')]"), "names nothing"),
    "changes an operator of Flux": Bad(
        f"import flux.operator\nflux.operator.BaseOperator.execute = lambda self, context: None\n{GOOD}",
        "changes flux.operator.BaseOperator.execute",
    ),
    "changes builtins": Bad(f"import builtins\nbuiltins.open = None\n{GOOD}", "changes builtins.open"),
    "offers what is no text": Bad(
        manifest(operators="[Ref('A', 'a:A', summary=object())]"), "cannot be told: Object of type object"
    ),
    "offers things for ever": Bad(
        hook("def flux_operators():\n    while True: yield Ref('A', 'a:A')"), "returned more than 10000 items"
    ),
    "offers what has no text": Bad(
        hook("def flux_operators():\n    class X:\n        def __repr__(self): 1 / 0\n    return [X()]"),
        "returned an object of type X, which is no Ref",
    ),
    "offers a name that is no text": Bad(manifest(operators="[Ref(3, 'a:A')]"), "3 is no text"),
    "offers a name with an escape": Bad(manifest(operators="[Ref('A\\x1b[31m', 'a:A')]"), "cannot be printed"),
    "raises what has no text": Bad(
        "class E(Exception):\n    def __str__(self): 1 / 0\nraise E\n", "imported: E (flux_provider_bad/provider.py:3)"
    ),
    "has an async hook": Bad(hook("async def flux_operators(): return []"), "flux_operators is an async function"),
    "changes how JSON is written": Bad(
        f"import json\njson.dumps = lambda *_, **__: '{{}}'\n{GOOD}", "changes json.dumps"
    ),
    "writes to every descriptor": Bad(
        f"import os\nfor each in range(3, 200):\n    try: os.write(each, b'x\\n')\n    except OSError: pass\n{GOOD}",
        "wrote to a descriptor that it had not opened",
    ),
    "leaves a thread": Bad(
        f"import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n{GOOD}",
        "leaves a thread running",
    ),
}

#: Good enough to be used, with a note or what `flux provider check` alone finds.
TOLERATED: dict[str, Bad] = {
    "prints at import": Bad(f"print('hello from the provider', flush=True)\n{GOOD}", "prints 'hello", OK),
    "offers a name twice": Bad(operators("TwiceOperator", "TwiceOperator"), "'TwiceOperator' twice", OK),
    "imports its client": Bad(f"import heavy_library\n{GOOD}", "imports heavy_library", OK),
    "refers to a class that is missing": Bad(operators("NowhereOperator", package="no_such_package"), None, OK),
    "refers to a class that is no operator": Bad(manifest(operators="[Ref('A', 'json:JSONDecoder')]"), None, OK),
    "clears the path": Bad(f"import sys\nsys.path.clear()\n{GOOD}", "changes sys.path", OK),
    "changes the working folder": Bad(f"import os\nos.chdir('/')\n{GOOD}", "changes the working folder", OK),
    "replaces standard output": Bad(f"import io, sys\nsys.stdout = io.StringIO()\n{GOOD}", "standard output", OK),
    "configures logging": Bad(f"import logging\nlogging.basicConfig()\n{GOOD}", "the root logger", OK),
    "handles signals": Bad(f"import signal\nsignal.signal(15, signal.SIG_IGN)\n{GOOD}", "signal handlers", OK),
    "closes what is printed to": Bad(
        f"import os\nfor each in range(3): os.close(each)\n{GOOD}", "descriptors 0 to 2", OK
    ),
    "changes the umask": Bad(f"import os\nos.umask(0o777)\n{GOOD}", "changes the umask", OK),
    "has a hook that is no function": Bad(f"{GOOD}\nflux_sensors = []\n", "make it a function", OK),
    "forgets to mark a hook": Bad(f"{GOOD}\ndef flux_sensors(): return []\n", "mark it with @hookimpl", OK),
}

#: Wrong only because of who else is there.
CLASHING: dict[str, Bad] = {
    "takes the name of a core executor": Bad(
        manifest(executors="[Ref('local', 'acme:Local')]"), "of one of Flux's own", CONFLICT
    ),
}

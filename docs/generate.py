"""Write the pages of docs/ that the code itself knows best; `--check` says which are out of date.

Options, commands, states and transitions, hooks, the names a DAG file may import, and a page for each provider of the
repository. Run by `nox -s docs`; a house test holds that the pages in the repository are what this writes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
PROVIDERS = ROOT / "docs" / "providers"
HEAD = "<!-- Written by docs/generate.py (`nox -s docs`). Do not edit: change the code it comes from. -->\n\n"
#: Characters in a line of a command's help.
WIDTH = 100


def options() -> str:
    """The options, from `config.OPTIONS`."""
    from flux.config import OPTIONS

    rows = [
        ("`home`", "`FLUX_HOME`", "path", "`~/.flux`", "Folder of flux.toml, the SQLite database, DAG files and logs."),
        *(
            (f"`{o.name}`", f"`{o.variable}`", o.type.replace("|", " or "), _default(o.default), o.help)
            for o in OPTIONS
        ),
    ]
    return f"""# Options

Every option `name` is a line of `flux.toml` in the home folder and the environment variable `FLUX_NAME`; the
environment is stronger. `flux config list` says what holds and where it comes from. Durations are in seconds unless a
unit is given. A path that is relative begins in `flux.toml` at the home folder, and in the environment at the working
folder of whoever starts Flux, as in any other command. So does `FLUX_HOME`; the file of a SQLite database is part of a
URL, and always in the home folder.

{_table(("option", "variable", "type", "default", "meaning"), rows)}
Besides these, `FLUX_CONN_<ID>` defines a connection as a URI and `FLUX_VAR_<NAME>` a variable; both are read where
Flux runs, and are stronger than what is stored. In both names letters are upper case, and what is neither letter nor
digit is `_`.
"""


def _default(value: Any) -> str:
    if value is None or value == () or value == "":
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def states() -> str:
    """The states, events and transitions, from `states.TRANSITIONS`."""
    from flux import states as module

    told = _member_comments(module)
    transitions = [
        (
            f"`{event}`",
            ", ".join(f"`{s}`" for s in module.State if s in move.sources),
            f"`{move.target}`",
            told[module.Event, event],
        )
        for event, move in module.TRANSITIONS.items()
    ]
    by_hand = {e for e in module.Event if e.name == "CLEAR" or e.name.startswith("MARK_") or e.name == "REMOVE"}
    arrows: dict[tuple[str, str], list[str]] = {}
    for event, move in module.TRANSITIONS.items():
        if event not in by_hand:
            for source in (s for s in module.State if s in move.sources):
                arrows.setdefault((source, move.target), []).append(event)
    diagram = [f"    {source} --> {target}: {', '.join(events)}" for (source, target), events in arrows.items()]
    terminal = [f"    {state} --> [*]" for state in module.State if state.is_terminal and state.name != "REMOVED"]
    tables = [
        (title, text, [(f"`{member}`", told[kind, member]) for member in kind])
        for title, kind, text in (
            ("States of a task instance", module.State, "Where a task instance is."),
            ("States of a DAG run", module.RunState, "Where a DAG run is."),
            ("Outcomes of an attempt", module.Outcome, "How an attempt ended; one that still runs has none."),
            ("Kinds of DAG run", module.RunKind, "Why a DAG run exists."),
        )
    ]
    sections = "\n".join(f"## {title}\n\n{text}\n\n{_table(('name', 'meaning'), rows)}" for title, text, rows in tables)
    return f"""# States and transitions

A task instance moves only by an event, and an event is legal only from the states named here. The table is
`flux.states.TRANSITIONS`; `flux.store.transitions` builds every UPDATE from it and is the only module that writes a
state.

{sections}
## Transitions

{_table(("event", "from", "to", "meaning"), transitions)}
## As a diagram

Without what is done by hand (`clear`, `mark`, and moving a run to another DAG version).

```mermaid
stateDiagram-v2
    [*] --> waiting
    [*] --> ready
{chr(10).join(diagram + terminal)}
```
"""


def _member_comments(module: Any) -> dict[tuple[type[StrEnum], str], str]:
    """Maps (enum, value) of the module's members to the `#:` comment above, or to a word of our own."""
    lines = inspect.getsource(module).splitlines()
    found: dict[tuple[type[StrEnum], str], str] = {}
    for node in ast.parse("\n".join(lines)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name) and "Enum" in ast.unparse(node):
                above: list[str] = []
                number = item.lineno - 2
                while lines[number].strip().startswith("#:"):
                    above.insert(0, lines[number].strip()[2:].strip())
                    number -= 1
                enum = getattr(module, node.name)
                value = enum[item.targets[0].id].value
                found[enum, value] = " ".join(above) or PLAIN[value]
    return found


#: What needs no comment in the code, but a word here.
PLAIN = {
    "success": "It ended well.",
    "failed": "It ended badly.",
    "skipped": "It was not to be done.",
    "running": "Its task instances are worked on.",
    "timed_out": "It took longer than its execution_timeout, a sensor longer than its timeout.",
    "scheduled": "Its data interval ended.",
    "manual": "Somebody triggered it.",
    "backfill": "A past range was asked for.",
    "succeed": "The attempt ended well.",
    "fail": "The attempt ended badly, and no other is allowed.",
    "skip": "The task said that there is nothing to do.",
    "mark_success": "Set by hand.",
    "mark_failed": "Set by hand.",
    "mark_skipped": "Set by hand.",
}


def commands() -> str:
    """Every command's help, from the click tree."""
    import click

    from flux.cli.main import COMMANDS, root

    def walk(command: click.Command, context: click.Context) -> Iterator[str]:
        text = textwrap.dedent(command.get_help(context)).rstrip()
        depth = len(context.command_path.split())
        yield f"{'#' * min(depth + 1, 4)} {context.command_path}\n\n```\n{text}\n```\n"
        if isinstance(command, click.Group):
            # Without the commands of other packages that happen to be installed here.
            for name in COMMANDS if command is root else command.list_commands(context):
                inner = command.get_command(context, name)
                if inner is not None and not inner.hidden:
                    child = click.Context(inner, parent=context, info_name=name, terminal_width=WIDTH)
                    yield from walk(inner, child)

    top = click.Context(root, info_name="flux", terminal_width=WIDTH, max_content_width=WIDTH)
    body = "\n".join(walk(root, top))
    return f"""# Commands

Every command takes `--help`. With `--json` exactly one JSON document is on stdout and everything else on stderr. Exit
codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.

{body}"""


def authoring() -> str:
    """The names a DAG file may import, from `__all__`."""
    sections = []
    for name, intro in (
        ("flux", "What every DAG file begins with."),
        ("flux.operators", "Operators of core. Each also takes the arguments of `BaseOperator`."),
        ("flux.sensors", "Sensors of core. Each also takes the arguments of `BaseSensor` and `BaseOperator`."),
    ):
        module = importlib.import_module(name)
        parts = [f"## {name}\n\n{intro}\n"]
        parts += [_entry(name, each, getattr(module, each)) for each in sorted(module.__all__, key=str.lower)]
        sections.append("\n".join(parts))
    body = "\n".join(sections)
    return f"""# Authoring: names

What may be imported; anything else is private and may change. [How to write a DAG](../how-to/write-a-dag.md) shows them
at work.

{body}"""


def _entry(module: str, name: str, value: object) -> str:
    if not callable(value):
        return f"### {name}\n\n`{module}.{name}`\n"
    document = inspect.cleandoc(value.__doc__ or "") if isinstance(value, type) or inspect.isroutine(value) else ""
    return f"### {name}\n\n```python\n{_signature(name, value)}\n```\n\n{_as_markdown(document)}\n"


def _members(value: type) -> str:
    """A table of what a record or an object offers: fields, then methods with the first line of their text."""
    rows = [(name, meaning) for name, _, meaning in (_fields(value) if is_dataclass(value) else [])]
    for name, member in vars(value).items():
        told = inspect.getdoc(member) if inspect.isfunction(member) or isinstance(member, property) else None
        if told and not name.startswith("_"):
            arguments = (
                "" if isinstance(member, property) else "(…)" if len(inspect.signature(member).parameters) > 1 else "()"
            )
            rows.append((f"`{name}{arguments}`", told.partition("\n")[0]))
    return _table(("member", "meaning"), rows) if rows else ""


def _signature(name: str, value: Callable[..., Any]) -> str:
    """`Name(arguments)` without annotations, wrapped."""
    if isinstance(value, type) and issubclass(value, BaseException):
        return f"{name}(message)"
    try:
        # A class's own signature may be its metaclass's; what the author passes is what __init__ takes.
        signature = inspect.signature(cast(Any, value).__init__ if isinstance(value, type) else value)
    except (TypeError, ValueError):
        return f"{name}(...)"
    shown = [
        each.replace(annotation=inspect.Parameter.empty, default=_Shown.of(each.default))
        for each in signature.parameters.values()
        if each.name != "self"
    ]
    text = f"{name}{inspect.Signature(shown)}"
    return "\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False))


class _Shown:
    """A default as it is written in a signature."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    @classmethod
    def of(cls, value: object) -> object:
        """`...` for defaults whose repr names an address or a private object."""
        if value is inspect.Parameter.empty:
            return value
        text = repr(value)
        return cls("..." if " at 0x" in text or text.startswith("<") else text)


def _as_markdown(document: str) -> str:
    """A docstring as Markdown: its sections become bold words, its entries lists."""
    out: list[str] = []
    section = False
    for line in document.splitlines():
        answer = re.match(r"(When|Combined|If it raises): (.*)", line)
        if answer:
            section = True
            out.append(f"- **{answer[1]}**: {answer[2]}")
        elif re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields|Example):", line):
            section = True
            out += [f"**{line[:-1]}**", ""]
        elif section and re.match(r"    \S", line) and not (out and out[-1].startswith("- **")):
            names, colon, rest = line.strip().partition(":")
            if colon and re.fullmatch(r"[\w*.]+(, [\w*.]+)*", names):
                names = ", ".join(f"`{each}`" for each in names.split(", "))
            out.append(f"- {names}{colon}{rest}")
        elif section and line.strip():
            out.append("  " + line.strip())
        elif line.startswith(".. versionadded"):
            continue
        else:
            section = section and not line.strip()
            out.append(line)
    return "\n".join(out).rstrip() + "\n"


def hooks() -> str:
    """The hooks a provider may implement, from `plugins.specs`, and what they are given, from `plugins.snapshots`."""
    from flux.plugins import API_VERSION, snapshots

    body = "\n".join(
        f"## {function.__name__}\n\n```python\ndef {function.__name__}{_bare(function)}\n```\n\n"
        f"{_as_markdown(inspect.cleandoc(function.__doc__ or ''))}"
        for function in _specs()
    )
    records = [value for value in vars(snapshots).values() if isinstance(value, type) and is_dataclass(value)]
    given = "\n".join(
        f"### {record.__name__}\n\n{inspect.cleandoc(record.__doc__ or '')}\n\n"
        f"{_table(('field', 'type', 'meaning'), _fields(record))}"
        for record in records
    )
    return f"""# Hooks

What a provider's manifest may define; this is version {API_VERSION} of the hooks. Each says what to return, **when** it
is called and in which process, how answers are **combined**, and what happens **if it raises**. A manifest marks its
functions with `flux.plugins.hookimpl`; a function may take fewer arguments than its hook gives.

{body}
## What listeners are given

Frozen records of one moment, in `flux.plugins.snapshots`. States are the words of [states](states.md).

{given}
## Types

`flux.plugins.protocols` has a protocol for each hook. Two lines anywhere in a provider let mypy and pyright check its
manifest: a hook that is declared to return something else, or that takes other arguments, is an error there.

```python
import flux_provider_acme.provider as manifest
from flux.plugins import protocols

_check: protocols.Operators = manifest
```
"""


def _specs() -> list[Callable[..., Any]]:
    """The hook specifications, in the order of their module."""
    from flux.plugins import specs

    return [value for name, value in vars(specs).items() if inspect.isfunction(value) and name.startswith("flux_")]


def _fields(record: type) -> list[tuple[str, str, str]]:
    """(name, type, the `#:` comment above it) of a record's fields; nothing where the name says it all."""
    lines = inspect.getsource(record).splitlines()
    rows = []
    for number, line in enumerate(lines):
        match = re.fullmatch(r"    (\w+): ([^=]+?)( = .*)?", line)
        if match:
            above = number
            while lines[above - 1].strip().startswith("#:"):
                above -= 1
            meaning = " ".join(each.strip().removeprefix("#:").strip() for each in lines[above:number])
            rows.append((f"`{match[1]}`", f"`{match[2]}`", meaning))
    return rows


def _bare(function: Callable[..., Any]) -> str:
    return str(inspect.signature(function)).replace("'", "")


def protocols() -> str:
    """The module `flux.plugins.protocols`: a protocol for each hook, so that type checkers check manifests."""
    classes = "\n\n".join(
        f"class {_protocol_name(function)}(Protocol):\n"
        f'    """A manifest with `{function.__name__}`."""\n\n'
        f"    def {function.__name__}({', '.join(['self', *_parameters(function)])}) -> {_returned(function)}: ...\n"
        for function in _specs()
    )
    names = sorted(["Manifest", *map(_protocol_name, _specs())])
    listed = "".join(f'    "{name}",\n' for name in names)
    return f'''"""A protocol for each hook: a manifest module that is assigned to one is checked by mypy and pyright.

Written by docs/generate.py (`nox -s docs`) from `specs`. Do not edit. Costs nothing at run time: import it in a test,
or under `TYPE_CHECKING`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from flux.plugins import ConnectionType, Ref
from flux.plugins.snapshots import Component, DagRun, TaskInstance

if TYPE_CHECKING:
    from flux.operator import BaseOperator

__all__ = [
{listed}]


class Manifest(Protocol):
    """A manifest with a range of API versions."""

    @property
    def FLUX_API(self) -> str: ...


{classes}'''


def _protocol_name(function: Callable[..., Any]) -> str:
    return "".join(word.title() for word in function.__name__.removeprefix("flux_").split("_"))


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Keyword-only, because a hook's arguments go by name: type checkers forgive other names of positional ones."""
    parameters = [f"{each.name}: {each.annotation}" for each in inspect.signature(function).parameters.values()]
    return ["*", *parameters] if parameters else []


def _returned(function: Callable[..., Any]) -> str:
    return str(inspect.signature(function).return_annotation)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines: list[tuple[str, ...]] = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def providers() -> dict[str, Callable[[], str]]:
    """The pages of docs/providers/ by name, and how each is written: core, the repository's providers, and an index."""
    pages: dict[str, Callable[[], str]] = {f"{name}.md": partial(_provider, name) for name in _projects()}
    return {"README.md": _provider_index, **pages}


def _projects() -> dict[str, dict[str, Any]]:
    """Maps each provider of the repository to the table `project` of its pyproject.toml; core first."""
    found: dict[str, dict[str, Any]] = {}
    for folder in (ROOT / "flux-core", *sorted(ROOT.glob("flux-provider-*"))):
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        names = project.get("entry-points", {}).get("flux.providers", {}) or {"core": "flux.builtin"}
        found |= {name: {**project, "module": module, "folder": folder} for name, module in names.items()}
    return found


def _provider(name: str) -> str:
    """A provider's page, from its manifest and classes in the repository: it need not be installed."""
    from flux.cli import markup, provider_docs

    project = _projects()[name]
    page = markup.Markdown()
    with _importable(project["folder"] / "src"):
        verdict = _verdict(name, project)
        provider_docs.write(verdict, page, summary=project["description"], reference="../reference/authoring.md")
    return page.text


def _verdict(name: str, project: dict[str, Any]) -> Any:
    from flux.builtin import core_verdict
    from flux.plugins.judgement import Candidate, judge
    from flux.plugins.scan import Found

    if name == "core":
        return core_verdict()
    (verdict,) = judge([Candidate(Found(name, project["name"], None, project["module"], "flux.providers"))])
    if not verdict.is_ok:
        raise SystemExit(f"{project['name']} is {verdict.state}: {verdict.reason}")
    return verdict


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _provider_index() -> str:
    rows = [(f"[{name}]({name}.md)", f"`{each['name']}`", each["description"]) for name, each in _projects().items()]
    return f"""# Providers

What each package brings: its operators, sensors and the rest, with their arguments. `flux provider docs NAME` writes
such a page for any provider that is installed; [how to install one](../how-to/install-a-provider.md).

{_table(("provider", "package", "what it is"), rows)}"""


def testing() -> str:
    """The provider author's kit, from `flux.testing`: what it offers, and every standard test."""
    from flux import testing as kit

    names = [name for name in kit.__all__ if not name.endswith("Conformance")]
    found = [(name, getattr(kit, name)) for name in names]
    tools = "\n".join(
        _entry("flux.testing", name, value) + (_members(value) if isinstance(value, type) else "")
        for name, value in found
    )
    classes = "\n".join(
        _conformance(getattr(kit, f"{kind}Conformance"))
        for kind in ("Provider", "Operator", "Sensor", "Executor", "Connection", "Macro")
    )
    return f"""# Testing: the provider author's kit

[How to test a provider](../how-to/test-a-provider.md) shows it at work. The conformance classes need pytest, in the
extra `flux-core[testing]`. pytest finds three fixtures: `run_task`, the function below; `flux_home`, an empty home
folder that FLUX_HOME names; `world`, a `FolderWorld`, which a fixture of your own replaces. And it knows a mark for
each level: `flux_package`, `flux_contract`, `flux_execution`, `flux_robustness`.

## What a test uses

{tools}
## What a provider must pass

Derive a class named `Test…` and set what is listed. A test with a feature is skipped when `unsupported` maps that
feature to a reason; the others hold for everybody. Every class has these two, of the level *package*: what is declared
as unsupported is known and has a reason; every standard test is there.

{classes}"""


def _conformance(kind: type) -> str:
    """A conformance class: what to set, and its tests."""
    from flux.testing.conformance import LEVELS, Conformance, standard_tests

    bases = [base for base in kind.__mro__ if base.__module__.startswith("flux.testing")]
    settings = {row[0]: row for base in reversed(bases) for row in _settings(base)}
    shared = standard_tests(Conformance)
    rows = []
    for name, test in standard_tests(kind).items():
        if name not in shared:
            told = (inspect.getdoc(test) or "").partition("\n\n")[0].replace("\n", " ")
            about = name.removeprefix("test_").replace("_", " ") + (f". {told}" if told else "")
            standard = cast(Any, test).flux_standard
            rows.append((standard.level, f"`{standard.feature}`" if standard.feature else "–", about))
    rows.sort(key=lambda row: LEVELS.index(row[0]))
    document = _as_markdown(inspect.cleandoc(kind.__doc__ or ""))
    return "\n".join(
        [
            f"### {kind.__name__}\n\n{document}",
            _table(("setting", "default", "meaning"), list(settings.values())),
            _table(("level", "feature", "test"), rows),
        ]
    )


def _settings(kind: type) -> list[tuple[str, str, str]]:
    """(name, default, the `#:` comment above it) of the class attributes that an author sets."""
    rows = []
    comment: list[str] = []
    for line in inspect.getsource(kind).splitlines():
        setting = re.fullmatch(r"    (\w+): ClassVar\[.*\](?: = (.+))?", line)
        if setting:
            default = f"`{setting[2]}`" if setting[2] else "–"
            rows.append((f"`{setting[1]}`", default, " ".join(comment) or "–"))
        comment = [*comment, line.strip("# :")] if line.startswith("    #:") else []
    return rows


PAGES: dict[str, Callable[[], str]] = {
    "options.md": options,
    "states.md": states,
    "commands.md": commands,
    "authoring.md": authoring,
    "hooks.md": hooks,
    "testing.md": testing,
}


#: Generated modules, by path in the repository.
MODULES: dict[str, Callable[[], str]] = {"flux-core/src/flux/plugins/protocols.py": protocols}


def page(write: Callable[[], str]) -> str:
    """Return what a generated page must hold."""
    return HEAD + "\n".join(map(str.rstrip, write().rstrip().splitlines())) + "\n"


def pages() -> dict[Path, Callable[[], str]]:
    """Every generated page by its file, and how it is written."""
    return {
        **{REFERENCE / name: write for name, write in PAGES.items()},
        **{PROVIDERS / name: write for name, write in providers().items()},
    }


def main(arguments: list[str]) -> int:
    """Write what is out of date, or with `--check` name it and return 1."""
    check = "--check" in arguments
    stale = False
    texts = {path: page(write) for path, write in pages().items()}
    texts |= {ROOT / name: write() for name, write in MODULES.items()}
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale = True
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(f"{'stale' if check else 'written'}: {path.relative_to(ROOT)}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

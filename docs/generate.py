"""Write the pages of docs/reference/ that the code itself knows best; `--check` says which are out of date.

Options, commands, states and transitions, hooks, and the names a DAG file may import. Run by `nox -s docs`; a house
test holds that the pages in the repository are what this writes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

REFERENCE = Path(__file__).resolve().parent / "reference"
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
unit is given.

{_table(("option", "variable", "type", "default", "meaning"), rows)}
Besides these, `FLUX_CONN_<ID>` defines a connection as a URI and `FLUX_VAR_<NAME>` a variable; both are read where
Flux runs, and are stronger than what is stored.
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

    from flux.cli.main import root

    def walk(command: click.Command, context: click.Context) -> Iterator[str]:
        text = textwrap.dedent(command.get_help(context)).rstrip()
        depth = len(context.command_path.split())
        yield f"{'#' * min(depth + 1, 4)} {context.command_path}\n\n```\n{text}\n```\n"
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
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
    """The hooks a provider may implement, from `plugins.specs`."""
    from flux.plugins import specs

    found = [value for name, value in vars(specs).items() if inspect.isfunction(value) and name.startswith("flux_")]
    body = "\n".join(
        f"## {function.__name__}\n\n```python\ndef {function.__name__}{_bare(function)}\n```\n\n"
        f"{_as_markdown(inspect.cleandoc(function.__doc__ or ''))}"
        for function in found
    )
    return f"""# Hooks

What a provider's manifest may define. Each says what to return, **when** it is called and in which process, how answers
are **combined**, and what happens **if it raises**.

{body}"""


def _bare(function: Callable[..., Any]) -> str:
    return str(inspect.signature(function)).replace("'", "")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines: list[tuple[str, ...]] = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


PAGES: dict[str, Callable[[], str]] = {
    "options.md": options,
    "states.md": states,
    "commands.md": commands,
    "authoring.md": authoring,
    "hooks.md": hooks,
}


def page(name: str) -> str:
    """Return what a generated page must hold."""
    return HEAD + "\n".join(map(str.rstrip, PAGES[name]().rstrip().splitlines())) + "\n"


def main(arguments: list[str]) -> int:
    """Write what is out of date, or with `--check` name it and return 1."""
    check = "--check" in arguments
    stale = False
    for name in PAGES:
        path, text = REFERENCE / name, page(name)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale = True
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{'stale' if check else 'written'}: docs/reference/{name}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Reading a docstring of the usual form: text, and a section `Args:` with an entry for each argument."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Examples?|Note):")
_ENTRY = re.compile(r"    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: *(.*)")


@dataclass(frozen=True, slots=True)
class Docstring:
    """A docstring, taken apart."""

    #: Paragraphs, without its sections.
    text: str
    #: Maps an argument to what the section `Args:` says of it, in one line.
    arguments: Mapping[str, str]


def read(document: str | None) -> Docstring:
    """Take a docstring apart; None is an empty one. `a, b: text` says the same of both."""
    text: list[str] = []
    arguments: dict[str, str] = {}
    section = ""
    names: list[str] = []
    for line in inspect.cleandoc(document or "").splitlines():
        begins = _SECTION.fullmatch(line)
        if begins:
            section, names = begins[1], []
        elif line and not line.startswith(" "):
            section = ""
        if not section:
            text.append(line)
            continue
        entry = _ENTRY.fullmatch(line) if section == "Args" else None
        if entry:
            names = [name.lstrip("*") for name in entry[1].split(", ")]
            arguments |= dict.fromkeys(names, entry[2].strip())
        elif section == "Args" and names and line.strip():
            arguments |= {name: f"{arguments[name]} {line.strip()}" for name in names}
    return Docstring("\n".join(text).strip(), arguments)

"""Which files of the DAGs folder are DAG files: every `*.py` that is not hidden and that no `.fluxignore` names."""

# ruff: noqa: PTH116, PTH118, PTH123

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

IGNORE_FILE = ".fluxignore"
PROVIDER_FILE = "flux_provider.py"


def dag_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the paths of the DAG files below `folder`, relative to it with "/", sorted.

    Every `*.py` counts, except hidden ones, `flux_provider.py` in the folder itself, and what a `.fluxignore` names.
    Folders behind symbolic links are read, each once. Folders that cannot be read are left out.
    """
    root = os.fspath(folder)
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    to_read: list[tuple[str, tuple[Ignore, ...]]] = [("", ())]
    while to_read:
        relative, ignores = to_read.pop()
        here = os.path.join(root, relative)
        try:
            status = os.stat(here)
            entries = list(os.scandir(here))
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        own = Ignore.read(here, relative)
        if own is not None:
            ignores = (*ignores, own)
        for entry in entries:
            path = f"{relative}/{entry.name}" if relative else entry.name
            is_folder = _is_folder(entry)
            if entry.name.startswith(".") or entry.name == "__pycache__" or is_ignored(path, is_folder, ignores):
                continue
            if is_folder:
                to_read.append((path, ignores))
            elif entry.name.endswith(".py") and path != PROVIDER_FILE and entry.is_file():
                found.append(path)
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern of a `.fluxignore`."""

    pattern: re.Pattern[str]
    takes_back: bool
    folders_only: bool


@dataclass(frozen=True, slots=True)
class Ignore:
    """The patterns of one `.fluxignore`, in gitignore's syntax.

    Blank lines and lines that begin with `#` say nothing; `!` takes a file back; a pattern with a slash in front or
    inside is relative to the file's folder, another matches at any depth; a slash at the end means folders only;
    `*`, `?` and `[…]` stay within a name, `**` goes across. What is in an ignored folder cannot be taken back.
    """

    #: Folder of the file, relative to the DAGs folder; "" for itself.
    folder: str
    #: In the order of the file; the last that matches decides.
    rules: tuple[Rule, ...]

    @classmethod
    def read(cls, folder: str, relative: str) -> Ignore | None:
        """Read the `.fluxignore` in `folder`; None if there is none."""
        try:
            with open(os.path.join(folder, IGNORE_FILE), encoding="utf-8", errors="replace") as file:
                return cls(relative, tuple(_rules(file)))
        except OSError:
            return None

    def verdict(self, path: str, is_folder: bool) -> bool | None:
        """Whether `path` (relative to the DAGs folder) is ignored; None: no rule matches."""
        inside = path[len(self.folder) + 1 :] if self.folder else path
        for rule in reversed(self.rules):
            if (is_folder or not rule.folders_only) and rule.pattern.fullmatch(inside):
                return not rule.takes_back
        return None


def is_ignored(path: str, is_folder: bool, ignores: Sequence[Ignore]) -> bool:
    """Whether `path` is ignored; of several files the innermost (last) that has a rule for it decides."""
    for ignore in reversed(ignores):
        verdict = ignore.verdict(path, is_folder)
        if verdict is not None:
            return verdict
    return False


def _rules(lines: Iterable[str]) -> Iterator[Rule]:
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        takes_back = text.startswith("!")
        text = text.removeprefix("!")
        pattern = text.rstrip("/")
        anchored = "/" in pattern
        expression = _expression(pattern.removeprefix("/"))
        try:
            compiled = re.compile(expression if anchored else f"(?:.*/)?{expression}", re.DOTALL)
        except re.error:  # such as [z-a]: matches nothing, as in git
            continue
        yield Rule(compiled, takes_back, text.endswith("/"))


_TOKEN = re.compile(
    r"(?P<folders>\*\*/)|(?P<rest>(?<=/)\*\*$)|(?P<stars>\*+)|(?P<one>\?)|(?P<set>\[!?\]?[^\]]*\])|\\?(?P<text>.)"
)


def _expression(pattern: str) -> str:
    """A gitignore pattern as a regular expression for a whole path."""
    parts: list[str] = []
    for token in _TOKEN.finditer(pattern):
        match token.lastgroup:
            case "folders":
                parts.append("(?:.*/)?")
            case "rest":
                parts.append(".*")
            case "stars":
                parts.append("[^/]*")
            case "one":
                parts.append("[^/]")
            case "set":
                inside = token["set"][1:-1].replace("\\", "\\\\")
                parts.append(f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]")
            case _:
                parts.append(re.escape(token["text"]))
    return "".join(parts)

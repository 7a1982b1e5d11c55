"""A page of documentation in the making, as Markdown or as reStructuredText, from the same calls.

Texts are as docstrings have them: paragraphs, and names in single backticks.
"""

from __future__ import annotations

import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence

_NAME = re.compile(r"(?<!`)`([^`]+)`(?!`)")


class Page(ABC):
    """What has been written so far is in `text`, with one newline at the end."""

    def __init__(self) -> None:
        self._blocks: list[str] = []

    @property
    def text(self) -> str:
        """The page."""
        return "\n\n".join(self._blocks) + "\n"

    def add(self, block: str) -> None:
        self._blocks.append(block)

    @abstractmethod
    def heading(self, level: int, text: str) -> None:
        """Begin a section; `level` is 1 for the page's own."""

    @abstractmethod
    def paragraphs(self, text: str) -> None:
        """Add text; an empty one adds nothing."""

    @abstractmethod
    def code(self, language: str, text: str) -> None:
        """Add lines that are shown as they are."""

    @abstractmethod
    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; without rows nothing."""

    @abstractmethod
    def link(self, text: str, target: str) -> str:
        """Return a link, to be put into a text."""


class Markdown(Page):
    """For docs/ and for README files."""

    def heading(self, level: int, text: str) -> None:
        self.add(f"{'#' * level} {text}")

    def paragraphs(self, text: str) -> None:
        if text:
            self.add(text)

    def code(self, language: str, text: str) -> None:
        self.add(f"```{language}\n{text}\n```")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if rows:
            lines = [head, ["---"] * len(head), *rows]
            self.add("\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines))

    def link(self, text: str, target: str) -> str:
        return f"[{text}]({target})"


class Rst(Page):
    """For Sphinx."""

    _UNDERLINES = "=-~^"

    def heading(self, level: int, text: str) -> None:
        self.add(f"{text}\n{self._UNDERLINES[level - 1] * len(text)}")

    def paragraphs(self, text: str) -> None:
        if text:
            self.add(_literal(text))

    def code(self, language: str, text: str) -> None:
        self.add(f".. code-block:: {language}\n\n{textwrap.indent(text, '   ')}")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if not rows:
            return
        lines = [".. list-table::", "   :header-rows: 1", ""]
        for row in (head, *rows):
            for number, cell in enumerate(row):
                lines.append(f"   {'*' if number == 0 else ' '} - {_literal(' '.join(cell.split()))}".rstrip())
        self.add("\n".join(lines))

    def link(self, text: str, target: str) -> str:
        return f"`{text} <{target}>`__"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _literal(text: str) -> str:
    """Names in single backticks become literals; a link, which also has single ones, stays."""
    return _NAME.sub(lambda found: found[0] if found[1].endswith(">") else f"``{found[1]}``", text)

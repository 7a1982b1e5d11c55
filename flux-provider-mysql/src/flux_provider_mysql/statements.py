"""Splitting a text of SQL into statements, by the rules of the `mysql` client. Pure; knows no server.

A delimiter ends a statement only outside of quotes and comments. The rules, after the reference manuals of both
servers:

- `'…'` and `"…"`: a backslash takes the next character, a doubled quote stands for one. Backticks: doubled only.
- `#` and `-- ` (two dashes and white space or the end) comment to the end of the line; `1--1` is no comment.
- `/* … */` is a comment; `/*! … */` and `/*M! … */` are code for the server, with strings and comments of their own.
- A byte order mark at the beginning, as Windows writes it, is none of the SQL.
- A line `DELIMITER //` where a statement could begin changes the delimiter, which may stand in quotes; it is not
  sent.

Our own, because sqlparse knows no DELIMITER and takes `1--1` for a comment, both of which change what is run.
Statements that hold nothing but comments are left out. The session mode NO_BACKSLASH_ESCAPES, which changes the first
rule, is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from flux import FluxError

__all__ = ["SplitError", "Statement", "split"]

_DELIMITER_LINE = re.compile(r"[ \t]*delimiter(?=\s|\Z)[ \t]*(\S*)[^\n]*(?:\n|\Z)", re.IGNORECASE)
_LINE_COMMENT = re.compile(r"(?:#|--(?=\s|\Z))[^\n]*")
_CODE_COMMENT = re.compile(r"/\*M?!")
#: Up to and with the closing quote.
_QUOTED = {
    "'": re.compile(r"'[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL),
    '"': re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL),
    "`": re.compile(r"`[^`]*`"),
}
#: What means nothing to the rules: no quote, comment, delimiter or line begins in it.
_PLAIN = re.compile(r"\w+|[ \t]+")


class SplitError(FluxError):
    """What is to be SQL cannot be split: it is no text, a quote or comment is not closed, or DELIMITER names none."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement as it is sent, without its delimiter and the white space around it."""

    text: str
    #: 1-based line of the text at which it begins, comments before it included.
    line: int


def split(sql: str) -> list[Statement]:
    """Return the statements of `sql` in order; none for a text without.

    Raises:
        SplitError: names the line at fault; or it is no text, as the result of another task may be.
    """
    if not isinstance(sql, str):
        raise SplitError(f"The SQL is of type {type(sql).__name__}. Give a text.")
    found = []
    counted, line = 0, 1
    sql = sql.removeprefix("\ufeff")
    for begin, end in _spans(sql):
        text = sql[begin:end]
        begin += len(text) - len(text.lstrip())
        line += sql.count("\n", counted, begin)
        counted = begin
        found.append(Statement(text.strip(), line))
    return found


def _spans(sql: str) -> Iterator[tuple[int, int]]:
    """Where the statements with code in them begin and end, delimiters left out."""
    delimiter = ";"
    begin = position = 0
    has_code, is_line_start = False, True
    #: Where the code comment began that is open.
    opened_code: int | None = None
    while position < len(sql):
        if is_line_start and not has_code and (line := _DELIMITER_LINE.match(sql, position)):
            delimiter = line[1].strip("'\"`")
            if not delimiter:
                raise SplitError(
                    f"DELIMITER in line {_line(sql, position)} names none. Write, for example, DELIMITER //"
                )
            begin = position = line.end()
            continue
        is_line_start = False
        character = sql[position]
        if opened_code is None and sql.startswith(delimiter, position):
            if has_code:
                yield begin, position
            position += len(delimiter)
            begin, has_code, is_line_start = position, False, True
        elif character == "\n":
            position += 1
            is_line_start = True
        elif comment := _LINE_COMMENT.match(sql, position):
            position = comment.end()
        elif code := _CODE_COMMENT.match(sql, position):
            opened_code, has_code = position, True
            position = code.end()
        elif sql.startswith("/*", position):
            position = _after_comment(sql, position)
        elif opened_code is not None and sql.startswith("*/", position):
            opened_code = None
            position += 2
        elif character in _QUOTED:
            has_code = True
            position = _after_quoted(sql, position)
        else:
            has_code = has_code or not character.isspace()
            plain = _PLAIN.match(sql, position) if delimiter == ";" else None
            position = plain.end() if plain else position + 1
    if opened_code is not None:
        raise _unclosed(sql, opened_code, "comment", "*/")
    if has_code:
        yield begin, len(sql)


def _after_comment(sql: str, position: int) -> int:
    end = sql.find("*/", position + 2)
    if end < 0:
        raise _unclosed(sql, position, "comment", "*/")
    return end + 2


def _after_quoted(sql: str, position: int) -> int:
    """A doubled quote inside is met as a second quoted piece that begins where the first one ends."""
    quote = sql[position]
    quoted = _QUOTED[quote].match(sql, position)
    if quoted is None:
        raise _unclosed(sql, position, "quote", quote)
    return quoted.end()


def _unclosed(sql: str, position: int, what: str, closing: str) -> SplitError:
    return SplitError(f"The {what} that begins in line {_line(sql, position)} of the SQL is not closed. Add {closing}")


def _line(sql: str, position: int) -> int:
    return sql.count("\n", 0, position) + 1

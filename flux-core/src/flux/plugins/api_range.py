"""Whether a range of API versions, such as ">=1.0,<2", admits a version. The operators are those of PEP 440.

A version is numbers and dots; missing numbers are zeros. `~=1.2` is `>=1.2,<2`; `==1.*` is every 1.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

_CLAUSE = re.compile(r"(>=|<=|==|!=|~=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}


def admits(text: str, version: str) -> bool:
    """Whether every part of the range `text`, separated by commas, holds for `version`.

    Raises:
        ValueError: `text` is no range.
    """
    parts = [part.strip() for part in text.split(",")]
    clauses = [_CLAUSE.fullmatch(part) for part in parts]
    for part, clause in zip(parts, clauses, strict=True):
        star_is_wrong = clause is not None and clause[3] and clause[1] not in ("==", "!=")
        short = clause is not None and clause[1] == "~=" and "." not in clause[2]
        if clause is None or star_is_wrong or short:
            raise ValueError(f"{part!r} is no range of versions. Write, for example, '>=1.0,<2'.")
    return all(_holds(clause[1], clause[2], bool(clause[3]), version) for clause in clauses if clause)


def _holds(comparison: str, bound: str, has_star: bool, version: str) -> bool:
    numbers, limit = _numbers(version), _numbers(bound)
    if comparison == "~=":
        return _holds(">=", bound, False, version) and _holds("==", bound.rpartition(".")[0], True, version)
    if has_star:
        numbers = numbers[: len(limit)]
    width = max(len(numbers), len(limit))
    return _COMPARE[comparison](_padded(numbers, width), _padded(limit, width))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _padded(numbers: tuple[int, ...], width: int) -> tuple[int, ...]:
    return numbers + (0,) * (width - len(numbers))

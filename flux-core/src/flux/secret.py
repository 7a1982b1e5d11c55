"""A text that must not be shown: passwords and tokens, and the masking of them in what is printed.

A `Secret` has one way out, `reveal()`. Everything that would show it by accident (str, format, pickle, JSON) refuses,
and `repr` shows stars. What was once a Secret in this process is also masked by `mask`, which log handlers use.
"""

from __future__ import annotations

import hmac
from typing import Any, NoReturn
from urllib.parse import quote

MASK = "***"

#: Shorter texts are not masked: their stars would fall into every second word and give them away.
_SHORTEST_MASKED = 4

_seen: set[str] = set()


class Secret:
    """A text whose only way out is `reveal()`. Two are equal when their texts are; an empty one is false."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"A Secret holds a str, not {type(text).__name__}.")
        self.__text = text
        if len(text) >= _SHORTEST_MASKED:
            _seen.update({text, quote(text, safe="")})

    def reveal(self) -> str:
        """Return the text. Give it to the client that needs it and keep it nowhere else."""
        return self.__text

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> NoReturn:
        raise TypeError("A Secret is not shown. Where its text is really needed, call .reveal().")

    def __format__(self, format_spec: str) -> NoReturn:
        self.__str__()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(
            self.__text.encode("utf-8", "surrogatepass"), other.__text.encode("utf-8", "surrogatepass")
        )

    def __hash__(self) -> int:
        return hash((Secret, self.__text))

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("A Secret is not pickled: it would stand readable in the bytes.")


def mask(text: str) -> str:
    """Return `text` with stars in place of every secret this process has held, also in its form within a URI."""
    for secret in sorted(_seen, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, MASK)
    return text

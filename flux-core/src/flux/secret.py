"""A text that must not be shown: passwords and tokens, and the masking of them in what is printed.

A `Secret` has one way out, `reveal()`. Everything that would show it by accident (str, format, pickle, JSON) refuses,
and `repr` shows stars. What was once a Secret in this process is also masked by `mask`, and in the streams that
`masking` covers.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

MASK = "***"

#: Shorter texts are not masked: their stars would fall into every second word and give them away.
_SHORTEST_MASKED = 4

_seen: set[str] = set()
#: The same, longest first: a secret that begins with another one is masked whole.
_forms: tuple[str, ...] = ()
#: What is called once, when there is the first text to mask; None: it was.
_waiting: list[Callable[[], object]] | None = []


class Secret:
    """A text whose only way out is `reveal()`. Two are equal when their texts are; an empty one is false."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"A Secret holds a str, not {type(text).__name__}.")
        self.__text = text
        mask_also(text)

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
    """Return `text` with stars in place of every secret this process has held, in any form that `forms` names."""
    for form in _forms:
        if form in text:
            text = text.replace(form, MASK)
    return text


def forms() -> tuple[str, ...]:
    """Return every text that is masked in this process, longest first; the same tuple until there is another one.

    Of each secret: itself and each of its lines, percent-encoded, as JSON, Python and a shell escape it, and base64.
    """
    return _forms


def mask_also(text: str) -> None:
    """Mask `text` from now on: something that gives a secret away and is no Secret itself, as a login with it."""
    global _forms
    if text in _seen or len(text) < _SHORTEST_MASKED:
        return
    _seen.update(_forms_of(text))
    _forms = tuple(sorted(_seen, key=len, reverse=True))
    _tell_first()


def when_first(callback: Callable[[], object]) -> None:
    """Call `callback` once there is something to mask in this process: at once, or with the first secret."""
    if _waiting is None:
        callback()
    else:
        _waiting.append(callback)


def _tell_first() -> None:
    global _waiting
    waiting, _waiting = _waiting, None
    for callback in waiting or ():
        callback()


def _forms_of(text: str) -> Iterator[str]:
    """The forms of one secret that are long enough to be masked. A stream is masked line by line, so lines count."""
    yield text
    for piece in {text, *map(str.strip, text.splitlines())}:
        if len(piece) >= _SHORTEST_MASKED:
            yield from _escaped(piece)


def _escaped(piece: str) -> Iterator[str]:
    import base64
    import json
    from urllib.parse import quote, quote_plus

    data = piece.encode("utf-8", "surrogatepass")
    yield piece
    yield from (quote(data, safe=""), quote(data), quote_plus(data))
    yield from (json.dumps(piece)[1:-1], json.dumps(piece, ensure_ascii=False)[1:-1])
    yield from (repr(piece)[1:-1], repr(data)[2:-1])
    yield from (piece.replace("'", "'\\''"), piece.replace("'", "'\"'\"'"))
    yield base64.b64encode(data).decode()

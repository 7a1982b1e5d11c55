"""How the authoring classes take their arguments: known ones only, of the right type, and errors name the call.

The call is the innermost frame outside the flux package: the author's line, or that of a provider's helper.
"""

# Not pathlib: every DAG file pays for what this imports.
# ruff: noqa: PTH100, PTH117, PTH118

from __future__ import annotations

import os
import re
import sys
from abc import ABCMeta
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any, TypeVar

from flux.errors import AuthoringError, InvalidId, UnknownArgument

#: A file and a line in it, from 1.
Site = tuple[str, int]

_E = TypeVar("_E", bound=AuthoringError)

ID_LENGTH = 200
_ID = re.compile(r"[A-Za-z0-9_\-:+][A-Za-z0-9_\-.:+]*")
#: What CPython says when a call does not fit an `__init__`.
_MISFIT = re.compile(r"(?:\w+\.)*__init__\(\) (?P<fault>(?:missing|takes|got) .*)", re.DOTALL)


def call_site() -> Site | None:
    """Return where the author called into flux; None when nothing else is on the stack."""
    frame = _outside(sys._getframe(1))
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def module_site() -> Site | None:
    """Return the file whose module level is running, innermost first, and the line it is at; None: there is none."""
    frame = _outside(sys._getframe(1))
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = _outside(frame.f_back)
    return None if frame is None else (os.path.abspath(frame.f_code.co_filename), frame.f_lineno)


def _outside(frame: FrameType | None) -> FrameType | None:
    """The innermost frame from `frame` on that is not of the flux package."""
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if name != "flux" and not name.startswith("flux."):
            return frame
        frame = frame.f_back
    return None


def shown(site: Site | None) -> str:
    """Return "sales.py:14", the file relative to where Python finds modules (the DAGs folder); "?" for None."""
    if site is None:
        return "?"
    file, line = site
    if os.path.isabs(file):
        folders = [os.path.join(os.path.abspath(path), "") for path in sys.path]
        around = [folder for folder in folders if folder != os.sep and file.startswith(folder)]
        file = file[len(max(around, key=len, default="")) :]
    return f"{file}:{line}"


def located(error: _E, site: Site | None = None) -> _E:
    """Return the error with file and line, also at the start of its message. One that has them is left alone."""
    site = site or call_site()
    if error.line is None and site is not None:
        error.file, error.line = site
        error.args = (f"{shown(site)}: {error}",)
    return error


class AuthoringType(ABCMeta):
    """Metaclass of what authors construct: refuses unknown arguments, and places errors at the call."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        site = call_site()
        try:
            return cls.construct(site, args, kwargs)
        except AuthoringError as error:
            located(error, site)
            raise

    def construct(cls, site: Site | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make the object. Subclasses of this metaclass extend it."""
        who = cls.describe_call(args, kwargs)
        known = accepted(cls)
        if known is not None:
            refuse_unknown(f"{who} takes no argument", kwargs, known)
        abstract = getattr(cls, "__abstractmethods__", None)
        if abstract:
            raise AuthoringError(f"{who} cannot be used: its class does not define {', '.join(sorted(abstract))}().")
        try:
            return super().__call__(*args, **kwargs)
        except TypeError as error:
            misfit = _MISFIT.fullmatch(str(error))
            if misfit is None:
                raise
            raise AuthoringError(f"{who}: {misfit['fault']}.") from error

    def describe_call(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the words for what is being made, such as "DAG 'sales'"."""
        first = next(iter(args), None) or next((value for key, value in kwargs.items() if key.endswith("_id")), None)
        return cls.__name__ if first is None else f"{cls.__name__} {first!r}"


def accepted(cls: type) -> frozenset[str] | None:
    """Return the argument names that `cls(...)` takes; None if any may be taken.

    Follows `**kwargs` from each class's `__init__` to the next one's.
    """
    if "_accepted" in vars(cls):
        return cls._accepted  # type: ignore[attr-defined, no-any-return]
    names: set[str] = set()
    open_ended = True
    for klass in cls.__mro__:
        init = vars(klass).get("__init__")
        if init is None:
            continue
        if klass is not object:
            code = getattr(_unwrapped(init), "__code__", None)
            if code is None:
                break
            names.update(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
            if code.co_flags & 0x08:  # CO_VARKEYWORDS
                continue
        open_ended = False
        break
    result = None if open_ended else frozenset(names)
    cls._accepted = result  # type: ignore[attr-defined]
    return result


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def refuse_unknown(fault: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownArgument, with near names, if `given` holds a name that is not in `known`.

    `fault` begins the message, such as "DAG 'sales' takes no argument"; the name follows.
    """
    unknown = sorted(set(given) - set(known))
    if not unknown:
        return
    import difflib

    near = difflib.get_close_matches(unknown[0], sorted(known), n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(near)}?" if near else "Remove it."
    more = f" (nor {', '.join(map(repr, unknown[1:]))})" if len(unknown) > 1 else ""
    raise UnknownArgument(f"{fault} {unknown[0]!r}{more}. {hint}")


def check_id(value: Any, what: str) -> str:
    """Return an id as given. `what` is "dag_id", "task_id" or "group_id".

    Raises:
        InvalidId: not text, too long, or with characters that are not allowed.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidId(
            f"{what} {value!r} is not allowed. Use ASCII letters, digits and _ - . : +, not beginning with a dot."
        )
    if len(value) > ID_LENGTH:
        raise InvalidId(f"{what} {value[:40] + '…'!r} has {len(value)} characters. At most {ID_LENGTH} are allowed.")
    return value


def check_whole(value: Any, what: str, *, minimum: int | None = None) -> int:
    """Return a whole number as given, or raise AuthoringError; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise AuthoringError(f"{what} = {value!r} is not a whole number. Give one, for example {max(minimum or 0, 2)}.")
    if minimum is not None and value < minimum:
        raise AuthoringError(f"{what} = {value} is too small. Give a whole number of at least {minimum}.")
    return value


def check_flag(value: Any, what: str) -> bool:
    """Return True or False as given, or raise AuthoringError."""
    if not isinstance(value, bool):
        raise AuthoringError(f"{what} = {value!r} is neither True nor False.")
    return value


def check_text(value: Any, what: str) -> str:
    """Return text as given, or raise AuthoringError if it is empty or no text."""
    if not isinstance(value, str) or not value:
        raise AuthoringError(f"{what} = {value!r} is not a text. Give a string that is not empty.")
    return value


def check_choice(value: Any, what: str, choices: Iterable[str]) -> str:
    """Return one of `choices` as given, or raise AuthoringError listing them."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        raise AuthoringError(f"{what} = {value!r} is not known. Known: {', '.join(known)}.")
    return value


def check_callable(value: Any, what: str) -> Callable[..., Any] | None:
    """Return a function, or None, as given; raise AuthoringError for anything else."""
    if value is not None and not callable(value):
        raise AuthoringError(f"{what} = {value!r} cannot be called. Give a function.")
    return value  # type: ignore[no-any-return]


def check_mapping(value: Any, what: str) -> dict[str, Any]:
    """Return a copy of a dict with text keys, empty for None; raise AuthoringError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise AuthoringError(f"{what} = {value!r} is not a dict with text keys.")
    return dict(value)


def check_texts(value: Any, what: str) -> tuple[str, ...]:
    """Return a list, tuple or set of texts as a tuple (a set sorted); raise AuthoringError for anything else."""
    if isinstance(value, set | frozenset) and all(isinstance(item, str) for item in value):
        return tuple(sorted(value))
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise AuthoringError(f"{what} = {value!r} is not a list of texts. Write [{str(value)!r}] for a single one.")
    return tuple(value)

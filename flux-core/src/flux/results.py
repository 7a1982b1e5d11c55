"""Results as typed JSON: what a task returns, as text that gives the same value back.

Plain JSON values stand for themselves. Everything else is an object with `$type` and `value`, as in
`{"$type":"decimal","value":"1.20"}`. A value of another type is refused by the path to it, never turned into a string.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flux.errors import ResultError

#: Up to this many bytes of typed JSON a result is kept in the store's row, above in a file beside the log.
INLINE_LIMIT = 64 * 1024
#: Above this many bytes of typed JSON a result fails its attempt.
RESULT_LIMIT = 10 * 1024 * 1024

_DEEPEST = 200
#: Python refuses to read or write the digits of larger ones.
_LARGEST_INT_BITS = 14_000

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
_Path: TypeAlias = "tuple[str, ...]"


def encode(value: object, *, limit_bytes: int) -> str:
    """Return the typed JSON of `value`.

    NumPy scalars become Python's; a subclass of str, int, float, list, tuple, set or dict becomes its base.

    Raises:
        ResultError: `value` holds something of a type that is not kept (the path is named), or the text has more than
            `limit_bytes` bytes in UTF-8 (size and limit are named).
    """
    text = json.dumps(_encoded(value, ("result",)), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        # Half a surrogate pair has no UTF-8; JSON's escapes hold it.
        text = json.dumps(json.loads(text), separators=(",", ":"))
        size = len(text)
    if size > limit_bytes:
        raise ResultError(
            f"Result is too large: {size:,} bytes, the limit is {limit_bytes:,} bytes. "
            "Write it to a file or a table and return its name, or set store_result=False."
        )
    return text


def decode(text: str) -> Any:
    """Return the value that `encode` wrote.

    Raises:
        ResultError: the text is no JSON, or holds a `$type` that this version does not know.
    """
    try:
        return json.loads(text, object_hook=_decoded)
    except (ValueError, TypeError, ArithmeticError, KeyError) as error:
        raise ResultError(f"Stored result cannot be read: {type(error).__name__}: {error}.") from error


def _encoded(value: Any, path: _Path) -> Json:
    if value is None or value is True or value is False:
        return value
    if len(path) > _DEEPEST:
        raise ResultError(
            f"Result is nested deeper than {_DEEPEST} levels, or contains itself, at {_shown(path[:8])}…. "
            "Return flat data."
        )
    if _is_numpy(value):
        return _encoded(_from_numpy(value, path), path)
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value, path)
    exact = _EXACT_WRITERS.get(type(value))
    if exact is None:
        raise _not_kept(value, path)
    name, of = exact
    return {"$type": name, **of(value)}


def _write_int(value: int, path: _Path) -> Json:
    if value.bit_length() > _LARGEST_INT_BITS:
        raise ResultError(
            f"Result has an integer of {value.bit_length():,} bits at {_shown(path)}. Return it as bytes."
        )
    return int.__int__(value)


def _write_float(value: float, path: _Path) -> Json:
    if math.isfinite(value):
        return float.__float__(value)
    return {"$type": "float", "value": float.__repr__(value)}


def _write_list(value: list[Any], path: _Path) -> Json:
    return [_encoded(item, (*path, f"[{index}]")) for index, item in enumerate(value)]


def _write_tuple(value: tuple[Any, ...], path: _Path) -> Json:
    return {"$type": "tuple", "value": [_encoded(item, (*path, f"[{index}]")) for index, item in enumerate(value)]}


def _write_set(value: set[Any], path: _Path) -> Json:
    items = [_encoded(item, (*path, "{…}")) for item in value]
    return {"$type": "set", "value": sorted(items, key=lambda item: json.dumps(item, sort_keys=True))}


def _write_dict(value: dict[Any, Any], path: _Path) -> Json:
    if all(isinstance(key, str) and key != "$type" for key in value):
        return {str.__str__(key): _encoded(item, (*path, f"[{str.__str__(key)!r}]")) for key, item in value.items()}
    pairs: list[Json] = []
    for key, item in value.items():
        step = f"[{key!r:.40}]"
        pairs.append([_encoded(key, (*path, f"{step} (the key)")), _encoded(item, (*path, step))])
    return {"$type": "dict", "value": pairs}


_WRITERS: tuple[tuple[type, Callable[[Any, _Path], Json]], ...] = (
    (str, lambda value, path: str.__str__(value)),
    (int, _write_int),
    (float, _write_float),
    (list, _write_list),
    (tuple, _write_tuple),
    (set, _write_set),
    (dict, _write_dict),
)


def _moment_fields(value: datetime | time) -> dict[str, Json]:
    """The fields of a datetime or time. A named zone keeps its name: an offset does not say what the next hour is."""
    fields: dict[str, Json] = {"value": value.isoformat()}
    if isinstance(value.tzinfo, ZoneInfo) and value.tzinfo.key:
        fields["zone"] = value.tzinfo.key
    if value.fold:
        fields["fold"] = 1
    return fields


#: Exact types only: a subclass (pandas' Timestamp, its NaT) would silently lose what it adds.
_EXACT_WRITERS: Mapping[type, tuple[str, Callable[[Any], dict[str, Json]]]] = {
    Decimal: ("decimal", lambda value: {"value": str(value)}),
    datetime: ("datetime", _moment_fields),
    date: ("date", lambda value: {"value": value.isoformat()}),
    time: ("time", _moment_fields),
    timedelta: ("timedelta", lambda value: {"value": [value.days, value.seconds, value.microseconds]}),
    bytes: ("bytes", lambda value: {"value": base64.b64encode(value).decode("ascii")}),
}


def _is_numpy(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item")


def _from_numpy(value: Any, path: _Path) -> Any:
    plain = value.item()
    # A datetime64 in nanoseconds gives a bare int, NaT gives None, a longdouble itself.
    if type(plain) is type(value) or (value.dtype.kind in "mM" and not isinstance(plain, (date, timedelta))):
        raise _not_kept(value, path)
    return plain


def _not_kept(value: Any, path: _Path) -> ResultError:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return ResultError(
        f"Result has a {name} at {_shown(path)}, which cannot be kept. "
        "Return plain data (text, numbers, dates, lists, dicts), or set store_result=False."
    )


def _shown(path: _Path) -> str:
    return "".join(path)


def _read_moment(kind: type[datetime] | type[time], data: dict[str, Any]) -> datetime | time:
    value = kind.fromisoformat(data["value"])
    if "zone" in data:
        try:
            value = value.replace(tzinfo=ZoneInfo(data["zone"]))
        except (ZoneInfoNotFoundError, OSError):
            pass  # a zone this machine lacks: the offset in the text still gives the same instant
    return value.replace(fold=data.get("fold", 0))


_READERS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "decimal": lambda data: Decimal(data["value"]),
    "datetime": lambda data: _read_moment(datetime, data),
    "date": lambda data: date.fromisoformat(data["value"]),
    "time": lambda data: _read_moment(time, data),
    "timedelta": lambda data: timedelta(*data["value"]),
    "bytes": lambda data: base64.b64decode(data["value"]),
    "set": lambda data: set(data["value"]),
    "tuple": lambda data: tuple(data["value"]),
    "float": lambda data: float(data["value"]),
    "dict": lambda data: dict(data["value"]),
}


def _decoded(data: dict[str, Any]) -> Any:
    """Called by the JSON reader for every object, innermost first."""
    name = data.get("$type")
    if name is None:
        return data
    reader = _READERS.get(name)
    if reader is None:
        raise ValueError(f"type {name!r} is not known to this version of Flux")
    return reader(data)

"""Results come back as they were, or the attempt learns which part cannot be kept."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.errors import ResultError
from flux.results import RESULT_LIMIT, decode, encode

_BERLIN = ZoneInfo("Europe/Berlin")


def _back(value: object) -> Any:
    return decode(encode(value, limit_bytes=RESULT_LIMIT))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ([1, "ä", 2.5], '[1,"ä",2.5]'),
        (Decimal("1.20"), '{"$type":"decimal","value":"1.20"}'),
        (date(2026, 1, 5), '{"$type":"date","value":"2026-01-05"}'),
        (time(2, 30), '{"$type":"time","value":"02:30:00"}'),
        (datetime(2026, 1, 5, tzinfo=UTC), '{"$type":"datetime","value":"2026-01-05T00:00:00+00:00"}'),
        (timedelta(days=1, microseconds=2), '{"$type":"timedelta","value":[1,0,2]}'),
        (b"\x00\xff", '{"$type":"bytes","value":"AP8="}'),
        ({2, 1}, '{"$type":"set","value":[1,2]}'),
        ((1, ()), '{"$type":"tuple","value":[1,{"$type":"tuple","value":[]}]}'),
        (math.inf, '{"$type":"float","value":"inf"}'),
        ({1: "a"}, '{"$type":"dict","value":[[1,"a"]]}'),
        ({"$type": "tuple"}, '{"$type":"dict","value":[["$type","tuple"]]}'),
        ({"value": 1}, '{"value":1}'),
    ],
)
def test_the_text_of_each_type_is_fixed(value: object, text: str) -> None:
    """Kept results outlive releases: this text must stay readable."""
    assert encode(value, limit_bytes=RESULT_LIMIT) == text
    assert decode(text) == value


_atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.sampled_from([_BERLIN, timezone(timedelta(minutes=-34))]))
    | st.dates()
    | st.times(timezones=st.none() | st.just(UTC))
    | st.timedeltas()
    | st.binary()
)
_hashable = st.recursive(_atoms, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
_values = st.recursive(
    _atoms | st.sets(_hashable, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_hashable, inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(_values)
def test_every_value_comes_back_equal_and_of_the_same_type(value: object) -> None:
    back = _back(value)
    assert back == value
    assert repr(type(back)) == repr(type(value))


def test_nan_comes_back() -> None:
    assert math.isnan(_back(float("nan")))
    assert _back(Decimal("NaN")).is_nan()


@pytest.mark.parametrize("fold", [0, 1])
def test_a_datetime_keeps_its_zone_and_which_of_two_hours_it_means(fold: int) -> None:
    moment = datetime(2026, 10, 25, 2, 30, tzinfo=_BERLIN, fold=fold)
    back = _back({"at": moment})["at"]
    assert (back, back.tzinfo, back.fold) == (moment, _BERLIN, fold)
    assert back.utcoffset() == moment.utcoffset()


def test_a_zone_this_machine_lacks_still_gives_the_same_instant() -> None:
    text = '{"$type":"datetime","value":"2026-01-05T02:00:00+01:00","zone":"Atlantis/Capital"}'
    assert decode(text) == datetime(2026, 1, 5, 1, tzinfo=UTC)


class _Colour(StrEnum):
    RED = "red"


class _Size(IntEnum):
    SMALL = 1


class _Shape(Enum):
    ROUND = 1


_Point = namedtuple("_Point", "x y")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (_Colour.RED, "red"),
        (_Size.SMALL, 1),
        (_Point(1, 2), (1, 2)),
        (OrderedDict(a=1), {"a": 1}),
        (Counter("aab"), {"a": 2, "b": 1}),
        ({_Colour.RED: 1}, {"red": 1}),
    ],
)
def test_a_subclass_of_a_plain_type_becomes_its_base(value: object, kept: object) -> None:
    back = _back(value)
    assert back == kept
    assert type(back) is type(kept)


class _FakeDtype:
    def __init__(self, kind: str) -> None:
        self.kind = kind


def _numpy_like(name: str, item: object, *, kind: str = "f", shape: tuple[int, ...] = ()) -> Any:
    """An object with what the encoder looks at in a NumPy value, so that no test needs NumPy."""
    made = type(name, (), {"__module__": "numpy", "item": lambda self: item, "shape": shape, "dtype": _FakeDtype(kind)})
    return made()


def test_a_numpy_scalar_becomes_pythons() -> None:
    assert _back([_numpy_like("float64", 2.5), _numpy_like("int64", 3, kind="i")]) == [2.5, 3]
    assert _back(_numpy_like("datetime64", date(2026, 1, 5), kind="M")) == date(2026, 1, 5)


@pytest.mark.parametrize(
    "value",
    [
        _numpy_like("datetime64", 1_767_571_200_000_000_000, kind="M"),  # nanoseconds: a bare int
        _numpy_like("datetime64", None, kind="M"),  # NaT
        _numpy_like("ndarray", [1, 2], shape=(2,)),
    ],
)
def test_a_numpy_value_that_would_lose_its_meaning_is_refused(value: object) -> None:
    with pytest.raises(ResultError, match=r"numpy\.\w+ at result\[0\]"):
        _back([value])


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (lambda: None, "function at result,"),
        ({"rows": [1, {"f": _Shape.ROUND}]}, r"_Shape at result\['rows'\]\[1\]\['f'\],"),
        ((frozenset(),), r"frozenset at result\[0\],"),
        ({1: object()}, r"object at result\[1\],"),
        ({object: 1}, r"type at result\[<class 'object'>\] \(the key\),"),
        ([iter([])], r"list_iterator at result\[0\],"),
    ],
)
def test_what_cannot_be_kept_is_named_by_its_path(value: object, path: str) -> None:
    with pytest.raises(ResultError, match=path):
        _back(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ResultError, match="contains itself"):
        _back(endless)


def test_an_integer_too_long_to_be_read_again_is_refused_at_once() -> None:
    assert _back(10**4000) == 10**4000
    with pytest.raises(ResultError, match=r"at result\['n'\]"):
        _back({"n": 10**5000})


def test_a_result_over_its_limit_names_size_and_limit() -> None:
    assert encode("ä" * 49, limit_bytes=100)
    with pytest.raises(ResultError, match=r"102 bytes, the limit is 100 bytes"):
        encode("ä" * 50, limit_bytes=100)


def test_half_a_surrogate_pair_and_nul_survive() -> None:
    text = encode("\ud800\0", limit_bytes=100)
    assert text.isascii()
    assert decode(text) == "\ud800\0"


@pytest.mark.parametrize("text", ["{", '{"$type":"of the future","value":1}', '{"$type":"date","value":"x"}'])
def test_a_text_that_cannot_be_read_says_so(text: str) -> None:
    with pytest.raises(ResultError, match="cannot be read"):
        decode(text)


def test_plain_json_is_read_as_it_is() -> None:
    assert decode(json.dumps({"a": [1, None]})) == {"a": [1, None]}

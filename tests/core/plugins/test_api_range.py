"""Ranges of API versions: the operators of PEP 440."""

from __future__ import annotations

import pytest

from flux.plugins.api_range import admits


@pytest.mark.parametrize(
    ("text", "admitted", "refused"),
    [
        (">=1.0,<2", ["1.0", "1", "1.9", "1.10"], ["0.9", "2.0", "2", "2.1"]),
        ("> 1.0 , <= 1.2", ["1.1", "1.2", "1.2.0"], ["1.0", "1.3"]),
        ("==1.0", ["1.0", "1", "1.0.0"], ["1.1"]),
        ("==1.*", ["1.0", "1.12"], ["2.0", "0.9"]),
        ("!=1.1", ["1.0", "1.2"], ["1.1"]),
        ("!=1.1.*", ["1.0", "1.2"], ["1.1", "1.1.5"]),
        ("~=1.2", ["1.2", "1.9"], ["1.1", "2.0"]),
        ("~=1.2.3", ["1.2.3", "1.2.9"], ["1.3.0", "1.2.2"]),
        ("<10", ["9.9", "2"], ["10.0"]),
    ],
)
def test_a_range_admits_what_pep_440_says(text: str, admitted: list[str], refused: list[str]) -> None:
    assert [version for version in admitted + refused if admits(text, version)] == admitted


@pytest.mark.parametrize("text", ["", "1.0", ">=1.0,", ">=one", "=>1", ">=1.*", "~=1", "^1.0", ">=1.0 <2", ">=1.0rc1"])
def test_what_is_no_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"Write, for example, '>=1\.0,<2'"):
        admits(text, "1.0")

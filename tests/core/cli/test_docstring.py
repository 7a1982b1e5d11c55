"""Docstrings are taken apart as they are written in this repository."""

from __future__ import annotations

from flux.cli.docstring import read

DOCUMENT = """Do something.

    More of it: with a colon.

    Args:
        one: the first.
        two, three: both
            on two lines.
        four (int): typed.

    Raises:
        FluxError: never.

    At the end.
    """


def test_text_is_what_stands_outside_of_sections() -> None:
    assert read(DOCUMENT).text == "Do something.\n\nMore of it: with a colon.\n\nAt the end."


def test_each_argument_has_its_words_in_one_line() -> None:
    assert read(DOCUMENT).arguments == {
        "one": "the first.",
        "two": "both on two lines.",
        "three": "both on two lines.",
        "four": "typed.",
    }


def test_no_docstring_is_an_empty_one() -> None:
    assert (read(None).text, dict(read(None).arguments)) == ("", {})

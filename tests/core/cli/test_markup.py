"""One page, in two markups."""

from __future__ import annotations

import pytest

from flux.cli.markup import Markdown, Page, Rst


def written(page: Page) -> str:
    page.heading(1, "Moon")
    page.paragraphs(f"A `crater`, see {page.link('there', 'x.md')}.")
    page.paragraphs("")
    page.table(("a", "b"), [("`x | y`", "two\nlines"), ("", "")])
    page.table(("a", "b"), [])
    page.code("sh", "ls\n\nls")
    return page.text


def test_markdown() -> None:
    assert written(Markdown()) == (
        "# Moon\n\nA `crater`, see [there](x.md).\n\n| a | b |\n| --- | --- |\n| `x \\| y` | two lines |\n|  |  |\n\n"
        "```sh\nls\n\nls\n```\n"
    )


def test_restructuredtext() -> None:
    assert written(Rst()) == (
        "Moon\n====\n\nA ``crater``, see `there <x.md>`__.\n\n.. list-table::\n   :header-rows: 1\n\n"
        "   * - a\n     - b\n   * - ``x | y``\n     - two lines\n   * -\n     -\n\n"
        ".. code-block:: sh\n\n   ls\n\n   ls\n"
    )


@pytest.mark.parametrize("page", [Markdown(), Rst()], ids=["md", "rst"])
def test_a_page_ends_in_one_newline(page: Page) -> None:
    assert written(page).endswith("ls") is False
    assert page.text.endswith("\n")
    assert not page.text.endswith("\n\n")

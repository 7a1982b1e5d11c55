"""Streams that mask: what is printed has its secrets covered, however it reaches the stream, and nothing is lost."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
import textwrap
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux import secret
from flux.masking import Masker, cover, finish
from flux.secret import MASK, Secret


def masked(*pieces: str) -> str:
    """The pieces as a masker passes them on, to the end."""
    masker = Masker()
    shown = b"".join(masker.feed(piece.encode()) for piece in pieces)
    return (shown + masker.rest()).decode()


def test_a_secret_split_over_two_pieces_is_masked_at_every_cut() -> None:
    text = f"s-{uuid.uuid4().hex}"
    Secret(text)
    line = f"before {text} after\n"
    for cut in range(len(line)):
        assert masked(line[:cut], line[cut:]) == f"before {MASK} after\n"


def test_a_secret_that_comes_one_character_at_a_time_is_masked() -> None:
    text = uuid.uuid4().hex
    Secret(text)
    assert masked(*f"<{text}{text}>") == f"<{MASK}{MASK}>"


def test_only_what_may_be_the_beginning_of_a_secret_is_held_back() -> None:
    masker = Masker()
    Secret("zqxj-1234-5678")
    assert masker.feed(b"a progress bar .....") == b"a progress bar ....."
    assert masker.feed(b"so far zqxj-12") == b"so far "
    assert masker.feed(b"99\n") == b"zqxj-1299\n"


def test_a_line_is_passed_on_when_it_ends_whatever_it_ends_with() -> None:
    masker = Masker()
    Secret("zqxj-1234-5678")
    assert masker.feed(b"zqxj-12\n") == b"zqxj-12\n"


def test_the_longer_of_two_secrets_with_one_beginning_is_masked_whole() -> None:
    Secret("wvut-short")
    Secret("wvut-short-and-long")
    assert masked("wvut-short", "-and-long!") == f"{MASK}!"
    assert masked("wvut-short", "-and then") == f"{MASK}-and then"
    assert masked("wvut-short") == MASK


def test_a_secret_that_begins_as_it_ends_is_masked_when_whole() -> None:
    Secret("kkbkkb")
    assert masked("xkkbkkb", "y") == f"x{MASK}y"
    assert masked("kkbkkbkk", "bkkb.") == f"{MASK}{MASK}."


_letters = st.text("ab\n", max_size=12)


@given(secrets=st.lists(st.text("ab", min_size=4, max_size=7), min_size=1, max_size=3), pieces=st.lists(_letters))
def test_no_cut_changes_what_is_masked(secrets: list[str], pieces: list[str]) -> None:
    """The same bytes in one piece and in many come out the same, and no secret of theirs is left.

    The secrets here stay secret for the rest of the process: their letters are none that other tests print.
    """
    table = str.maketrans("ab", "\u0394\u0398")
    for text in secrets:
        Secret(text.translate(table))
    told = [piece.translate(table) for piece in pieces]
    assert masked(*told) == masked("".join(told))
    for text in secrets:
        assert text.translate(table) not in masked(*told)


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        json.dumps,
        lambda text: json.dumps(text, ensure_ascii=False),
        lambda text: __import__("urllib.parse").parse.quote(text, safe=""),
        lambda text: __import__("urllib.parse").parse.quote(text),
        lambda text: __import__("urllib.parse").parse.urlencode({"p": text}),
        lambda text: str(text.encode()),
        lambda text: __import__("shlex").quote(text),
        lambda text: __import__("base64").b64encode(text.encode()).decode(),
        lambda text: f"the first line\n{text}\n",
    ],
)
@pytest.mark.parametrize("text", ["p@ss w/rd+1", 'it\'s "quoted"', "naïve-κωδικός", "back\\slash\ttab"])
def test_every_usual_form_of_a_secret_is_masked(show: object, text: str) -> None:
    Secret(text)
    shown = show(text)  # type: ignore[operator]
    for covered in (secret.mask(shown), masked(shown)):
        assert MASK in covered
        assert text not in covered
        assert len(covered) <= len(shown) - len(text) + len(MASK) + 2


def test_each_line_of_a_secret_with_several_is_masked() -> None:
    key = f"-----BEGIN KEY-----\n{uuid.uuid4().hex}\n{uuid.uuid4().hex}\n-----END KEY-----\n"
    Secret(key)
    assert masked(*key.splitlines(keepends=True)) == f"{MASK}\n" * 4
    assert masked(json.dumps(key)) == f'"{MASK}"'
    assert secret.mask(f"{key.splitlines()[1]}!") == f"{MASK}!"


def stream() -> tuple[io.TextIOWrapper, io.BytesIO]:
    raw = io.BytesIO()
    # As a file has it: a buffered writer over what takes the bytes.
    raw.close = lambda: None  # type: ignore[method-assign]
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", line_buffering=True), raw


def test_a_covered_stream_masks_text_and_bytes() -> None:
    text = uuid.uuid4().hex
    Secret(text)
    out, raw = stream()
    cover(out)
    cover(out)
    print("password", text, file=out)
    out.writelines([text[:5], text[5:], "\n"])
    assert out.buffer.write(text.encode()) == len(text)
    finish(out)
    assert raw.getvalue().decode() == f"password {MASK}\n{MASK}\n{MASK}"


def test_what_is_held_back_is_written_at_the_end() -> None:
    Secret("zqxj-1234-5678")
    out, raw = stream()
    cover(out)
    print("the end is zqxj", end="", file=out, flush=True)
    assert raw.getvalue() == b"the end is "
    finish(out)
    assert raw.getvalue() == b"the end is zqxj"


def test_a_stream_without_a_descriptor_below_it_is_left_as_it_is() -> None:
    notebook = io.StringIO()
    cover(notebook)
    finish(notebook)
    assert notebook.getvalue() == ""


def run(source: str) -> str:
    """What a fresh process prints, both streams together."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.stdout.decode()


@pytest.mark.slow
def test_whoever_kept_stdout_before_the_first_secret_is_masked_after_it() -> None:
    said = run("""
        import logging, sys, threading
        from sys import stdout as kept
        from flux.masking import cover, finish
        from flux.secret import Secret
        handler = logging.StreamHandler(sys.stdout)
        for stream in (sys.stdout, sys.stderr):
            cover(stream)
        print("tr0ub4dor before", file=kept)
        assert "write" not in vars(sys.stdout.buffer)
        Secret("tr0ub4dor")
        print("1 tr0ub4dor", file=kept)
        logging.getLogger("x").addHandler(handler)
        logging.getLogger("x").warning("2 %s", "tr0ub4dor")
        thread = threading.Thread(target=print, args=("3 tr0ub4dor",))
        thread.start()
        thread.join()
        sys.stdout.buffer.write(b"4 tr0ub4dor\\n")
        sys.stdout.flush()
        finish(sys.stdout)
        raise RuntimeError("5 tr0ub4dor")
    """)
    assert said.startswith("tr0ub4dor before\n")
    assert said.count("tr0ub4dor") == 1
    for number in range(1, 6):
        assert f"{number} ***" in said


@pytest.mark.slow
def test_many_threads_print_whole_lines_of_stars() -> None:
    said = run("""
        import sys, threading
        from flux.masking import cover
        from flux.secret import Secret
        cover(sys.stdout)
        sys.stdout.reconfigure(line_buffering=True)
        Secret("tr0ub4dor")
        def work(name):
            for number in range(200):
                sys.stdout.write(f"{name} {number} tr0ub4dor end\\n")
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
    """)
    expected = {f"{name} {number} *** end" for name, number in itertools.product(range(8), range(200))}
    assert set(said.splitlines()) == expected

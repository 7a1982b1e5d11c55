"""A secret has one way out, and no accident is one."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import sys
import uuid
from dataclasses import asdict, dataclass

import pytest

from flux import results
from flux.errors import ResultError
from flux.secret import MASK, Secret, mask


def test_reveal_gives_the_text() -> None:
    assert Secret("correct horse").reveal() == "correct horse"


@pytest.mark.parametrize(
    "show",
    [
        str,
        lambda secret: f"{secret}",
        lambda secret: "%s" % secret,  # noqa: UP031
        lambda secret: "password " + secret,
        lambda secret: ",".join([secret]),
        pickle.dumps,
        json.dumps,
        lambda secret: f"{secret:>10}",
        lambda secret: f"{secret!s}",
        lambda secret: json.dumps({"extra": [secret]}),
        lambda secret: pickle.dumps({"extra": secret}, protocol=0),
        len,
        bytes,
        vars,
        list,
    ],
)
def test_no_accident_shows_the_text(show: object) -> None:
    with pytest.raises(TypeError) as caught:
        show(Secret("tr0ub4dor"))  # type: ignore[operator]
    assert "tr0ub4dor" not in str(caught.value)


def test_repr_shows_stars_also_inside_other_things() -> None:
    assert repr({"password": Secret("tr0ub4dor")}) == "{'password': Secret('***')}"


@dataclass
class _Holder:
    secret: Secret


def test_a_record_that_holds_one_shows_stars_and_copies_it() -> None:
    holder = _Holder(Secret("tr0ub4dor"))
    assert "tr0ub4dor" not in repr(holder) + repr(asdict(holder)) + pprint.pformat(holder)
    assert asdict(holder)["secret"] is holder.secret


def test_logging_one_shows_where_and_not_what(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("apart")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    text = uuid.uuid4().hex
    logger.error("password %s", Secret(text))
    logger.error("password %r", Secret(text))
    said = capsys.readouterr().err
    assert text not in said
    assert "A Secret is not shown" in said
    assert "password Secret('***')" in said


def test_a_result_that_holds_one_is_refused_with_the_path_to_it() -> None:
    with pytest.raises(ResultError, match=r"Secret.*\['rows'\]\[1\]") as caught:
        results.encode({"rows": [1, Secret("tr0ub4dor")]}, limit_bytes=1000)
    assert "tr0ub4dor" not in str(caught.value)


def test_secrets_of_one_text_are_equal_and_equal_no_str() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


def test_an_empty_secret_is_false() -> None:
    assert not Secret("")
    assert Secret("x")


def test_a_copy_is_the_secret_itself() -> None:
    secret = Secret("tr0ub4dor")
    assert copy.deepcopy({"password": secret})["password"] is secret
    assert copy.copy(secret) is secret


def test_only_text_can_be_secret() -> None:
    with pytest.raises(TypeError, match="bytes"):
        Secret(b"x")  # type: ignore[arg-type]


def test_mask_covers_every_secret_of_this_process_and_its_form_in_a_uri() -> None:
    Secret("p@ss/w0rd")
    assert mask("login with p@ss/w0rd at mysql://u:p%40ss%2Fw0rd@h") == f"login with {MASK} at mysql://u:{MASK}@h"


def test_mask_takes_the_longest_secret_first() -> None:
    Secret("longsecret")
    Secret("longsecret-and-more")
    assert mask("longsecret-and-more") == MASK


def test_mask_leaves_short_texts_alone() -> None:
    """Stars in place of every "a" would hide nothing and spoil the log."""
    Secret("abc")
    assert mask("abcdef") == "abcdef"

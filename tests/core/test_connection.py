"""Connections are read from URIs, keep every character, and never show what is secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.connection import Connection, environment_ids, from_environment, variable_name
from flux.errors import ConfigError
from flux.secret import Secret


def test_a_uri_gives_every_field() -> None:
    found = Connection.from_uri("sales", "mysql://ann:s3cret@db.example:3307/shop?charset=utf8&ssl=")
    assert found == Connection(
        "sales", "mysql", "db.example", 3307, "ann", Secret("s3cret"), "shop", {"charset": "utf8", "ssl": ""}
    )


def test_what_a_uri_leaves_out_is_none() -> None:
    found = Connection.from_uri("x", "hive://")
    assert (found.type, found.host, found.port, found.login, found.password) == ("hive", None, None, None, None)
    assert found.schema is None
    assert found.extra == {}


def test_each_part_is_percent_decoded_by_itself() -> None:
    found = Connection.from_uri("x", "mysql://a%40b:p%3A%2F%23@%2Fvar%2Frun%2FMy.sock/s%3F?k%3D=v%26w")
    assert found.login == "a@b"
    assert found.password == Secret("p:/#")
    assert (found.host, found.schema, found.extra) == ("/var/run/My.sock", "s?", {"k=": "v&w"})


def test_a_type_may_have_an_underscore_and_an_ipv6_host_keeps_no_brackets() -> None:
    found = Connection.from_uri("x", "My_Type://[2001:db8::1]:8020/data/raw")
    assert (found.type, found.host, found.port, found.schema) == ("my_type", "2001:db8::1", 8020, "data/raw")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "hushhush",
        "://u:hushhush@h",
        "mysql:u:hushhush@h",
        "mysql://u:hushhush@h:port/x",
        "mysql://u:hushhush@h:99999/x",
        "mysql://u:hush#hush@h/x",
        "mysql://u:hushhush@[h/x",
    ],
)
def test_a_malformed_uri_is_refused_without_showing_it(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"'sales' \(from FLUX_CONN_SALES\)") as caught:
        from_environment("sales", {"FLUX_CONN_SALES": uri})
    assert "hush" not in str(caught.value)


def test_repr_shows_neither_password_nor_extra() -> None:
    shown = repr(Connection.from_uri("x", "mysql://u:s3cret@h/db?token=t0ken"))
    assert "s3cret" not in shown
    assert "t0ken" not in shown
    assert "'h'" in shown


#: What becomes a secret here is masked in what every later test of this process prints: so no usual text does.
_password = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda text: len(text) < 4 or not text.isascii()
)
_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@given(
    login=st.none() | _text,
    password=st.none() | _password.map(Secret),
    host=st.none() | _text.filter(lambda host: ":" not in host) | st.just("2001:db8::1"),
    port=st.none() | st.integers(0, 65535),
    schema=st.none() | _text,
    extra=st.dictionaries(_text, st.text(st.characters(codec="utf-8"), max_size=12), max_size=3),
)
def test_a_uri_gives_the_connection_back(**fields: object) -> None:
    connection = Connection("x", "mysql", **fields)  # type: ignore[arg-type]
    assert Connection.from_uri("x", connection.to_uri()) == connection


def test_a_message_gives_the_connection_back() -> None:
    connection = Connection.from_uri("x", "mysql://u:s3cret@h:1/db?a=b")
    message = connection.to_message()
    assert message["password"] == "s3cret"
    assert Connection.from_message(message) == connection


def test_the_environment_names_a_connection_in_upper_case() -> None:
    environ = {"FLUX_CONN_HIVE_DEFAULT": "hive://h", "FLUX_CONN_": "x", "FLUX_CONN_A": "a://", "FLUX_HOME": "/"}
    assert variable_name("raw.hive-2") == "FLUX_CONN_RAW_HIVE_2"
    assert environment_ids(environ) == ["a", "hive_default"]
    found = from_environment("hive_default", environ)
    assert found is not None
    assert (found.conn_id, found.host) == ("hive_default", "h")
    assert from_environment("other", environ) is None


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("acme://u:ge\theim@h", "%09"),
        ("acme://u:geheim@h\n/s", "line's end"),
        ("acme://u:geheim%ff@h", "no UTF-8"),
        ("acme://u:geheim@h?a=%ff", "no UTF-8"),
        ("acme://u:geheim@h?a=1&a=2", "'a' twice"),
    ],
)
def test_what_would_be_changed_without_a_word_is_refused(uri: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Connection.from_uri("shop", uri)
    assert "geheim" not in str(caught.value)

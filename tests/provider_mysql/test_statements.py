"""Splitting SQL: quotes, comments, delimiters, as the client of the servers does it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_provider_mysql.statements import SplitError, split


def texts(sql: str) -> list[str]:
    return [statement.text for statement in split(sql)]


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        ("", []),
        (" \n\t", []),
        (";", []),
        ("select 1", ["select 1"]),
        ("select 1;", ["select 1"]),
        ("select 1; select 2", ["select 1", "select 2"]),
        ("select 1;;; ;\n; select 2 ;", ["select 1", "select 2"]),
        # quotes
        ("select ';'; select 2", ["select ';'", "select 2"]),
        ('select ";"; select 2', ['select ";"', "select 2"]),
        ("select `a;b`; select 2", ["select `a;b`", "select 2"]),
        (r"select 'it\'s; x'; select 2", [r"select 'it\'s; x'", "select 2"]),
        (r'select "a\";b"; select 2', [r'select "a\";b"', "select 2"]),
        ("select 'it''s; x'; select 2", ["select 'it''s; x'", "select 2"]),
        ("select `a``;b`; select 2", ["select `a``;b`", "select 2"]),
        (r"select 'a\\'; select 2", [r"select 'a\\'", "select 2"]),
        (r"select `a\`; select 2", [r"select `a\`", "select 2"]),
        ("select '\n;\n'; select 2", ["select '\n;\n'", "select 2"]),
        ("select \"'\", ';'; select 2", ["select \"'\", ';'", "select 2"]),
        ("select '--', '#;', '/*'; select 2", ["select '--', '#;', '/*'", "select 2"]),
        # comments
        ("select 1 -- x; y\n; select 2", ["select 1 -- x; y", "select 2"]),
        ("select 1 -- it's\n; select 2", ["select 1 -- it's", "select 2"]),
        ("select 1 # x; 'y\n; select 2", ["select 1 # x; 'y", "select 2"]),
        ("select 1 /* x; 'y */; select 2", ["select 1 /* x; 'y */", "select 2"]),
        ("select 1--1; select 2", ["select 1--1", "select 2"]),
        ("select 1 --\n; select 2", ["select 1 --", "select 2"]),
        ("select 1 --", ["select 1 --"]),
        ("select 4/2; select 2*/*;*/3", ["select 4/2", "select 2*/*;*/3"]),
        ("-- only a comment\n/* and; another */ # and a third", []),
        ("-- head\nselect 1; -- tail", ["-- head\nselect 1"]),
        ("select /*+ MAX_EXECUTION_TIME(9) */ 1; select 2", ["select /*+ MAX_EXECUTION_TIME(9) */ 1", "select 2"]),
        # code in comments
        ("/*! set @a = 1; */; select 2", ["/*! set @a = 1; */", "select 2"]),
        ("/*!40101 set @a = '*/;' */; select 2", ["/*!40101 set @a = '*/;' */", "select 2"]),
        ("/*M!100100 set @a = 1; */; select 2", ["/*M!100100 set @a = 1; */", "select 2"]),
        ("/*!50003 create /* ; */ table t */; select 2", ["/*!50003 create /* ; */ table t */", "select 2"]),
        # delimiters
        ("DELIMITER '//'\nselect 1; select 2//\nDELIMITER ;\nselect 3", ["select 1; select 2", "select 3"]),
        (
            "DELIMITER //\ncreate procedure p() begin select 1; select 2; end//\nDELIMITER ;\ncall p();",
            ["create procedure p() begin select 1; select 2; end", "call p()"],
        ),
        ("delimiter $$\r\nselect 1$$\r\ndelimiter ;\r\nselect 2", ["select 1", "select 2"]),
        ("  Delimiter   ;;  and what follows\nselect ';'; 1;; select 2", ["select ';'; 1", "select 2"]),
        ("select 1; delimiter //\nselect 2; 3//", ["select 1", "select 2; 3"]),
        ("-- head\ndelimiter //\nselect ';//'//", ["select ';//'"]),
        ("select 1 as a,\ndelimiter\nfrom t", ["select 1 as a,\ndelimiter\nfrom t"]),
        ("delimiter END\nselect 1 ENDselect 2", ["select 1", "select 2"]),
        ("delimiter //", []),
        # what is not ASCII
        ("select '😀;ü'; select 'Ł'", ["select '😀;ü'", "select 'Ł'"]),
        ("select '\0;'; select 2", ["select '\0;'", "select 2"]),
    ],
)
def test_a_text_is_split_as_the_mysql_client_splits_it(sql: str, statements: list[str]) -> None:
    assert texts(sql) == statements


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select 1;\nselect 'it", "quote that begins in line 2"),
        ("select 'it\\'", "quote that begins in line 1"),
        ("select `a", "Add `"),
        ("select 1; /* drop table t;", "comment that begins in line 1"),
        ("select 1;\n\n/*! drop table t;", "comment that begins in line 3"),
        ("select 1;\ndelimiter\nselect 2", "DELIMITER in line 2 names none"),
    ],
)
def test_what_is_not_closed_is_refused_by_its_line(sql: str, words: str) -> None:
    with pytest.raises(SplitError, match=words):
        split(sql)


def test_a_byte_order_mark_is_none_of_the_sql() -> None:
    assert [statement.text for statement in split("\ufeffSELECT '\ufeff'; SELECT 2")] == ["SELECT '\ufeff'", "SELECT 2"]


def test_a_statement_knows_its_line() -> None:
    sql = "\n-- head\nselect 1;\n\n  select '\n';select 3"
    assert [statement.line for statement in split(sql)] == [2, 5, 6]


@pytest.mark.slow
def test_a_long_text_is_split_in_one_pass() -> None:
    """A value of 4 MB, 100,000 statements: neither depth nor time grows out of hand."""
    value = "insert into t values ('" + "it''s; \\' x" * 400_000 + "')"
    assert texts(f"{value}; select 2") == [value, "select 2"]
    assert len(split("select 1;\n" * 20_000)) == 20_000


PIECE = st.sampled_from(
    ["select 1", "'a;b'", '"a;\'b"', "`a;b`", "/* ; ' */", "-- ; '\n", "# ; `\n", "/*! ; '*/' */", "\\", " ", "\n", "ü"]
)


@given(st.lists(st.lists(PIECE, min_size=1, max_size=6).map("".join), max_size=6))
def test_statements_put_together_with_delimiters_come_apart_again(pieces: list[str]) -> None:
    """Each piece by itself is whole, so a delimiter between two of them is one that counts."""
    alone = [text for piece in pieces for text in texts(piece)]
    assert texts(" ;\n".join(pieces)) == alone

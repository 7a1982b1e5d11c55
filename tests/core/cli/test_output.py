"""What commands print, and what they ask."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from flux.cli import ask, output, progress
from flux.errors import NeedsConfirmation
from flux.states import State
from tests.waiting import until


@dataclass(frozen=True)
class Row:
    at: datetime
    state: State
    paths: tuple[Path, ...]


def test_document_is_plain_json_with_times_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 1, 5, 3, tzinfo=timezone(timedelta(hours=1)))
    output.document([Row(at, State.SUCCESS, (Path("/tmp"),))])
    out, err = capsys.readouterr()
    assert json.loads(out) == [{"at": "2026-01-05T02:00:00+00:00", "state": "success", "paths": ["/tmp"]}]
    assert err == ""


def test_columns_are_aligned_and_not_coloured_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("DAG", "STATE"), [("sales", "success"), ("x", None)], empty="")
    assert capsys.readouterr().out == "DAG    STATE\nsales  success\nx\n"


def test_control_characters_are_shown_and_not_sent_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("NAME",), [("a\x1b[31m\nb",)], empty="")
    output.details([("name", "two\nlines\x07")])
    assert capsys.readouterr().out == "NAME\na\\x1b[31m\\nb\nname  two\nlines\\x07\n"


def test_a_document_is_utf_8_whatever_its_texts_are(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    output.document(["\udcff", "é"])
    assert json.loads(capsysbinary.readouterr().out.decode("utf-8")) == ["\udcff", "é"]


def test_people_see_the_name_of_the_zone() -> None:
    assert output.local(datetime(2026, 1, 5, 2, tzinfo=UTC), UTC) == "2026-01-05 02:00:00 UTC"
    assert output.local(None, UTC) == ""


def test_question_without_a_terminal_is_refused_after_the_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/null").open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        with pytest.raises(NeedsConfirmation, match="--yes"):
            ask.confirm(["sales"], "Delete?", yes=False)
        assert ask.confirm(["sales"], "Delete?", yes=True) is True
    assert capsys.readouterr().err == "  sales\n  sales\n"


def test_short_work_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("Reading"):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_work_over_a_second_shows_progress_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def shown() -> bool:
        seen.append(capsys.readouterr().err)
        return "Reading" in seen[-1]

    with progress.progress("Reading"):
        until(shown, what="the progress line")
    assert "".join(seen) == "Reading …\n"

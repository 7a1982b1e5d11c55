from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flux import DAG
from flux.attempt import AttemptEnd
from flux.errors import AuthoringError
from flux.operators import BashOperator
from flux.operators.bash import _LastLine
from flux.results import INLINE_LIMIT
from flux.secret import MASK, Secret
from tests.attempts import MemoryWorld, run, spec_of, value_of
from tests.waiting import until


def bash(command: str, **arguments: Any) -> BashOperator:
    with DAG("sales", start_date="2026-01-01", timezone="Europe/Berlin"):
        return BashOperator(task_id="load", bash_command=command, **arguments)


def ended(command: str, folder: Path, **arguments: Any) -> AttemptEnd:
    return run(bash(command, **arguments), folder)


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("echo a; echo b", "b"),
        ("echo a; echo; echo '  '", "a"),
        ("printf 'a\\n b '", "b"),
        ("true", None),
        ("printf '\\377\\n'", "\ufffd"),
        ("echo a; echo b >&2", "a"),
        ("exec >&-; exit 0", None),
    ],
)
def test_the_last_line_with_something_in_it_is_the_result(command: str, result: str | None, tmp_path: Path) -> None:
    end = ended(command, tmp_path)
    assert (end.outcome, value_of(end)) == ("success", result)


def test_what_it_writes_goes_to_the_log_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended("echo a; printf 'b\\0c'; echo e >&2", tmp_path)
    out, err = capfd.readouterr()
    assert (out, err) == ("a\nb\0c", "e\n")


def test_without_a_result_the_output_still_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    end = ended("echo a", tmp_path, store_result=False)
    assert end.results == {}
    assert capfd.readouterr().out == "a\n"


@pytest.mark.slow
@pytest.mark.parametrize("store_result", [True, False])
def test_a_secret_that_the_command_writes_is_masked_in_the_log_and_whole_in_the_result(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], store_result: bool
) -> None:
    Secret("geheim-of-bash")
    command = "set -x; printf 'on stdout gehe'; sleep 0.1; echo im-of-bash; echo $PASSWORD >&2; echo $PASSWORD"
    end = ended(command, tmp_path, env={"PASSWORD": "geheim-of-bash"}, store_result=store_result)
    assert value_of(end) == ("geheim-of-bash" if store_result else None)
    out, err = capfd.readouterr()
    assert out == f"on stdout {MASK}\n{MASK}\n"
    assert "geheim-of-bash" not in err
    assert f"+ echo {MASK}\n{MASK}\n" in err


def test_what_may_be_the_beginning_of_a_secret_is_written_when_the_command_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Secret("qvwz-of-bash")
    ended("printf qvwz; printf qvwz-of >&2", tmp_path)
    assert capfd.readouterr() == ("qvwz", "qvwz-of")


def test_the_command_is_a_template(tmp_path: Path) -> None:
    end = ended("echo {{ ds }} $DAY", tmp_path, env={"DAY": "{{ tomorrow_ds }}"})
    assert value_of(end) == "2026-01-05 2026-01-06"


class TestExit:
    @pytest.mark.parametrize(
        ("command", "outcome", "reason"),
        [
            ("exit 3", "failed", "exit code 3."),
            ("no-such-command-here", "failed", "exit code 127 (a command was not found)"),
            ("exit 137", "failed", "exit code 137 (128 + SIGKILL)"),
            ("kill -9 $$", "failed", "ended by SIGKILL"),
            ("exit 99", "skipped", "exit code 99"),
        ],
    )
    def test_the_exit_code_decides_and_is_named(self, command: str, outcome: str, reason: str, tmp_path: Path) -> None:
        end = ended(command, tmp_path)
        assert end.outcome == outcome
        assert reason in str(end.reason)

    def test_the_codes_that_skip_can_be_chosen(self, tmp_path: Path) -> None:
        assert ended("exit 4", tmp_path, skip_on_exit_code=[4, 5]).outcome == "skipped"
        assert ended("exit 99", tmp_path, skip_on_exit_code=None).outcome == "failed"
        assert ended("exit 99", tmp_path, skip_on_exit_code=4).outcome == "failed"

    @pytest.mark.parametrize("codes", [0, 256, [1, 0], "99"])
    def test_codes_that_are_none_are_refused_when_the_file_is_read(self, codes: Any) -> None:
        with pytest.raises(AuthoringError, match="skip_on_exit_code"):
            bash("true", skip_on_exit_code=codes)

    def test_a_failure_shows_no_traceback(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        ended("exit 3", tmp_path)
        assert "Traceback" not in capfd.readouterr().err


class TestSurroundings:
    def test_env_is_added_to_the_environment(self, tmp_path: Path) -> None:
        assert value_of(ended("echo $A-${PATH:+path}", tmp_path, env={"A": 1})) == "1-path"

    def test_env_may_be_all_there_is_but_for_the_claim(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FLUX_CLAIM", "0000000000000000007")
        monkeypatch.setenv("SECRET_OF_OTHERS", "x")
        end = ended("echo $FLUX_CLAIM-$A-$SECRET_OF_OTHERS", tmp_path, env={"A": "a"}, append_env=False)
        assert value_of(end) == "0000000000000000007-a-"

    def test_a_value_that_is_no_text_is_named(self, tmp_path: Path) -> None:
        assert "env['A'] of task 'load' is a list" in str(ended("true", tmp_path, env={"A": [1]}).reason)

    def test_cwd_is_where_it_runs(self, tmp_path: Path) -> None:
        (tmp_path / "2026-01-05").mkdir()
        assert value_of(ended("pwd", tmp_path, cwd=str(tmp_path / "{{ ds }}"))) == str(tmp_path / "2026-01-05")
        assert value_of(ended("pwd", tmp_path, cwd=tmp_path)) == str(tmp_path)

    def test_a_cwd_that_does_not_exist_is_named(self, tmp_path: Path) -> None:
        end = ended("pwd", tmp_path, cwd=str(tmp_path / "gone"))
        assert f"cwd '{tmp_path}/gone' of task 'load' is no folder" in str(end.reason)

    def test_it_stays_in_the_process_group_of_the_attempt(self, tmp_path: Path) -> None:
        assert value_of(ended("ps -o pgid= $$", tmp_path)) == str(os.getpgrp())

    def test_it_has_no_input(self, tmp_path: Path) -> None:
        assert value_of(ended("cat; echo end", tmp_path)) == "end"

    def test_a_script_is_a_template_file(self, tmp_path: Path) -> None:
        (tmp_path / "load.sh").write_text("echo {{ ds }}\n")
        with DAG("sales", start_date="2026-01-01", template_searchpath=[str(tmp_path)], timezone="Europe/Berlin"):
            task = BashOperator(task_id="load", bash_command="load.sh")
        assert value_of(run(task, tmp_path)) == "2026-01-05"


def test_the_task_ends_with_the_command_whatever_it_left_behind(tmp_path: Path) -> None:
    began = time.monotonic()
    end = ended("sleep 30 & echo $!", tmp_path)
    assert time.monotonic() - began < 5
    os.kill(int(value_of(end)), signal.SIGKILL)


@pytest.mark.slow
def test_much_output_is_passed_on_whole_and_not_kept(tmp_path: Path) -> None:
    script = (
        "import sys, resource, pathlib\n"
        "from flux import DAG\nfrom flux.operators import BashOperator\nfrom tests.attempts import run\n"
        "with DAG('d', start_date='2026-01-01'):\n"
        "    task = BashOperator(task_id='a', bash_command=\"head -c 100000000 /dev/zero; echo; echo end\")\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "end = run(task, pathlib.Path(sys.argv[1]))\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(end.results, grown < 20_000, file=sys.stderr)\n"
    )
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONPATH": "."},
            check=True,
        )
    assert done.stderr == "{'return_value': '\"end\"'} True\n"
    assert (tmp_path / "log").stat().st_size == 100_000_005


class TestLastLine:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
    @pytest.mark.parametrize(
        ("text", "last"),
        [
            (b"", None),
            (b"\n \n\n", None),
            (b"one", "one"),
            (b"one\n", "one"),
            (b"one\ntwo\n\n \n", "two"),
            (b"one\n  two three \n\nfour\n\n", "four"),
            (b"\n\na b\n", "a b"),
            (b"one\r\ntwo\r\n", "two"),
        ],
    )
    def test_it_does_not_matter_how_the_bytes_are_cut(self, text: bytes, last: str | None, size: int) -> None:
        line = _LastLine()
        for start in range(0, len(text), size):
            line.feed(text[start : start + size])
        assert (line.text(), line.is_too_long) == (last, False)

    def test_a_line_over_the_limit_is_not_kept(self) -> None:
        line = _LastLine()
        line.feed(b"before\n")
        for _ in range(3):
            line.feed(b"x" * INLINE_LIMIT)
        assert (line.text(), line.is_too_long) == (None, True)

    def test_a_line_after_one_that_was_too_long_is_kept(self) -> None:
        line = _LastLine()
        line.feed(b"x" * INLINE_LIMIT)
        line.feed(b"xx\nend\n")
        assert (line.text(), line.is_too_long) == ("end", False)


KILLED = """
import sys
from pathlib import Path
from flux import DAG
from flux.attempt import execute, install_kill_handler
from flux.operators import BashOperator
from tests.attempts import MemoryWorld, spec_of

install_kill_handler()
with DAG("d", start_date="2026-01-01"):
    task = BashOperator(task_id="a", bash_command=sys.argv[2], kill_grace=1)
execute(task, spec_of(task, Path(sys.argv[1])), MemoryWorld())
"""


@pytest.mark.slow
@pytest.mark.parametrize("trap", ["", "trap '' TERM;"])
def test_a_kill_of_the_attempt_alone_ends_the_command(trap: str, tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), f"{trap} echo $$; while :; do read -t 0.1 < <(:); done"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
    )
    with child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) != 0
    until(lambda: not Path(f"/proc/{pid}").exists(), 5)


def test_on_kill_without_a_command_does_nothing(tmp_path: Path) -> None:
    task = bash("true")
    task.on_kill()
    assert spec_of(task, tmp_path).kill_grace == 4
    assert MemoryWorld().asked == []

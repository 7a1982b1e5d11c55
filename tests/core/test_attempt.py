from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux import DAG, BaseOperator, BaseSensor, FailTask, SkipTask
from flux.attempt import AttemptEnd, AttemptSpec, end_of, execute, poke, print_error, setup_logging, write_end
from flux.context import current
from flux.errors import FluxError, OutsideTask, TaskKilled, TemplateError
from flux.operators import BranchPythonOperator, EmptyOperator, PythonOperator, ShortCircuitOperator
from flux.results import INLINE_LIMIT, decode, encode
from flux.secret import Secret
from tests.attempts import MemoryWorld, run, spec_of, value_of
from tests.waiting import until


def python(function: Callable[..., Any], **arguments: Any) -> PythonOperator:
    with DAG("sales", start_date="2026-01-01", timezone="Europe/Berlin"):
        return PythonOperator(task_id="load", python_callable=function, **arguments)


def raising(error: BaseException) -> PythonOperator:
    def fail() -> None:
        raise error

    return python(fail)


class TestEnd:
    def test_a_return_value_is_typed_json(self, tmp_path: Path) -> None:
        end = run(python(lambda: {"days": (1, 2)}), tmp_path)
        assert (end.outcome, end.reason, end.retry, end.chosen) == ("success", None, True, None)
        assert value_of(end) == {"days": (1, 2)}
        assert end.started_at <= end.ended_at

    def test_further_results_are_kept(self, tmp_path: Path) -> None:
        end = run(python(lambda results: results.set("rows", 3)), tmp_path)
        assert end.results == {"rows": "3"}

    def test_no_value_leaves_no_result(self, tmp_path: Path) -> None:
        assert run(python(lambda: None), tmp_path).results == {}

    def test_store_result_false_keeps_nothing(self, tmp_path: Path) -> None:
        end = run(python(lambda results: results.set("a", 1) or object(), store_result=False), tmp_path)
        assert (end.outcome, end.results) == ("success", {})

    @pytest.mark.parametrize(
        ("error", "outcome", "reason", "retry"),
        [
            (ValueError("bad row\nmore"), "failed", "ValueError: bad row", True),
            (ValueError(), "failed", "ValueError", True),
            (KeyError("x"), "failed", "KeyError: 'x'", True),
            (FluxError("Message."), "failed", "Message.", True),
            (FailTask("no such table"), "failed", "no such table", False),
            (FailTask(), "failed", "FailTask", False),
            (SkipTask("no data"), "skipped", "no data", False),
            (SkipTask(), "skipped", None, False),
            (SystemExit(0), "success", None, True),
            (SystemExit(), "success", None, True),
            (SystemExit(3), "failed", "exit code 3", True),
            (SystemExit("gone"), "failed", "exit code 1: gone", True),
            (MemoryError(), "failed", "MemoryError", True),
            (GeneratorExit(), "failed", "GeneratorExit", True),
        ],
    )
    def test_what_is_raised_decides(
        self, error: BaseException, outcome: str, reason: str | None, retry: bool, tmp_path: Path
    ) -> None:
        end = run(raising(error), tmp_path)
        assert (end.outcome, end.reason, end.retry) == (outcome, reason, retry)

    def test_a_long_reason_is_cut(self) -> None:
        assert len(end_of(ValueError("x" * 10_000))[1] or "") == 500

    def test_an_error_whose_text_fails_still_ends_the_attempt(self, tmp_path: Path) -> None:
        class Broken(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        end = run(raising(Broken()), tmp_path)
        assert end.outcome == "failed"
        assert "cannot be read" in str(end.reason)

    def test_a_failed_attempt_leaves_no_results(self, tmp_path: Path) -> None:
        def fail(results: Any) -> None:
            results.set("rows", 3)
            raise ValueError

        assert run(python(fail), tmp_path).results == {}

    def test_results_set_before_a_clean_exit_are_kept(self, tmp_path: Path) -> None:
        def leave(results: Any) -> None:
            results.set("rows", 3)
            sys.exit(0)

        assert run(python(leave), tmp_path).results == {"rows": "3"}


class TestResults:
    def test_a_large_one_goes_into_a_file_beside_the_log(self, tmp_path: Path) -> None:
        text = "ä" * INLINE_LIMIT
        end = run(python(lambda results: results.set("small", 1) or text), tmp_path)
        assert end.results == {"small": "1"}
        file = tmp_path / end.result_files["return_value"]
        assert file.name == "1.0.result"
        assert decode(file.read_text("utf-8")) == text
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_one_over_the_limit_fails_and_names_size_and_limit(self, tmp_path: Path) -> None:
        end = run(python(lambda: "x" * 10_485_760), tmp_path)
        assert end.outcome == "failed"
        assert "10,485,762 bytes" in str(end.reason)
        assert "10,485,760 bytes" in str(end.reason)
        assert end.result_files == {}

    def test_one_that_is_not_kept_fails_and_names_the_path(self, tmp_path: Path) -> None:
        end = run(python(lambda: {"a": [1, lambda: 0]}), tmp_path)
        assert end.outcome == "failed"
        assert "function at result['a'][1]" in str(end.reason)


class TestGates:
    def dag(self, gate: type[PythonOperator], value: Any, **arguments: Any) -> PythonOperator:
        with DAG("sales", start_date="2026-01-01"):
            choose = gate(task_id="choose", python_callable=lambda: value, **arguments)
            for name in ("a", "b", "group.c", "group.d"):
                choose >> EmptyOperator(task_id=name) >> EmptyOperator(task_id=f"{name}2")
        return choose

    @pytest.mark.parametrize(
        ("value", "chosen"),
        [
            ("a", ["a"]),
            (["a", "b", "a"], ["a", "b"]),
            (("b",), ["b"]),
            ([], []),
            ("group", ["group.c", "group.d"]),
        ],
    )
    def test_a_branch_chooses_direct_downstream_tasks(self, value: Any, chosen: list[str], tmp_path: Path) -> None:
        end = run(self.dag(BranchPythonOperator, value), tmp_path)
        assert (end.outcome, end.chosen) == ("success", chosen)

    @pytest.mark.parametrize("value", ["a2", "choose", "gone", ["a", "gone"], None, 3, [3]])
    def test_any_other_choice_fails_and_names_the_direct_ones(self, value: Any, tmp_path: Path) -> None:
        end = run(self.dag(BranchPythonOperator, value), tmp_path)
        assert end.outcome == "failed"
        assert "a, b, group.c, group.d" in str(end.reason)

    @pytest.mark.parametrize(("value", "chosen"), [(True, None), ([1], None), (0, []), (None, []), ("", [])])
    def test_a_short_circuit_closes_all_or_nothing(self, value: Any, chosen: list[str] | None, tmp_path: Path) -> None:
        assert run(self.dag(ShortCircuitOperator, value), tmp_path).chosen == chosen

    def test_a_gate_that_keeps_no_result_still_chooses(self, tmp_path: Path) -> None:
        end = run(self.dag(BranchPythonOperator, "a", store_result=False), tmp_path)
        assert (end.chosen, end.results) == (["a"], {})


class Steps(BaseOperator):
    template_fields = ("text",)

    def __init__(self, *, text: str = "", fail: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text
        self.fail = fail
        self.seen: list[str] = []

    def step(self, name: str) -> None:
        self.seen.append(f"{name} {self.text}")
        if self.fail == name:
            raise TaskKilled if name == "execute" else ValueError(name)

    def pre_execute(self, context: Any) -> None:
        self.step("pre")

    def execute(self, context: Any) -> int:
        self.step("execute")
        return 5

    def post_execute(self, context: Any, result: Any) -> None:
        self.step(f"post {result}")

    def on_kill(self) -> None:
        self.step("on_kill")


def steps(**arguments: Any) -> Steps:
    with DAG("sales", start_date="2026-01-01", timezone="Europe/Berlin"):
        return Steps(task_id="load", **arguments)


class TestOrder:
    def test_fields_are_rendered_before_the_steps(self, tmp_path: Path) -> None:
        task = steps(text="{{ ds }}")
        run(task, tmp_path)
        day = "2026-01-05"
        assert task.seen == [f"pre {day}", f"execute {day}", f"post 5 {day}"]
        assert task.text == "{{ ds }}"

    def test_rendered_fields_are_written_with_secrets_masked(self, tmp_path: Path) -> None:
        Secret("hunter22")
        run(steps(text="{{ ds }} hunter22"), tmp_path)
        assert json.loads((tmp_path / "1.rendered.json").read_text()) == {"text": "2026-01-05 ***"}

    def test_a_template_that_fails_ends_the_attempt(self, tmp_path: Path) -> None:
        task = steps(text="{{ dss }}")
        end = run(task, tmp_path)
        assert end.outcome == "failed"
        assert "'text' of task 'load'" in str(end.reason)
        assert task.seen == []

    def test_post_execute_may_fail_the_attempt(self, tmp_path: Path) -> None:
        assert run(steps(fail="post 5"), tmp_path).reason == "ValueError: post 5"

    def test_a_kill_calls_on_kill_once_and_goes_on(self, tmp_path: Path) -> None:
        task = steps(fail="execute")
        with pytest.raises(TaskKilled):
            run(task, tmp_path)
        assert task.seen == ["pre ", "execute ", "on_kill "]

    def test_an_error_in_on_kill_does_not_stop_the_kill(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Bad(Steps):
            def on_kill(self) -> None:
                raise ValueError("cannot reach it")

        with DAG("d", start_date="2026-01-01"):
            task = Bad(task_id="a", fail="execute")
        with pytest.raises(TaskKilled):
            run(task, tmp_path)
        assert "cannot reach it" in capsys.readouterr().err

    def test_ctrl_c_is_a_kill(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(raising(KeyboardInterrupt()), tmp_path)

    def test_the_context_is_current_only_while_it_runs(self, tmp_path: Path) -> None:
        end = run(python(lambda: current()["ds"]), tmp_path)
        assert value_of(end) == "2026-01-05"
        with pytest.raises(OutsideTask):
            current()


class TestTraceback:
    def test_it_begins_with_the_frames_of_the_author(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run(raising(ValueError("bad row")), tmp_path)
        text = capsys.readouterr().err
        assert text.startswith("Traceback (most recent call last):\n")
        assert text.endswith("ValueError: bad row\n")
        assert "test_attempt.py" in text
        assert "flux/attempt.py" not in text
        assert "flux/context.py" not in text

    def test_causes_are_shown_likewise(self, capsys: pytest.CaptureFixture[str]) -> None:
        try:
            try:
                os.environ["NO_SUCH_NAME"]
            except KeyError as error:
                raise ValueError("no x") from error
        except ValueError as error:
            print_error(error)
        assert "KeyError: 'NO_SUCH_NAME'" in capsys.readouterr().err

    def test_an_error_of_flux_alone_is_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run(steps(text="{{ dss }}"), tmp_path)
        assert capsys.readouterr().err.startswith("TemplateError: Template field")

    def test_a_macro_of_the_author_that_fails_is_shown_with_its_frames(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def failing_macro() -> None:
            raise ValueError("bad row")

        with DAG("d", start_date="2026-01-01", user_defined_macros={"m": failing_macro}):
            task = Steps(task_id="a", text="{{ m() }}")
        assert run(task, tmp_path).reason == "Template field 'text' of task 'a' of DAG 'd': ValueError: bad row."
        assert "in failing_macro" in capsys.readouterr().err

    def test_a_closed_stderr_does_not_hide_how_it_ended(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stderr = io.StringIO()
        stderr.close()
        monkeypatch.setattr("sys.stderr", stderr)
        assert run(raising(ValueError("bad row")), tmp_path).reason == "ValueError: bad row"

    def test_what_ends_a_task_on_purpose_is_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run(raising(SkipTask("no data")), tmp_path)
        assert capsys.readouterr().err == "skipped: no data\n"

    def test_secrets_are_masked_in_it_and_in_the_reason(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Secret("hunter22")
        end = run(raising(ValueError("login with hunter22 failed")), tmp_path)
        assert end.reason == "ValueError: login with *** failed"
        assert "hunter22" not in capsys.readouterr().err


class Wait(BaseSensor):
    template_fields = ("text",)

    def __init__(self, *, text: str, answer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text
        self.answer = answer

    def poke(self, context: Any) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        return bool(self.answer == (self.text, current()["ds"]))


class TestPoke:
    def sensor(self, answer: Any, text: str = "{{ ds }}") -> Wait:
        with DAG("d", start_date="2026-01-01", timezone="Europe/Berlin"):
            return Wait(task_id="wait", text=text, answer=answer)

    def test_it_renders_and_asks_once(self, tmp_path: Path) -> None:
        yes = self.sensor(("2026-01-05", "2026-01-05"))
        assert poke(yes, spec_of(yes, tmp_path), MemoryWorld()) is True
        no = self.sensor(None)
        assert poke(no, spec_of(no, tmp_path), MemoryWorld()) is False

    def test_what_it_raises_passes(self, tmp_path: Path) -> None:
        for error in (SkipTask(), FailTask(), OSError()):
            task = self.sensor(error)
            with pytest.raises(type(error)):
                poke(task, spec_of(task, tmp_path), MemoryWorld())
        task = self.sensor(None, text="{{ dss }}")
        with pytest.raises(TemplateError):
            poke(task, spec_of(task, tmp_path), MemoryWorld())


def test_spec_and_end_go_through_json(tmp_path: Path) -> None:
    spec = spec_of(steps(), tmp_path, conf={"a": 1})
    assert AttemptSpec(**json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
    end = AttemptEnd("success", None, True, {"return_value": encode("ä\ud800", limit_bytes=99)}, {}, ["a"], "", "")
    path = tmp_path / "7.json"
    path.write_text("old")
    write_end(end, str(path))
    assert AttemptEnd(**json.loads(path.read_bytes())) == end
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["7.json"]


def test_a_rendered_file_that_cannot_be_written_fails_the_attempt(tmp_path: Path) -> None:
    task = steps(text="{{ ds }}")
    end = execute(task, spec_of(task, tmp_path, rendered_file=str(tmp_path / "no" / "x")), MemoryWorld())
    assert end.outcome == "failed"


def test_fields_that_nothing_was_rendered_in_are_told_at_the_end_and_need_no_file(tmp_path: Path) -> None:
    task = steps(text="as it is")
    spec = spec_of(task, tmp_path, rendered_file=str(tmp_path / "rendered.json"))
    end = execute(task, spec, MemoryWorld())
    assert end.rendered is not None
    assert end.rendered["text"] == "as it is"
    assert not (tmp_path / "rendered.json").exists()


class TestLogging:
    @pytest.fixture
    def root(self) -> Iterator[logging.Logger]:
        root = logging.getLogger()
        handlers, level = list(root.handlers), root.level
        root.handlers = []
        root.setLevel(logging.WARNING)
        yield root
        root.handlers = handlers
        root.setLevel(level)

    def test_a_record_is_a_line_on_stderr_with_time_and_level(
        self, root: logging.Logger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Secret("hunter22")
        setup_logging()
        setup_logging()
        logging.getLogger("mine").info("login with %s", "hunter22")
        logging.getLogger("mine").debug("not shown")
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].endswith(" INFO mine: login with ***")
        assert lines[0].startswith("20")

    def test_a_terminal_handler_of_the_author_is_replaced_and_a_file_stays(
        self, root: logging.Logger, tmp_path: Path
    ) -> None:
        file = logging.FileHandler(tmp_path / "own.log")
        root.handlers = [logging.StreamHandler(), file]
        root.setLevel(logging.DEBUG)
        setup_logging()
        assert [type(handler).__name__ for handler in root.handlers] == ["FileHandler", "Handler"]
        assert root.level == logging.DEBUG
        file.close()


KILLED = """
import sys
from flux import DAG, BaseOperator
from flux.attempt import install_kill_handler, execute
from flux.errors import TaskKilled
from pathlib import Path
from tests.attempts import MemoryWorld, spec_of

class Long(BaseOperator):
    def execute(self, context):
        print("running", flush=True)
        try:
            while True:
                sys.stdin.read(1)
                raise OSError("woken")
        except Exception:
            print("swallowed", flush=True)
    def on_kill(self):
        print("on_kill", flush=True)
        {on_kill}

install_kill_handler()
with DAG("d", start_date="2026-01-01"):
    task = Long(task_id="a")
try:
    execute(task, spec_of(task, Path(sys.argv[1]), kill_grace=0.2), MemoryWorld())
except TaskKilled as error:
    print("killed", flush=True)
    sys.exit(9)
"""


class TestKill:
    def start(self, tmp_path: Path, on_kill: str = "pass") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", KILLED.format(on_kill=on_kill), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )

    @pytest.mark.slow
    def test_sigterm_ends_the_work_through_on_kill(self, tmp_path: Path) -> None:
        with self.start(tmp_path) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "running\n"
            child.send_signal(signal.SIGTERM)
            assert child.stdout.read() == "on_kill\nkilled\n"
            assert child.wait(10) == 9

    @pytest.mark.slow
    def test_an_on_kill_that_hangs_is_ended_when_the_grace_is_over(self, tmp_path: Path) -> None:
        with self.start(tmp_path, "sys.stdin.read(1)") as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "running\n"
            child.send_signal(signal.SIGTERM)
            assert child.stdout.readline() == "on_kill\n"
            child.send_signal(signal.SIGTERM)
            assert until(lambda: child.poll() is not None)
            assert child.returncode == -signal.SIGALRM

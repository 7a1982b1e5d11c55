"""`run_task`: one attempt as under `flux up`, for a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flux import DAG, Context, FailTask, SkipTask, get_connection, get_variable, process
from flux.errors import BadDate, BadParam, ConfigError, UnknownName
from flux.operators import BashOperator, EmptyOperator, PythonOperator
from flux.sensors import FileSensor, PythonSensor
from flux.testing import TaskOutcome, run_task, start_task
from tests.waiting import until


def python(function: Callable[..., Any], **arguments: Any) -> PythonOperator:
    return PythonOperator(task_id="load", python_callable=function, **arguments)


def test_it_returns_state_result_log_and_rendered_fields() -> None:
    def load(table: str) -> dict[str, Any]:
        print("loading", table)
        return {"rows": 3}

    outcome = run_task(python(load, op_args=["{{ ds }}"]))
    assert (outcome.state, outcome.result, outcome.error) == ("success", {"rows": 3}, None)
    assert outcome.log == "loading 2026-01-05\n"
    assert outcome.rendered["op_args"] == "['2026-01-05']"
    assert outcome.strays == ()


def test_the_attempt_has_a_process_a_session_and_a_folder_of_its_own() -> None:
    def look() -> list[Any]:
        return [os.getpid() != os.getppid(), os.getsid(0) == os.getpid(), os.listdir(), int(os.environ["FLUX_CLAIM"])]  # noqa: PTH208

    is_other, leads, files, claim = run_task(python(look)).result
    assert (is_other, leads) == (True, True)
    assert files == ["log"]
    assert claim > 0


def test_in_this_process_it_is_the_same_attempt(capsys: pytest.CaptureFixture[str]) -> None:
    def load() -> int:
        print("here")
        return os.getpid()

    outcome = run_task(python(load), isolated=False)
    assert (outcome.result, outcome.log) == (os.getpid(), "here\n")
    assert capsys.readouterr().out == ""


def fail(error: type[BaseException], *arguments: Any) -> Callable[[], None]:
    def raising() -> None:
        raise error(*arguments)

    return raising


@pytest.mark.parametrize(
    ("function", "state", "error"),
    [
        (fail(ValueError, "no rows"), "failed", "ValueError: no rows"),
        (fail(FailTask, "for good"), "failed", "for good"),
        (fail(SkipTask, "nothing to do"), "skipped", "nothing to do"),
        (fail(SystemExit, 3), "failed", "exit code 3"),
        (lambda: os._exit(3), "failed", "the process ended without a result: exit status 3"),
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "failed",
            "the process ended without a result: killed by SIGKILL",
        ),
    ],
)
def test_every_way_to_end_has_its_state_and_reason(function: Callable[[], None], state: str, error: str) -> None:
    outcome = run_task(python(function))
    assert (outcome.state, outcome.error) == (state, error)


def test_the_traceback_is_in_the_log() -> None:
    assert "test_attempts.py" in run_task(python(fail(ValueError, "no rows"))).log


def test_results_of_all_keys_and_sizes_come_back() -> None:
    def load(**context: Any) -> str:
        context["results"].set("rows", 7)
        return "x" * 100_000

    outcome = run_task(python(load))
    assert outcome.results == {"rows": 7, "return_value": "x" * 100_000}


def test_connections_and_variables_are_those_given_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_CONN_OTHER", "kit://host")

    def ask(conn_id: str) -> list[Any]:
        return [get_connection(conn_id).host, get_variable("region")]

    given: dict[str, Any] = {"connections": {"shop": "kit://db.example"}, "variables": {"region": "north"}}
    assert run_task(python(ask, op_args=["shop"]), **given).result == ["db.example", "north"]
    assert "Connection 'other' does not exist" in str(run_task(python(ask, op_args=["other"]), **given).error)


def test_a_connection_that_cannot_be_read_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="'shop' is not a URI"):
        run_task(python(lambda: None), connections={"shop": "nonsense"})


def test_the_log_has_no_password() -> None:
    def leak() -> None:
        print(get_connection("shop").password.reveal())  # type: ignore[union-attr]
        os.system("echo the-password")

    outcome = run_task(python(leak), connections={"shop": "kit://login:the-password@host"})
    assert outcome.log == "***\n***\n"


def test_params_of_a_task_without_a_dag_need_no_declaration() -> None:
    assert run_task(python(str, op_args=["{{ params.n }}"]), params={"n": 5}).result == "5"


def test_a_task_of_a_dag_has_its_interval_params_and_results() -> None:
    with DAG("sales", schedule="@hourly", timezone="Europe/Berlin", params={"n": 1}):
        before = EmptyOperator(task_id="before")
        task = python(lambda *seen: list(seen), op_args=["{{ data_interval_end }}", "{{ params.n }}", before.output])
    outcome = run_task(task, logical_date="2026-01-05T03:00", params={"n": 2}, results={"before": {"rows": 9}})
    assert outcome.result == ["2026-01-05 04:00:00+01:00", "2", {"rows": 9}]
    with pytest.raises(BadDate, match="no data interval that starts"):
        run_task(task, logical_date="2026-01-05T03:30")
    with pytest.raises(BadParam, match="'m'"):
        run_task(task, logical_date="2026-01-05T03:00", params={"m": 2})


def test_undefined_names_are_told() -> None:
    outcome = run_task(python(str, op_args=["{{ execution_date }}"]))
    assert "logical_date" in str(outcome.error)
    assert UnknownName.__name__ in outcome.log or "TemplateError" in outcome.log


@pytest.mark.slow
def test_execution_timeout_ends_the_attempt_and_all_it_started(tmp_path: Path) -> None:
    command = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    outcome = run_task(BashOperator(task_id="load", bash_command=command, execution_timeout=0.3))
    assert (outcome.state, outcome.error) == ("failed", "timed out: execution_timeout is 0.3 s")
    assert not process.is_alive(int((tmp_path / "pid").read_text()))


@pytest.mark.slow
def test_what_is_left_behind_is_told_and_ended() -> None:
    outcome = run_task(BashOperator(task_id="load", bash_command="setsid sleep 60 >/dev/null 2>&1 & echo $!"))
    assert outcome.state == "success"
    assert outcome.strays == (int(outcome.result),)
    assert not process.is_alive(int(outcome.result))


class Stoppable(PythonOperator):
    """Notes that it was told to stop."""

    def on_kill(self) -> None:
        print("stopped")


def wait_for_ever() -> None:
    print("begun")
    signal.pause()


def test_a_running_task_can_be_killed() -> None:
    running = start_task(Stoppable(task_id="load", python_callable=wait_for_ever))
    until(lambda: "begun" in running.log)
    assert not running.has_ended()
    outcome = running.kill()
    assert (outcome.state, outcome.error, outcome.log) == ("failed", "killed", "begun\nstopped\n")
    assert not Path(f"/proc/{running.pid}").exists()
    assert running.kill() == running.wait() == outcome


@pytest.mark.slow
def test_one_that_will_not_end_is_ended_by_force_after_its_grace() -> None:
    def stubborn() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait_for_ever()

    running = start_task(python(stubborn, kill_grace=0.1))
    until(lambda: "begun" in running.log)
    assert running.kill().error == "killed"
    assert not Path(f"/proc/{running.pid}").exists()


def test_a_limit_of_the_test_ends_a_task_that_has_none() -> None:
    running = start_task(python(wait_for_ever, kill_grace=0))
    assert running.wait(0.1).error == "did not end within 0.1 s"


def test_a_sensor_is_poked_once(tmp_path: Path) -> None:
    def poke() -> TaskOutcome:
        return run_task(FileSensor(task_id="wait", filepath=f"{tmp_path}/{{{{ ds }}}}"))

    assert poke().state == "deferred"
    (tmp_path / "2026-01-05").touch()
    outcome = poke()
    assert (outcome.state, outcome.rendered) == ("success", {"filepath": f"{tmp_path}/2026-01-05"})


@pytest.mark.parametrize(
    ("function", "state", "error"),
    [
        (fail(ValueError, "no server"), "failed", "ValueError: no server"),
        (fail(SkipTask, "not today"), "skipped", "not today"),
        (wait_for_ever, "deferred", "the poke did not end within 0.2 s"),
    ],
)
def test_a_poke_that_raises_or_hangs(function: Callable[[], bool], state: str, error: str) -> None:
    outcome = run_task(PythonSensor(task_id="wait", python_callable=function, poke_timeout=0.2))
    assert (outcome.state, outcome.error) == (state, error)


@pytest.mark.slow
def test_running_a_task_needs_no_pytest() -> None:
    """Nor the command line, nor the store: the extra is for the conformance classes."""
    code = (
        "import sys; from flux.testing import FakeWorld, VirtualClock, run_task\n"
        "from flux.operators import EmptyOperator\n"
        "assert run_task(EmptyOperator(task_id='load')).state == 'success'\n"
        "assert not {'pytest', 'click', 'sqlalchemy', 'flux.store'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def load(**context: Context) -> str:
        return "x"

    assert [run_task(python(load), isolated=isolated).result for isolated in (True, False)] == ["x", "x"]
    assert list(tmp_path.iterdir()) == []

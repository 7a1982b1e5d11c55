"""`dag.run(...)` in this process: no home, no database, the same attempts."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import threading
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flux import DAG, BaseOperator, FailTask, Param, SkipTask, get_connection, get_variable, task
from flux.errors import AuthoringError, BadDate, BadParam, NotFound, TemplateError
from flux.in_process import run_dag
from flux.operators import (
    BashOperator,
    BranchPythonOperator,
    EmptyOperator,
    PythonOperator,
    ShortCircuitOperator,
)
from flux.run_report import RangeReport, RunReport
from flux.sensors import PythonSensor
from flux.states import RunState, State

_DATE = "2026-01-05"


def _dag(**arguments: Any) -> DAG:
    return DAG("sales", **{"schedule": "@daily", "start_date": "2026-01-01", **arguments})


def _call(function: Any, task_id: str = "load", **arguments: Any) -> PythonOperator:
    return PythonOperator(task_id=task_id, python_callable=function, **arguments)


def _run(dag: DAG, start: Any = _DATE, **arguments: Any) -> RunReport:
    report = dag.run(start, **arguments)
    assert isinstance(report, RunReport)
    return report


def _fail(**_: Any) -> None:
    raise ValueError("bad row")


def test_a_run_takes_tasks_in_order_and_keeps_what_they_return() -> None:
    with _dag() as dag:

        @task
        def rows() -> list[int]:
            return [1, 2, 3]

        @task
        def total(values: list[int], ds: str) -> dict[str, Any]:
            return {"sum": sum(values), "ds": ds}

        total(rows())
    report = _run(dag)
    assert report.ok
    assert report.state is RunState.SUCCESS
    assert list(report.states.items()) == [("rows", State.SUCCESS), ("total", State.SUCCESS)]
    assert report.results == {"rows": [1, 2, 3], "total": {"sum": 6, "ds": "2026-01-05"}}


def test_a_failed_task_raises_nothing_and_is_reported_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with _dag() as dag:
        _call(_fail) >> EmptyOperator(task_id="after")
    report = _run(dag)
    assert report.states == {"load": State.FAILED, "after": State.UPSTREAM_FAILED}
    assert not report.ok
    assert report.tasks[0].reason == "ValueError: bad row"
    assert "Traceback" in capsys.readouterr().err


def test_a_run_whose_leaves_end_well_succeeds_although_a_task_failed() -> None:
    with _dag() as dag:
        _call(_fail) >> EmptyOperator(task_id="tidy", trigger_rule="all_done")
    assert _run(dag).state is RunState.SUCCESS


def test_retries_are_taken_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    attempts = count(1)

    def flaky(ti: Any) -> int:
        if next(attempts) < 3:
            raise OSError("try again")
        return int(ti.attempt)

    with _dag() as dag:
        _call(flaky, retries=5, retry_delay=3600)
    report = _run(dag)
    assert report.results == {"load": 3}
    assert report.tasks[0].attempts == 3
    assert "tries again at once (under `flux up` after 3600 s)" in capsys.readouterr().err


def test_retries_end_and_fail_task_takes_none() -> None:
    def give_up() -> None:
        raise FailTask("no such customer")

    with _dag() as dag:
        _call(_fail, "tired", retries=2)
        _call(give_up, "hopeless", retries=2)
    tired, hopeless = _run(dag).tasks
    assert (tired.state, tired.attempts) == (State.FAILED, 3)
    assert (hopeless.state, hopeless.attempts, hopeless.reason) == (State.FAILED, 1, "no such customer")


def test_skip_task_skips_and_what_follows_by_the_trigger_rules() -> None:
    def skip() -> None:
        raise SkipTask("nothing new")

    with _dag() as dag:
        _call(skip) >> [EmptyOperator(task_id="a"), EmptyOperator(task_id="b", trigger_rule="all_done")]
    assert _run(dag).states == {"load": State.SKIPPED, "a": State.SKIPPED, "b": State.SUCCESS}


def test_a_branch_closes_what_it_did_not_choose() -> None:
    with _dag() as dag:
        branch = BranchPythonOperator(task_id="branch", python_callable=lambda: "left")
        left, right, join = (EmptyOperator(task_id=name) for name in ("left", "right", "join"))
        join.trigger_rule = "none_failed_min_one_success"
        branch >> [left, right, join]
        left >> join
        right >> join
    states = _run(dag).states
    assert states["left"] == states["join"] == State.SUCCESS
    assert states["right"] == State.SKIPPED


@pytest.mark.parametrize(("all_descendants", "last"), [(True, State.SKIPPED), (False, State.SUCCESS)])
def test_a_short_circuit_closes_all_that_follow_or_the_next(all_descendants: bool, last: State) -> None:
    with _dag() as dag:
        gate = ShortCircuitOperator(
            task_id="gate", python_callable=lambda: False, ignore_downstream_trigger_rules=all_descendants
        )
        gate >> EmptyOperator(task_id="next") >> EmptyOperator(task_id="last", trigger_rule="all_done")
    assert _run(dag).states == {"gate": State.SUCCESS, "next": State.SKIPPED, "last": last}


def test_a_sensor_is_poked_until_its_condition_holds() -> None:
    pokes = count(1)
    with _dag() as dag:
        PythonSensor(task_id="wait", python_callable=lambda: next(pokes) == 3, poke_interval=0.001)
    assert _run(dag).states == {"wait": State.SUCCESS}
    assert next(pokes) == 4


@pytest.mark.parametrize(("soft_fail", "state"), [(False, State.FAILED), (True, State.SKIPPED)])
def test_a_sensor_gives_up_at_its_timeout_without_a_retry(soft_fail: bool, state: State) -> None:
    with _dag() as dag:
        PythonSensor(
            task_id="wait",
            python_callable=lambda: False,
            poke_interval=0.001,
            timeout=0.01,
            soft_fail=soft_fail,
            retries=3,
        )
    (report,) = _run(dag).tasks
    assert (report.state, report.attempts) == (state, 1)
    assert "SensorTimeout" in str(report.reason)


def test_a_sensor_whose_poke_raises_fails_and_is_retried() -> None:
    pokes = count(1)

    def poke() -> bool:
        if next(pokes) == 1:
            raise ConnectionError("gone")
        return True

    with _dag() as dag:
        PythonSensor(task_id="wait", python_callable=poke, poke_interval=0.001, retries=1)
    (report,) = _run(dag).tasks
    assert (report.state, report.attempts) == (State.SUCCESS, 2)


def test_a_large_result_reaches_the_next_task() -> None:
    with _dag() as dag:

        @task
        def big() -> str:
            return "x" * 200_000

        @task
        def size(text: str) -> int:
            return len(text)

        size(big())
    assert _run(dag).results["size"] == 200_000


def test_bash_runs_here_too(capfd: pytest.CaptureFixture[str]) -> None:
    with _dag() as dag:
        BashOperator(task_id="say", bash_command="echo hello; echo {{ ds }}")
    report = _run(dag)
    assert report.results == {"say": "2026-01-05"}
    assert "hello\n2026-01-05\n" in capfd.readouterr().out


def test_connections_and_variables_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_CONN_SHOP", "mysql://ann:s3cret@db/shop")
    monkeypatch.setenv("FLUX_VAR_REGION", "north")
    with _dag() as dag:
        _call(lambda: [get_connection("shop").password.reveal(), get_variable("region")])  # type: ignore[union-attr]
        _call(lambda: get_connection("shopp"), "typo")
    report = _run(dag)
    assert report.results["load"] == ["s3cret", "north"]
    assert "FLUX_CONN_SHOPP" in str(report.tasks[1].reason)
    assert "Known: shop" in str(report.tasks[1].reason)


def test_what_only_a_running_system_can_do_is_refused() -> None:
    class Trigger(BaseOperator):
        def execute(self, context: Any) -> str:
            return str(context.world.trigger("other", None, None))

    with _dag() as dag:
        Trigger(task_id="trigger")
    (report,) = _run(dag).tasks
    assert report.state is State.FAILED
    assert "'other'" in str(report.reason)


# Dates


def test_a_day_a_moment_and_a_date_object_mean_the_same_run() -> None:
    with _dag(timezone="Europe/Berlin") as dag:
        EmptyOperator(task_id="a")
    for start in (_DATE, date(2026, 1, 5), "2026-01-05T00:00", datetime(2026, 1, 4, 23, tzinfo=UTC)):
        report = _run(dag, start)
        assert report.logical_date.isoformat() == "2026-01-05T00:00:00+01:00"
        assert report.run_id == "manual__2026-01-04T23:00:00+00:00"


def test_a_day_with_several_intervals_is_refused_and_they_are_listed() -> None:
    with _dag(schedule="@hourly") as dag:
        EmptyOperator(task_id="a")
    with pytest.raises(BadDate, match=r"start 24 .*2026-01-05T00:00:00\+00:00.* and 19 more") as caught:
        dag.run(_DATE)
    assert "start and end" in str(caught.value)


@pytest.mark.parametrize("start", ["2026-01-05T12:00", "2025-12-31", "2026-02-30"])
def test_a_date_that_names_no_interval_is_refused(start: str) -> None:
    with _dag() as dag:
        EmptyOperator(task_id="a")
    with pytest.raises(BadDate):
        dag.run(start)


def test_a_range_runs_every_interval_with_both_ends() -> None:
    with _dag() as dag:
        _call(lambda ds: ds)
    report = dag.run("2026-01-05", "2026-01-07")
    assert isinstance(report, RangeReport)
    assert [run.results["load"] for run in report] == ["2026-01-05", "2026-01-06", "2026-01-07"]
    assert report.ok
    assert report[-1].logical_date.day == 7
    assert len(dag.run(_DATE, _DATE)) == 1


def test_a_range_without_intervals_is_refused() -> None:
    with _dag(schedule="@monthly") as dag:
        EmptyOperator(task_id="a")
    with pytest.raises(BadDate, match="at 00:00 on day 1 of the month"):
        dag.run("2026-01-05", "2026-01-07")
    with pytest.raises(BadDate, match="before"):
        dag.run("2026-01-07", "2026-01-05")


def test_a_dag_without_a_schedule_runs_for_any_moment() -> None:
    with _dag(schedule=None, timezone="Europe/Berlin") as dag:
        EmptyOperator(task_id="a")
    assert _run(dag, "2026-01-05T10:17").logical_date.isoformat() == "2026-01-05T10:17:00+01:00"
    assert _run(dag, _DATE).logical_date.isoformat() == "2026-01-05T00:00:00+01:00"
    with pytest.raises(BadDate, match="no schedule"):
        dag.run("2026-01-05", "2026-01-06")


def test_once_without_a_start_date_runs_for_any_moment() -> None:
    with DAG("once", schedule="@once") as dag:
        EmptyOperator(task_id="a")
    assert _run(dag, _DATE).ok


def test_no_date_means_the_latest_complete_interval() -> None:
    with _dag(end_date="2026-01-05") as dag:
        EmptyOperator(task_id="a")
    report = run_dag(dag, None)
    assert isinstance(report, RunReport)
    assert report.logical_date == datetime(2026, 1, 5, tzinfo=UTC)


def test_the_run_before_is_the_interval_before_or_the_last_of_this_call() -> None:
    failures = iter([False, True, False])

    def look(prev_logical_date: datetime, prev_data_interval_start_success: datetime) -> list[int]:
        if next(failures):
            raise ValueError("bad row")
        return [prev_logical_date.day, prev_data_interval_start_success.day]

    with _dag() as dag:
        _call(look)
    days = [run.results.get("load") for run in dag.run("2026-01-05", "2026-01-07")]
    assert days == [[4, 4], None, [6, 5]]


def test_depends_on_past_looks_at_the_run_before_in_the_range() -> None:
    failures = iter([True, False])

    def load() -> None:
        if next(failures):
            raise ValueError("bad row")

    with _dag() as dag:
        _call(load, depends_on_past=True)
    first, second = dag.run("2026-01-05", "2026-01-06")
    assert first.states == {"load": State.FAILED}
    assert second.states == {"load": State.UPSTREAM_FAILED}
    assert "'load'" in second.tasks[0].reason


# Parts of a DAG


def test_a_pattern_runs_the_tasks_it_names_as_if_there_were_no_others() -> None:
    with _dag() as dag:
        _call(_fail, "extract") >> _call(lambda: 1, "load_a") >> _call(lambda: 2, "load_b")
    assert _run(dag, task="^load").states == {"load_a": State.SUCCESS, "load_b": State.SUCCESS}
    with pytest.raises(NotFound, match=r"'laod_a'.*load_a"):
        dag.run(_DATE, task="laod_a")
    with pytest.raises(AuthoringError, match="regular expression"):
        dag.run(_DATE, task="(")


def test_a_task_runs_alone() -> None:
    with _dag():
        load = _call(lambda ds: ds)
        _call(_fail, "extract") >> load
    report = load.run(_DATE)
    assert report.states == {"load": State.SUCCESS}
    assert [run.results["load"] for run in load.run("2026-01-05", "2026-01-06")] == ["2026-01-05", "2026-01-06"]


def test_adhoc_tasks_and_those_outside_their_dates_have_no_part_in_a_run() -> None:
    with _dag() as dag:
        old = EmptyOperator(task_id="old", end_date="2026-01-04")
        by_hand = EmptyOperator(task_id="by_hand", adhoc=True)
        [old, by_hand] >> EmptyOperator(task_id="load")
    assert _run(dag).states == {"load": State.SUCCESS}
    assert by_hand.run(_DATE).states == {"by_hand": State.SUCCESS}


def test_a_task_without_a_dag_cannot_run() -> None:
    with pytest.raises(AuthoringError, match="belongs to no DAG"):
        EmptyOperator(task_id="lonely").run(_DATE)


def test_params_and_conf_reach_the_tasks() -> None:
    with _dag(params={"limit": Param(5, type="integer", minimum=1)}) as dag:
        load = _call(lambda params, dag_run: [params["limit"], dag_run.conf])
    assert _run(dag).results["load"] == [5, {}]
    assert _run(dag, conf={"limit": 7, "note": "x"}).results["load"] == [7, {"limit": 7, "note": "x"}]
    assert load.run(_DATE, params={"limit": 8}).results["load"][0] == 8
    with pytest.raises(BadParam, match=r"limit.*minimum"):
        dag.run(_DATE, params={"limit": 0})
    with pytest.raises(BadParam, match=r"limt.*Known: limit"):
        dag.run(_DATE, params={"limt": 1})
    with pytest.raises(BadParam, match="JSON"):
        dag.run(_DATE, conf={"f": _fail})


# Looking


def test_render_shows_the_fields_and_runs_nothing() -> None:
    with _dag() as dag:
        bash = BashOperator(
            task_id="say", bash_command="load {{ ds }} {{ prev_logical_date.day }}", env={"A": "{{ ts }}"}
        )
        typo = BashOperator(task_id="typo", bash_command="{{ dss }}")
    fields = bash.render(_DATE)
    assert fields["bash_command"] == "load 2026-01-05 4"
    assert "2026-01-05T00:00:00+00:00" in fields["env"]
    assert bash.bash_command == "load {{ ds }} {{ prev_logical_date.day }}"
    with pytest.raises(TemplateError, match="dss"):
        typo.render(_DATE)
    assert dag.dag_id == "sales"


def test_dry_run_calls_execute_dry_with_rendered_fields() -> None:
    class Load(BaseOperator):
        template_fields = ("table",)

        def __init__(self, *, table: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.table = table

        def execute(self, context: Any) -> None:
            raise AssertionError("executed")

        def execute_dry(self, context: Any) -> str:
            return f"would load {self.table} for {context.ds}"

    with _dag():
        load = Load(task_id="load", table="t_{{ ds_nodash }}")
    assert load.dry_run(_DATE) == "would load t_20260105 for 2026-01-05"


def test_a_report_prints_well_and_escapes_what_it_shows_in_a_notebook() -> None:
    def fail() -> None:
        raise ValueError("<b>bad</b>")

    with _dag() as dag:
        EmptyOperator(task_id="extract") >> _call(fail, retries=1)
    report = _run(dag)
    assert str(report).splitlines()[0] == "DAG sales, 2026-01-05T00:00:00+00:00: failed"
    assert "2 attempts, ValueError: <b>bad</b>" in str(report)
    assert repr(report) == str(report)
    assert html.escape("<b>bad</b>") in report._repr_html_()
    assert report.result("load") is None
    with pytest.raises(NotFound, match="Known: load"):
        report.result("laod")


def test_a_dag_draws_as_a_tree_and_as_svg() -> None:
    with _dag() as dag:
        EmptyOperator(task_id="a") >> [EmptyOperator(task_id="b"), EmptyOperator(task_id="c")]
    drawing = dag.graph()
    assert str(drawing).splitlines() == [
        "sales", "a (EmptyOperator)", "├─ b (EmptyOperator)", "└─ c (EmptyOperator)"
    ]  # fmt: skip
    assert drawing._repr_svg_().count("<path") == 2


# Ends


def test_ctrl_c_calls_on_kill_once_and_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    killed = []

    class Long(BaseOperator):
        def execute(self, context: Any) -> None:
            raise KeyboardInterrupt

        def on_kill(self) -> None:
            killed.append(self.task_id)

    with _dag() as dag:
        EmptyOperator(task_id="a") >> Long(task_id="long", retries=3) >> EmptyOperator(task_id="b")
    with pytest.raises(KeyboardInterrupt):
        dag.run(_DATE)
    assert killed == ["long"]
    assert "interrupted; DAG sales" in capsys.readouterr().err


def test_a_run_works_in_a_thread() -> None:
    """A notebook's kernel may run cells in one."""
    with _dag() as dag:
        BashOperator(task_id="say", bash_command="echo hello") >> _call(lambda: get_variable("nothing", default="none"))
    reports: list[RunReport] = []
    thread = threading.Thread(target=lambda: reports.append(_run(dag)))
    thread.start()
    thread.join(30)
    assert reports[0].results == {"say": "hello", "load": "none"}


# The DAG's own command line


@pytest.fixture
def sales() -> DAG:
    with _dag(params={"limit": 5}) as dag:
        BashOperator(task_id="extract", bash_command="echo {{ ds }} {{ params.limit }}") >> EmptyOperator(
            task_id="load"
        )
        _call(_fail, "broken", adhoc=True)
    return dag


def test_cli_runs_a_date_or_a_range(sales: DAG, capsys: pytest.CaptureFixture[str]) -> None:
    assert sales.cli(["run", _DATE, "--conf", json.dumps({"limit": 7})]) == 0
    assert "DAG sales, 2026-01-05T00:00:00+00:00: success" in capsys.readouterr().out
    assert sales.cli(["run", _DATE, "2026-01-06", "--task", "load"]) == 0
    assert capsys.readouterr().out.count(": success") == 2


def test_cli_exits_1_when_a_task_fails_or_a_name_is_wrong(sales: DAG, capsys: pytest.CaptureFixture[str]) -> None:
    assert sales.cli(["test", "broken", _DATE]) == 1
    assert sales.cli(["test", "extrakt", _DATE]) == 1
    assert "Known: extract" in capsys.readouterr().err
    assert sales.cli(["run", "2020-01-01"]) == 1


def test_cli_shows_without_running(sales: DAG, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, shown in (
        (["render", "extract", _DATE], "bash_command: echo 2026-01-05 5"),
        (["dry-run", "extract", _DATE], "bash_command: echo 2026-01-05 5"),
        (["list"], "extract\nload\n"),
        (["tree"], "└─ load (EmptyOperator)"),
        (["next", "-n", "2"], "sales: at 00:00 every day (UTC)\n  due "),
    ):
        assert sales.cli(argv) == 0
        assert shown in capsys.readouterr().out


def test_cli_exits_2_on_wrong_usage(sales: DAG, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["run"], ["fly"], [], ["run", _DATE, "--conf", "[1]"]):
        with pytest.raises(SystemExit) as caught:
            sales.cli(argv)
        assert caught.value.code == 2
    assert "is not a JSON object" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dag_file_is_a_command_without_a_home(tmp_path: Path) -> None:
    """It must not make one either."""
    file = tmp_path / "sales.py"
    file.write_text(
        "import logging\n"
        "from flux import DAG, task\n"
        "with DAG('sales', schedule='@daily', start_date='2026-01-01') as dag:\n"
        "    @task\n"
        "    def load(ds):\n"
        "        logging.getLogger('sales').info('loading %s', ds)\n"
        "        return 1 // (ds != '2026-01-06')\n"
        "    load()\n"
        "if __name__ == '__main__':\n"
        "    dag.cli()\n"
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}

    def command(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(file), *argv], env=environ, cwd=tmp_path, capture_output=True, text=True
        )

    good = command("run", "2026-01-05")
    assert (good.returncode, good.stdout.splitlines()[0]) == (0, "DAG sales, 2026-01-05T00:00:00+00:00: success")
    assert "INFO sales: loading 2026-01-05" in good.stderr
    bad = command("run", "2026-01-06")
    assert bad.returncode == 1
    assert "ZeroDivisionError" in bad.stdout
    wrong = command("run", "2026-02-30")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "Traceback" not in wrong.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["sales.py"]

"""`flux dag …`, `flux next`: DAG files are read for real, by a launcher of the command's own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.core.cli.conftest import Cli

pytestmark = pytest.mark.slow


def test_dag_of_a_new_file_is_listed_with_the_keys_of_the_contract(sales: Cli) -> None:
    (row,) = sales.ok("dag", "list", "--json").json
    assert set(row) >= {
        "dag_id", "description", "schedule", "timezone", "paused", "file", "owner", "tags", "next_run_at", "latest_run",
    }  # fmt: skip
    assert (row["dag_id"], row["schedule"], row["file"], row["paused"]) == ("sales", "0 2 * * *", "sales.py", False)


def test_changed_file_is_seen_by_the_next_command(sales: Cli) -> None:
    sales.ok("dag", "list")
    file = sales.home / "dags" / "sales.py"
    file.write_text(file.read_text().replace('"load"', '"load_all"'))
    assert [task["task_id"] for task in sales.ok("task", "list", "sales", "--json").json] == ["extract", "load_all"]


def test_dag_is_shown_with_version_tasks_and_edges(sales: Cli) -> None:
    shown = sales.ok("dag", "show", "sales", "--json").json
    assert (shown["version"], shown["edges"]) == (1, [["extract", "load"]])
    assert set(shown["tasks"][0]) == {
        "task_id", "operator", "upstream", "downstream", "trigger_rule", "pool", "queue", "retries",
    }  # fmt: skip


def test_dag_is_shown_as_tree_and_as_svg(sales: Cli) -> None:
    assert sales.ok("dag", "show", "sales", "--tree").out == "extract (BashOperator)\n└─ load (BashOperator)\n"
    assert sales.ok("dag", "show", "sales", "--svg").out.startswith("<svg ")


def test_broken_file_is_an_import_error_and_exit_code_1(sales: Cli) -> None:
    assert sales("dag", "errors", "--json").json == []
    sales.write("broken.py", "x = 1\nraise ValueError('boom')\n")
    done = sales("dag", "errors", "--json")
    (row,) = done.json
    assert (done.code, row["file"], row["line"]) == (1, "broken.py", 2)
    assert "boom" in row["message"]
    assert set(row) == {"file", "line", "message", "traceback"}
    assert [dag["dag_id"] for dag in sales.ok("dag", "list", "--json").json] == ["sales"]


def test_unknown_dag_is_answered_with_near_ones(sales: Cli) -> None:
    for arguments in (
        ["dag", "show", "salse"],
        ["dag", "trigger", "salse"],
        ["next", "salse"],
        ["dag", "pause", "salse"],
    ):
        done = sales(*arguments)
        assert (done.code, done.out) == (1, ""), arguments
        assert "sales" in done.err.replace("salse", "")


def test_check_needs_no_home_and_names_every_fault(sales: Cli, bare: Cli) -> None:
    sales.write("sub/again.py", "from flux import DAG\nDAG('sales')\n")
    sales.write("typo.py", "from flux import DAG\nDAG('typo', schedul='@daily')\n")
    (sales.home / "flux.db").unlink()
    done = sales("dag", "check", str(sales.home / "dags"), "--json")
    assert done.code == 1
    assert [row["file"] for row in done.json] == ["sub/again.py", "typo.py"]
    assert "sales.py" in done.json[0]["message"]
    assert "schedul" in done.json[1]["message"]
    assert not (sales.home / "flux.db").exists()


def test_check_of_good_files_is_exit_code_0(sales: Cli) -> None:
    done = sales.ok("dag", "check", str(sales.home / "dags" / "sales.py"), "--json")
    assert done.json == []


def test_check_of_a_folder_without_dag_files_is_refused(sales: Cli) -> None:
    (sales.home / "empty").mkdir()
    assert sales("dag", "check", str(sales.home / "empty")).code == 1


def test_triggered_run_is_printed_as_json(sales: Cli) -> None:
    done = sales.ok("dag", "trigger", "sales", "--logical-date", "2026-01-05", "--json")
    assert set(done.json) >= {"dag_id", "run_id", "state", "kind", "logical_date", "data_interval", "version"}
    assert done.json["logical_date"] == "2026-01-05T01:00:00+00:00"


def test_trigger_of_a_paused_dag_makes_the_run_and_says_that_it_waits(sales: Cli) -> None:
    sales.ok("dag", "pause", "sales")
    done = sales.ok("dag", "trigger", "sales", "--run-id", "mine")
    assert "flux dag unpause sales" in done.err
    reasons = sales.ok("why", "sales", "mine", "extract", "--json").json
    assert (reasons["state"], [reason["code"] for reason in reasons["reasons"]]) == ("ready", ["paused", "no_system"])
    sales.ok("dag", "unpause", "sales")
    reasons = sales.ok("why", "sales", "mine", "extract", "--json").json
    assert [reason["code"] for reason in reasons["reasons"]] == ["no_system"]


@pytest.mark.parametrize("conf", ["{", "[1]", "1"])
def test_conf_that_is_no_json_object_is_wrong_usage(sales: Cli, conf: str) -> None:
    done = sales("dag", "trigger", "sales", "--conf", conf)
    assert (done.code, "--conf" in done.err) == (2, True)


def test_next_begins_with_the_first_run_due_after(sales: Cli) -> None:
    rows = sales.ok("next", "sales", "-n", "2", "--after", "2026-03-28T02:00", "--json").json
    assert [row["due_at"] for row in rows] == ["2026-03-29T01:00:00+00:00", "2026-03-30T00:00:00+00:00"]
    assert rows[0]["logical_date"] == rows[0]["data_interval"]["start"] == "2026-03-28T01:00:00+00:00"
    assert rows[0]["local"] == "2026-03-29T03:00:00+02:00"


def test_next_of_a_dag_that_has_not_begun_is_its_first_interval(cli: Cli) -> None:
    cli.write("late.py", "from flux import DAG\nDAG('late', schedule='@daily', start_date='2999-01-01')\n")
    cli.write("hand.py", "from flux import DAG\nDAG('hand')\n")
    (row,) = cli.ok("next", "late", "-n", "1", "--json").json
    assert (row["logical_date"], row["due_at"]) == ("2999-01-01T00:00:00+00:00", "2999-01-02T00:00:00+00:00")
    assert cli.ok("next", "late", "-n", "1", "--after", "2999-01-01T12:00", "--json").json == [row]
    assert cli.ok("next", "hand", "--json").json == []


def test_dag_test_runs_the_tasks_here_and_records_nothing(sales: Cli) -> None:
    done = sales.process("dag", "test", "sales", "2026-01-05")
    assert (done.code, "extracting 2026-01-05" in done.out) == (0, True)
    assert sales.ok("run", "list", "--json").json == []


def test_dag_test_of_a_failing_task_is_exit_code_1(cli: Cli) -> None:
    cli.write(
        "bad.py",
        "from flux import DAG\nfrom flux.operators import BashOperator\n"
        "with DAG('bad'):\n    BashOperator(task_id='fails', bash_command='exit 3')\n",
    )
    done = cli.process("dag", "test", "bad", "2026-01-05")
    assert (done.code, re.search(r"fails\s+failed", done.err) is not None) == (1, True)


def test_task_is_rendered_by_its_file_alone(sales: Cli) -> None:
    (sales.home / "flux.db").unlink()
    fields = sales.process("task", "render", "sales", "extract", "2026-01-05", "--json").json
    assert fields["bash_command"] == "echo extracting 2026-01-05"


def test_task_of_a_dag_that_is_not_there_is_answered_with_near_ones(sales: Cli) -> None:
    done = sales.process("task", "render", "sales", "extrct", "2026-01-05")
    assert (done.code, "extract" in done.err) == (1, True)
    done = sales.process("task", "render", "salse", "extract", "2026-01-05")
    assert (done.code, "sales" in done.err.replace("salse", "")) == (1, True)


def test_task_test_is_exit_code_1_when_it_fails(cli: Cli) -> None:
    cli.write(
        "bad.py",
        "from flux import DAG\nfrom flux.operators import BashOperator\n"
        "with DAG('bad'):\n    BashOperator(task_id='fails', bash_command='exit 3')\n"
        "    BashOperator(task_id='works', bash_command='exit 0')\n",
    )
    assert cli.process("task", "test", "bad", "fails", "2026-01-05").code == 1
    assert cli.process("task", "test", "bad", "works", "2026-01-05").code == 0


@pytest.mark.parametrize("body", ["while True: pass\n", "import time\ntime.sleep(1000)\n"])
def test_file_that_is_never_read_ends_every_command_that_reads_it_with_the_same_words(
    cli: Cli, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_IMPORT_TIMEOUT_SECONDS", "1")
    file = cli.write("slow.py", f"dag_id = 'slow'\n{body}")
    (row,) = cli("dag", "check", str(file), "--json").json
    assert "'slow.py' did not finish importing within 1 s. It was in line" in row["message"]
    for command in ("dag test slow", "task render slow t 2026-01-05"):
        done = cli.process(*command.split())
        assert (done.code, done.out, done.err) == (1, "", f"Error: {row['message']}\n")


def test_file_that_lets_no_other_code_run_ends_the_command_and_is_shown(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_IMPORT_TIMEOUT_SECONDS", "1")
    file = cli.write("slow.py", "dag_id = 'slow'\nsum(range(10**15))\n")
    done = cli.process("task", "dry-run", "slow", "t", "2026-01-05")
    assert (done.code, f'File "{file}", line 2' in done.err) == (1, True)


def test_policy_that_never_returns_ends_the_command(cli: Cli, sales: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_IMPORT_TIMEOUT_SECONDS", "1")
    cli.write("flux_provider.py", "from flux.plugins import hookimpl\n@hookimpl\ndef flux_task_policy(task):\n"
                                  "    while True: ...\n")  # fmt: skip
    (row,) = cli("dag", "check", str(cli.home / "dags" / "sales.py"), "--json").json
    done = cli.process("dag", "test", "sales", "2026-01-05")
    assert (done.code, done.err) == (1, f"Error: {row['message']}\n")


def test_time_that_tasks_take_is_not_the_time_of_reading(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_IMPORT_TIMEOUT_SECONDS", "1")
    cli.write("long.py", "from flux import DAG\nfrom flux.operators import BashOperator\n"
                         "with DAG('long'):\n    BashOperator(task_id='t', bash_command='sleep 2.5')\n")  # fmt: skip
    assert cli.process("dag", "test", "long", "2026-01-05").code == 0

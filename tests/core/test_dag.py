from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flux.dag import DAG, collecting, current_dag
from flux.errors import AuthoringError, BadDate, BadParam, BadSchedule, Cycle, DuplicateTask, InvalidId, UnknownArgument
from flux.operator import BaseOperator
from flux.params import Param
from flux.schedule import Cron, Every, Once
from flux.structure import DagStructure


class Step(BaseOperator):
    def execute(self, context: Any) -> None:
        """Do nothing."""


class Branch(Step):
    gate: ClassVar[str | None] = "branch"


class Short(Step):
    gate: ClassVar[str | None] = "short_circuit"

    def __init__(self, *, every: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gates_all_descendants = every


def steps(*names: str) -> list[Step]:
    return [Step(task_id=name) for name in names]


def ids(structure: DagStructure) -> list[str]:
    return [task.task_id for task in structure.tasks]


# Arguments


@pytest.mark.parametrize("dag_id", ["", ".x", "a b", "ü", "a/b", "x" * 201, None])
def test_dag_ids_that_are_not_allowed_are_refused(dag_id: Any) -> None:
    with pytest.raises(InvalidId, match=r"test_dag\.py:\d+: dag_id"):
        DAG(dag_id)


def test_an_unknown_argument_is_refused_with_near_names() -> None:
    with pytest.raises(UnknownArgument, match=r"test_dag\.py:\d+: DAG 'sales' takes no argument 'schedul'.*schedule"):
        DAG("sales", schedul="@daily")  # type: ignore[call-arg]


def test_a_missing_id_and_arguments_by_place_are_refused() -> None:
    with pytest.raises(AuthoringError, match=r"missing.*dag_id"):
        DAG()  # type: ignore[call-arg]
    with pytest.raises(AuthoringError, match="takes 2 positional arguments"):
        DAG("sales", "@daily")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("timezone", None),
        ("catchup", "yes"),
        ("catchup_window", "1d"),
        ("max_active_runs", 0),
        ("max_active_runs", "16"),
        ("max_active_tasks", 0),
        ("dagrun_timeout", -5),
        ("default_args", ["retries"]),
        ("params", "n"),
        ("tags", "etl"),
        ("tags", [1]),
        ("owner", 5),
        ("template_searchpath", 5),
        ("user_defined_macros", []),
        ("on_failure_callback", "mail"),
        ("on_interrupt", "ignore"),
        ("fork", 1),
    ],
)
def test_values_of_the_wrong_kind_are_refused_naming_dag_and_argument(argument: str, value: Any) -> None:
    with pytest.raises(AuthoringError, match=f"DAG 'sales': {argument} = "):
        DAG("sales", **{argument: value})


@pytest.mark.parametrize(
    ("value", "kind"),
    [("@daily", Cron), ("0 2 * * *", Cron), (timedelta(hours=1), Every), ("@once", Once), (None, None)],
)
def test_a_schedule_becomes_its_object(value: Any, kind: type | None) -> None:
    schedule = DAG("sales", schedule=value, start_date="2026-01-01").schedule
    assert schedule is None if kind is None else isinstance(schedule, kind)


@pytest.mark.parametrize("value", ["99 * * * *", "@fortnightly", "0 0 31 2 *", 5, timedelta(0)])
def test_a_bad_schedule_is_refused_with_dag_and_line(value: Any) -> None:
    with pytest.raises(BadSchedule, match=r"test_dag\.py:\d+: DAG 'sales': "):
        DAG("sales", schedule=value, start_date="2026-01-01")


def test_dates_are_read_in_the_dags_zone() -> None:
    dag = DAG("sales", start_date="2026-01-05", end_date="2026-01-06", timezone="America/Los_Angeles")
    assert dag.start_date == datetime(2026, 1, 5, 8, tzinfo=UTC)
    assert dag.structure().end_date == "2026-01-07T07:59:59.999999+00:00"


@pytest.mark.parametrize("date", ["2026-03-29T02:30", "2026-10-25T02:30", "soon", 5])
def test_a_bad_date_is_refused_with_dag_argument_and_line(date: Any) -> None:
    with pytest.raises(BadDate, match=r"test_dag\.py:\d+: DAG 'sales': start_date: "):
        DAG("sales", start_date=date, timezone="Europe/Berlin")


def test_dates_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(BadDate, match=r"end_date .* before start_date"):
        DAG("sales", start_date="2026-01-05", end_date="2026-01-04")
    assert DAG("sales", start_date="2026-01-05", end_date="2026-01-05").end_date is not None


@pytest.mark.parametrize(
    "arguments", [{"catchup": True}, {"schedule": timedelta(hours=1)}, {"schedule": Every(days=1)}]
)
def test_a_start_date_is_asked_for_where_it_is_needed(arguments: dict[str, Any]) -> None:
    with pytest.raises(BadDate, match="no start_date"):
        DAG("sales", **arguments)
    assert DAG("sales", start_date="2026-01-05", **arguments).start_date is not None


def test_a_start_date_in_default_args_is_not_the_dags() -> None:
    with pytest.raises(BadDate, match="default_args is for tasks"):
        DAG("sales", catchup=True, default_args={"start_date": "2026-01-01"})


def test_default_args_cannot_hold_a_task_id() -> None:
    with pytest.raises(AuthoringError, match="'task_id'"):
        DAG("sales", default_args={"task_id": "x"})


def test_params_in_default_args_join_the_dags() -> None:
    with DAG("sales", params={"a": 1}, default_args={"params": {"a": 0, "b": 2}}) as dag:
        Step(task_id="t")
    assert {name: spec["default"] for name, spec in dag.structure().params.items()} == {"a": 1, "b": 2}


def test_a_scheduled_dag_cannot_have_a_param_without_default() -> None:
    with pytest.raises(BadParam, match="'n' has no default"):
        DAG("sales", schedule="@daily", params={"n": Param(type=int)})
    assert DAG("sales", params={"n": Param(type=int)}).params["n"].is_required


# Building


def test_dags_nest_and_tasks_join_the_innermost() -> None:
    with DAG("outer") as outer:
        Step(task_id="a")
        with DAG("inner") as inner:
            Step(task_id="b")
        Step(task_id="c")
        assert current_dag() is outer
    assert (list(outer.tasks), list(inner.tasks), current_dag()) == (["a", "c"], ["b"], None)


def test_an_error_inside_the_block_leaves_it() -> None:
    with pytest.raises(ZeroDivisionError), DAG("sales"):
        1 / 0  # noqa: B018
    assert current_dag() is None


def test_a_duplicate_id_is_refused_naming_the_first_ones_line() -> None:
    with DAG("sales") as dag:
        first = Step(task_id="load")
        assert first.site is not None
        with pytest.raises(DuplicateTask) as caught:
            Step(task_id="load")
    assert f"Task 'load' is already in DAG 'sales' (test_dag.py:{first.site[1]})" in str(caught.value).replace(
        "tests/core/", ""
    )
    assert dag.tasks == {"load": first}


def test_ids_differ_by_case() -> None:
    with DAG("sales") as dag:
        steps("load", "Load")
    assert len(dag.structure().tasks) == 2


def test_a_task_made_outside_any_dag_can_be_assigned_later() -> None:
    dag = DAG("sales")
    a, b, c, d = steps("a", "b", "c", "d")
    assert a.dag is None
    a >> b >> c
    c.dag = dag
    dag.add_task(d)
    assert [task.dag for task in (a, b, c, d)] == [dag] * 4
    assert dag.structure().task("b").upstream == (dag.structure().index_of["a"],)


def test_an_edge_to_a_task_of_a_dag_brings_the_other_in() -> None:
    dag = DAG("sales")
    a = Step(task_id="a", dag=dag)
    b = Step(task_id="b")
    b >> a
    assert ids(dag.structure()) == ["b", "a"]


def test_a_task_belongs_to_one_dag() -> None:
    task = Step(task_id="a", dag=DAG("first"))
    with pytest.raises(AuthoringError, match="'a' is in DAG 'first'"):
        task.dag = DAG("second")


def test_only_tasks_can_be_added() -> None:
    with pytest.raises(AuthoringError, match="5 is not a task"):
        DAG("sales").add_task(5)  # type: ignore[arg-type]


def test_a_failed_task_leaves_nothing_in_the_dag() -> None:
    with DAG("sales") as dag, pytest.raises(AuthoringError):
        Step(task_id="a", retries=-1)
    assert dag.tasks == {}


# Which file


def script(path: Path, text: str) -> str:
    path.write_text(text)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_a_dag_belongs_to_the_module_that_was_running(tmp_path: Path) -> None:
    """A factory in a helper counts for its caller; importing another DAG file does not move its DAG."""
    (tmp_path / "factory.py").write_text("from flux import DAG\n\ndef make(name):\n    return DAG(name)\n")
    (tmp_path / "other.py").write_text("from factory import make\n\n\nmake('other')\n")
    printed = script(
        tmp_path / "main.py",
        "from flux.dag import collecting\n"
        "with collecting() as made:\n"
        "    import other\n"
        "    from factory import make\n"
        "    make(\n"
        "        'main')\n"
        "print([(d.dag_id, d.file, d.line) for d in made])\n",
    )
    root = str(tmp_path)
    assert printed.strip() == str([("other", f"{root}/other.py", 4), ("main", f"{root}/main.py", 5)])


def test_messages_name_the_file_from_where_modules_are_found(tmp_path: Path) -> None:
    printed = script(tmp_path / "sales.py", "from flux import DAG\nDAG('sales',\n    retries=2)\n")
    assert "UnknownArgument: sales.py:2: DAG 'sales' takes no argument 'retries'" in printed


def test_collecting_sees_the_dags_of_its_own_thread_in_order() -> None:
    with collecting() as made:
        a = DAG("a")
        other = threading.Thread(target=lambda: DAG("elsewhere"))
        other.start()
        other.join()
        with collecting() as inner:
            b = DAG("b")
        with pytest.raises(InvalidId):
            DAG("not allowed")
        c = DAG("c")
    DAG("after")
    assert (made, inner) == ([a, c], [b])


# Structure


def test_the_structure_keeps_what_the_author_said() -> None:
    dag = DAG(
        "sales", schedule="0 2 * * *", start_date="2026-01-01", timezone="Europe/Berlin", catchup=True,
        max_active_runs=2, catchup_window=timedelta(days=7), max_active_tasks=4, dagrun_timeout=3600, tags={"b", "a"},
        owner="ann", description="Loads sales", doc_md="# Sales", on_interrupt="retry", fork=False,
        params={"n": Param(1, type=int)},
    )  # fmt: skip
    found = dag.structure()
    assert found == DagStructure(
        dag_id="sales", file=dag.file or "", line=dag.line, tasks=(), schedule=Cron("0 2 * * *").to_spec(),
        timezone="Europe/Berlin", start_date="2025-12-31T23:00:00+00:00", catchup=True, catchup_window=604_800.0,
        max_active_runs=2, max_active_tasks=4, dagrun_timeout=3600.0, params={"n": {"default": 1, "type": ["integer"]}},
        tags=("a", "b"), owner="ann", description="Loads sales", doc_md="# Sales", on_interrupt="retry", fork=False,
    )  # fmt: skip
    assert DagStructure.from_json(found.to_json()) == found


def test_tasks_come_in_topological_order_and_know_their_neighbours() -> None:
    with DAG("sales") as dag:
        report, load, wait = steps("report", "load", "wait")
        wait >> load >> report
        wait >> report
    found = dag.structure()
    assert ids(found) == ["wait", "load", "report"]
    assert [(task.upstream, task.downstream) for task in found.tasks] == [((), (1, 2)), ((0,), (2,)), ((0, 1), ())]


def test_a_cycle_is_refused_by_name_with_the_dags_file_and_line() -> None:
    with DAG("sales") as dag:
        load, check, _ = steps("load", "check", "other")
        load >> check >> load
    with pytest.raises(Cycle, match="DAG 'sales' has a cycle: load -> check -> load") as caught:
        dag.structure()
    assert (caught.value.file, caught.value.line) == (dag.file, dag.line)


def test_default_args_are_not_asked_of_a_dag_without_tasks() -> None:
    assert DAG("sales", default_args={"anything": 1}).structure().tasks == ()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("downstream", [1111, 1010, 1100, 1000]), ("upstream", [1, 11, 101, 1111]), ("absolute", [1, 10, 100, 1000])],
)
def test_weights_follow_the_rule_and_count_each_task_once(rule: str, expected: list[int]) -> None:
    with DAG("sales", default_args={"weight_rule": rule}) as dag:
        a, b, c, d = (Step(task_id=f"t{weight}", priority_weight=weight) for weight in (1, 10, 100, 1000))
        a >> [b, c] >> d
    assert [task.priority_weight for task in dag.structure().tasks] == expected


def test_weights_stay_within_what_the_store_keeps() -> None:
    with DAG("sales") as dag:
        a, b = (Step(task_id=name, priority_weight=2_000_000_000) for name in "ab")
        a >> b
    assert [task.priority_weight for task in dag.structure().tasks] == [2**31 - 1, 2_000_000_000]


def test_a_branch_gates_its_direct_downstreams() -> None:
    with DAG("sales") as dag:
        branch = Branch(task_id="branch")
        a, b, c = steps("a", "b", "c")
        branch >> [a, b] >> c
    found = dag.structure().task("branch")
    assert (found.gate, found.gates) == ("branch", (1, 2))


@pytest.mark.parametrize(("every", "gates"), [(True, (1, 2, 3)), (False, (1,))])
def test_a_short_circuit_gates_all_descendants_or_the_direct_ones(every: bool, gates: tuple[int, ...]) -> None:
    with DAG("sales") as dag:
        short = Short(task_id="short", every=every)
        a, b, c, _ = steps("a", "b", "c", "beside")
        short >> a >> b >> c
    assert dag.structure().task("short").gates == gates
    assert dag.structure().gates_above[dag.structure().index_of["beside"]] == 0


@pytest.mark.parametrize(
    ("setting", "value", "cause"),
    [
        ("retries", "x", "retries"),
        ("retry_delay", None, "retry_delay"),
        ("priority_weight", "x", "priority_weight"),
        ("weight_rule", "heavy", "weight_rule"),
        ("pool", 3, "pool"),
        ("task_id", "other", "was renamed to 'other'"),
    ],
)
def test_a_setting_that_was_changed_to_what_it_cannot_be_is_refused(setting: str, value: Any, cause: str) -> None:
    with DAG("sales") as dag:
        task = Step(task_id="load")
    setattr(task, setting, value)
    with pytest.raises(AuthoringError, match=cause):
        dag.structure()


def test_building_the_structure_twice_gives_the_same() -> None:
    with DAG("sales") as dag:
        a, b, c = steps("a", "b", "c")
        a >> [c, b]
    assert dag.structure() == dag.structure()


@pytest.mark.slow
def test_a_dag_of_two_thousand_tasks_is_built_in_a_fraction_of_a_second() -> None:
    with DAG("big") as dag:
        rows = [[Step(task_id=f"t{row}_{column}") for column in range(20)] for row in range(100)]
        for upper, lower in pairwise(rows):
            for task in upper:
                task >> lower
    started = time.process_time()
    structure = dag.structure()
    assert time.process_time() - started < 0.5
    assert structure.tasks[0].priority_weight == 1 + 99 * 20


def test_importing_dag_loads_no_library(tmp_path: Path) -> None:
    printed = script(
        tmp_path / "probe.py",
        "import sys\nfrom flux import DAG\n"
        "heavy = ('jinja2', 'croniter', 'sqlalchemy', 'pluggy', 'inspect', 'asyncio', 'zoneinfo', 'flux.schedule')\n"
        "print([name for name in heavy if name in sys.modules])\n",
    )
    assert printed.strip() == "[]"

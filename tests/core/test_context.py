from __future__ import annotations

import functools
import inspect
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flux import DAG
from flux.context import Context, call, current, get_connection, get_variable, running
from flux.errors import BadParam, NotFound, OutsideTask, ResultError, UnknownName
from flux.operators import EmptyOperator
from flux.results import decode, encode
from tests.attempts import MemoryWorld, spec_of


def context(
    tmp_path: Path, world: MemoryWorld | None = None, dag: dict[str, Any] | None = None, **spec: Any
) -> Context:
    """The context of task `load`; tasks `set` and `group.extract` are in the DAG too."""
    given = {"schedule": "@daily", "start_date": "2026-01-01", "timezone": "Europe/Berlin", **(dag or {})}
    with DAG("sales", **given):
        load = EmptyOperator(task_id="load", params={"size": 2})
        EmptyOperator(task_id="set")
        EmptyOperator(task_id="group.extract")
    return Context(load, spec_of(load, tmp_path, **spec), world or MemoryWorld())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ds", "2026-01-05"),
        ("ds_nodash", "20260105"),
        ("ts", "2026-01-05T00:00:00+01:00"),
        ("ts_nodash", "20260105T000000"),
        ("yesterday_ds", "2026-01-04"),
        ("tomorrow_ds", "2026-01-06"),
        ("run_id", "scheduled__2026-01-04T23:00:00+00:00"),
        ("claim", 7),
    ],
)
def test_names_built_from_the_date_are_in_the_zone_of_the_dag(tmp_path: Path, name: str, expected: Any) -> None:
    assert context(tmp_path)[name] == expected


def test_a_name_is_an_item_and_an_attribute(tmp_path: Path) -> None:
    names = context(tmp_path)
    assert all(getattr(names, name) is names[name] for name in names)
    assert names.ti is names.task_instance


def test_datetimes_are_aware_and_in_the_zone_of_the_dag(tmp_path: Path) -> None:
    names = context(tmp_path)
    for name in ("logical_date", "data_interval_start", "data_interval_end", "next_logical_date"):
        assert str(names[name].tzinfo) == "Europe/Berlin"
    assert names["data_interval"].start == datetime(2026, 1, 4, 23, tzinfo=UTC)


def test_a_missing_attribute_names_ours_for_what_others_have(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match=r"execution_date.*`logical_date`"):
        context(tmp_path).execution_date  # noqa: B018


def test_the_next_logical_date_follows_the_schedule(tmp_path: Path) -> None:
    assert context(tmp_path)["next_logical_date"].isoformat() == "2026-01-06T00:00:00+01:00"
    assert context(tmp_path, dag={"schedule": None})["next_logical_date"] is None


def test_the_previous_run_is_asked_for_when_it_is_read(tmp_path: Path) -> None:
    previous = {
        "logical_date": "2026-01-03T23:00:00+00:00",
        "interval_start": "2026-01-03T23:00:00+00:00",
        "interval_end": "2026-01-04T23:00:00+00:00",
    }
    world = MemoryWorld(previous={False: previous, True: previous})
    names = context(tmp_path, world)
    assert world.asked == []
    assert names["prev_logical_date"].isoformat() == "2026-01-04T00:00:00+01:00"
    assert names["prev_data_interval_end_success"].isoformat() == "2026-01-05T00:00:00+01:00"
    assert names["prev_logical_date"] is names["prev_logical_date"]
    assert world.asked == ["previous_run False", "previous_run True"]


def test_without_a_previous_run_its_names_are_none(tmp_path: Path) -> None:
    assert context(tmp_path)["prev_logical_date"] is None


def test_params_come_from_dag_task_and_conf(tmp_path: Path) -> None:
    dag = {"params": {"color": "red", "size": 1}}
    names = context(tmp_path, dag=dag, conf={"color": "blue", "other": 3})
    assert names["params"] == {"color": "blue", "size": 2}
    assert names["dag_run"].conf == {"color": "blue", "other": 3}


def test_a_bad_param_is_told_when_it_is_read(tmp_path: Path) -> None:
    from flux import Param

    names = context(tmp_path, dag={"params": {"n": Param(1, type=int)}}, conf={"n": "many"})
    with pytest.raises(BadParam, match="'n'"):
        names["params"]


def test_variables_are_text_or_json(tmp_path: Path) -> None:
    var = context(tmp_path, MemoryWorld(variables={"limits": '{"rows": 3}'}))["var"]
    assert var.value.limits == '{"rows": 3}'
    assert var.json.limits == {"rows": 3}
    assert var.value.get("other", "none") == "none"
    with pytest.raises(UnknownName, match=r"Variable 'other' is not set.*flux variable set other"):
        var.value.other  # noqa: B018


def test_a_connection_is_asked_for_once_and_hides_its_password(tmp_path: Path) -> None:
    world = MemoryWorld(connections={"db": {"conn_id": "db", "type": "mysql", "host": "h", "password": "hunter22"}})
    conn = context(tmp_path, world)["conn"]
    assert (conn.db.host, conn["db"].type) == ("h", "mysql")
    assert "hunter22" not in repr(conn.db)
    assert conn.db.password.reveal() == "hunter22"
    assert world.asked == ["connection db"]


def test_an_unknown_connection_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="Connection 'other'"):
        context(tmp_path)["conn"].other  # noqa: B018


class TestResults:
    def world(self) -> MemoryWorld:
        texts = {
            ("set", "return_value"): encode({"n": (1, 2)}, limit_bytes=100),
            ("group.extract", "rows"): encode(5, limit_bytes=100),
        }
        return MemoryWorld(results=texts, states={"set": "success", "load": "started"})

    def test_a_task_id_wins_over_a_method(self, tmp_path: Path) -> None:
        results = context(tmp_path, self.world())["results"]
        assert results.set == {"n": (1, 2)}
        assert results["set"] == {"n": (1, 2)}

    def test_another_key_is_read_through_the_task_instance(self, tmp_path: Path) -> None:
        names = context(tmp_path, self.world())
        assert names["ti"].result("group.extract", key="rows") == 5
        assert names["results"].get("group.extract", "rows") == 5

    def test_a_task_that_left_nothing_gives_none(self, tmp_path: Path) -> None:
        assert context(tmp_path, self.world())["results"]["group.extract"] is None

    def test_a_key_that_a_successful_task_did_not_leave_is_an_error(self, tmp_path: Path) -> None:
        names = context(tmp_path, self.world())
        with pytest.raises(UnknownName, match="Task 'set' left no result 'rows'"):
            names["ti"].result("set", key="rows")
        assert names["results"].get("set", "rows", 0) == 0

    def test_a_task_that_is_not_in_the_dag_is_named_with_near_ones(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownName, match=r"'lod'.*load"):
            context(tmp_path)["results"].lod  # noqa: B018

    def test_setting_keeps_typed_json_at_once(self, tmp_path: Path) -> None:
        with DAG("d", start_date="2026-01-01"):
            task = EmptyOperator(task_id="a")
        names = Context(task, spec_of(task, tmp_path), MemoryWorld())
        names["results"].set("day", datetime(2026, 1, 5, tzinfo=UTC))
        assert decode(names.kept["day"]) == datetime(2026, 1, 5, tzinfo=UTC)
        with pytest.raises(ResultError):
            names["results"].set("bad", object())
        with pytest.raises(ResultError, match="key"):
            names["results"].set("", 1)


class TestCurrent:
    def test_outside_a_task_there_is_none(self) -> None:
        with pytest.raises(OutsideTask, match="inside a running task"):
            current()
        with pytest.raises(OutsideTask):
            get_variable("x", "default")

    def test_it_is_the_running_one_also_in_a_thread_of_the_task(self, tmp_path: Path) -> None:
        names = context(tmp_path)
        seen: list[Context] = []
        with running(names):
            thread = threading.Thread(target=lambda: seen.append(current()))
            thread.start()
            thread.join()
            assert current() is names
        assert seen == [names]

    def test_two_at_once_are_kept_apart(self, tmp_path: Path) -> None:
        first, second = context(tmp_path), context(tmp_path)
        failures: list[Exception] = []

        def ask() -> None:
            try:
                current()
            except OutsideTask as error:
                failures.append(error)

        with running(first), running(second):
            assert current() is second
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
        assert len(failures) == 1

    def test_variables_and_connections_go_through_it(self, tmp_path: Path) -> None:
        world = MemoryWorld(variables={"x": "1"}, connections={"db": {"conn_id": "db", "type": "hive"}})
        with running(context(tmp_path, world)):
            assert get_variable("x") == "1"
            assert get_variable("y", None) is None
            assert get_connection("db").type == "hive"
            with pytest.raises(NotFound, match="'y'"):
                get_variable("y")


class TestCall:
    def test_a_parameter_named_like_a_variable_gets_it(self, tmp_path: Path) -> None:
        assert call(lambda ds, *, run_id: (ds, run_id[:9]), (), {}, context(tmp_path)) == ("2026-01-05", "scheduled")

    def test_what_the_caller_passed_wins(self, tmp_path: Path) -> None:
        names = context(tmp_path)
        assert call(lambda ds: ds, ("mine",), {}, names) == "mine"
        assert call(lambda ds: ds, (), {"ds": "mine"}, names) == "mine"
        assert call(lambda ds, **context: ds, ("mine",), {}, names) == "mine"

    def test_a_default_is_replaced_too(self, tmp_path: Path) -> None:
        assert call(lambda ds=None, rows=3: (ds, rows), (), {}, context(tmp_path)) == ("2026-01-05", 3)

    def test_double_star_gets_all_other_names(self, tmp_path: Path) -> None:
        names = context(tmp_path)
        got = call(lambda a, ds, **context: context, (1,), {"extra": 2}, names)
        assert set(got) == set(names) - {"ds"} | {"extra"}

    def test_templates_dict_is_offered_like_a_name(self, tmp_path: Path) -> None:
        assert call(lambda templates_dict: templates_dict, (), {}, context(tmp_path), {"a": "b"}) == {"a": "b"}

    def test_builtins_without_a_signature_get_their_arguments(self, tmp_path: Path) -> None:
        assert call(max, (1, 2), {}, context(tmp_path)) == 2

    def test_arguments_that_do_not_fit_are_a_type_error(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            call(lambda a: a, (1, 2), {}, context(tmp_path))

    @pytest.mark.parametrize(
        "function",
        [
            lambda: {"asks": "nothing"},
            lambda ds, rows=3: {"ds": ds, "rows": rows},
            lambda first=0, /, ds=None: {"first": first, "ds": ds},
            lambda ds="positional", /: {"ds": ds},
            lambda *args, ds: {"args": args, "ds": ds},
            lambda *, run_id, ts=None: {"run_id": run_id, "ts": ts},
            lambda ds, **ts: {"ds": ds, **ts},
        ],
    )
    def test_a_plain_function_gets_what_its_signature_says(self, tmp_path: Path, function: Any) -> None:
        """Its parameters are read from its code, those of any other callable by `inspect`: it makes no difference."""

        class Other:
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs)

        other = Other()
        other.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        names = context(tmp_path)
        assert call(function, (), {}, names) == call(other, (), {}, names)

    def test_a_wrapped_function_gets_what_the_inner_one_asks_for(self, tmp_path: Path) -> None:
        def inner(ds: str, rows: int) -> tuple[str, int]:
            return ds, rows

        @functools.wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> tuple[str, int]:
            return inner(*args, **kwargs)

        assert call(outer, (), {"rows": 2}, context(tmp_path)) == ("2026-01-05", 2)

    def test_a_method_and_a_partial_are_asked_for_their_parameters(self, tmp_path: Path) -> None:
        class Job:
            def run(self, ds: str) -> str:
                return ds

        assert call(Job().run, (), {}, context(tmp_path)) == "2026-01-05"
        assert call(functools.partial(lambda a, ds: (a, ds), 1), (), {}, context(tmp_path)) == (1, "2026-01-05")

    def test_nothing_is_asked_for_that_is_not_wanted(self, tmp_path: Path) -> None:
        world = MemoryWorld()
        call(lambda ds: ds, (), {}, context(tmp_path, world))
        assert world.asked == []

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from flux.dag import DAG
from flux.errors import AuthoringError, UnknownArgument
from flux.operator import BaseOperator
from flux.sensor import BaseSensor
from flux.structure import SensorStructure


class Wait(BaseSensor):
    def poke(self, context: Any) -> bool:
        return bool(context)


def test_a_sensors_arguments_reach_the_engine_in_seconds() -> None:
    with DAG("sales") as dag:
        Wait(task_id="plain")
        Wait(
            task_id="own", poke_interval=timedelta(minutes=5), poke_timeout=1.5, timeout=timedelta(days=1),
            soft_fail=True, exponential_backoff=True, max_poke_interval=600, isolated=True, retries=2,
        )  # fmt: skip
    found = dag.structure()
    assert found.task("plain").sensor == SensorStructure(poke_interval=60.0, poke_timeout=60.0, timeout=604_800.0)
    assert found.task("own").sensor == SensorStructure(300.0, 1.5, 86_400.0, True, True, 600.0, True)
    assert found.task("own").retries == 2


def test_only_sensors_have_a_sensor_record() -> None:
    class Load(BaseOperator):
        def execute(self, context: Any) -> None:
            """Do nothing."""

    with DAG("sales") as dag:
        Load(task_id="a")
    assert dag.structure().tasks[0].sensor is None


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("poke_interval", 0),
        ("poke_interval", "1m"),
        ("poke_timeout", 0),
        ("max_poke_interval", -1),
        ("timeout", -1),
        ("soft_fail", 1),
        ("isolated", "yes"),
        ("exponential_backoff", None),
    ],
)
def test_wrong_values_are_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(AuthoringError, match=f"Task 'w': {argument} = "):
        Wait(task_id="w", **{argument: value})


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(UnknownArgument, match="poke_interval"):
        Wait(task_id="w", poke_intervall=5)


def test_a_sensor_without_poke_cannot_be_used() -> None:
    with pytest.raises(AuthoringError, match=r"BaseSensor 'w'.*poke\(\)"):
        BaseSensor(task_id="w")  # type: ignore[abstract]


def test_executing_a_sensor_is_one_poke() -> None:
    context: Any = {"ds": "2026-01-05"}
    assert Wait(task_id="w").execute(context) is True

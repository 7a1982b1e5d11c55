"""Core's own operators, sensors, executors and macros pass the kit that every provider must pass."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flux import macros, testing
from flux.executors.local import LocalExecutor, SequentialExecutor
from flux.operators import (
    BashOperator,
    BranchPythonOperator,
    EmptyOperator,
    LatestOnlyOperator,
    PythonOperator,
    ShortCircuitOperator,
)
from flux.sensors import DateTimeSensor, FileSensor, PythonSensor, TimeDeltaSensor, TimeSensor

pytestmark = pytest.mark.slow

LONG_AGO, FAR_OFF = "2000-01-01T00:00", "2999-01-01T00:00"


class MarkedWorld(testing.FolderWorld):
    """A folder in which work that goes on keeps a file `<pid>.running`."""

    def running(self) -> list[int]:
        pids = [int(path.stem) for path in self.tmp.glob("*.running")]
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def store(path: str) -> int:
    """A function that does some work, the same each time."""
    Path(path).write_text("rows", encoding="utf-8")
    return 4


def work_on(path: str) -> None:
    """A function that works for a minute."""
    (Path(path) / f"{os.getpid()}.running").touch()
    signal.pause()


def is_there(path: str) -> bool:
    return Path(path).exists()


class TestCore(testing.ProviderConformance):
    provider = "core"


class TestEmptyOperator(testing.OperatorConformance):
    operator = EmptyOperator


class TestBashOperator(testing.OperatorConformance):
    operator = BashOperator
    arguments: ClassVar[Mapping[str, Any]] = {"bash_command": "echo rows > {tmp}/{{ ds }}", "cwd": "{tmp}"}
    long_running = True
    long_arguments: ClassVar[Mapping[str, Any]] = {"bash_command": "sleep 60 & sleep 60"}
    code_fields = ("bash_command",)


class TestPythonOperator(testing.OperatorConformance):
    operator = PythonOperator
    arguments: ClassVar[Mapping[str, Any]] = {"python_callable": store, "op_args": ["{tmp}/rows"]}
    long_running = True
    long_arguments: ClassVar[Mapping[str, Any]] = {"python_callable": work_on, "op_args": ["{tmp}"]}

    @pytest.fixture
    def world(self, tmp_path: Path) -> MarkedWorld:
        return MarkedWorld(tmp_path)


class TestBranchPythonOperator(testing.OperatorConformance):
    operator = BranchPythonOperator
    arguments: ClassVar[Mapping[str, Any]] = {"python_callable": list}


class TestShortCircuitOperator(testing.OperatorConformance):
    operator = ShortCircuitOperator
    arguments: ClassVar[Mapping[str, Any]] = {
        "python_callable": lambda: False,
        "ignore_downstream_trigger_rules": False,
    }


class TestLatestOnlyOperator(testing.OperatorConformance):
    operator = LatestOnlyOperator


class TestFileSensor(testing.SensorConformance):
    sensor = FileSensor
    arguments: ClassVar[Mapping[str, Any]] = {"filepath": "{tmp}/rows"}

    @pytest.fixture
    def world(self, tmp_path: Path) -> testing.FolderWorld:
        return Delivered(tmp_path)


class Delivered(testing.FolderWorld):
    """A folder to which a file is delivered."""

    def make_true(self) -> None:
        (self.tmp / "rows").touch()


class TestPythonSensor(testing.SensorConformance):
    sensor = PythonSensor
    arguments: ClassVar[Mapping[str, Any]] = {"python_callable": is_there, "op_args": ["{tmp}/rows"]}

    @pytest.fixture
    def world(self, tmp_path: Path) -> testing.FolderWorld:
        return Delivered(tmp_path)


#: Time is not made to pass: a moment that has been and one that will come are tested one by one.
ALWAYS_TRUE = {"waiting": "its moment has been", "poke": "its moment has been"}


class TestTimeSensor(testing.SensorConformance):
    sensor = TimeSensor
    arguments: ClassVar[Mapping[str, Any]] = {"target_time": "07:30"}
    unsupported = ALWAYS_TRUE


class TestTimeDeltaSensor(testing.SensorConformance):
    sensor = TimeDeltaSensor
    arguments: ClassVar[Mapping[str, Any]] = {"delta": 3600}
    unsupported = ALWAYS_TRUE


class TestDateTimeSensor(testing.SensorConformance):
    sensor = DateTimeSensor
    arguments: ClassVar[Mapping[str, Any]] = {"target_time": LONG_AGO}
    unsupported = ALWAYS_TRUE


class TestDateTimeSensorBefore(testing.SensorConformance):
    sensor = DateTimeSensor
    arguments: ClassVar[Mapping[str, Any]] = {"target_time": FAR_OFF}
    unsupported: ClassVar[Mapping[str, str]] = {"poke": "nobody can wait so long"}


class TestLocalExecutor(testing.ExecutorConformance):
    executor = LocalExecutor
    unsupported: ClassVar[Mapping[str, str]] = {"reaping": "the launcher reaps what it forks"}


class TestSequentialExecutor(testing.ExecutorConformance):
    executor = SequentialExecutor
    unsupported: ClassVar[Mapping[str, str]] = {"reaping": "the launcher reaps what it forks"}


class TestDsAdd(testing.MacroConformance):
    macro, provider = staticmethod(macros.ds_add), "core"
    cases: ClassVar[Mapping[Any, Any]] = {("2026-01-31", 1): "2026-02-01", ("2026-01-01", -1): "2025-12-31"}


class TestDsFormat(testing.MacroConformance):
    macro, provider = staticmethod(macros.ds_format), "core"
    cases: ClassVar[Mapping[Any, Any]] = {("2026-01-05", "%Y-%m-%d", "%d.%m.%y"): "05.01.26"}


def test_core_offers_python_s_own_uuid_as_a_macro() -> None:
    """A module, not a function: no class of the kit is for it."""
    assert macros.uuid is uuid

from __future__ import annotations

import subprocess
import sys

import pytest

import flux.operators
import flux.sensors
from flux import BaseOperator, BaseSensor


@pytest.mark.parametrize("name", flux.operators.__all__)
def test_every_operator_is_found_by_name(name: str) -> None:
    assert issubclass(getattr(flux.operators, name), BaseOperator)
    assert name in dir(flux.operators)


@pytest.mark.parametrize("name", flux.sensors.__all__)
def test_every_sensor_is_found_by_name(name: str) -> None:
    assert issubclass(getattr(flux.sensors, name), BaseSensor)
    assert name in dir(flux.sensors)


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ImportError, match=r"Operator 'BashOperater' does not exist.*BashOperator"):
        flux.operators.BashOperater  # noqa: B018
    with pytest.raises(ImportError, match=r"Sensor 'FileSenser' does not exist.*FileSensor"):
        flux.sensors.FileSenser  # noqa: B018
    with pytest.raises(ImportError):
        from flux.operators import DummyOperator  # noqa: F401


def test_the_packages_load_a_class_when_it_is_used() -> None:
    code = (
        "import sys, flux.operators, flux.sensors; print([m for m in sys.modules if m.startswith('flux.operators.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

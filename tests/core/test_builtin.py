"""Core's own offer, by the hooks any provider uses."""

from __future__ import annotations

from flux import builtin
from flux.executor import BaseExecutor
from flux.operator import BaseOperator
from flux.sensor import BaseSensor


def test_everything_core_offers_can_be_loaded() -> None:
    host = builtin.plugin_host(strict=True)
    assert all(issubclass(offer.ref.load(), BaseOperator) for offer in host.operators())
    assert all(issubclass(offer.ref.load(), BaseSensor) for offer in host.sensors())
    assert all(issubclass(offer.ref.load(), BaseExecutor) for offer in host.executors())
    assert all(ref.load() is not None for ref in host.macros()["core"].values())
    assert host.providers == ("core",)


def test_core_offers_every_operator_and_sensor_it_has() -> None:
    """An operator added to `flux.operators` is offered too."""
    import flux.operators
    import flux.sensors

    host = builtin.plugin_host()
    assert {offer.ref.name for offer in host.operators()} == set(flux.operators.__all__)
    assert {offer.ref.name for offer in host.sensors()} == set(flux.sensors.__all__)


def test_executors_are_picked_by_the_names_of_the_option() -> None:
    host = builtin.plugin_host()
    assert host.executor("local")(3).parallelism == 3
    assert host.executor("sequential")(3).parallelism == 1

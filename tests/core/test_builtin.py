"""Core's own offer, by the hooks any provider uses."""

from __future__ import annotations

import importlib.metadata

from flux import builtin
from flux.executor import BaseExecutor
from flux.operator import BaseOperator
from flux.plugins.catalogue import Catalogue
from flux.plugins.host import Host, implemented
from flux.sensor import BaseSensor


def test_everything_core_offers_can_be_loaded() -> None:
    core = builtin.core_verdict()
    assert all(issubclass(ref.load(), BaseOperator) for ref in core.operators)
    assert all(issubclass(ref.load(), BaseSensor) for ref in core.sensors)
    assert all(issubclass(ref.load(), BaseExecutor) for ref in core.executors)
    assert all(ref.load() is not None for ref in core.macros)


def test_the_verdict_on_core_is_what_a_host_would_say() -> None:
    """It is made without a host, so that listing core's names needs no pluggy."""
    core = builtin.core_verdict()
    host = Host()
    host.register("core", builtin)
    assert core.hooks == tuple(implemented(builtin))
    for hook in core.hooks:
        field = hook.removeprefix("flux_")
        assert tuple(offer.ref for offer in getattr(host, field)()) == getattr(core, field)
    assert (core.name, core.distribution, core.is_ok) == ("core", "flux-core", True)
    assert core.version == importlib.metadata.version("flux-core")


def test_core_offers_every_operator_and_sensor_it_has() -> None:
    """An operator added to `flux.operators` is offered too."""
    import flux.operators
    import flux.sensors

    core = builtin.core_verdict()
    assert {ref.name for ref in core.operators} == set(flux.operators.__all__)
    assert {ref.name for ref in core.sensors} == set(flux.sensors.__all__)


def test_executors_are_picked_by_the_names_of_the_option() -> None:
    catalogue = Catalogue([builtin.core_verdict()])
    assert catalogue.executor("local")(3).parallelism == 3
    assert catalogue.executor("sequential")(3).parallelism == 1

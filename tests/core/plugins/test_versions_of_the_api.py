"""A provider made for API 1.0 works as it is: with today's hooks, and with those of a 1.1 that adds to them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flux.errors import PolicyViolation
from flux.operators import EmptyOperator
from flux.plugins import Ref, hookimpl, hookspec, specs
from flux.plugins.host import Fault, Host, implemented
from flux.plugins.judgement import SERVED, Candidate, judge
from flux.plugins.scan import Found
from flux.plugins.snapshots import Component, DagRun, TaskInstance
from flux.plugins.verdict import ProviderState

FROZEN = Path(__file__).with_name("frozen_provider_1_0")
NOW = datetime(2026, 1, 5, tzinfo=UTC)
TASK_INSTANCE = TaskInstance("sales", "manual__1", "load", None, "success", 1, 1, "EmptyOperator", NOW, NOW, None)
DAG_RUN = DagRun("sales", "manual__1", "manual", "success", NOW, NOW, NOW, None, NOW, NOW)
SUPERVISOR = Component("supervisor", 4711, "here", NOW)


def specs_1_1() -> ModuleType:
    """Hook specifications of a version 1.1: a hook is added, and an argument of a hook."""
    module = ModuleType("specs_1_1")
    vars(module).update({name: value for name, value in vars(specs).items() if name.startswith("flux_")})

    def flux_task_state_changed(task_instance: TaskInstance, previous: str, state: str, seconds: float) -> None: ...

    def flux_reports() -> list[Ref]:
        return []

    for function in (flux_task_state_changed, flux_reports):
        setattr(module, function.__name__, hookspec(function))
    return module


class Host11(Host):
    """The host of that version: one method takes the new argument along."""

    def __init__(self) -> None:
        super().__init__(specifications=(specs_1_1(),))

    def task_moved(self, task_instance: TaskInstance, previous: str, state: str, seconds: float) -> tuple[Fault, ...]:
        values = {"task_instance": task_instance, "previous": previous, "state": state, "seconds": seconds}
        return self._tell("flux_task_state_changed", values)


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The frozen manifest, imported afresh."""
    monkeypatch.syspath_prepend(str(FROZEN.parent))
    import frozen_provider_1_0.provider as manifest

    yield manifest
    for name in [name for name in sys.modules if name.startswith("frozen_provider_1_0")]:
        del sys.modules[name]


def test_the_frozen_provider_is_as_it_was_written() -> None:
    """An edit would prove nothing about the providers that people have."""
    written = hashlib.sha256((FROZEN / "provider.py").read_bytes()).hexdigest()
    assert written == "3c031e5d604044a8e3c47e99f0f348fa289f455978b2c151206ab6dc1130073d"


def test_it_uses_every_hook_that_1_0_had(frozen: Any) -> None:
    assert set(implemented(frozen)) <= set(Host().hooks)
    assert len(implemented(frozen)) == 10


@pytest.mark.slow
@pytest.mark.parametrize("served", [SERVED, ("1.1", "1.0")], ids=["today", "1.1"])
def test_it_is_judged_ok(served: tuple[str, ...]) -> None:
    found = Found("frozen", "flux-provider-frozen", "1.0", "frozen_provider_1_0.provider", "flux.providers")
    (verdict,) = judge([Candidate(found, str(FROZEN.parent))], limit_seconds=10, served=served)
    assert (verdict.state, verdict.reason, verdict.notes) == (ProviderState.OK, None, ())
    assert [ref.name for ref in verdict.operators] == ["FrozenOperator", "AToBOperator"]
    assert verdict.connection_types[0].default_port == 42


@pytest.mark.parametrize("make", [Host, Host11])
def test_everything_it_offers_is_there(frozen: Any, make: type[Host]) -> None:
    host = make()
    host.register("frozen", frozen)
    offers = (*host.operators(), *host.sensors(), *host.executors(), *host.macros())
    assert [offer.ref.name for offer in offers] == ["FrozenOperator", "AToBOperator", "FrozenSensor", "frozen", "depth"]
    assert [kind.name for _, kind in host.connection_types()] == ["frozen"]
    assert host.faults == ()


@pytest.mark.parametrize("make", [Host, Host11])
def test_it_is_told_and_it_decides(frozen: Any, make: type[Host]) -> None:
    host = make()
    host.register("frozen", frozen)
    faults = [
        *host.component_started(SUPERVISOR),
        *host.task_state_changed(TASK_INSTANCE, "started", "success"),
        *host.dag_run_state_changed(DAG_RUN, "running", "success"),
        *host.component_stopping(SUPERVISOR),
    ]
    assert faults == []
    assert frozen.HEARD == [
        ("supervisor", "started"),
        ("load", "started", "success"),
        ("manual__1", "running", "success"),
        ("supervisor", "stopping"),
    ]
    task = EmptyOperator(task_id="load")
    host.task_policy(task)
    assert task.pool == "frozen"
    with pytest.raises(PolicyViolation, match="It is forbidden"):
        host.task_policy(EmptyOperator(task_id="forbidden"))


def test_old_and_new_providers_are_told_side_by_side(frozen: Any) -> None:
    heard: list[float] = []
    new: Any = ModuleType("new")
    new.flux_task_state_changed = hookimpl(lambda seconds: heard.append(seconds))
    new.flux_reports = hookimpl(lambda: None)
    host = Host11()
    host.register("frozen", frozen)
    host.register("new", new)
    assert host.task_moved(TASK_INSTANCE, "started", "success", 1.5) == ()
    assert frozen.HEARD == [("load", "started", "success")]
    assert heard == [1.5]

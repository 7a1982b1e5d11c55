"""The plugin host: registration, the isolation of providers from each other, names."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from flux.errors import NotFound, PluginError
from flux.plugins import ConnectionType, Ref, hookimpl
from flux.plugins.host import CORE, Host


def provider(**hooks: Any) -> SimpleNamespace:
    """A manifest with these hook functions."""
    for name, function in hooks.items():
        function.__name__ = name
        hookimpl(function)
    return SimpleNamespace(**hooks)


def offering(hook: str, *names: str) -> SimpleNamespace:
    return provider(**{hook: lambda: [Ref(name, f"acme:{name.title()}") for name in names]})


def kind(name: str) -> ConnectionType:
    return ConnectionType(name, client=Ref("Client", "acme:Client"))


def test_offers_come_in_order_of_registration() -> None:
    host = Host()
    host.register("zeta", offering("flux_operators", "Z"))
    host.register("alpha", offering("flux_operators", "A", "B"))
    assert [(o.provider, o.ref.name) for o in host.operators()] == [("zeta", "Z"), ("alpha", "A"), ("alpha", "B")]
    assert host.providers == ("zeta", "alpha")


def test_registering_later_is_seen_although_answers_are_kept() -> None:
    host = Host()
    assert host.sensors() == ()
    host.register("acme", offering("flux_sensors", "S"))
    assert [o.ref.name for o in host.sensors()] == ["S"]


def test_a_hook_is_asked_once() -> None:
    asked: list[int] = []

    def operators() -> list[Ref]:
        asked.append(1)
        return []

    host = Host()
    host.register("acme", provider(flux_operators=operators))
    host.operators(), host.operators()
    assert asked == [1]


def leaves() -> list[Ref]:
    raise SystemExit(3)


def asserts() -> list[Ref]:
    raise AssertionError("never")


def breaks_half_way() -> Iterator[Ref]:
    yield Ref("A", "acme:A")
    raise ZeroDivisionError("half way")


def returns_classes() -> list[Any]:
    return [Host]


@pytest.mark.parametrize(
    ("hook", "cause"),
    [
        (leaves, "SystemExit: 3"),
        (asserts, "AssertionError: never"),
        (breaks_half_way, "ZeroDivisionError: half way"),
        (returns_classes, "which is no Ref"),
    ],
)
def test_a_hook_that_misbehaves_is_recorded_and_the_others_go_on(hook: Any, cause: str) -> None:
    host = Host()
    host.register("bad", SimpleNamespace(flux_operators=hookimpl(hook)))
    host.register("good", offering("flux_operators", "A"))
    assert [o.provider for o in host.operators()] == ["good"]
    assert [(f.provider, f.hook) for f in host.faults] == [("bad", "flux_operators")]
    assert cause in host.faults[0].message


def test_strict_host_raises_the_first_fault() -> None:
    host = Host(strict=True)
    host.register("bad", SimpleNamespace(flux_operators=hookimpl(leaves)))
    with pytest.raises(PluginError, match=r"'bad'.*SystemExit"):
        host.operators()


def test_misspelt_hook_is_refused_and_nothing_stays_registered() -> None:
    host = Host()
    with pytest.raises(PluginError, match=r"flux_operator'.*flux_operators"):
        host.register("acme", offering("flux_operator", "A"))
    host.register("acme", offering("flux_operators", "A"))
    assert host.providers == ("acme",)


def test_argument_the_hook_does_not_give_is_refused_and_nothing_stays_registered() -> None:
    host = Host()
    with pytest.raises(PluginError, match="colour"):
        host.register("acme", provider(flux_operators=lambda colour: []))
    assert host.providers == ()
    assert host.operators() == ()


def test_second_provider_of_a_name_is_refused() -> None:
    host = Host()
    host.register("acme", offering("flux_operators", "A"))
    with pytest.raises(PluginError, match="already registered"):
        host.register("acme", offering("flux_sensors", "S"))


def test_unmarked_functions_and_properties_are_left_alone() -> None:
    touched: list[str] = []

    class Manifest:
        @property
        def lazy(self) -> str:
            touched.append("lazy")
            return ""

        def flux_operators(self) -> list[Ref]:
            return [Ref("A", "acme:A")]

    host = Host()
    host.register("acme", Manifest())
    assert host.operators() == ()
    assert touched == []


def test_methods_of_an_object_can_be_hooks() -> None:
    class Manifest:
        @hookimpl
        def flux_operators(self) -> list[Ref]:
            return [Ref("A", "acme:A")]

    host = Host()
    host.register("acme", Manifest())
    assert [o.ref.name for o in host.operators()] == ["A"]


def test_operators_of_one_name_are_told_apart_by_provider() -> None:
    host = Host()
    host.register("one", offering("flux_operators", "Load"))
    host.register("two", offering("flux_operators", "Load"))
    assert [o.provider for o in host.find("Load")] == ["one", "two"]
    assert [o.provider for o in host.find("two.Load")] == ["two"]
    assert host.find("Unload") == ()


def test_executor_is_loaded_by_name() -> None:
    host = Host()
    host.register("acme", provider(flux_executors=lambda: [Ref("far", "flux.executors.local:LocalExecutor")]))
    assert host.executor("far").__name__ == "LocalExecutor"
    with pytest.raises(NotFound, match=r"'fra'.*far"):
        host.executor("fra")


def test_executor_two_providers_offer_is_refused_naming_both() -> None:
    host = Host()
    host.register("one", offering("flux_executors", "far"))
    host.register("two", offering("flux_executors", "far"))
    with pytest.raises(PluginError, match="one and two"):
        host.executor("far")


def test_core_keeps_its_own_executor() -> None:
    host = Host()
    host.register(CORE, provider(flux_executors=lambda: [Ref("local", "flux.executors.local:LocalExecutor")]))
    host.register("acme", offering("flux_executors", "local"))
    assert host.executor("local").__module__ == "flux.executors.local"


def test_macros_are_kept_apart_by_provider() -> None:
    host = Host()
    host.register("one", offering("flux_macros", "latest"))
    host.register("two", offering("flux_macros", "latest"))
    assert {provider: sorted(names) for provider, names in host.macros().items()} == {
        "one": ["latest"],
        "two": ["latest"],
    }


def test_connection_type_is_found_by_name_and_a_clash_is_refused() -> None:
    host = Host()
    host.register("one", provider(flux_connection_types=lambda: [kind("acme"), kind("both")]))
    host.register("two", provider(flux_connection_types=lambda: [kind("both")]))
    assert host.connection_type("acme").name == "acme"
    with pytest.raises(PluginError, match="one and two"):
        host.connection_type("both")
    with pytest.raises(NotFound, match="acme"):
        host.connection_type("acm")

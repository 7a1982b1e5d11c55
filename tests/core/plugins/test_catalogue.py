"""The catalogue: what good providers offer, found by name; and the file that keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flux.errors import NotFound, PluginError
from flux.plugins import ConnectionType, Field, Ref
from flux.plugins.catalogue import CORE, Catalogue
from flux.plugins.verdict import ProviderState, Verdict


def good(name: str, **offers: Any) -> Verdict:
    return Verdict(name, f"flux-provider-{name}", "0.3", ProviderState.OK, module=f"flux_provider_{name}", **offers)


def refs(*names: str, path: str = "acme:Thing") -> tuple[Ref, ...]:
    return tuple(Ref(name, path) for name in names)


def kind(name: str) -> ConnectionType:
    return ConnectionType(name, client=Ref("Client", "acme:Client"), fields=("host", Field("realm", secret=True)))


def test_only_good_providers_offer() -> None:
    bad = Verdict("bad", None, None, ProviderState.BROKEN, "It is broken.", operators=refs("B"))
    catalogue = Catalogue([good("one", operators=refs("A")), bad])
    assert [(offer.provider, offer.ref.name) for offer in catalogue.operators()] == [("one", "A")]
    assert [verdict.name for verdict in catalogue.verdicts] == ["one", "bad"]


def test_operators_of_one_name_are_told_apart_by_provider() -> None:
    catalogue = Catalogue([good("one", operators=refs("Load")), good("two", sensors=refs("Load"))])
    assert [offer.provider for offer in catalogue.find("Load")] == ["one", "two"]
    assert [offer.provider for offer in catalogue.find("two.Load")] == ["two"]
    assert catalogue.find("Unload") == ()


def test_executor_is_loaded_by_name() -> None:
    catalogue = Catalogue([good("acme", executors=refs("far", path="flux.executors.local:LocalExecutor"))])
    assert catalogue.executor("far").__name__ == "LocalExecutor"
    with pytest.raises(NotFound, match=r"'fra'.*far"):
        catalogue.executor("fra")


def test_executor_two_providers_offer_is_refused_naming_both() -> None:
    catalogue = Catalogue([good("one", executors=refs("far")), good("two", executors=refs("far"))])
    with pytest.raises(PluginError, match="one and two"):
        catalogue.executor("far")


def test_core_keeps_its_own_executor() -> None:
    core = good(CORE, executors=refs("local", path="flux.executors.local:LocalExecutor"))
    catalogue = Catalogue([core, good("acme", executors=refs("local"))])
    assert catalogue.executor("local").__module__ == "flux.executors.local"


def test_macros_are_kept_apart_by_provider() -> None:
    catalogue = Catalogue([good("one", macros=refs("latest")), good("two", macros=refs("latest")), good("three")])
    assert {name: list(macros) for name, macros in catalogue.macros().items()} == {"one": ["latest"], "two": ["latest"]}


def test_connection_type_is_found_by_name_and_a_clash_is_refused() -> None:
    one = good("one", connection_types=(kind("acme"), kind("both")))
    catalogue = Catalogue([one, good("two", connection_types=(kind("both"),))])
    assert catalogue.connection_type("acme").name == "acme"
    with pytest.raises(PluginError, match="one and two"):
        catalogue.connection_type("both")
    with pytest.raises(NotFound, match="acme"):
        catalogue.connection_type("acm")


def test_listeners_are_the_good_providers_with_the_hook() -> None:
    hook = "flux_task_state_changed"
    bad = Verdict("bad", None, None, ProviderState.DISABLED, "Off.", hooks=(hook,))
    catalogue = Catalogue([good("one", hooks=(hook,)), good("two"), bad])
    assert [verdict.name for verdict in catalogue.listeners(hook)] == ["one"]


def test_a_provider_is_found_by_name() -> None:
    catalogue = Catalogue([good("hive"), good("mysql")])
    assert catalogue.provider("mysql").distribution == "flux-provider-mysql"
    with pytest.raises(NotFound, match=r"'hvie'.*hive"):
        catalogue.provider("hvie")


def test_a_kept_catalogue_is_read_as_it_was(tmp_path: Path) -> None:
    verdict = good(
        "acme",
        hooks=("flux_operators",),
        operators=(Ref("MoveOperator", "acme:MoveOperator", summary="Move.", source="mysql", target="hive"),),
        connection_types=(ConnectionType("acme", client=Ref("C", "a:C"), fields=("host", Field("f", default="x"))),),
        notes=("A note.",),
    )
    broken = Verdict("bad", "bad", None, ProviderState.BROKEN, "It is broken.")
    Catalogue([verdict, broken], ["A warning."]).write(tmp_path / "providers.json")
    read = Catalogue.read(tmp_path / "providers.json")
    assert read is not None
    assert read.verdicts == (verdict, broken)
    assert read.warnings == ("A warning.",)
    assert [path.name for path in tmp_path.iterdir()] == ["providers.json"]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "{}",
        '{"format": 0, "verdicts": [], "warnings": []}',
        '{"format": 1, "verdicts": [{}], "warnings": []}',
    ],
)
def test_a_file_of_another_version_is_no_catalogue(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "providers.json").write_text(text)
    assert Catalogue.read(tmp_path / "providers.json") is None

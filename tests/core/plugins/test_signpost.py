"""The ImportError of a name that is not in `flux.operators`: it says where the name is."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import flux
import flux.operators
import flux.sensors
from flux.plugins import Ref, signpost, well_known
from flux.plugins.catalogue import Catalogue
from flux.plugins.verdict import ProviderState, Verdict
from tests.installed import install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, first on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Path]:
    """The file of a saved catalogue with two providers, known to this process."""
    file = tmp_path / "providers.json"
    good = Verdict(
        "acme", "flux-provider-acme", "0.3", ProviderState.OK, operators=(Ref("AcmeOperator", "acme.ops:TheOperator"),)
    )
    bad = Verdict("pig", "flux-provider-pig", "0.3", ProviderState.BROKEN, "It is broken.", module="flux_provider_pig")
    Catalogue([good, bad]).write(file)
    signpost.use(file)
    yield file
    signpost.use(None)


def told(kind: str, name: str) -> str:
    with pytest.raises(ImportError) as caught:
        getattr(importlib.import_module(f"flux.{kind}"), name)
    assert caught.value.name == name
    return str(caught.value)


def test_a_provider_of_the_catalogue_is_named_with_the_import_that_works(catalogue: Path) -> None:
    expected = "AcmeOperator is in provider 'acme': use `from acme.ops import TheOperator`."
    assert told("operators", "AcmeOperator") == expected


def test_a_name_that_core_has_elsewhere_is_found_there() -> None:
    assert (
        told("operators", "FileSensor") == "FileSensor is in flux.sensors: use `from flux.sensors import FileSensor`."
    )


@pytest.mark.parametrize(
    ("name", "place"), [("BashOperator", "flux.operators import BashOperator"), ("PigOperator", "flux_provider_pig")]
)
def test_an_operator_is_looked_for_in_flux_itself_too(name: str, place: str) -> None:
    with pytest.raises(ImportError, match=place):
        getattr(flux, name)


def test_an_installed_provider_is_found_by_the_text_of_its_modules(site: Path) -> None:
    """Without a catalogue, and without importing it: the package would end this process."""
    modules = {"sensors.py": "class AcmeSensor(Base):\n    ...\n", "__init__.py": "raise SystemExit\n"}
    install(site, "acme", modules=modules)
    place = "use `from flux_provider_acme.sensors import AcmeSensor`."
    assert told("sensors", "AcmeSensor") == f"AcmeSensor is in provider 'acme' (flux-provider-acme 0.3): {place}"


def test_a_provider_that_is_not_ok_is_named_with_its_reason(site: Path, catalogue: Path) -> None:
    install(site, "pig", modules={"operators.py": "class PigOperator: ...\n"})
    assert "which is broken: It is broken." in told("operators", "PigOperator")


def test_the_one_file_provider_is_looked_into(site: Path) -> None:
    (site / "flux_provider.py").write_text("class StampOperator: ...\n")
    importlib.invalidate_caches()
    assert "use `from flux_provider import StampOperator`" in told("operators", "StampOperator")


@pytest.mark.parametrize(
    ("kind", "name", "module"),
    [
        ("operators", "HiveOperator", "flux_provider_hive.operators"),
        ("operators", "HiveToMySqlOperator", "flux_provider_hive.transfers"),
        ("sensors", "SqlSensor", "flux_provider_sql.sensors"),
    ],
)
def test_a_well_known_name_says_what_to_install(kind: str, name: str, module: str) -> None:
    package = module.partition(".")[0].replace("_", "-")
    text = told(kind, name)
    assert f"pip install {package}" in text
    assert f"`from {module} import {name}`" in text


def test_a_well_known_name_of_an_installed_provider_is_not_to_be_installed(site: Path) -> None:
    install(site, "hive")
    text = told("operators", "HiveOperator")
    assert "pip install" not in text
    assert "from flux_provider_hive.operators import HiveOperator" in text


def test_an_unknown_name_lists_near_ones_of_core_and_of_the_catalogue(catalogue: Path) -> None:
    assert "BashOperator" in told("operators", "BashOperater")
    assert "AcmeOperator" in told("operators", "AcmeOperater")
    assert "`flux provider search AcmeOperater`" in told("operators", "AcmeOperater")


def test_the_import_statement_shows_the_text() -> None:
    with pytest.raises(ImportError, match="pip install flux-provider-pig"):
        from flux.operators import PigOperator  # noqa: F401


@pytest.mark.parametrize("module", [flux.operators, flux.sensors])
@pytest.mark.parametrize("name", ["__wrapped__", "_private", "bash_", "nothing"])
def test_what_tools_look_for_is_simply_absent(module: object, name: str) -> None:
    assert not hasattr(module, name)


def test_a_submodule_can_be_imported_from_the_package() -> None:
    from flux.operators import bash
    from flux.sensors import time

    assert (bash.__name__, time.__name__) == ("flux.operators.bash", "flux.sensors.time")


def test_well_known_names_are_in_one_place_each() -> None:
    names = [name for modules in well_known.WELL_KNOWN.values() for each in modules.values() for name in each]
    assert len(names) == len(set(names))
    assert well_known.where("PigOperator") == ("pig", "flux_provider_pig.operators")
    assert well_known.where("BashOperator") is None
    assert well_known.distribution("hive") == "flux-provider-hive"
    assert well_known.distribution("acme") is None

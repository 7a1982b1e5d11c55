"""`flux provider list`, `show`, `search`: what providers offer, and what is wrong with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.cli.conftest import Cli
from tests.installed import install, manifest

pytestmark = pytest.mark.slow

KEYS = ["name", "distribution", "version", "state", "reason"]
KINDS = ["operators", "sensors", "executors", "macros", "connection_types"]
MOON = manifest(
    operators='[Ref("MoonOperator", "flux_provider_moon.operators:MoonOperator", summary="Land on the moon."), '
    'Ref("MoonToEarthOperator", "flux_provider_moon.transfers:M", source="moon", target="earth")]',
    sensors='[Ref("MoonSensor", "flux_provider_moon.sensors:MoonSensor", summary="Wait for the full moon.")]',
    executors='[Ref("lunar", "flux_provider_moon.executor:Lunar")]',
    macros='[Ref("phase", "flux_provider_moon.macros:phase")]',
    connection_types='[ConnectionType("moon", client=Ref("Moon", "flux_provider_moon.client:Moon"), '
    'fields=("host", "password", Field("crater", required=True, help="Where.")), default_port=11)]',
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path, for providers."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_list_has_core_first_and_every_key(bare: Cli) -> None:
    first = bare.ok("provider", "list", "--json").json[0]
    assert list(first) == KEYS + KINDS
    assert (first["name"], first["distribution"], first["state"]) == ("core", "flux-core", "ok")
    assert "BashOperator" in first["operators"]
    assert "FileSensor" in first["sensors"]
    assert (first["executors"], first["connection_types"]) == (["local", "sequential"], [])
    assert "ds_add" in first["macros"]


def test_list_names_everything_a_provider_offers(bare: Cli, site: Path) -> None:
    install(site, "moon", MOON)
    row = bare.ok("provider", "list", "--json").json[1]
    assert [row[key] for key in KEYS] == ["moon", "flux-provider-moon", "0.3", "ok", None]
    assert [row[key] for key in KINDS] == [
        ["MoonOperator", "MoonToEarthOperator"],
        ["MoonSensor"],
        ["lunar"],
        ["phase"],
        ["moon"],
    ]
    shown = bare.ok("provider", "list").out
    assert "2 operators, 1 sensor, 1 executor, 1 macro, 1 connection type" in shown


def test_list_goes_on_when_everything_is_broken(bare: Cli, site: Path) -> None:
    """Its JSON is clean, whatever a manifest prints; what is wrong is on stderr, a line each."""
    install(site, "torn", "print('hello')\nimport no_such_library\n")
    install(site, "gone", "raise SystemExit('bye')\n")
    install(site, "scrap", distribution="scrap-metal", entry_points=b"[flux.providers\n")
    done = bare.ok("provider", "list", "--json")
    assert {row["name"]: row["state"] for row in done.json} == {
        "core": "ok",
        "gone": "broken",
        "scrap-metal": "broken",
        "torn": "broken",
    }
    assert all(row["operators"] == [] for row in done.json[1:])
    lines = done.err.splitlines()
    assert [sum(name in line for line in lines) for name in ("'torn'", "'gone'", "'scrap-metal'")] == [1, 1, 1]
    assert "no_such_library" in done.err


def test_list_takes_the_one_file_provider_and_what_is_switched_off(
    cli: Cli, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "moon", MOON)
    cli.write(
        "flux_provider.py",
        "from flux.plugins import Ref, hookimpl\n@hookimpl\n"
        "def flux_operators(): return [Ref('StampOperator', 'flux_provider:StampOperator')]\n",
    )
    monkeypatch.setenv("FLUX_PROVIDERS_DISABLED", "moon,mon")
    done = cli.ok("provider", "list", "--json")
    assert [(row["name"], row["state"], row["operators"]) for row in done.json[1:]] == [
        ("moon", "disabled", []),
        ("local", "ok", ["StampOperator"]),
    ]
    assert "names 'mon'" in done.err
    assert "'moon' (" not in done.err, "what is switched off is no problem"


def test_show_says_how_each_thing_is_used(bare: Cli, site: Path) -> None:
    install(site, "moon", MOON)
    found = bare.ok("provider", "show", "moon", "--json").json
    assert found["operators"][0] == {
        "name": "MoonOperator",
        "summary": "Land on the moon.",
        "use": "from flux_provider_moon.operators import MoonOperator",
        "source": None,
        "target": None,
    }
    assert (found["operators"][1]["source"], found["operators"][1]["target"]) == ("moon", "earth")
    assert found["macros"][0]["use"] == "macros.moon.phase"
    assert found["executors"][0]["use"] == "FLUX_EXECUTOR=lunar"
    (kind,) = found["connection_types"]
    assert (kind["default_port"], [field["name"] for field in kind["fields"]]) == (
        11,
        ["host", "password", "crater", "port"],
    )
    assert [field["name"] for field in kind["fields"] if field["secret"]] == ["password"]
    assert [field["name"] for field in kind["fields"] if field["required"]] == ["crater"]
    shown = bare.ok("provider", "show", "moon").out
    for text in ("Wait for the full moon.", "flux connection add moon_default --type moon", "crater"):
        assert text in shown


def test_show_of_a_broken_provider_says_why(bare: Cli, site: Path) -> None:
    install(site, "torn", "import no_such_library\n")
    install(site, "gone", "raise SystemExit('bye')\n")
    done = bare.ok("provider", "show", "torn")
    assert "no_such_library" in done.out
    assert "gone" not in done.err, "of the others nothing is said"


def test_show_of_an_unknown_provider_names_near_ones(bare: Cli, site: Path) -> None:
    install(site, "moon", MOON)
    done = bare("provider", "show", "mon")
    assert (done.code, "Known: moon" in done.err) == (1, True)


@pytest.mark.parametrize("words", [["FULL"], ["moonsens"], ["moon", "wait"]])
def test_search_looks_into_names_and_summaries_in_any_case(words: list[str], bare: Cli, site: Path) -> None:
    install(site, "moon", MOON)
    found = bare.ok("provider", "search", *words, "--json").json
    assert [(row["name"], row["kind"], row["provider"], row["install"]) for row in found] == [
        ("MoonSensor", "sensor", "moon", None)
    ]


def test_search_says_what_to_install_for_a_well_known_name(bare: Cli) -> None:
    done = bare.ok("provider", "search", "PigOperator")
    assert "pip install flux-provider-pig" in done.out
    (row,) = bare.ok("provider", "search", "PigOperator", "--json").json
    assert (row["install"], row["use"]) == (
        "flux-provider-pig",
        "from flux_provider_pig.operators import PigOperator",
    )


def test_search_does_not_say_to_install_what_is_there(bare: Cli, site: Path) -> None:
    install(site, "pig", manifest(operators='[Ref("PigOperator", "flux_provider_pig.operators:PigOperator")]'))
    assert [row["install"] for row in bare.ok("provider", "search", "pigop", "--json").json] == [None]


def test_search_for_what_a_broken_provider_has_says_that_it_is_broken(bare: Cli, site: Path) -> None:
    install(site, "pig", "import no_such_library\n")
    done = bare.ok("provider", "search", "PigOperator")
    assert ("pip install" in done.out, "no_such_library" in done.err) == (False, True)


def test_search_without_a_hit_is_an_empty_list(bare: Cli) -> None:
    assert bare.ok("provider", "search", "quark", "--json").json == []
    assert "quark" in bare.ok("provider", "search", "quark").err


@pytest.mark.parametrize("arguments", [["list", "--json"], ["show", "moon"], ["search", "moon"]], ids=" ".join)
def test_lists_import_nothing_of_a_provider(arguments: list[str], tmp_path: Path) -> None:
    install(tmp_path, "moon", MOON)
    code = (
        "import sys; from flux.cli.main import main; code = main(sys.argv[1:]);"
        "bad = {'sqlalchemy', 'jinja2', 'pluggy', 'stevedore', 'flux.store', 'flux_provider_moon'};"
        "print(sorted(bad & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    argv = [sys.executable, "-c", code, "provider", *arguments]
    environ = {**os.environ, "FLUX_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, env=environ)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]")
    assert "moon" in done.stdout

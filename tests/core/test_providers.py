"""Finding providers: what configuration chooses, what it insists on, and what others are told."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from flux import config, providers
from flux.config import Config
from flux.errors import PluginError
from flux.plugins.catalogue import Catalogue
from flux.plugins.verdict import ProviderState, Verdict
from tests.bad_providers import CLASHING, GOOD
from tests.installed import HEAD, install, manifest, operators

#: A manifest that nobody may import.
LANDMINE = "import os\nos._exit(3)\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, first on the path."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def options(site: Path, **values: str) -> Config:
    """The configuration of a home beside the site, with these options."""
    home = site.parent / "home"
    (home / "dags").mkdir(parents=True, exist_ok=True)
    (home / "run").mkdir(exist_ok=True)
    return config.load({f"FLUX_{name.upper()}": value for name, value in values.items()}, home=home)


def found(site: Path, **values: str) -> Catalogue:
    """What is found leniently, with a limit for a busy machine."""
    return providers.find(options(site, **values), lenient=True, limit_seconds=10)


def states(catalogue: Catalogue) -> dict[str, str]:
    return {verdict.name: verdict.state.value for verdict in catalogue.verdicts if verdict.name != "core"}


def test_core_alone_needs_no_judging_process(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert [verdict.name for verdict in found(site).verdicts] == ["core"]


@pytest.mark.slow
def test_the_order_is_core_then_by_name_then_plugins_then_the_one_file_provider(site: Path) -> None:
    for name in ("zeta", "alpha"):
        install(site, name)
    install(site, "mid", entry_points="[flux.providers]\nbroken line\n")
    (site / "second_plugin.py").write_text(operators("SecondOperator"))
    (site / "first_plugin.py").write_text(operators("FirstOperator").replace("FLUX_API", "API"))
    dags = options(site).dags_folder
    (dags / "flux_provider.py").write_text(operators("LocalOperator").replace("FLUX_API", "API"))
    catalogue = found(site, plugins="second_plugin,first_plugin,second_plugin")
    assert [(verdict.name, verdict.state.value) for verdict in catalogue.verdicts] == [
        ("core", "ok"),
        ("alpha", "ok"),
        ("flux-provider-mid", "broken"),
        ("zeta", "ok"),
        ("second_plugin", "ok"),
        ("first_plugin", "ok"),
        ("local", "ok"),
    ]
    assert [offer.provider for offer in catalogue.find("LocalOperator")] == ["local"]


@pytest.mark.slow
def test_a_plugin_module_may_be_in_the_dags_folder(site: Path) -> None:
    (options(site).dags_folder / "team_hooks.py").write_text(operators("TeamOperator"))
    assert states(found(site, plugins="team_hooks")) == {"team_hooks": "ok"}
    assert states(found(site, plugins="no_such_module")) == {"no_such_module": "broken"}


@pytest.mark.slow
def test_a_provider_that_is_switched_off_is_not_imported(site: Path) -> None:
    install(site, "mine", LANDMINE)
    install(site, "good", GOOD)
    catalogue = found(site, providers_disabled="mine")
    assert states(catalogue) == {"good": "ok", "mine": "disabled"}
    assert "FLUX_PROVIDERS_DISABLED" in str(catalogue.provider("mine").reason)
    catalogue = found(site, providers_only="good")
    assert states(catalogue) == {"good": "ok", "mine": "disabled"}
    assert "providers_only" in str(catalogue.provider("mine").reason)


def test_everything_can_be_switched_off_the_one_file_provider_too(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    install(site, "mine", LANDMINE)
    dags = options(site).dags_folder
    (dags / "flux_provider.py").write_text(LANDMINE)
    assert states(found(site, providers_only="core")) == {"mine": "disabled", "local": "disabled"}


@pytest.mark.parametrize("name", ["a b", "--json", "ä", "a\x1b[31m", "x" * 101])
def test_a_name_that_nobody_can_write_is_refused_before_an_import(
    name: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    install(site, "acme", LANDMINE, entry_points=f"[flux.providers]\n{name} = flux_provider_acme.provider\n")
    assert "Its author has to choose" in str(found(site).provider(name).reason)


def test_what_is_no_module_is_refused_as_a_plugin(site: Path) -> None:
    assert "Option plugins names it" in str(found(site, plugins="acme:hooks").provider("acme:hooks").reason)


def test_a_name_that_one_distribution_gives_twice_is_its_authors_to_mend(site: Path) -> None:
    lines = "acme = flux_provider_acme.provider\nacme = flux_provider_acme.other\n"
    install(site, "acme", LANDMINE, entry_points=f"[flux.providers]\n{lines}")
    assert "flux-provider-acme 0.3 gives the name 'acme' twice" in str(found(site).provider("acme").reason)


def test_two_distributions_of_one_name_are_not_imported(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    for distribution in ("acme-one", "acme-two"):
        install(site, "acme", LANDMINE, distribution=distribution)
    reasons = {each.distribution: str(each.reason) for each in found(site).verdicts if each.name == "acme"}
    assert "acme-two 0.3" in reasons["acme-one"]
    assert "acme-one 0.3" in reasons["acme-two"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CLASHING)
def test_a_clash_with_core_is_a_conflict(case: str, site: Path) -> None:
    text, says, state = CLASHING[case]
    install(site, "bad", text)
    bad = found(site).provider("bad")
    assert bad.state == state
    assert str(says) in str(bad.reason)


# --- what configuration insists on ---


@pytest.mark.slow
def test_a_required_provider_that_is_broken_or_missing_is_an_error(site: Path) -> None:
    install(site, "bad", "import no_such_library\n")
    install(site, "good", GOOD)
    with pytest.raises(
        PluginError, match=r"'hive' is required .*FLUX_PROVIDERS_REQUIRED.*pip install flux-provider-hive"
    ):
        providers.find(options(site, providers_required="good,hive"), limit_seconds=10)
    with pytest.raises(PluginError, match=r"'bad' \(flux-provider-bad 0\.3\) is broken: .*no_such_library.*required"):
        providers.find(options(site, providers_required="bad"), limit_seconds=10)
    assert states(providers.find(options(site, providers_required="good"), limit_seconds=10))["good"] == "ok"


@pytest.mark.slow
def test_strict_refuses_the_first_problem_but_not_what_is_switched_off(site: Path) -> None:
    install(site, "bad", "import no_such_library\n")
    assert states(providers.find(options(site), limit_seconds=10)) == {"bad": "broken"}
    with pytest.raises(PluginError, match=r"'bad'.*strict"):
        providers.find(options(site, strict="yes"), limit_seconds=10)
    assert states(providers.find(options(site, strict="yes", providers_disabled="bad"))) == {"bad": "disabled"}


def test_names_that_no_provider_has_are_warned_of(site: Path) -> None:
    catalogue = providers.find(options(site, providers_disabled="hvie,core", providers_only="core"))
    assert len(catalogue.warnings) == 2
    assert "cannot be switched off" in catalogue.warnings[0]
    assert "'hvie' (from FLUX_PROVIDERS_DISABLED), which is no provider" in catalogue.warnings[1]


# --- what others are told ---


def verdict(name: str, state: ProviderState = ProviderState.OK, **more: object) -> Verdict:
    reason = None if state is ProviderState.OK else "It is so."
    fields = {"module": f"flux_provider_{name}.provider", "reason": reason, **more}
    return Verdict(name, f"flux-provider-{name}", "0.3", state, **fields)  # type: ignore[arg-type]


def test_rules_name_what_must_not_be_imported_and_who_has_a_policy(site: Path) -> None:
    catalogue = Catalogue(
        [
            verdict("core", module="flux.builtin"),
            verdict("off", ProviderState.DISABLED),
            verdict("pig", ProviderState.BROKEN),
            verdict("house", hooks=("flux_task_policy",)),
            verdict("half", ProviderState.BROKEN, module="flux_provider_house.other"),
            Verdict("plugin", None, None, ProviderState.BROKEN, "It is so.", module="sales.plugin"),
            Verdict("garbage", "garbage", None, ProviderState.BROKEN, "Unreadable."),
        ]
    )
    rules = providers.rules(catalogue, options(site))
    assert set(rules["refused"]) == {
        "flux_provider_off",
        "flux_provider_pig",
        "flux_provider_house.other",
        "sales.plugin",
    }
    assert rules["refused"]["flux_provider_pig"] == "Provider 'pig' (flux-provider-pig 0.3) is broken: It is so."
    assert rules["policies"] == [["house", "flux_provider_house.provider", "0.3"]]
    assert rules["file"] == str(options(site).run_folder / "providers.json")


@pytest.mark.parametrize("module", ["flux", "flux.operators", "email"])
def test_a_bad_entry_point_takes_no_module_of_python_or_flux_from_dag_files(module: str, site: Path) -> None:
    catalogue = Catalogue([verdict("bad", ProviderState.BROKEN, module=module)])
    assert providers.rules(catalogue, options(site))["refused"] == {}


def test_of_a_large_package_only_the_part_around_the_manifest_is_refused(site: Path) -> None:
    catalogue = Catalogue([verdict("off", ProviderState.DISABLED, module="company.pipelines.provider")])
    assert list(providers.rules(catalogue, options(site))["refused"]) == ["company.pipelines"]


@pytest.mark.slow
def test_a_saved_catalogue_is_what_was_found(site: Path) -> None:
    install(site, "acme", manifest(operators='[Ref("A", "a:A", summary="Do.")]'))
    install(site, "bad", f"{HEAD}1 / 0\n")
    where = options(site)
    assert providers.saved(where) is None
    catalogue = found(site)
    providers.save(catalogue, where)
    saved = providers.saved(where)
    assert saved is not None
    assert saved.verdicts == catalogue.verdicts


def test_each_problem_is_logged_once_in_a_process(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalogue = Catalogue(
        [
            verdict("pig", ProviderState.BROKEN),
            verdict("off", ProviderState.DISABLED),
            verdict("hive", notes=("Odd.",)),
        ],
        ["Option providers_only names 'hvie'."],
    )
    with caplog.at_level(logging.WARNING):
        said = providers.report(catalogue)
        assert providers.report(catalogue) == []
    assert said == [
        "Option providers_only names 'hvie'.",
        "Provider 'pig' (flux-provider-pig 0.3) is broken: It is so.",
        "Provider 'hive': Odd.",
    ]
    assert [record.getMessage() for record in caplog.records] == said

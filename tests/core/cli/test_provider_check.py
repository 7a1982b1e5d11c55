"""`flux provider check`: everything that a provider offers is loaded, and what is wrong is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.core.cli.conftest import Cli
from tests.installed import install, manifest, operators

pytestmark = pytest.mark.slow

GOOD = "from flux import BaseOperator\nclass {name}(BaseOperator):\n    def execute(self, context): ...\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path, for providers."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def good(site: Path, name: str) -> None:
    install(site, name, modules={"operators.py": GOOD.format(name=f"{name.title()}Operator")})


def test_all_good_is_exit_code_0(bare: Cli, site: Path) -> None:
    good(site, "moon")
    found = bare.ok("provider", "check", "--json").json
    assert [(each["name"], each["state"], each["problems"]) for each in found] == [
        ("core", "ok", []),
        ("moon", "ok", []),
    ]
    assert "moon: ok" in bare.ok("provider", "check", "moon").out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no attribute 'MoonOperator'"),
        ("class MoonOperator: ...\n", "is no BaseOperator"),
        ("MoonOperator = print\n", "is no class"),
        ("import moon_library\n", "No module named 'moon_library'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import os\nprint('crash landing', flush=True)\nos._exit(7)\n", "exit status 7. Its last output: 'crash land"),
        ("from flux import BaseSensor\nclass MoonOperator(BaseSensor):\n    def poke(self, c): ...\n", "is a sensor"),
        ("from flux import BaseOperator\nclass MoonOperator(BaseOperator): ...\n", "does not define execute()"),
        ("from flux.operators import EmptyOperator as MoonOperator\n", "is called EmptyOperator"),
    ],
)
def test_what_does_not_load_as_what_it_is_offered_as_is_named(text: str, words: str, bare: Cli, site: Path) -> None:
    """And only here: the list, which loads nothing, has it as ok. The others are checked all the same."""
    install(site, "moon", modules={"operators.py": text})
    good(site, "star")
    done = bare("provider", "check", "--json")
    found = {each["name"]: each["problems"] for each in done.json}
    assert done.code == 1
    assert [words in problem for problem in found["moon"]] == [True]
    assert found["star"] == found["core"] == []
    assert [row["state"] for row in bare.ok("provider", "list", "--json").json] == ["ok"] * 3


def test_a_module_that_hangs_is_ended(bare: Cli, site: Path) -> None:
    install(site, "moon", modules={"operators.py": "while True: ...\n"})
    done = bare("provider", "check", "moon", "--timeout", "0.5")
    assert (done.code, done.out.splitlines()[0]) == (1, "moon: not ok")
    assert "took longer than 0.5 s" in done.out


@pytest.mark.parametrize("command", ["check", "docs"])
@pytest.mark.parametrize("seconds", ["0", "3601", "nan"])
def test_a_timeout_out_of_its_range_is_wrong_usage(bare: Cli, command: str, seconds: str) -> None:
    done = bare("provider", command, "core", "--timeout", seconds)
    assert (done.code, "--timeout" in done.err) == (2, True), done


def test_a_name_that_is_there_twice_fails(bare: Cli, site: Path) -> None:
    for name in ("moon", "star"):
        package = f"flux_provider_{name}"
        install(
            site,
            name,
            operators("SameOperator", package=package),
            modules={"operators.py": GOOD.format(name="SameOperator")},
        )
    done = bare("provider", "check", "--json")
    assert done.code == 1
    assert [len(each["problems"]) for each in done.json] == [0, 1, 1]
    assert "also offered by star" in done.json[1]["problems"][0]


def test_a_client_needs_check_and_close(bare: Cli, site: Path) -> None:
    kind = '[ConnectionType("moon", client=Ref("Moon", "flux_provider_moon.client:Moon"))]'
    client = "class Moon:\n    def check(self): ...\n"
    install(site, "moon", manifest(connection_types=kind), modules={"client.py": client})
    assert "has no method close()" in bare("provider", "check", "moon").out


def test_a_broken_provider_fails_with_its_reason(bare: Cli, site: Path) -> None:
    install(site, "moon", "import no_such_library\n")
    good(site, "star")
    done = bare("provider", "check")
    assert (done.code, "no_such_library" in done.out, "star: ok" in done.out) == (1, True, True)
    assert bare("provider", "check", "star").code == 0


def test_what_is_switched_off_counts_only_by_name(bare: Cli, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "moon", "import no_such_library\n")
    monkeypatch.setenv("FLUX_PROVIDERS_DISABLED", "moon")
    assert bare("provider", "check").code == 0
    assert bare("provider", "check", "moon").code == 1


def test_what_configuration_asks_for_in_vain_fails(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_PROVIDERS_REQUIRED", "hive")
    monkeypatch.setenv("FLUX_PROVIDERS_DISABLED", "pog")
    done = bare("provider", "check", "--json")
    (row,) = [each for each in done.json if each["name"] == "configuration"]
    assert done.code == 1
    assert ["'pog'" in row["problems"][0], "'hive' is required" in row["problems"][1]] == [True, True]


def test_a_command_that_cannot_be_reached_fails(bare: Cli, site: Path) -> None:
    lines = "[flux.providers]\nmoon = flux_provider_moon.provider\n[flux.commands]\ndag = nowhere:command\n"
    install(site, "moon", manifest(operators="[]"), entry_points=lines)
    done = bare("provider", "check")
    assert (done.code, "`flux dag` is Flux's own" in done.out) == (1, True)


def test_without_a_process_nothing_is_good_and_nothing_is_raised(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    done = bare("provider", "check")
    assert (done.code, "no process can be started" in done.out) == (1, True)


def test_drivers_that_cannot_be_loaded_fail(bare: Cli, site: Path) -> None:
    lines = "[flux.commands]\ngo = nowhere:command\n[flux.secrets_backends]\nvault = flux_provider_moon.vault:Vault\n"
    vault = {"vault.py": "import sys\nsys.exit(3)\n", "logs.py": "class Logs: ...\n"}
    lines += "[flux.log_handlers]\nlogs = flux_provider_moon.logs:Logs\n"
    install(site, "moon", entry_points=lines, modules=vault)
    done = bare("provider", "check", "--json")
    found = [problem for each in done.json if each["name"] == "flux-provider-moon" for problem in each["problems"]]
    assert done.code == 1
    assert [problem.partition(" (")[0] for problem in found] == [
        "Command 'go'", "Secrets backend 'vault'", "Log handler 'logs'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        ("[flux.commands]\ngo = {module}:go", "def go(): ...\n", "is no command of click"),
        ("[flux.log_handlers]\ngo = {module}:go", "go = 3\n", "is no class: 'flux_provider_moon.odd:go'"),
        (
            "[flux.secrets_backends]\ngo = {module}:Go",
            "class Go:\n    def variable(self, name): ...\n",
            "no method conn",
        ),
        ("[flux.migrations]\ngo = {module}", "", "are no package with a folder `versions`"),
    ],
)
def test_a_driver_that_is_none_of_its_namespace_is_named_with_its_file(
    line: str, text: str, words: str, bare: Cli, site: Path
) -> None:
    install(site, "moon", entry_points=line.format(module="flux_provider_moon.odd"), modules={"odd.py": text})
    done = bare("provider", "check", "--json")
    (problem,) = [problem for each in done.json for problem in each["problems"]]
    assert (done.code, words in problem, "'go' (flux-provider-moon 0.3)" in problem) == (1, True, True), problem
    assert str(site / "flux_provider_moon" / "odd.py") in problem


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("value", ["None", "'path'", "3", "[None]"])
def test_template_fields_that_are_no_list_of_texts_are_named_with_class_and_file(
    value: str, late: bool, bare: Cli, site: Path
) -> None:
    text = GOOD.format(name="MoonOperator")
    text += f"MoonOperator.template_fields = {value}\n" if late else f"    template_fields = {value}\n"
    install(site, "moon", modules={"operators.py": text})
    done = bare("provider", "check", "moon", "--json")
    ((problem,),) = [each["problems"] for each in done.json]
    file = site / "flux_provider_moon" / "operators.py"
    assert (done.code, f"MoonOperator in {file}: template_fields = " in problem) == (1, True), problem


def test_a_module_that_kills_its_parent_fails_alone(bare: Cli, site: Path) -> None:
    install(site, "moon", modules={"operators.py": "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(60)\n"})
    done = bare("provider", "check", "moon")
    assert (done.code, "ended the process: killed by SIGKILL" in done.out) == (1, True)


def test_an_unknown_name_is_refused(bare: Cli) -> None:
    done = bare("provider", "check", "moon")
    assert (done.code, "Provider 'moon' does not exist" in done.err) == (1, True)

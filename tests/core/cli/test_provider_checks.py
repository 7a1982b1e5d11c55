"""What `flux doctor` and `flux dag check` say about providers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flux.running import listeners
from flux.running.listeners import ListenerState
from tests.installed import HEAD, install

if TYPE_CHECKING:
    from tests.core.cli.conftest import Cli

pytestmark = pytest.mark.slow

POLICY = f"""{HEAD}from flux.plugins import PolicyViolation
@hookimpl
def flux_task_policy(task):
    raise PolicyViolation("Nothing is allowed here.")
"""
DAG_FILE = "from flux import DAG, task\nwith DAG('sales'):\n    @task\n    def t(): ...\n    t()\n"


def findings(cli: Cli) -> list[tuple[str, str]]:
    """(state, message) of what the doctor finds on providers."""
    rows = cli("doctor", "--json").json
    assert all(row["remedy"] for row in rows if row["check"] == "providers" and row["state"] != "ok")
    return [(row["state"], row["message"]) for row in rows if row["check"] == "providers"]


def test_the_doctor_names_bad_and_missing_providers(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    install(site, "bad", f"{HEAD}1 / 0\n")
    install(site, "off")
    monkeypatch.setenv("FLUX_PROVIDERS_DISABLED", "off,offf")
    monkeypatch.setenv("FLUX_PROVIDERS_REQUIRED", "hive")
    found = findings(cli)
    assert [state for state, _ in found] == ["error", "error", "warning"]
    missing, bad, odd = (message for _, message in found)
    assert "'hive' is required (by providers_required) and not installed" in missing
    assert "Provider 'bad' (flux-provider-bad 0.3) is broken" in bad
    assert "'offf'" in odd
    monkeypatch.setenv("FLUX_PROVIDERS_REQUIRED", "off")
    assert "Provider 'off' (flux-provider-off 0.3) is disabled" in findings(cli)[1][1]
    remedies = [row["remedy"] for row in cli("doctor", "--json").json]
    remedy = "Take it out of the option that switches it off, or out of providers_required: Flux does not start."
    assert remedy in remedies


def test_the_doctor_names_an_executor_that_nobody_offers(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_EXECUTOR", "slurm")
    (row,) = [row for row in cli("doctor", "--json").json if row["check"] == "executor"]
    assert row["state"] == "error"
    assert row["message"] == "Executor 'slurm', named by FLUX_EXECUTOR, does not exist: Flux does not start."


def test_the_doctor_is_content_with_good_providers_and_names_a_listener_that_is_off(cli: Cli) -> None:
    ((state, _),) = findings(cli)
    assert state == "ok"
    failing = ListenerState("acme", "", 5, True, "ValueError: no", "2026-01-05T00:00:00+00:00")
    listeners.publish(cli.home / "run", "system", [failing])
    ((state, message),) = findings(cli)
    assert (state, message) == ("warning", "Provider 'acme' is told of no changes any more: ValueError: no")


def test_checked_files_obey_the_one_file_provider_of_their_own_folder(cli: Cli, tmp_path: Path) -> None:
    """As in CI, where the folder is a checkout and there is no home."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sales.py").write_text(DAG_FILE)
    (tmp_path / "one" / "flux_provider.py").write_text(POLICY)
    paths = [str(tmp_path / name) for name in ("two", "one")]
    rows = cli("dag", "check", *paths, "--json").json
    assert [row["message"] for row in rows] == ["Task 't' is refused by provider 'local': Nothing is allowed here."]


def test_a_command_that_reads_files_without_a_system_obeys_policies(cli: Cli) -> None:
    cli.write("sales.py", DAG_FILE)
    cli.write("flux_provider.py", POLICY)
    rows = cli("dag", "errors", "--json").json
    assert [row["message"] for row in rows] == ["Task 't' is refused by provider 'local': Nothing is allowed here."]
    assert "Nothing is allowed here." in cli.process("dag", "test", "sales").err

"""Drivers: picked by name, made once, and fatal when they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux import config, drivers
from flux.errors import FluxError, NotFound, PluginError
from flux.running.components import without_secrets
from tests.installed import install

GOOD = """
import os

class Vault:
    def connection(self, conn_id):
        return f"mysql://{conn_id}"

    def variable(self, name):
        return None

class Half:
    def connection(self, conn_id):
        return None

class Raises:
    def __init__(self):
        self.address = os.environ["FLUX_NO_SUCH_VAULT"]

class Leaves:
    def __init__(self):
        raise SystemExit(3)

class Archive:
    def keep(self, log): ...
    def read(self, log):
        return b"kept"
"""
NAMES = "vault = {0}:Vault\nhalf = {0}:Half\nraises = {0}:Raises\nleaves = {0}:Leaves\ngone = {0}:Gone\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path with a distribution of drivers, under a module name of this test alone."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    module = f"drivers_of_{tmp_path.name}"
    text = f"[flux.secrets_backends]\n{NAMES.format(module + '.all')}a.b-c = {module}.all:Vault\n"
    text += f"[flux.log_handlers]\narchive = {module}.all:Archive\n{'long' * 8} = {module}.all:Archive\n"
    text += f"[flux.migrations]\nledger = {module}\n"
    install(folder, "acme", distribution=module, modules={"all.py": GOOD}, entry_points=text)
    return folder


def test_configured_drivers_are_made_in_their_order(site: Path, tmp_path: Path) -> None:
    environ = {"FLUX_SECRETS_BACKENDS": "a.b-c,vault", "FLUX_LOG_HANDLERS": "archive"}
    found = drivers.configured(config.load(environ, home=tmp_path / "home"))
    assert list(found.secrets_backends) == ["a.b-c", "vault"]
    assert found.secrets_backends["vault"].connection("x") == "mysql://x"
    log = drivers.KeptLog("d", "r", "t", None, 1, tmp_path)
    assert found.log_handlers["archive"].read(log) == b"kept"


def test_without_options_nothing_is_loaded(tmp_path: Path) -> None:
    assert drivers.configured(config.load({}, home=tmp_path / "home")) == drivers.Drivers()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("vualt", NotFound, "'vualt' does not exist. Known: vault"),
        ("gone", PluginError, "'gone' .*cannot be loaded"),
        ("half", PluginError, "'half' has no method variable"),
        ("raises", PluginError, "'raises' cannot be made: KeyError: 'FLUX_NO_SUCH_VAULT'.*option secrets_backends"),
        ("leaves", PluginError, "'leaves' cannot be made: SystemExit: 3"),
    ],
)
def test_a_driver_that_cannot_be_made_is_an_error_that_names_it(
    site: Path, name: str, error: type[FluxError], words: str
) -> None:
    with pytest.raises(error, match=words):
        drivers.secrets_backends([name])


def test_a_log_handler_whose_name_does_not_fit_the_store_is_refused(site: Path) -> None:
    with pytest.raises(PluginError, match="more than 28 characters"):
        drivers.log_handlers(["long" * 8])


def test_settings_of_installed_backends_are_known_by_their_prefix(site: Path) -> None:
    prefixes = drivers.settings_prefixes(drivers.SECRETS_BACKENDS)
    assert {"FLUX_VAULT_", "FLUX_A_B_C_"} <= set(prefixes)
    assert "FLUX_ARCHIVE_" not in prefixes


def test_migrations_without_scripts_are_refused(site: Path) -> None:
    with pytest.raises(PluginError, match=r"'ledger' .*no package with a folder `versions`"):
        drivers.migrations()
    package = next(path for path in site.iterdir() if path.is_dir() and not path.name.endswith("-info"))
    (package / "versions").mkdir()
    assert drivers.migrations() == {"ledger": package}


def test_settings_of_drivers_do_not_reach_processes_that_run_author_code(site: Path) -> None:
    environ = {
        "FLUX_VAULT_TOKEN": "x",
        "FLUX_A_B_C_TOKEN": "x",
        "FLUX_ARCHIVE_KEY": "x",
        "FLUX_PARALLELISM": "4",
        "FLUX_VAULTS": "kept",
    }
    assert without_secrets(environ) == {"FLUX_PARALLELISM": "4", "FLUX_VAULTS": "kept"}

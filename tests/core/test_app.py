"""The open object and the home folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flux import app, config, providers
from flux.app import Flux
from flux.errors import ConfigError, DatabaseTooOld, StoreError
from flux.plugins.catalogue import Catalogue
from flux.plugins.verdict import ProviderState, Verdict
from flux.store import announcing, variables


def test_init_makes_a_home_that_is_its_owners_alone(tmp_path: Path) -> None:
    options = config.load({}, home=tmp_path / "new" / "home")
    Flux.init(options)
    assert {item.name for item in options.home.iterdir()} >= {"flux.toml", "flux.db", "dags", "logs", "run"}
    assert options.home.stat().st_mode & 0o777 == 0o700
    assert options.run_folder.stat().st_mode & 0o777 == 0o700
    assert options.file.read_text() == config.template()


def test_init_is_safe_to_repeat(tmp_path: Path) -> None:
    options = config.load({}, home=tmp_path)
    with Flux.open(options, create=True) as flux:
        flux.store.write(lambda connection: variables.set(connection, "a", "1"))
    options.file.write_text("parallelism = 3")
    Flux.init(options)
    assert options.file.read_text() == "parallelism = 3"
    with Flux.open(options) as flux:
        assert flux.store.read(lambda connection: variables.get(connection, "a")) == "1"


def test_folders_of_other_names_are_made_too(tmp_path: Path) -> None:
    environ = {"FLUX_DAGS_FOLDER": str(tmp_path / "a" / "dags"), "FLUX_LOGS_FOLDER": str(tmp_path / "b")}
    Flux.init(config.load(environ, home=tmp_path / "home"))
    assert (tmp_path / "a" / "dags").is_dir()
    assert (tmp_path / "b").is_dir()


def test_opening_what_was_never_made_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="flux init"):
        Flux.open(config.load({}, home=tmp_path))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "flux.db").touch()
    with pytest.raises(DatabaseTooOld, match="flux db upgrade"):
        Flux.open(config.load({}, home=tmp_path))


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(ConfigError, match="FLUX_HOME"):
        Flux.init(config.load({}, home=tmp_path / "home"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="FLUX_HOME"):
        Flux.init(config.load({}, home=tmp_path))


def test_the_lock_of_the_one_supervisor_lies_beside_the_file(tmp_path: Path) -> None:
    options = config.load({}, home=tmp_path)
    assert app.lock_path(options) == tmp_path / "flux.db.supervisor.lock"
    server = config.load({"FLUX_DATABASE_URL": "postgresql://localhost/flux"}, home=tmp_path)
    assert app.lock_path(server) is None


def test_the_store_path_is_the_file(tmp_path: Path) -> None:
    with Flux.open(config.load({}, home=tmp_path), create=True) as flux:
        assert flux.store_path == flux.store.path == tmp_path / "flux.db"
        assert flux.config.home == tmp_path


def verdict(*hooks: str, state: ProviderState = ProviderState.OK) -> Verdict:
    return Verdict("acme", "flux-provider-acme", "1.0", state, hooks=hooks)


def test_a_process_that_is_no_supervisor_announces_what_the_last_judgement_says_at_each_write(tmp_path: Path) -> None:
    def wanted() -> list[str]:
        return flux.store.write(lambda c: [kind for kind in announcing.KINDS if announcing.is_wanted(c, kind)])

    with Flux.open(config.load({}, home=tmp_path), create=True) as flux:
        assert wanted() == []
        providers.save(Catalogue([verdict("flux_dag_run_state_changed")]), flux.config)
        assert wanted() == ["dag_run_state"]
        providers.save(Catalogue([verdict("flux_task_state_changed", "flux_operators")]), flux.config)
        assert wanted() == ["task_state"]
        providers.save(Catalogue([verdict("flux_task_state_changed", state=ProviderState.BROKEN)]), flux.config)
        assert wanted() == []

"""Options: where their values come from, and what is said of those that cannot be used."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from flux import config
from flux.errors import ConfigError

#: For each type of option, one, what people may write and what it means.
READ: list[tuple[str, str, Any]] = [
    ("executor", "sequential", "sequential"),
    ("durability", "fast", "fast"),
    ("adopt_timeout_seconds", "0.5", 0.5),
    ("parallelism", " 3 ", 3),
    ("log_max_bytes", "1000", 1000),
    ("log_max_bytes", "200 MB", 200_000_000),
    ("log_max_bytes", "5k", 5000),
    ("strict", "Yes", True),
    ("strict", "0", False),
    ("plugins", "a, b,", ("a", "b")),
    ("timezone", "Europe/Berlin", "Europe/Berlin"),
    ("dags_folder", "/srv/dags", Path("/srv/dags")),
]
REFUSED = [
    ("durability", "medium", "full, fast"),
    ("adopt_timeout_seconds", "five", "number of seconds"),
    ("adopt_timeout_seconds", "nan", "number of seconds"),
    ("adopt_timeout_seconds", "-1", "number of seconds"),
    ("parallelism", "0", "whole number"),
    ("parallelism", "1.5", "whole number"),
    ("parallelism", "³", "whole number"),
    ("log_max_bytes", "3 XB", "number of bytes"),
    ("log_max_bytes", "-1", "number of bytes"),
    ("strict", "maybe", "neither true nor false"),
    ("timezone", "Mars/Olympus", "time zone"),
    ("timezone", "../etc/passwd", "time zone"),
]


def test_defaults_follow_from_the_home(tmp_path: Path) -> None:
    found = config.load({}, home=tmp_path)
    assert (found.home, found.dags_folder, found.logs_folder) == (tmp_path, tmp_path / "dags", tmp_path / "logs")
    assert (found.run_folder, found.file) == (tmp_path / "run", tmp_path / "flux.toml")
    assert found.database_url == f"sqlite:///{tmp_path}/flux.db"
    assert found.database_file == tmp_path / "flux.db"
    assert found.parallelism >= 8
    assert set(found.sources.values()) == {"default"}


def test_the_home_is_the_argument_then_the_environment_then_the_users(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "FLUX_HOME": str(tmp_path / "other")}
    assert config.load(environ, home=tmp_path / "given").home == tmp_path / "given"
    assert config.load(environ).home == tmp_path / "other"
    assert config.load({"HOME": str(tmp_path)}).home == tmp_path / ".flux"
    assert config.load({"HOME": str(tmp_path), "FLUX_HOME": "~/x"}).home == tmp_path / "x"


def test_the_environment_is_stronger_than_the_file_and_that_than_the_default(tmp_path: Path) -> None:
    (tmp_path / "flux.toml").write_text('stuck_seconds = 3\nadopt_timeout_seconds = 4\nplugins = ["x"]\n')
    found = config.load({"FLUX_ADOPT_TIMEOUT_SECONDS": "5", "FLUX_STUCK_SECONDS": ""}, home=tmp_path)
    assert (found.stuck_seconds, found.adopt_timeout_seconds, found.scan_seconds) == (3.0, 5.0, 30.0)
    assert found.plugins == ("x",)
    assert found.sources["stuck_seconds"] == str(tmp_path / "flux.toml")
    assert found.sources["adopt_timeout_seconds"] == "FLUX_ADOPT_TIMEOUT_SECONDS"
    assert found.sources["scan_seconds"] == "default"


@pytest.mark.parametrize(("name", "text", "value"), READ)
def test_a_value_is_read_by_its_type(tmp_path: Path, name: str, text: str, value: Any) -> None:
    assert getattr(config.load({f"FLUX_{name.upper()}": text}, home=tmp_path), name) == value


@pytest.mark.parametrize(("name", "text", "hint"), REFUSED)
def test_a_bad_value_is_refused_with_its_source_and_the_way_out(
    tmp_path: Path, name: str, text: str, hint: str
) -> None:
    variable = f"FLUX_{name.upper()}"
    with pytest.raises(ConfigError) as caught:
        config.load({variable: text}, home=tmp_path)
    for part in (name, repr(text), variable, hint):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "line", ["executor = 3", "parallelism = true", "adopt_timeout_seconds = true", "plugins = [1]", "plugins = 1"]
)
def test_a_value_of_another_kind_in_the_file_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "flux.toml").write_text(line)
    with pytest.raises(ConfigError, match=r"flux\.toml"):
        config.load({}, home=tmp_path)


def test_an_unknown_option_in_the_file_is_refused_and_the_nearest_named(tmp_path: Path) -> None:
    (tmp_path / "flux.toml").write_text("paralelism = 3")
    with pytest.raises(ConfigError, match="Did you mean parallelism"):
        config.load({}, home=tmp_path)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flux.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"flux\.toml.*line 1"):
        config.load({}, home=tmp_path)


def test_relative_paths_of_the_file_are_in_the_home(tmp_path: Path) -> None:
    (tmp_path / "flux.toml").write_text('dags_folder = "pipelines"\ndatabase_url = "sqlite:///data/x.db"\n')
    found = config.load({}, home=tmp_path)
    assert found.dags_folder == tmp_path / "pipelines"
    assert found.database_file == tmp_path / "data" / "x.db"


def test_relative_paths_of_the_environment_are_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As somebody who types FLUX_DAGS_FOLDER=pipelines expects; a database's file is no path, but part of a URL."""
    monkeypatch.chdir(tmp_path)
    environ = {"FLUX_DAGS_FOLDER": "pipelines", "FLUX_LOGS_FOLDER": "../logs", "FLUX_DATABASE_URL": "sqlite:///x.db",
               "FLUX_SECRET_KEY_FILE": "~/key", "HOME": "/h"}  # fmt: skip
    found = config.load(environ, home=tmp_path / "home")
    assert (found.dags_folder, found.logs_folder) == (tmp_path / "pipelines", tmp_path.parent / "logs")
    assert (found.secret_key_file, found.database_file) == (Path("/h/key"), tmp_path / "home" / "x.db")
    described = {item["name"]: item["value"] for item in config.describe(found)}
    assert described["dags_folder"] == str(tmp_path / "pipelines")


def test_an_environment_for_another_working_folder_means_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"FLUX_DAGS_FOLDER": "pipelines", "FLUX_LOGS_FOLDER": "", "FLUX_EXECUTOR": "local", "PATH": "bin"}
    made = config.with_absolute_paths(given)
    assert made == {**given, "FLUX_DAGS_FOLDER": str(tmp_path / "pipelines")}


def test_a_server_has_no_database_file(tmp_path: Path) -> None:
    url = "postgresql://flux@localhost/flux"
    found = config.load({"FLUX_DATABASE_URL": url}, home=tmp_path)
    assert (found.database_url, found.database_file) == (url, None)


def test_passwords_are_masked_where_options_are_shown(tmp_path: Path) -> None:
    url = "postgresql://flux:geheim@wort@localhost/flux?sslpassword=geheim&x=1"
    described = config.describe(config.load({"FLUX_DATABASE_URL": url}, home=tmp_path))
    shown = next(item for item in described if item["name"] == "database_url")
    assert shown["value"] == "postgresql://flux:***@localhost/flux?sslpassword=***&x=1"
    assert "geheim" not in str(described)


def test_every_option_is_described(tmp_path: Path) -> None:
    described = config.describe(config.load({"FLUX_PLUGINS": "a"}, home=tmp_path))
    assert [item["name"] for item in described] == [option.name for option in config.OPTIONS]
    assert all(set(item) == {"name", "value", "default", "source", "help"} and item["help"] for item in described)
    plugins = next(item for item in described if item["name"] == "plugins")
    assert (plugins["value"], plugins["default"], plugins["source"]) == (["a"], [], "FLUX_PLUGINS")


def test_the_template_changes_nothing_even_with_every_option_in_force(tmp_path: Path) -> None:
    text = config.template()
    assert tomllib.loads(text) == {}
    lines = [line.removeprefix("#") for line in text.splitlines() if not line.startswith("# ")]
    (tmp_path / "flux.toml").write_text("\n".join(lines))
    in_force = config.load({}, home=tmp_path)
    (tmp_path / "flux.toml").unlink()
    default = config.load({}, home=tmp_path)
    assert {**vars(in_force), "sources": None} == {**vars(default), "sources": None}

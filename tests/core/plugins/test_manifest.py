"""What a manifest imports: `flux.plugins`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flux.errors import PluginError
from flux.plugins import ConnectionType, Field, Ref


def test_reference_loads_what_it_names() -> None:
    assert Ref("Ref", "flux.plugins:Ref").load() is Ref


@pytest.mark.parametrize("path", ["flux.plugins", "flux.plugins:", ":Ref", "flux plugins:Ref", "flux..plugins:Ref"])
def test_reference_that_names_nothing_is_refused(path: str) -> None:
    with pytest.raises(PluginError, match=r"package\.module:Name"):
        Ref("Ref", path)


@pytest.mark.parametrize(
    ("path", "cause"),
    [("flux.nowhere:Ref", "No module named"), ("flux.plugins:Nothing", "Nothing")],
)
def test_reference_that_cannot_be_loaded_says_why(path: str, cause: str) -> None:
    with pytest.raises(PluginError, match=cause):
        Ref("Ref", path).load()


def test_reference_to_a_module_that_exits_is_an_ordinary_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flux_test_leaver.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match="SystemExit: 3"):
        Ref("Leaver", "flux_test_leaver:Leaver").load()


def test_transfer_names_both_ends() -> None:
    with pytest.raises(PluginError, match="both source and target"):
        Ref("Move", "acme:Move", source="mysql")
    assert Ref("Move", "acme:Move", source="mysql", target="hive").target == "hive"


def test_connection_type_is_data_and_loads_no_client() -> None:
    kind = ConnectionType("acme", client=Ref("AcmeClient", "no.such.module:Client"), fields=("host", Field("realm")))
    assert [getattr(field, "name", field) for field in kind.fields] == ["host", "realm"]


@pytest.mark.parametrize(
    ("name", "more", "cause"),
    [
        ("My SQL", {}, "URI's scheme"),
        ("", {}, "URI's scheme"),
        ("acme", {"client": "acme:Client"}, "Write Ref"),
        ("acme", {"fields": ("hots",)}, "'hots' is no Field, and none of host, port"),
        ("acme", {"fields": (Field("realm"), Field("realm"))}, "'realm' twice"),
        ("acme", {"fields": (Field("password", secret=True),)}, "'password' is a standard one"),
    ],
)
def test_a_connection_type_that_cannot_be_is_refused(name: str, more: dict[str, Any], cause: str) -> None:
    with pytest.raises(PluginError, match=cause):
        ConnectionType(name, **{"client": Ref("C", "acme:C"), **more})


def test_manifest_import_is_light() -> None:
    """A manifest is imported wherever the catalogue is needed, so it must not bring the libraries with it."""
    code = (
        "import sys, flux.plugins;"
        "heavy = {'pluggy', 'stevedore', 'sqlalchemy', 'jinja2', 'click', 'importlib.metadata'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

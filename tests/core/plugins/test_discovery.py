"""Loading by name: one driver, guarded, and messages that name the distribution."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux.errors import NotFound, PluginError
from flux.plugins import discovery
from tests.installed import install

NAMESPACE = "flux.secrets_backends"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path, with what a backend's distribution looks like."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def backend(site: Path, name: str, text: str, distribution: str) -> None:
    package = distribution.replace("-", "_")
    line = f"[{NAMESPACE}]\n{name} = {package}.backend:Backend\n"
    install(site, name, distribution=distribution, modules={"backend.py": text}, entry_points=line)


def test_a_driver_is_loaded_by_its_name(site: Path) -> None:
    backend(site, "vault", "class Backend: ...\n", "discovery-vault")
    assert discovery.driver(NAMESPACE, "vault").__name__ == "Backend"


def test_names_are_listed_without_an_import(site: Path) -> None:
    backend(site, "zoo", "raise SystemExit\n", "discovery-zoo")
    backend(site, "ark", "raise SystemExit\n", "discovery-ark")
    assert [(each.name, each.distribution) for each in discovery.driver_names(NAMESPACE)] == [
        ("ark", "discovery-ark"),
        ("zoo", "discovery-zoo"),
    ]


def test_an_unknown_driver_lists_the_known_ones(site: Path) -> None:
    backend(site, "vault", "class Backend: ...\n", "discovery-known")
    with pytest.raises(NotFound, match=r"Secrets backend 'volt' does not exist. Known: vault"):
        discovery.driver(NAMESPACE, "volt")


def test_a_name_that_two_distributions_bring_is_refused_naming_both(site: Path) -> None:
    """Neither is imported: the text would end this process."""
    for distribution in ("discovery-one", "discovery-two"):
        backend(site, "vault", "raise SystemExit\n", distribution)
    with pytest.raises(PluginError, match=r"'vault' is brought by discovery-one 0\.3 and discovery-two 0\.3"):
        discovery.driver(NAMESPACE, "vault")


@pytest.mark.parametrize(
    ("number", "text", "cause"),
    [
        (1, "import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        (2, "raise SystemExit(3)\n", "SystemExit: 3"),
        (3, "assert False, 'never'\n", "AssertionError: never"),
        (4, "def (\n", "SyntaxError"),
        (5, "Backed = 1\n", "AttributeError"),
        (6, "class Odd(BaseException): ...\nraise Odd('odd')\n", "Odd: odd"),
    ],
)
def test_whatever_an_import_raises_is_one_error_that_names_the_distribution(
    site: Path, number: int, text: str, cause: str
) -> None:
    backend(site, "vault", text, f"discovery-bad-{number}")
    with pytest.raises(PluginError, match=rf"'vault' \(discovery-bad-{number} 0\.3\)") as caught:
        discovery.driver(NAMESPACE, "vault")
    assert cause in str(caught.value)
    assert caught.value.__cause__ is not None

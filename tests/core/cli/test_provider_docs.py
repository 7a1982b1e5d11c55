"""`flux provider docs`: a page from a provider's catalogue and classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.cli.conftest import Cli
from tests.installed import install, manifest

pytestmark = pytest.mark.slow

OPERATORS = '''
from flux import BaseOperator

class _Base(BaseOperator):
    """Go somewhere.

    Args:
        rocket: which one.
    """

    template_fields = ("rocket",)

    def __init__(self, *, rocket: str = "Eagle", **kwargs) -> None:
        super().__init__(**kwargs)
        self.rocket = rocket

class LandOperator(_Base):
    """Land on a moon.

    It lands softly.

    Args:
        crater: where; None: anywhere.
        crew: how many.
    """

    template_fields = ("rocket", "crater")

    def __init__(self, *, crater: str | None = None, crew: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.crater, self.crew = crater, crew

    def execute(self, context): ...

class MoonToEarthOperator(_Base):
    def execute(self, context): ...
'''
SENSORS = "from flux import BaseSensor\nclass FullSensor(BaseSensor):\n    'Wait.'\n    def poke(self, context): ...\n"


def page(cli: Cli, site: Path, name: str, form: str = "md") -> str:
    package = f"flux_provider_{name}"
    text = manifest(
        operators=f'[Ref("LandOperator", "{package}.operators:LandOperator"), '
        f'Ref("MoonToEarthOperator", "{package}.operators:MoonToEarthOperator", source="moon", target="earth")]',
        sensors=f'[Ref("FullSensor", "{package}.sensors:FullSensor")]',
        macros=f'[Ref("phase", "{package}.macros:phase")]',
        connection_types=f'[ConnectionType("{name}", client=Ref("C", "{package}.client:C", summary="A line."), '
        'fields=("host", "login", "password", Field("crater", required=True), Field("key", secret=True)))]',
        task_policy="None",
    )
    site.mkdir()
    modules = {
        "operators.py": OPERATORS,
        "sensors.py": SENSORS,
        "macros.py": "def phase(ds: str, offset: int = 0) -> str:\n    'Its phase.'\n",
    }
    install(site, name, text, modules=modules)
    return cli.ok("provider", "docs", name, "--format", form).out


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def test_an_operator_has_its_import_and_a_table_of_its_own_arguments(bare: Cli, site: Path) -> None:
    text = page(bare, site, "luna")
    land = text.partition("### LandOperator")[2].partition("##")[0]
    assert "from flux_provider_luna.operators import LandOperator" in land
    assert "Land on a moon.\n\nIt lands softly." in land
    assert [line for line in land.splitlines() if line.startswith("| `")] == [
        "| `crew` | `int` | required |  | how many. |",
        "| `crater` | `str \\| None` | `None` | yes | where; None: anywhere. |",
        "| `rocket` | `str` | `'Eagle'` | yes | which one. |",
    ]
    assert "`retries`" not in land
    assert "arguments of `BaseOperator`" in land


def test_the_rest_of_the_catalogue_is_there(bare: Cli, site: Path) -> None:
    text = page(bare, site, "selene")
    transfers = text.partition("## Transfers")[2]
    assert "From moon to earth." in transfers
    assert "Go somewhere." in transfers, "without a docstring of its own, that of its base"
    assert "arguments of `BaseSensor` and `BaseOperator`" in text
    assert "`macros.selene.phase(ds, offset=0)` | Its phase." in text
    assert "| `key` |  |  | yes |  |" in text
    assert "FLUX_CONN_SELENE_DEFAULT='selene://login:password@host?crater=…'" in text
    assert "flux connection add selene_default --type selene --host HOST --login LOGIN --field crater=…" in text
    assert "implements `flux_task_policy`" in text


def test_restructuredtext_is_the_other_format(bare: Cli, site: Path) -> None:
    text = page(bare, site, "phoebe", "rst")
    assert "LandOperator\n~~~~~~~~~~~~\n" in text
    assert "     - ``str | None``\n" in text


def test_the_one_file_provider_has_a_page(cli: Cli) -> None:
    """Its file is no package: it is found in the DAGs folder."""
    cli.write(
        "flux_provider.py",
        "'Stamps.'\nfrom flux import BaseOperator\nfrom flux.plugins import Ref, hookimpl\n"
        "class StampOperator(BaseOperator):\n    def execute(self, context): ...\n"
        "@hookimpl\ndef flux_operators(): return [Ref('StampOperator', 'flux_provider:StampOperator')]\n",
    )
    done = cli.process("provider", "docs", "local")
    assert done.code == 0, done
    assert done.out.startswith("# local\n\nStamps.\n")
    assert "from flux_provider import StampOperator" in done.out


def test_what_a_module_prints_is_not_on_the_page(bare: Cli, site: Path) -> None:
    site.mkdir()
    text = "print('noise')\n" + OPERATORS
    refs = '[Ref("LandOperator", "flux_provider_loud.operators:LandOperator")]'
    install(site, "loud", manifest(operators=refs), modules={"operators.py": text})
    done = bare.ok("provider", "docs", "loud")
    assert ("noise" in done.out, "noise" in done.err) == (False, True)


def test_a_module_that_hangs_ends_the_command(cli: Cli) -> None:
    cli.write(
        "flux_provider.py",
        "from flux.plugins import Ref, hookimpl\n"
        "@hookimpl\ndef flux_operators(): return [Ref('StampOperator', 'stamps:StampOperator')]\n",
    )
    cli.write("stamps.py", "while True: ...\n")
    done = cli.process("provider", "docs", "local", "--timeout", "0.5")
    assert (done.code, done.out) == (1, "")
    assert done.err == "Error: Loading what provider 'local' offers took longer than 0.5 s.\n"


def test_a_broken_provider_has_no_page(bare: Cli, site: Path) -> None:
    site.mkdir()
    install(site, "torn", "import no_such_library\n")
    done = bare("provider", "docs", "torn")
    assert (done.code, done.out, "no_such_library" in done.err) == (1, "", True)

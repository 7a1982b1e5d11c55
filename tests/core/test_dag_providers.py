"""Providers in a process that reads DAG files: refused imports, policies, macros."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flux import dag_file
from flux.attempt import execute
from flux.dag import DAG
from flux.dag_file import DagFile, SourceFinder
from flux.dag_providers import DagProviders
from flux.errors import DagFileError, NotFound, PluginError
from flux.operators import PythonOperator
from tests.attempts import MemoryWorld, spec_of
from tests.installed import HEAD, install, manifest

PIG = "Provider 'pig' (flux-provider-pig 0.3) is incompatible: It needs API >=2, and this Flux serves 1.0."
REFUSED = {"refused": {"flux_provider_pig": PIG}}

#: A DAG file of two tasks.
SALES = """
from flux import DAG
from flux.operators import BashOperator
with DAG("sales") as dag:
    BashOperator(task_id="load", bash_command="true")
    BashOperator(task_id="report", bash_command="true", retries=1)
"""


@pytest.fixture(autouse=True)
def _imports_of_its_own() -> Iterator[None]:
    """A process reads one file only; put the import system back for the next test."""
    modules, path, finders = set(sys.modules), list(sys.path), list(sys.meta_path)
    yield
    for name in set(sys.modules) - modules:
        if not name.startswith(("flux.", "jinja2", "markupsafe", "pluggy")):
            del sys.modules[name]
    sys.path[:], sys.meta_path[:] = path, finders
    sys.path_importer_cache.clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, first on the path."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def read(folder: Path, source: str, rules: Mapping[str, Any] | None = None, **others: str) -> DagFile:
    """Read a DAG file `sales.py` beside `others` in the folder `dags`."""
    dags = folder / "dags"
    dags.mkdir(exist_ok=True)
    for name, text in {"sales": source, **others}.items():
        (dags / f"{name}.py").write_text(textwrap.dedent(text))
    return dag_file.read(SourceFinder(str(dags)), "sales.py", DagProviders(rules))


def failure(folder: Path, source: str, rules: Mapping[str, Any] | None = None, **others: str) -> DagFileError:
    with pytest.raises(DagFileError) as caught:
        read(folder, source, rules, **others)
    return caught.value


def policies(*names: str) -> dict[str, Any]:
    """The rules for providers of these names with a policy."""
    return {"policies": [[name, f"flux_provider_{name}.provider", "0.3"] for name in names]}


def policy(body: str) -> str:
    """The text of a manifest with a policy."""
    return f"{HEAD}@hookimpl\ndef flux_task_policy(task):\n" + textwrap.indent(textwrap.dedent(body), "    ")


# --- refused imports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "import flux_provider_pig",
        "import flux_provider_pig.operators",
        "from flux_provider_pig.operators import PigOperator",
        "import helper",
    ],
)
def test_importing_a_refused_provider_is_an_import_error_with_its_message(
    tmp_path: Path, site: Path, statement: str
) -> None:
    install(site, "pig", modules={"operators.py": "class PigOperator: ...\n"})
    error = failure(tmp_path, f"x = 1\n{statement}\n", REFUSED, helper="import flux_provider_pig.operators\n")
    assert str(error) == f"ImportError: {PIG}"
    assert error.line == 2
    assert "importlib" not in error.traceback


def test_packages_whose_names_only_begin_alike_are_imported(tmp_path: Path, site: Path) -> None:
    install(site, "pigment")
    install(site, "pig")
    file = read(tmp_path, f"import flux_provider_pigment.provider\n{SALES}", REFUSED)
    assert list(file.dags) == ["sales"]


def test_a_refused_module_leaves_the_rest_of_its_package_alone(tmp_path: Path) -> None:
    package = tmp_path / "dags" / "team"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "plugin.py").write_text("")
    (package / "tables.py").write_text("")
    rules = {"refused": {"team.plugin": "Provider 'team.plugin' is broken: It is so."}}
    assert "is broken: It is so." in str(failure(tmp_path, "import team.tables\nimport team.plugin\n", rules))


def test_a_dag_file_may_do_without_a_refused_provider(tmp_path: Path) -> None:
    source = f"try:\n    import flux_provider_pig\nexcept ImportError:\n    pass\n{SALES}"
    assert list(read(tmp_path, source, REFUSED).dags) == ["sales"]


def test_nothing_watches_imports_when_nothing_is_refused(tmp_path: Path) -> None:
    before = len(sys.meta_path)
    read(tmp_path, SALES, {"refused": {}, "policies": [], "macros": {}})
    assert len(sys.meta_path) == before + 2  # those of the DAGs folder


# --- policies --------------------------------------------------------------------------------------------------------


def test_policies_change_tasks_in_order_before_the_structure_is_taken(tmp_path: Path, site: Path) -> None:
    install(site, "one", policy("task.retries = 3\ntask.pool = 'one'\n"))
    install(site, "two", policy("task.pool += '_two'\n"))
    file = read(tmp_path, SALES, policies("one", "two"))
    tasks = json.loads(file.structures()[0])["tasks"]
    assert [(task["task_id"], task["retries"], task["pool"]) for task in tasks] == [
        ("load", 3, "one_two"),
        ("report", 3, "one_two"),
    ]


def test_a_violation_is_the_files_error_with_provider_task_and_text_alone(tmp_path: Path, site: Path) -> None:
    body = """\
        from flux.plugins import PolicyViolation
        if task.task_id == "report":
            raise PolicyViolation("Reports need an owner.")
        """
    install(site, "house", policy(body))
    error = failure(tmp_path, SALES, policies("house"))
    assert str(error) == "Task 'report' is refused by provider 'house': Reports need an owner."
    assert (error.line, error.traceback) == (4, "")


def test_a_policy_that_fails_is_the_files_error_with_its_traceback(tmp_path: Path, site: Path) -> None:
    install(site, "house", policy("def look():\n    return task.no_such_thing\nlook()\n"))
    error = failure(tmp_path, SALES, policies("house"))
    assert "The policy of provider 'house' failed on task 'load': AttributeError" in str(error)
    assert "in look" in error.traceback
    assert "dag_providers.py" not in error.traceback


@pytest.mark.parametrize("body", ["import nowhere_to_be_found\n", "raise SystemExit(3)\n"])
def test_a_policy_whose_manifest_no_longer_imports_lets_nothing_pass(tmp_path: Path, site: Path, body: str) -> None:
    install(site, "house", body)
    error = failure(tmp_path, SALES, policies("house"))
    assert "The policy of provider 'house' cannot be asked" in str(error)


def test_only_manifests_with_a_policy_are_imported(tmp_path: Path, site: Path) -> None:
    install(site, "house", policy("pass\n"))
    install(site, "other", "raise AssertionError('imported')\n")
    read(tmp_path, SALES, policies("house"))
    assert "flux_provider_house.provider" in sys.modules
    assert "flux_provider_other" not in sys.modules


def test_a_one_file_provider_that_decides_is_part_of_the_version(tmp_path: Path) -> None:
    rules = {"policies": [["local", "flux_provider", None]]}
    file = read(tmp_path, SALES, rules, flux_provider=policy("task.retries = 5\n"))
    assert list(file.sources()) == ["flux_provider.py", "sales.py"]
    assert file.task("sales", "load").retries == 5


# --- macros ----------------------------------------------------------------------------------------------------------


MACROS = {"macros": {"acme": {"latest": "flux_provider_acme.macros:latest", "gone": "flux_provider_acme.macros:gone"}}}


def rendered(template: str, rules: Mapping[str, Any] | None, folder: Path) -> tuple[str, Any]:
    """(outcome, what the template gave or why it failed) of an attempt."""
    with DAG("d", schedule=None):
        task = PythonOperator(task_id="t", python_callable=lambda text: text, op_args=[template])
    spec = spec_of(task, folder)
    end = execute(task, spec, MemoryWorld(), macro_source=DagProviders(rules).macro)
    return end.outcome, end.reason or json.loads(end.results["return_value"])


def test_a_macro_is_imported_when_a_template_names_it(tmp_path: Path, site: Path) -> None:
    install(site, "acme", modules={"macros.py": "def latest(a, b):\n    return max(a, b)\n"})
    assert rendered("{{ ds }}", MACROS, tmp_path)[0] == "success"
    assert "flux_provider_acme" not in sys.modules
    assert rendered("{{ macros.acme.latest('b', 'a') }}", MACROS, tmp_path) == ("success", "b")
    assert rendered("{{ macros.ds_add('2026-01-05', 1) }}", MACROS, tmp_path) == ("success", "2026-01-06")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("macros.acme.lates('a')", "Macro of provider 'acme' 'lates' does not exist. Known: latest"),
        ("macros.acmee.latest('a')", "Macro 'acmee' does not exist. Known: acme"),
        ("macros.ds_ad('2026-01-05', 1)", "Macro 'ds_ad' does not exist. Known: ds_add"),
        ("macros.acmee", "Macro 'acmee' does not exist"),
        ("macros.hive.max_partition('t')", "Install it with `pip install flux-provider-hive`"),
        ("macros.acme.gone()", "macros.acme.gone: 'gone' (flux_provider_acme.macros:gone) cannot be loaded"),
        ("macros.pig.script()", "is incompatible: It needs API >=2"),
    ],
)
def test_a_macro_that_is_not_there_says_what_to_do(tmp_path: Path, site: Path, template: str, words: str) -> None:
    install(site, "acme", modules={"macros.py": "def latest(*names):\n    return max(names)\n"})
    outcome, reason = rendered(f"{{{{ {template} }}}}", {**MACROS, **REFUSED}, tmp_path)
    assert outcome == "failed"
    assert words in reason


def test_an_installed_provider_without_macros_is_not_to_be_installed(site: Path) -> None:
    install(site, "hive")
    with pytest.raises(NotFound, match="Provider 'hive' has no macros"):
        DagProviders().macro("hive", "latest")


def test_a_macro_is_loaded_once(site: Path) -> None:
    install(site, "acme", modules={"macros.py": "print('loaded')\ndef latest(): ...\n"})
    providers = DagProviders(MACROS)
    assert providers.macro("acme", "latest") is providers.macro("acme", "latest")
    with pytest.raises(PluginError, match="has no attribute 'gone'"):
        providers.macro("acme", "gone")


# --- what is imported ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reading_a_dag_file_imports_of_all_providers_only_what_the_file_imports(tmp_path: Path) -> None:
    """Several providers are installed; the file uses one, another has a policy."""
    site = tmp_path / "site"
    operator = (
        "from flux.operator import BaseOperator\nclass {0}Operator(BaseOperator):\n    def execute(self, c): ...\n"
    )
    for name in ("acme", "hive", "pig", "sql"):
        install(site, name, modules={"operators.py": operator.format(name.title()), "client.py": "import sqlite3\n"})
    install(site, "house", manifest().rstrip() + "\n" + policy("pass\n").removeprefix(HEAD))
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "sales.py").write_text(
        "from flux import DAG\nfrom flux_provider_acme.operators import AcmeOperator\n"
        "with DAG('sales'):\n    AcmeOperator(task_id='t')\n"
    )
    program = f"""
        import json, sys
        from flux.dag_file import SourceFinder, read
        from flux.dag_providers import DagProviders
        file = read(SourceFinder({str(tmp_path / "dags")!r}), "sales.py", DagProviders({policies("house")!r}))
        file.structures()
        print(json.dumps(sorted(name for name in sys.modules if name.startswith("flux_provider_"))))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [
        "flux_provider_acme",
        "flux_provider_acme.operators",
        "flux_provider_house",
        "flux_provider_house.provider",
    ]

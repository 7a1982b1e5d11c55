"""Reading DAG files: what belongs to a version, where errors are, and that stored bytes win over the disk."""

from __future__ import annotations

import json
import linecache
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from flux import dag_file
from flux.dag_file import DagFile, Manifest, SourceFinder
from flux.errors import DagFileError


@pytest.fixture(autouse=True)
def _imports_of_its_own() -> Iterator[None]:
    """A process reads one file only; put the import system back for the next test."""
    modules, path, finders = set(sys.modules), list(sys.path), list(sys.meta_path)
    yield
    for name in set(sys.modules) - modules:
        if not name.startswith(("flux.", "jinja2", "markupsafe")):
            del sys.modules[name]
    sys.path[:], sys.meta_path[:] = path, finders
    sys.path_importer_cache.clear()
    linecache.clearcache()


def write(folder: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(textwrap.dedent(text))


def read(folder: Path, path: str, contents: Mapping[str, bytes] | None = None) -> DagFile:
    return dag_file.read(SourceFinder(str(folder), contents), path)


def one(dag_id: str, more: str = "") -> str:
    return f"from flux import DAG\n{more}\nDAG({dag_id!r})\n"


def test_the_dags_of_a_file_are_those_constructed_at_its_module_level(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "factory.py": "from flux import DAG\nDAG('of_factory')\ndef make(name):\n    return DAG(name)\n",
            "sales.py": "from flux import DAG\nfrom factory import make\nDAG('one')\nmake('two')\n",
        },
    )
    file = read(tmp_path, "sales.py")
    assert list(file.dags) == ["one", "two"]
    structures = [json.loads(text) for text in file.structures()]
    assert [structure["file"] for structure in structures] == ["sales.py", "sales.py"]


def test_importing_a_dag_file_does_not_define_its_dags_again(tmp_path: Path) -> None:
    write(tmp_path, {"sales.py": one("sales"), "other.py": one("other", "from sales import DAG as D")})
    assert list(read(tmp_path, "other.py").dags) == ["other"]


def test_two_dags_of_one_id_are_refused_with_both_lines(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "from flux import DAG\nDAG('x')\n\nDAG('x')\n"})
    with pytest.raises(DagFileError, match=r"'x' is already defined in this file \(a.py:2\)") as caught:
        read(tmp_path, "a.py")
    assert caught.value.line == 4


def test_sources_are_the_file_what_it_imports_and_what_any_import_statement_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "team/__init__.py": "",
            "team/sales.py": "from . import helper\nimport computed\n" + one("sales", "def f():\n    import inside"),
            "team/helper.py": "def g():\n    from team.deep import below\n",
            "team/deep/below.py": "",
            "inside.py": "import json\n",
            "computed.py": "import importlib\nimportlib.import_module('by_name')\n",
            "by_name.py": "",
            "unused.py": "",
        },
    )
    assert list(read(tmp_path, "team/sales.py").sources()) == [
        "by_name.py", "computed.py", "inside.py", "team/__init__.py", "team/deep/below.py", "team/helper.py",
        "team/sales.py",
    ]  # fmt: skip


def test_sources_hold_templates_and_what_these_include(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "team/sales.py": """
                from flux import DAG
                from flux.operators import BashOperator
                with DAG("sales", template_searchpath=["../sql"]):
                    BashOperator(task_id="a", bash_command="load.sh")
                    BashOperator(task_id="b", bash_command="echo not_this.sh")
                """,
            "team/load.sh": """
                {% include 'part.sh' %} {%- extends "base.sh" %}
                {% from ['m1.sh', 'm2.sh'] import x %}
                """,
            "sql/part.sh": "",
            "sql/base.sh": "{% import 'macros.sh' as m %}",
            "sql/macros.sh": "",
            "sql/m2.sh": "",
            "team/not_this.sh": "",
        },
    )
    file = read(tmp_path, "team/sales.py")
    assert list(file.sources()) == [
        "sql/base.sh", "sql/m2.sh", "sql/macros.sh", "sql/part.sh", "team/load.sh", "team/sales.py",
    ]  # fmt: skip
    (tmp_path / "sql" / "base.sh").write_text("changed")
    assert file.read_file(str(tmp_path / "team" / ".." / "sql" / "base.sh")) == b"{% import 'macros.sh' as m %}"
    assert file.read_file(str(tmp_path / "elsewhere.sh")) is None


def test_stored_bytes_win_over_the_disk_and_over_its_absence(tmp_path: Path) -> None:
    files = {"sales.py": one("sales", "from lib.deep import name\nassert name() == 'old'")}
    files |= {"lib/deep.py": "def name():\n    return 'old'\n"}
    contents = {path: text.encode() for path, text in files.items()}
    write(tmp_path, {"lib/deep.py": "def name():\n    return 'new'\n"})
    assert list(read(tmp_path, "sales.py", contents).dags) == ["sales"]


def test_a_stored_version_needs_no_folder_at_all(tmp_path: Path) -> None:
    contents = {"sales.py": one("sales", "import lib.deep").encode(), "lib/deep.py": b"x = 1\n"}
    assert list(read(tmp_path / "gone", "sales.py", contents).dags) == ["sales"]


def test_what_a_stored_version_lacks_comes_from_the_disk_with_a_note(tmp_path: Path, capsys: object) -> None:
    write(tmp_path, {"late.py": ""})
    read(tmp_path, "sales.py", {"sales.py": one("sales", "__import__('late')").encode()})
    assert "late.py is not part of the DAG version" in capsys.readouterr().err  # type: ignore[attr-defined]


def test_a_file_is_compiled_from_the_bytes_that_are_hashed(tmp_path: Path) -> None:
    write(tmp_path, {"sales.py": "import pathlib\npathlib.Path(__file__).write_text('changed')\n" + one("sales")})
    before = (tmp_path / "sales.py").read_bytes()
    assert read(tmp_path, "sales.py").sources() == {"sales.py": before}


def test_the_module_knows_its_real_file_and_its_source(tmp_path: Path) -> None:
    text = one("sales", "import inspect, sys\nX = inspect.getsource(sys.modules[__name__])\nFILE = __file__")
    write(tmp_path, {"team/sales.py": text})
    read(tmp_path, "team/sales.py")
    module = sys.modules["team.sales"]
    shown_file = module.FILE
    assert shown_file == str(tmp_path / "team" / "sales.py")
    assert text in module.X


@pytest.mark.parametrize("path", ["json.py", "flux.py", "my.dag.py", "with space.py", "2026-sales.py", "x/__init__.py"])
def test_any_file_name_can_be_read(tmp_path: Path, path: str) -> None:
    write(tmp_path, {path: one("sales", "import json\njson.dumps({})")})
    assert list(read(tmp_path, path).dags) == ["sales"]


def test_a_dag_file_named_like_a_standard_module_does_not_replace_it(tmp_path: Path) -> None:
    write(tmp_path, {"colorsys.py": one("wrong"), "sales.py": one("sales", "import colorsys\ncolorsys.rgb_to_hsv")})
    sys.modules.pop("colorsys", None)
    assert list(read(tmp_path, "sales.py").dags) == ["sales"]


def test_an_error_in_a_helper_names_the_line_of_the_dag_file_and_both_frames(tmp_path: Path) -> None:
    write(tmp_path, {"helper.py": "def f():\n    return 1 / 0\n", "sales.py": "import helper\n\nhelper.f()\n"})
    with pytest.raises(DagFileError, match="ZeroDivisionError: division by zero") as caught:
        read(tmp_path, "sales.py")
    assert caught.value.line == 3
    assert "helper.py" in caught.value.traceback
    assert "dag_file.py" not in caught.value.traceback


def test_a_provider_that_is_not_installed_is_named_with_what_installs_it(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "from flux_provider_no_such.operators import AcmeOperator\n"})
    remedy = r"'flux_provider_no_such'\. Install it with `pip install flux-provider-no-such`\."
    with pytest.raises(DagFileError, match=remedy):
        read(tmp_path, "a.py")


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    write(tmp_path, {"sales.py": "x = 1\ndef f(:\n"})
    with pytest.raises(DagFileError, match="SyntaxError") as caught:
        read(tmp_path, "sales.py")
    assert caught.value.line == 2


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "sales.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(DagFileError, match="SyntaxError"):
        read(tmp_path, "sales.py")


def test_an_error_of_the_structure_is_an_error_of_the_file(tmp_path: Path) -> None:
    text = """
        from flux import DAG
        from flux.operators import EmptyOperator
        with DAG("sales"):
            a, b = EmptyOperator(task_id="a"), EmptyOperator(task_id="b")
            a >> b >> a
        """
    write(tmp_path, {"sales.py": text})
    with pytest.raises(DagFileError, match="cycle"):
        read(tmp_path, "sales.py").structures()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DagFileError, match=r"'none.py' does not exist"):
        read(tmp_path, "none.py")


def test_a_missing_dag_or_task_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"sales.py": one("sales")})
    file = read(tmp_path, "sales.py")
    with pytest.raises(DagFileError, match=r"DAG 'x' no longer exists in sales\.py"):
        file.task("x", "t")
    with pytest.raises(DagFileError, match="Task 't' no longer exists in DAG 'sales'"):
        file.task("sales", "t")


def test_a_manifest_gives_the_contents_and_refuses_damaged_ones(tmp_path: Path) -> None:
    hashes = dag_file.store_sources(tmp_path, {"sales.py": b"x = 1\n"})
    (tmp_path / "versions").mkdir()
    data = {"folder": "/dags", "file": "sales.py", "sources": hashes, "dag_ids": ["sales"]}
    (tmp_path / "versions" / "abc.json").write_text(json.dumps(data))
    manifest = Manifest.read(tmp_path, "abc")
    assert manifest.contents(tmp_path) == {"sales.py": b"x = 1\n"}
    (tmp_path / "sources" / hashes["sales.py"]).write_bytes(b"x = 2\n")
    with pytest.raises(DagFileError, match="damaged"):
        manifest.contents(tmp_path)
    with pytest.raises(DagFileError, match="cannot be read"):
        Manifest.read(tmp_path, "other")

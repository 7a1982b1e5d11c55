from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flux import DAG, BaseOperator
from flux.context import Context, running
from flux.errors import NotFound, SkipTask, TemplateError
from flux.results import encode
from flux.templating import Templates, find_template, is_template_file, shown
from tests.attempts import MemoryWorld, spec_of


class Report(BaseOperator):
    template_fields: Sequence[str] = ("text", "options")
    template_ext: Sequence[str] = (".sql",)

    def __init__(self, *, text: Any, options: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text
        self.options = options

    def execute(self, context: Any) -> Any:
        return self.text


def render(text: Any, tmp_path: Path, *, world: MemoryWorld | None = None, **dag: Any) -> Any:
    """Render `text` in a DAG whose folder is tmp_path; results of task `load` are in `world`."""
    with DAG("sales", schedule="@daily", start_date="2026-01-01", timezone="Europe/Berlin", **dag) as sales:
        sales.file = str(tmp_path / "sales.py")
        Report(task_id="load", text="")
        task = Report(task_id="report", text=text)
    return rendered(task, tmp_path, world)


def rendered(task: Any, tmp_path: Path, world: MemoryWorld | None = None, **options: Any) -> Any:
    context = Context(task, spec_of(task, tmp_path), world or MemoryWorld(), **options)
    with running(context):
        Templates(task, context).render()
    return task.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("day {{ ds }}", "day 2026-01-05"),
        ("{{ logical_date.strftime('%d.%m.') }}", "05.01."),
        ("{{ macros.ds_add(ds, 7) }}", "2026-01-12"),
        ("{% if dag_run.kind == 'scheduled' %}yes{% endif %}", "yes"),
        ("{% do [] %}{{ dag.dag_id }}.{{ task.task_id }}", "sales.report"),
        ("awk '{print $1}'\n", "awk '{print $1}'\n"),
        ("line {{ ds }}\n", "line 2026-01-05\n"),
        ("{{ prev_logical_date or 'none' }}", "none"),
        ("{{ dag_run.conf.missing | default('standard') }}", "standard"),
        ("{{ var.value.missing | default('standard') }}", "standard"),
    ],
)
def test_texts_are_rendered_with_the_context(text: str, expected: str, tmp_path: Path) -> None:
    assert render(text, tmp_path) == expected


def test_lists_tuples_and_values_of_dicts_are_rendered(tmp_path: Path) -> None:
    point = namedtuple("point", "x y")
    given = ["{{ ds }}", ("{{ ds }}", 1), {"{{ ds }}": "{{ ds }}"}, point("{{ ds }}", None)]
    day = "2026-01-05"
    assert render(given, tmp_path) == [day, (day, 1), {"{{ ds }}": day}, point(day, None)]
    assert given[0] == "{{ ds }}"


def test_what_has_no_template_stays_the_same_object(tmp_path: Path) -> None:
    given = {"a": [1, "b", object()]}
    assert render(given, tmp_path) is given


class TestUndefined:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{{ dss }}", "'dss' is undefined.*Did you mean ds"),
            ("{{ execution_date }}", "'execution_date' is undefined.*`logical_date`"),
            ("{{ next_ds }}", "next_logical_date"),
            ("{{ ti.xcom_pull('load') }}", "xcom_pull.*`results`"),
            ("{{ params.color }}", "color"),
            ("{{ conf }}", "dag_run.conf"),
            ("{{ var.value.color }}", "Variable 'color' is not set"),
            ("{{ conn.db.host }}", "Connection 'db' does not exist"),
            ("{{ results.lod }}", "Task 'lod' does not exist.*load"),
            ("{{ macros.hive.latest }}", "Macro 'hive' does not exist"),
            (
                "{{ macros.nope }}",
                r"Macro 'nope' does not exist\. Known: datetime, ds_add, .*macros\.<provider>\.<name>\.$",
            ),
            ("{{ macros.ds_ad(ds, 7) }}", r"Macro 'ds_ad' does not exist\. Known: ds_add, "),
            ("{{ ds_add(ds, 7) }}", r"'ds_add' is undefined\. Did you mean macros\.ds_add\?$"),
            ("{% if dss %}{% endif %}", "dss"),
        ],
    )
    def test_the_field_the_task_and_the_name_are_told(self, text: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(TemplateError, match=f"(?s)'text' of task 'report' of DAG 'sales': .*{message}"):
            render(text, tmp_path)

    def test_a_syntax_error_names_its_line(self, tmp_path: Path) -> None:
        with pytest.raises(TemplateError, match="line 2 of the template"):
            render("a\n{{ ds", tmp_path)

    def test_a_shell_length_expression_is_explained(self, tmp_path: Path) -> None:
        with pytest.raises(TemplateError, match="begins a comment"):
            render("echo ${#array[@]}", tmp_path)

    def test_an_error_in_an_expression_names_its_class(self, tmp_path: Path) -> None:
        with pytest.raises(TemplateError, match="ZeroDivisionError"):
            render("{{ 1 / 0 }}", tmp_path)

    def test_a_field_that_the_operator_does_not_have_is_named(self, tmp_path: Path) -> None:
        with DAG("d", start_date="2026-01-01"):
            task = Report(task_id="a", text="")
        del task.options
        with pytest.raises(TemplateError, match="'options' of task 'a'"):
            rendered(task, tmp_path)


class TestResults:
    def world(self) -> MemoryWorld:
        return MemoryWorld(
            results={
                ("load", "return_value"): encode({"rows": 3}, limit_bytes=99),
                ("load", "path"): encode("/a", limit_bytes=99),
            }
        )

    def test_results_are_read_by_task_id(self, tmp_path: Path) -> None:
        text = '{{ results.load.rows }} {{ results["load"]["rows"] }} {{ ti.result("load", key="path") }}'
        assert render(text, tmp_path, world=self.world()) == "3 3 /a"

    def test_an_output_becomes_the_value_wherever_it_stands(self, tmp_path: Path) -> None:
        with DAG("d", start_date="2026-01-01"):
            load = Report(task_id="load", text="")
            task = Report(task_id="report", text=load.output, options=[load.output["path"], {"a": load.output}])
        assert rendered(task, tmp_path, self.world()) == {"rows": 3}
        assert task.options == ["/a", {"a": {"rows": 3}}]


class TestFiles:
    def test_a_file_beside_the_dag_file_is_read_and_rendered(self, tmp_path: Path) -> None:
        (tmp_path / "load.sql").write_text("select '{{ ds }}'\n")
        assert render("load.sql", tmp_path) == "select '2026-01-05'\n"

    def test_the_search_path_comes_after_the_folder_of_the_dag(self, tmp_path: Path) -> None:
        (tmp_path / "sql").mkdir()
        (tmp_path / "sql" / "only.sql").write_text("from the path")
        (tmp_path / "sql" / "both.sql").write_text("from the path")
        (tmp_path / "both.sql").write_text("beside")
        path = [str(tmp_path / "sql")]
        assert render(["only.sql", "both.sql"], tmp_path, template_searchpath=path) == ["from the path", "beside"]

    def test_a_file_may_include_another(self, tmp_path: Path) -> None:
        (tmp_path / "a.sql").write_text("{% include 'b.sql' %}!")
        (tmp_path / "b.sql").write_text("{{ ds }}")
        assert render("a.sql", tmp_path) == "2026-01-05!"

    def test_a_missing_file_fails_and_names_the_folders(self, tmp_path: Path) -> None:
        with pytest.raises(TemplateError, match=f"'gone.sql' was not found in: {tmp_path}"):
            render("gone.sql", tmp_path)

    def test_a_command_that_ends_in_a_file_name_is_no_file(self, tmp_path: Path) -> None:
        with DAG("d", start_date="2026-01-01"):
            task = Report(task_id="a", text="")
        assert is_template_file(task, "load.sql")
        assert not is_template_file(task, "mysql < load.sql")
        assert not is_template_file(task, "load.txt")

    def test_stored_bytes_come_before_the_disk(self, tmp_path: Path) -> None:
        (tmp_path / "load.sql").write_text("new")
        stored = {str(tmp_path / "load.sql"): b"old {{ ds }}"}
        with DAG("d", start_date="2026-01-01") as dag:
            dag.file = str(tmp_path / "d.py")
            task = Report(task_id="a", text="load.sql")
        context = Context(task, spec_of(task, tmp_path), MemoryWorld())
        Templates(task, context, stored.get).render()
        assert task.text == "old 2026-01-04"
        assert find_template(task, "load.sql") == tmp_path / "load.sql"

    def test_the_text_is_prepared_before_it_is_rendered(self, tmp_path: Path) -> None:
        class Translated(Report):
            def prepare_template(self) -> None:
                self.text = self.text.replace("${day}", "{{ ds }}")

        (tmp_path / "a.sql").write_text("${day}")
        with DAG("d", start_date="2026-01-01", timezone="Europe/Berlin") as dag:
            dag.file = str(tmp_path / "d.py")
            task = Translated(task_id="a", text="a.sql")
        assert rendered(task, tmp_path) == "2026-01-05"


def test_macros_and_filters_of_the_dag_are_found(tmp_path: Path) -> None:
    text = "{{ double(2) }} {{ 'a' | shout }} {{ ds }}"
    macros = {"double": lambda n: 2 * n, "ds": "mine"}
    got = render(text, tmp_path, user_defined_macros=macros, user_defined_filters={"shout": str.upper})
    assert got == "4 A mine"


def test_a_macro_may_skip_the_task(tmp_path: Path) -> None:
    def skip() -> None:
        raise SkipTask("no data")

    with pytest.raises(SkipTask):
        render("{{ skip() }}", tmp_path, user_defined_macros={"skip": skip})


def test_macros_of_providers_come_from_the_source_given(tmp_path: Path) -> None:
    def source(provider: str, name: str) -> Any:
        if (provider, name) != ("hive", "latest"):
            raise NotFound.named("Macro", f"{provider}.{name}", ["hive.latest"])
        return lambda table: f"{table}/2"

    with DAG("d", start_date="2026-01-01"):
        good = Report(task_id="a", text="{{ macros.hive.latest('t') }}")
        bad = Report(task_id="b", text="{{ macros.hive.oldest('t') }}")
    assert rendered(good, tmp_path, macro_source=source) == "t/2"
    with pytest.raises(TemplateError, match=r"hive\.oldest"):
        rendered(bad, tmp_path, macro_source=source)


def test_a_secret_does_not_become_text(tmp_path: Path) -> None:
    world = MemoryWorld(connections={"db": {"conn_id": "db", "type": "mysql", "password": "hunter22"}})
    with pytest.raises(TemplateError, match="reveal") as caught:
        render("{{ conn.db.password }}", tmp_path, world=world)
    assert "hunter22" not in str(caught.value)
    assert render("{{ conn.db.password.reveal() }}", tmp_path, world=world) == "hunter22"


def test_long_texts_are_cut_where_they_are_shown() -> None:
    assert shown("a" * 100_000).endswith("… (100,000 characters)")
    assert shown([1, "a"]) == "[1, 'a']"

"""Template fields: Jinja2 over the context, template files, and the results of other tasks as arguments.

A field is rendered through lists, tuples, sets and the values of dicts; a `TaskOutput` anywhere in it becomes the value
it stands for, never its text. Undefined names fail. Jinja2 is imported when a text is a template or names a file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux.context import NAMES, ResultNames, hint, read_result
from flux.errors import FailTask, FluxError, SkipTask, TemplateError
from flux.operator import TaskOutput

if TYPE_CHECKING:
    import jinja2

    from flux.context import Context
    from flux.operator import BaseOperator

__all__ = ["FileReader", "Templates", "find_template", "is_template_file", "search_path", "shown"]

#: Gives the bytes of the file at an absolute path, None when it does not know the file.
FileReader = Callable[[str], "bytes | None"]

#: What a text without is no template.
_MARKS = ("{{", "{%", "{#")

#: Longer rendered texts are cut in what is shown.
_SHOWN_LENGTH = 64 * 1024


class Templates:
    """The template fields of one task in one attempt.

    Args:
        task: its fields are replaced; give a copy.
        context: what the templates find.
        read_file: asked for template files before the disk is.
    """

    def __init__(self, task: BaseOperator, context: Context, read_file: FileReader | None = None) -> None:
        self._task = task
        self._context = context
        self._read_file = read_file
        self._made: jinja2.Environment | None = None
        #: Something was rendered, loaded or read: the fields are no longer what the DAG file says.
        self.has_rendered = False

    def render(self) -> None:
        """Load template files, call the task's `prepare_template`, then render every field.

        Raises:
            TemplateError: names the field and what is wrong.
        """
        task = self._task
        for name in task.template_fields:
            self._replace(name, self._load)
        task.prepare_template()
        for name in task.template_fields:
            self._replace(name, self._render)

    def _replace(self, name: str, change: Callable[[Any], Any]) -> None:
        try:
            value = getattr(self._task, name)
        except AttributeError as error:
            raise self._failure(name, "the operator has no such attribute. Set it in __init__") from error
        try:
            changed = change(value)
        except (SkipTask, FailTask):
            raise
        except Exception as error:
            raise self._failure(name, _cause(error)) from error
        if changed is not value:
            setattr(self._task, name, changed)

    def _failure(self, name: str, cause: str) -> TemplateError:
        of_dag = "" if self._task.dag is None else f" of DAG {self._task.dag.dag_id!r}"
        end = "" if cause.endswith((".", "?")) else "."
        return TemplateError(f"Template field {name!r} of task {self._task.task_id!r}{of_dag}: {cause}{end}")

    def _load(self, value: Any) -> Any:
        """`value` with the text of a file for each name of a template file."""
        if not self._task.template_ext:
            return value
        return _each(value, lambda text: self._file(text) if is_template_file(self._task, text) else text)

    def _file(self, name: str) -> str:
        self.has_rendered = True
        environment = self._environment
        assert environment.loader is not None
        return environment.loader.get_source(environment, name)[0]

    def _render(self, value: Any) -> Any:
        return _each(value, self._text, self._output)

    def _text(self, text: str) -> str:
        if not any(mark in text for mark in _MARKS):
            return text
        self.has_rendered = True
        return self._environment.from_string(text).render()

    def _output(self, output: TaskOutput) -> Any:
        self.has_rendered = True
        names: ResultNames = self._context["results"]
        return read_result(names, output.task.task_id, output.key)

    @property
    def _environment(self) -> jinja2.Environment:
        if self._made is None:
            self._made = _environment(self._task, self._context, self._read_file)
        return self._made


def is_template_file(task: BaseOperator, text: str) -> bool:
    """Whether a text of a template field is the name of a template file."""
    return task.names_template_file(text)


def search_path(task: BaseOperator) -> list[Path]:
    """Return the folders in which template files are looked for: the DAG file's, then `template_searchpath`."""
    dag = task.dag
    if dag is None:
        return []
    own = Path(dag.file).parent if dag.file else Path.cwd()
    return [own, *(own / folder for folder in dag.template_searchpath)]


def find_template(task: BaseOperator, name: str) -> Path | None:
    """Return the path of the template file `name`, None if it is in no folder of the search path."""
    return next((path for folder in search_path(task) if (path := folder / name).is_file()), None)


def shown(value: Any) -> str:
    """Return a rendered field as people see it, cut after 64 K characters."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}… ({len(text):,} characters)"


def _each(value: Any, text: Callable[[str], Any], output: Callable[[TaskOutput], Any] | None = None) -> Any:
    """Apply `text` to every str in `value` and `output` to every TaskOutput; the same object where nothing changed."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, TaskOutput):
        return value if output is None else output(value)
    if isinstance(value, (list, tuple)):
        items = [_each(item, text, output) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        if hasattr(value, "_fields"):  # a namedtuple takes its items one by one
            return type(value)(*items)
        return type(value)(items)
    if isinstance(value, (set, frozenset)):
        return type(value)(_each(item, text, output) for item in value)
    if isinstance(value, dict):
        rendered = {key: _each(item, text, output) for key, item in value.items()}
        return value if all(rendered[key] is value[key] for key in value) else rendered
    return value


def _cause(error: Exception) -> str:
    """What went wrong in one line, with the line of the template where Jinja2 knows it."""
    line = getattr(error, "lineno", None)
    text = str(error).strip() or type(error).__name__
    if "comment tag" in text:
        text += " '{#' begins a comment; write {{ '{#' }} for these two characters"
    if isinstance(error, FluxError) or type(error).__module__.startswith("jinja2"):
        return f"{text} (line {line} of the template)" if line else text
    return f"{type(error).__name__}: {text}"


def _environment(task: BaseOperator, context: Context, read_file: FileReader | None) -> jinja2.Environment:
    import jinja2
    from jinja2.runtime import Context as JinjaContext
    from jinja2.utils import missing

    class Names(JinjaContext):
        """Asks the attempt's context for a name when a template reads it."""

        def resolve_or_missing(self, key: str) -> Any:
            value = super().resolve_or_missing(key)
            if value is missing and key in context:
                return context[key]
            return value

    class Missing(jinja2.StrictUndefined):
        """Says which name is ours, or what the place that was asked said."""

        __slots__ = ()

        @property
        def _undefined_message(self) -> str:
            name, asked = str(self._undefined_name), self._undefined_obj
            if asked is missing:
                from flux import macros

                meant = f"Did you mean macros.{name}?" if name in macros.__all__ else hint(name, NAMES)
                return f"{super()._undefined_message}. {meant}".rstrip()
            try:
                getattr(asked, name)
            except FluxError as error:
                return str(error)
            except AttributeError:
                pass
            return f"{super()._undefined_message}. {hint(name)}".rstrip()

    def source(name: str) -> str | None:
        return _read(search_path(task), name, read_file)

    class Loader(jinja2.BaseLoader):
        """Reads template files, and those that they include, from the search path."""

        def get_source(self, environment: jinja2.Environment, name: str) -> tuple[str, str | None, None]:
            text = source(name)
            if text is None:
                folders = ", ".join(str(folder) for folder in search_path(task))
                raise TemplateError(f"template file {name!r} was not found in: {folders or 'no folder'}")
            return text, None, None

    class Environment(jinja2.Environment):
        context_class = Names

    environment = Environment(
        undefined=Missing,
        loader=Loader(),
        extensions=["jinja2.ext.do"],
        keep_trailing_newline=True,
        autoescape=False,
        cache_size=16,
    )
    dag = task.dag
    if dag is not None:
        environment.globals.update(dag.user_defined_macros or {})
        environment.filters.update(dag.user_defined_filters or {})
    return environment


def _read(folders: list[Path], name: str, read_file: FileReader | None) -> str | None:
    """The text of the template file, None if there is none; what `read_file` knows comes before the disk."""
    for folder in folders:
        path = folder / name
        content = read_file(str(path)) if read_file is not None else None
        if content is None:
            try:
                content = path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                continue
        return content.decode("utf-8")
    return None

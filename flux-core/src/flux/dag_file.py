"""Reads one DAG file in this process: imports it, gives the structure of its DAGs and the bytes they were made from.

A DAG version is its source. `SourceFinder` serves every module below the DAGs folder from bytes that are read once,
under the real file names: what is compiled is what is hashed and stored. With a stored version's bytes it serves those
instead of what is on disk now, so a version runs as it was when its file has changed, is broken or is gone.

What belongs to a version: the DAG file; the modules below the folder that it imported, or that an import statement
anywhere in them names (so imports inside functions count); the template files that its tasks name, with those they
include. A process reads one file and then ends or becomes its DAG host: the import system is not put back.
"""

# ruff: noqa: PTH100, PTH118, PTH119, PTH120, PTH123

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from flux.dag_folder import dag_files as dag_files
from flux.dag_providers import DagProviders
from flux.errors import AuthoringError, DagFileError, PluginError, PolicyViolation
from flux.wire import write_file

if TYPE_CHECKING:
    from flux.dag import DAG
    from flux.operator import BaseOperator

#: Prefix of the module name of a DAG file whose own name is taken or is no module name.
_MANGLED = "flux_dag_file_"
_INCLUDES = re.compile(rb"\{%[-+]?\s*(?:include|extends|import|from)\s+(\[[^\]]*\]|\(.*?\)|\"[^\"]*\"|'[^']*')")
#: Packages that are named after what has to be installed.
_PROVIDER = re.compile(r"flux_provider_\w+")
_QUOTED = re.compile(rb"\"([^\"]+)\"|'([^']+)'")


class SourceFinder:
    """A meta path finder for the modules below one folder; also the loader of what it finds.

    Args:
        folder: the DAGs folder, absolute.
        contents: bytes of a stored version by relative path; None: read the disk, each file once.
    """

    def __init__(self, folder: str, contents: Mapping[str, bytes] | None = None) -> None:
        self.folder = os.path.abspath(folder)
        #: Whether `contents` has all that belongs to the version, so that reading the disk is worth a line in the log.
        self.is_complete = contents is not None
        #: Everything that was served or may be, by path relative to the folder.
        self.contents: dict[str, bytes] = dict(contents or {})
        self._read_from_disk: dict[str, bytes | None] = {}

    def install(self) -> None:
        """Put the folder first on `sys.path` and this finder before all others."""
        sys.path[:] = [self.folder, *(entry for entry in sys.path if entry != self.folder)]
        sys.meta_path.insert(0, self)
        sys.meta_path.append(_FolderFinder(self))

    def read(self, path: str) -> bytes | None:
        """Return the bytes of a file below the folder (or of an absolute path), always the same; None: no such file."""
        data = self.contents.get(path)
        if data is not None:
            return data
        if path not in self._read_from_disk:
            self._read_from_disk[path] = self._from_disk(path)
        return self._read_from_disk[path]

    def _from_disk(self, path: str) -> bytes | None:
        try:
            with open(os.path.join(self.folder, path), "rb") as file:
                data = file.read()
        except OSError:
            return None
        if self.is_complete:
            print(f"flux: {path} is not part of the DAG version; the file on the disk now is used", file=sys.stderr)
        return data

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            # a DAG file called calendar.py must not take the place of Python's own for everybody
            if path is None and os.path.lexists(os.path.join(self.folder, f"{top}.py")):
                others = [entry for entry in sys.path if entry != self.folder]
                return importlib.machinery.PathFinder.find_spec(name, others, target)
            return None
        last = name.rpartition(".")[2]
        for folder in [self.folder] if path is None else list(path):
            relative = self.relative(folder)
            if relative is None:
                continue
            base = f"{relative}/{last}" if relative else last
            for candidate in (f"{base}/__init__.py", f"{base}.py"):
                if self.read(candidate) is not None:
                    return self.spec(name, candidate)
        return None

    def spec(self, name: str, path: str) -> importlib.machinery.ModuleSpec:
        """Return the spec of the module `name` whose source is at `path`."""
        file = os.path.join(self.folder, path)
        package = [os.path.dirname(file)] if path.endswith("/__init__.py") else None
        spec = importlib.util.spec_from_file_location(
            name,
            file,
            loader=self,  # type: ignore[arg-type]  # a loader by its methods
            submodule_search_locations=package,
        )
        assert spec is not None
        return spec

    def relative(self, path: str) -> str | None:
        """Return an absolute path relative to the folder; None if it is not below it."""
        if path == self.folder:
            return ""
        return path[len(self.folder) + 1 :] if path.startswith(self.folder + os.sep) else None

    def key(self, path: str) -> str:
        """Return what an absolute path is called in `contents`: relative to the folder if it is below it."""
        normal = os.path.normpath(path)
        relative = self.relative(normal)
        return normal if relative is None else relative

    # As a loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.get_code(module.__name__, module.__spec__), module.__dict__)

    def get_code(self, name: str, spec: importlib.machinery.ModuleSpec | None = None) -> CodeType:
        file = self.get_filename(name, spec)
        code: CodeType = compile(self._bytes(file), file, "exec", dont_inherit=True)
        return code

    def get_filename(self, name: str, spec: importlib.machinery.ModuleSpec | None = None) -> str:
        spec = spec or importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ImportError(f"{name} is not below {self.folder}", name=name)
        return spec.origin

    def get_source(self, name: str) -> str:
        """The text of a module: what tracebacks and `inspect` show."""
        return importlib.util.decode_source(self._bytes(self.get_filename(name)))

    def is_package(self, name: str) -> bool:
        return os.path.basename(self.get_filename(name)) == "__init__.py"

    def get_data(self, path: str) -> bytes:
        """The bytes of a file beside a module (`importlib.resources`, `pkgutil`)."""
        relative = self.relative(path)
        data = self.read(relative) if relative is not None else None
        if data is None:
            with open(path, "rb") as file:
                return file.read()
        return data

    def _bytes(self, file: str) -> bytes:
        relative = self.relative(file)
        data = self.read(relative) if relative is not None else None
        if data is None:
            raise FileNotFoundError(2, "No such file", file)
        self.contents[relative or ""] = data
        return data


class _FolderFinder:
    """Finds folders without `__init__.py` that a stored version has and the disk no longer has."""

    def __init__(self, sources: SourceFinder) -> None:
        self._sources = sources

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        base = name.replace(".", "/")
        if not any(known.startswith(f"{base}/") for known in self._sources.contents):
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [os.path.join(self._sources.folder, base)]
        return spec


@dataclass
class DagFile:
    """A DAG file, imported in this process."""

    finder: SourceFinder
    #: Relative to the DAGs folder.
    path: str
    #: By dag_id, in the order of the file.
    dags: dict[str, DAG]
    warnings: list[str] = field(default_factory=list)
    providers: DagProviders = field(default_factory=DagProviders)

    def structures(self) -> list[str]:
        """Return the structure of each DAG as JSON.

        Raises:
            DagFileError: a DAG is wrong: a cycle, a bad date, an argument nobody takes.
        """
        with _as_dag_file_error(self.finder, self.path):
            return [replace(dag.structure(), file=self.path).to_json() for dag in self.dags.values()]

    def sources(self) -> dict[str, bytes]:
        """Return the bytes of everything that belongs to the version, by relative path; see the module's text.

        Template files outside the folder are under their absolute path.
        """
        found: dict[str, bytes] = {}
        to_read = [path for path in self.finder.contents if path.endswith(".py")]
        while to_read:
            path = to_read.pop()
            data = None if path in found else self.finder.read(path)
            if data is not None:
                found[path] = data
                to_read += imported_paths(path, data)
        for dag in self.dags.values():
            found.update(_templates(self.finder, dag))
        self.finder.contents.update(found)
        self.finder.is_complete = True
        return dict(sorted(found.items()))

    def task(self, dag_id: str, task_id: str) -> BaseOperator:
        """Return a task of this file.

        Raises:
            DagFileError: there is no such DAG or task in it.
        """
        dag = self.dags.get(dag_id)
        if dag is None:
            raise DagFileError(f"DAG {dag_id!r} no longer exists in {self.path}.", file=self.path)
        if task_id not in dag.tasks:
            raise DagFileError(f"Task {task_id!r} no longer exists in DAG {dag_id!r} of {self.path}.", file=self.path)
        return dag.tasks[task_id]

    def read_file(self, path: str) -> bytes | None:
        """Return this version's bytes of a template file by its absolute path; None: it is not part of it."""
        return self.finder.contents.get(self.finder.key(path))


def read(finder: SourceFinder, path: str, providers: DagProviders | None = None) -> DagFile:
    """Import the DAG file `path` in this process, from what `finder` gives; installs the finder.

    Args:
        providers: what they refuse is not imported, and their policies decide about every task; None: core alone.

    Raises:
        DagFileError: the file does not exist, its import raised, it defines a dag_id twice, or a policy refuses a task.
    """
    from flux.dag import collecting

    providers = providers or DagProviders()
    finder.install()
    providers.install()
    if finder.read(path) is None:
        raise DagFileError(f"DAG file {path!r} does not exist in {finder.folder}.", file=path)
    with _as_dag_file_error(finder, path), collecting() as made:
        _import(finder, path)
        own = [dag for dag in made if dag.file == os.path.join(finder.folder, path)]
        dags = _by_id(own, path)
    _decide(finder, path, dags, providers)
    return DagFile(finder, path, dags, providers=providers)


def _decide(finder: SourceFinder, path: str, dags: Mapping[str, DAG], providers: DagProviders) -> None:
    """Let the providers' policies change or refuse every task."""
    if not providers.has_policies:
        return
    for dag in dags.values():
        for task in dag.tasks.values():
            try:
                providers.decide(task)
            except PolicyViolation as error:
                raise DagFileError(str(error), file=path, line=dag.line) from error
            except PluginError as error:
                traceback = explain(error, finder, path).traceback
                raise DagFileError(str(error), file=path, line=dag.line, traceback=traceback) from error


def _import(finder: SourceFinder, path: str) -> None:
    name = module_name(path)
    if not name.startswith(_MANGLED):
        importlib.import_module(name)
        return
    spec = finder.spec(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    finder.exec_module(module)


def module_name(path: str) -> str:
    """Return the name a DAG file is imported by: its dotted path, or a made-up one where that cannot be or is taken."""
    stem = path.removesuffix(".py").removesuffix("/__init__")
    parts = stem.split("/")
    taken = parts[0] in sys.stdlib_module_names or parts[0] == "flux" or parts[0].startswith("flux_")
    if taken or any("." in part for part in parts) or stem == "__init__":
        return _MANGLED + re.sub(r"\W", "_", stem) + "_" + hashlib.sha256(path.encode()).hexdigest()[:8]
    return ".".join(parts)


def _by_id(dags: Iterable[DAG], path: str) -> dict[str, DAG]:
    found: dict[str, DAG] = {}
    for dag in dags:
        first = found.setdefault(dag.dag_id, dag)
        if first is not dag:
            raise AuthoringError(
                f"DAG {dag.dag_id!r} is already defined in this file ({path}:{first.line}). "
                "Give this one another dag_id, or remove the first.",
                file=path,
                line=dag.line,
            )
    return found


def imported_paths(path: str, data: bytes) -> Iterator[str]:
    """Yield where below the DAGs folder the modules may be that the import statements in a source name.

    They need not exist; imports inside functions and conditions count. Nothing for a source that does not compile.
    """
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return
    package = path.split("/")[:-1]
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = (*above, *(node.module.split(".") if node.module else ()))
            names.add(base)
            names.update((*base, alias.name) for alias in node.names)
    prefixes = {name[: length + 1] for name in names for length in range(len(name))}
    for name in sorted(prefixes):
        yield "/".join(name) + ".py"
        yield "/".join(name) + "/__init__.py"


def _templates(finder: SourceFinder, dag: DAG) -> dict[str, bytes]:
    """The template files that a DAG's tasks name, and those that these include, that exist."""
    from flux.templating import search_path

    found: dict[str, bytes] = {}
    named = [(task, name) for task in dag.tasks.values() for name in _named_templates(task)]
    seen: set[str] = set()
    while named:
        task, name = named.pop()
        if name in seen:
            continue
        seen.add(name)
        for folder in search_path(task):
            key = finder.key(str(folder / name))
            data = finder.read(key)
            if data is not None:
                found[key] = data
                named += ((task, included) for included in _included(data))
                break
    return found


def _named_templates(task: BaseOperator) -> Iterator[str]:
    """Every text in a task's template fields that names a template file."""
    from flux.templating import is_template_file

    to_look = [getattr(task, name, None) for name in task.template_fields] if task.template_ext else []
    while to_look:
        value = to_look.pop()
        if isinstance(value, str):
            if is_template_file(task, value):
                yield value
        elif isinstance(value, dict):
            to_look += value.values()
        elif isinstance(value, (list, tuple)):
            to_look += value


def _included(template: bytes) -> Iterator[str]:
    for statement in _INCLUDES.finditer(template):
        for double, single in _QUOTED.findall(statement.group(1)):
            yield os.fsdecode(double or single)


class _as_dag_file_error:
    """Turns what author code raises into a DagFileError with the author's line and frames."""

    def __init__(self, finder: SourceFinder, path: str) -> None:
        self._finder = finder
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, (DagFileError, KeyboardInterrupt)):
            return
        raise explain(error, self._finder, self._path) from error


def explain(error: BaseException, finder: SourceFinder, path: str) -> DagFileError:
    """Return the DagFileError for what the import of `path` raised: cause, line in the file, the author's frames."""
    import traceback

    whole = traceback.TracebackException.from_exception(error)
    ours = os.path.dirname(os.path.abspath(__file__)) + os.sep
    parts: list[traceback.TracebackException | None] = [whole]
    while parts:
        part = parts.pop()
        if part is not None:
            kept = [frame for frame in part.stack if not _is_machinery(frame.filename, ours)]
            part.stack[:] = kept
            parts += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]
    file = os.path.join(finder.folder, path)
    line = next((frame.lineno for frame in reversed(whole.stack) if frame.filename == file), None)
    if isinstance(error, SyntaxError) and error.filename == file:
        line = error.lineno
    if isinstance(error, AuthoringError):
        where = error.file and os.path.join(finder.folder, error.file)
        line = error.line if where == file and error.line else line
        message = str(error)
    elif isinstance(error, SystemExit):
        message = f"DAG file {path!r} ended its process by sys.exit({error.code!r}) while it was imported."
    else:
        message = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
        if isinstance(error, ModuleNotFoundError) and _PROVIDER.fullmatch(error.name or ""):
            message += f". Install it with `pip install {str(error.name).replace('_', '-')}`."
    return DagFileError(message, file=path, line=line, traceback="".join(whole.format()))


def _is_machinery(filename: str, ours: str) -> bool:
    return filename.startswith((ours, "<frozen importlib")) or filename == importlib.__file__


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a DAG version consists of, as the supervisor writes it to `run/versions/<hash>.json`."""

    #: The DAGs folder, absolute, and the DAG file relative to it.
    folder: str
    file: str
    #: sha256 of each source by relative path; the bytes are in `run/sources/<sha256>`.
    sources: dict[str, str]
    dag_ids: list[str]

    @classmethod
    def read(cls, run_folder: str | os.PathLike[str], version: str) -> Manifest:
        """Read the manifest of a version.

        Raises:
            DagFileError: this machine does not have it.
        """
        try:
            text = Path(run_folder, "versions", f"{version}.json").read_text(encoding="utf-8")
            return cls(**json.loads(text))
        except (OSError, ValueError, TypeError) as error:
            raise DagFileError(f"DAG version {version} cannot be read: {error}.", file=version) from error

    def contents(self, run_folder: str | os.PathLike[str]) -> dict[str, bytes]:
        """Return the bytes of the sources by relative path.

        Raises:
            DagFileError: some are missing or are not what was stored.
        """
        found: dict[str, bytes] = {}
        for path, sha in self.sources.items():
            try:
                data = Path(run_folder, "sources", sha).read_bytes()
            except OSError as error:
                raise DagFileError(f"The stored source of {path} cannot be read: {error}.", file=self.file) from error
            if hashlib.sha256(data).hexdigest() != sha:
                raise DagFileError(f"The stored source of {path} ({sha}) is damaged.", file=self.file)
            found[path] = data
        return found


def hashes(contents: Mapping[str, bytes]) -> dict[str, str]:
    """Return the sha256 of each source, by path."""
    return {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}


def store_sources(run_folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> dict[str, str]:
    """Put sources into `run/sources/<sha256>`, those that are not there yet; return their hashes."""
    folder = Path(run_folder, "sources")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = hashes(contents)
    for path, sha in found.items():
        if not (folder / sha).exists():
            write_file(str(folder / sha), contents[path])
    return found

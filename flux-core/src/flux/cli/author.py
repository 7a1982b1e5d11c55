"""The author's objects, by the DAG files alone: no database, nothing recorded. The files run in this process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from flux.errors import DagFileError, NotFound

if TYPE_CHECKING:
    from flux.config import Config
    from flux.dag import DAG
    from flux.operator import BaseOperator


def load(dag_id: str, config: Config) -> DAG:
    """Read DAG files until one defines the DAG, those first whose text names it.

    One that takes longer than the option `import_timeout_seconds` ends the process, with exit status 1.

    Raises:
        NotFound: none does; says which files could not be read.
    """
    from flux import dag_file, dag_folder, providers_here
    from flux.cli import time_limit

    folder = config.dags_folder
    seconds = config.import_timeout_seconds
    finder = dag_file.SourceFinder(str(folder))
    providers = providers_here.of(config)
    known: set[str] = set()
    broken: list[str] = []
    name = dag_id.encode()
    paths = dag_folder.dag_files(folder)
    for path in sorted(paths, key=lambda path: name not in (folder / path).read_bytes()):
        try:
            with time_limit.ending_after(seconds, partial(_too_late, folder / path, path, seconds)):
                found = dag_file.read(finder, path, providers).dags
        except DagFileError as error:
            broken.append(f"{path}: {error}")
            continue
        if dag_id in found:
            return found[dag_id]
        known.update(found)
    hint = f"Files that could not be read: {'; '.join(broken)}" if broken else f"The files are in {str(folder)!r}."
    raise NotFound.named("DAG", dag_id, known, hint=hint)


def _too_late(file: Path, path: str, seconds: float, frames: Iterator[FrameType]) -> str:
    """The words of the launcher, which reads DAG files for all other commands."""
    line = next((frame.f_lineno for frame in frames if frame.f_code.co_filename == str(file)), None)
    where = f" It was in line {line}." if line else ""
    return f"DAG file {path!r} did not finish importing within {seconds:g} s.{where}"


def load_task(dag_id: str, task_id: str, config: Config) -> BaseOperator:
    """Return a task of a DAG, read as `load` does.

    Raises:
        NotFound: no such DAG or task.
    """
    dag = load(dag_id, config)
    if task_id not in dag.tasks:
        raise NotFound.named(f"Task of DAG {dag_id!r}", task_id, dag.tasks)
    return dag.tasks[task_id]

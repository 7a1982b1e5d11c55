"""The author's objects, by the DAG files alone: no database, nothing recorded. The files run in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux.errors import DagFileError, NotFound

if TYPE_CHECKING:
    from flux.config import Config
    from flux.dag import DAG
    from flux.operator import BaseOperator


def load(dag_id: str, config: Config) -> DAG:
    """Read DAG files until one defines the DAG, those first whose text names it.

    Raises:
        NotFound: none does; says which files could not be read.
    """
    from flux import dag_file, dag_folder, providers_here

    folder = config.dags_folder
    finder = dag_file.SourceFinder(str(folder))
    providers = providers_here.of(config)
    known: set[str] = set()
    broken: list[str] = []
    name = dag_id.encode()
    paths = dag_folder.dag_files(folder)
    for path in sorted(paths, key=lambda path: name not in (folder / path).read_bytes()):
        try:
            found = dag_file.read(finder, path, providers).dags
        except DagFileError as error:
            broken.append(f"{path}: {error}")
            continue
        if dag_id in found:
            return found[dag_id]
        known.update(found)
    hint = f"Files that could not be read: {'; '.join(broken)}" if broken else f"The files are in {str(folder)!r}."
    raise NotFound.named("DAG", dag_id, known, hint=hint)


def load_task(dag_id: str, task_id: str, config: Config) -> BaseOperator:
    """Return a task of a DAG, read as `load` does.

    Raises:
        NotFound: no such DAG or task.
    """
    dag = load(dag_id, config)
    if task_id not in dag.tasks:
        raise NotFound.named(f"Task of DAG {dag_id!r}", task_id, dag.tasks)
    return dag.tasks[task_id]

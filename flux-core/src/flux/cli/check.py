"""Reads DAG files as the scheduler would, each in a process of its own, without a database."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux.cli.progress import progress
from flux.errors import DagFileError, NotFound

if TYPE_CHECKING:
    from flux.config import Config

#: A DAGs folder and the path of a file relative to it.
_File = tuple[Path, str]


def errors(paths: Sequence[str], config: Config) -> list[dict[str, Any]]:
    """Return {"file", "line", "message", "traceback"} of every file that cannot be read, by file.

    Args:
        paths: files, or folders that are read like the DAGs folder.

    Raises:
        NotFound: there is no DAG file at all.
    """
    files = list(dict.fromkeys(file for path in paths for file in _files(Path(path), config)))
    if not files:
        raise NotFound(f"There is no DAG file in {', '.join(map(repr, paths))}.")
    with progress(f"Reading {len(files)} files"):
        answers = _read(files, config)
    found = [_row(file, answer["error"]) for file, answer in answers.items() if answer["error"]]
    return sorted(found + _taken(answers), key=lambda row: (row["file"], row["line"] or 0))


def _files(path: Path, config: Config) -> Iterable[_File]:
    """Files of one argument. A file belongs to the configured DAGs folder if it is in it, else to its own folder."""
    from flux.dag_folder import dag_files

    path = path.absolute()
    root = config.dags_folder
    if path.is_dir():
        if path != root and path.is_relative_to(root):
            inside = path.relative_to(root).as_posix() + "/"
            return [(root, name) for name in dag_files(root) if name.startswith(inside)]
        return [(path, name) for name in dag_files(path)]
    return [(root, path.relative_to(root).as_posix())] if path.is_relative_to(root) else [(path.parent, path.name)]


def _read(files: Sequence[_File], config: Config) -> dict[_File, Mapping[str, Any]]:
    """Return the launcher's answer for each file."""
    from flux.loop import Loop
    from flux.running.launcher_client import LauncherClient

    loop = Loop()
    answers: dict[_File, Mapping[str, Any]] = {}
    rules = {folder: _rules(folder, config) for folder in {folder for folder, _ in files}}

    def take(launcher: LauncherClient, message: Mapping[str, Any]) -> None:
        if message["op"] == "read":
            answers[files[message["id"]]] = message
            if message["host"] is not None:
                launcher.drop(message["host"])
            if len(answers) < len(files):
                ask(launcher, len(answers))
            else:
                loop.stop()

    def ask(launcher: LauncherClient, number: int) -> None:
        folder, name = files[number]
        if number == 0 or folder != files[number - 1][0]:
            launcher.set({"provider_rules": rules[folder]})
        launcher.read(number, str(folder), name, config.import_timeout_seconds)

    with tempfile.TemporaryDirectory(prefix="flux-check-") as run_folder:
        launcher = LauncherClient.private(loop, run_folder, take, loop.stop)
        try:
            ask(launcher, 0)
            loop.run()
        finally:
            launcher.close()
            loop.close()
    if len(answers) < len(files):
        raise DagFileError("The launcher ended while it read this file.", file=files[len(answers)][1])
    return answers


def _rules(folder: Path, config: Config) -> Mapping[str, Any]:
    """What the providers mean to the files of a folder, which may have a one-file provider of its own."""
    from flux import providers

    there = replace(config, dags_folder=folder)
    return providers.rules(providers.find(there, lenient=True), there)


def _taken(answers: Mapping[_File, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for dag_ids that an earlier file of the same folder has."""
    owners: dict[tuple[Path, str], str] = {}
    rows = []
    for (folder, name), answer in answers.items():
        for text in answer["structures"] or ():
            structure = json.loads(text)
            dag_id = structure["dag_id"]
            owner = owners.setdefault((folder, dag_id), name)
            if owner != name:
                message = f"DAG {dag_id!r} is already defined in {owner!r}. Give this one another dag_id."
                rows.append(_row((folder, name), {"message": message, "line": structure.get("line")}))
    return rows


def _row(file: _File, error: Mapping[str, Any]) -> dict[str, Any]:
    return {"file": file[1], **{key: error.get(key) for key in ("line", "message", "traceback")}}

"""A DAGs folder for a test: a real launcher reads it, a real store keeps it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flux.loop import Loop
from flux.running.folder import Folder
from flux.running.launcher_client import LauncherClient
from flux.running.versions import Shelved
from flux.store import dags
from flux.store.dags import DagFile, Registered
from tests.parts import Parts

DAG = """
from flux import DAG
from flux.operators import PythonOperator
{more}
with DAG("{dag_id}") as dag:
    PythonOperator(task_id="{task_id}", python_callable=print)
"""


class Watched:
    """A DAGs folder, watched with a launcher of its own."""

    def __init__(self, home: Path, **options: str) -> None:
        self.parts = Parts(home, **{"import_timeout_seconds": "20", "scan_seconds": "1", **options})
        self.root = self.parts.config.dags_folder
        #: dag_ids of each file that was stored; [] for one that is gone, broken or without DAGs.
        self.changes: list[list[str]] = []
        self.reads: list[str] = []
        #: How often the one-file provider was seen to be another.
        self.provider_changes = 0
        #: Whether the test itself says when it was judged, by `folder.obey`.
        self.judges_long = False
        self.launcher: LauncherClient | None = None
        #: Called with each answer of the launcher before the folder has it.
        self.on_answer: Callable[[Mapping[str, Any]], object] = lambda message: None
        self.database = self.parts.writer(claims=False)
        self.folder = self._folder()
        self.parts.at_close(self.end_launcher)

    def end(self) -> None:
        """End as a supervisor does; what is started afterwards knows only what is in the store."""
        self.end_launcher()
        self.database.stop(10)
        self.parts.loop.close()
        self.parts.loop = Loop()
        self.database = self.parts.writer(claims=False)
        self.folder = self._folder()

    def _folder(self) -> Folder:
        return Folder(
            self.parts.config, self.parts.loop, self.database, self._launcher, self._changed, self._provider_changed
        )

    def _provider_changed(self) -> None:
        """Judge it as long as the test says; else find at once that no other rules follow from it."""
        self.provider_changes += 1
        if not self.judges_long:
            self.parts.loop.call_later(0, self.folder.go_on)

    def _launcher(self) -> LauncherClient | None:
        return self.launcher

    def start_launcher(self) -> None:
        self.launcher = LauncherClient.private(self.parts.loop, self.parts.config.run_folder, self._heard)

    def end_launcher(self) -> None:
        if self.launcher is not None:
            self.launcher.close()
            self.launcher = None

    def _heard(self, _: LauncherClient, message: Mapping[str, Any]) -> None:
        if message["op"] == "read":
            self.reads.append(self.folder._reading.get(message["id"], ("?",))[0])
            self.on_answer(message)
            self.folder.read_done(message)

    def _changed(self, registered: Sequence[Registered], shelved: Sequence[Shelved]) -> None:
        self.changes.append([item.dag.dag_id for item in registered])

    def start(self) -> None:
        self.start_launcher()
        self.folder.start()

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def dag(self, path: str, dag_id: str | None = None, task_id: str = "t", more: str = "") -> None:
        """Write a DAG file with one task."""
        self.write(path, DAG.format(dag_id=dag_id or Path(path).stem, task_id=task_id, more=textwrap.dedent(more)))

    def sync(self) -> None:
        """Have everything read that has changed by now."""
        done: list[bool] = []
        self.folder.sync(lambda: done.append(True))
        self.parts.until(lambda: done, seconds=30, what="sync")

    def files(self) -> dict[str, DagFile]:
        return {file.path: file for file in self.parts.read(dags.files) if file.hash is not None}

    def errors(self) -> dict[str, str]:
        return {file.path: (file.error or {})["message"] for file in self.parts.read(dags.errors)}

    def active(self) -> list[str]:
        return [dag.dag_id for dag in self.parts.read(dags.every)]

    def tasks(self, dag_id: str) -> list[str]:
        """The tasks of a DAG's newest version."""
        row = self.parts.dag(dag_id).dag_version_id
        assert row is not None
        structure = self.parts.read(lambda connection: dags.version(connection, row)).structure
        return [task.task_id for task in structure.tasks]

    def number(self, dag_id: str) -> int:
        row = self.parts.dag(dag_id).dag_version_id
        assert row is not None
        return self.parts.read(lambda connection: dags.version(connection, row)).number

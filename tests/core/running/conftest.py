"""A launcher of its own for a test, and a supervisor's part that the test plays."""

from __future__ import annotations

import hashlib
import itertools
import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux.attempt import AttemptSpec
from flux.dag_file import Manifest
from flux.loop import Loop
from flux.running.launcher_client import LauncherClient
from tests.waiting import until
from tests.watched_folder import Watched

Message = dict[str, Any]


class Desk:
    """Gives orders to a launcher and keeps every message that comes back."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.run_folder = home / "run"
        self.folder = home / "dags"
        self.run_folder.mkdir()
        self.folder.mkdir()
        self.loop = Loop()
        self.messages: list[Message] = []
        self.closed = 0
        self._numbers = itertools.count(1)
        self._claims = itertools.count(4_000_000_000_000_000_001)
        self._until: Callable[[Message], bool] = lambda message: False
        self.client: LauncherClient | None = None

    def start(self, **settings: Any) -> LauncherClient:
        """Start a private launcher."""
        self.client = LauncherClient.private(self.loop, self.run_folder, self.take, self.lost, settings=settings)
        return self.client

    @property
    def launcher(self) -> LauncherClient:
        return self.client or self.start()

    def take(self, client: LauncherClient, message: Message) -> None:
        self.messages.append(message)
        if self._until(message):
            self.loop.stop()

    def lost(self) -> None:
        self.closed += 1
        self.loop.stop()

    def wait(self, seconds: float = 20, **expected: Any) -> Message:
        """Run the loop until there is a message with these values, and take it off the list."""

        def fits(message: Message) -> bool:
            return all(message.get(name) == value for name, value in expected.items())

        found = next(filter(fits, self.messages), None)
        if found is None:
            self._until = fits
            timer = self.loop.call_later(seconds, self.loop.stop)
            self.loop.run()
            timer.cancel()
            self._until = lambda message: False
            found = next(filter(fits, self.messages), None)
        assert found is not None, f"no message {expected} in {seconds} s; there are: {self.messages}"
        self.messages.remove(found)
        return found

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def read(self, path: str, timeout: float = 20) -> Message:
        number = next(self._numbers)
        self.launcher.read(number, str(self.folder), path, timeout)
        return self.wait(op="read", id=number, seconds=timeout + 10)

    def version(self, path: str, *, keep: bool = True) -> str:
        """Read a file and make its manifest, as the supervisor does; return the version's hash."""
        reading = self.read(path)
        assert reading["error"] is None, reading["error"]
        dag_ids = [json.loads(text)["dag_id"] for text in reading["structures"]]
        version = hashlib.sha256(json.dumps([reading["sources"], reading["structures"]]).encode()).hexdigest()
        manifest = Manifest(str(self.folder), path, reading["sources"], dag_ids)
        data = {"folder": manifest.folder, "file": path, "sources": manifest.sources, "dag_ids": dag_ids}
        (self.run_folder / "versions" / f"{version}.json").write_text(json.dumps(data))
        if keep:
            self.launcher.keep(reading["host"], [version])
        else:
            self.launcher.drop(reading["host"])
        return version

    def spec(self, dag_id: str, task_id: str, **changes: Any) -> AttemptSpec:
        claim = changes.pop("claim", None) or next(self._claims)
        values: dict[str, Any] = {
            "claim": claim,
            "dag_id": dag_id,
            "run_id": "manual__1",
            "task_id": task_id,
            "map_index": -1,
            "attempt": 1,
            "max_attempts": 1,
            "kind": "manual",
            "logical_date": "2026-01-05T00:00:00+00:00",
            "interval_start": "2026-01-05T00:00:00+00:00",
            "interval_end": "2026-01-06T00:00:00+00:00",
            "conf": None,
            "run_started_at": None,
            "first_seen_at": None,
            "log": str(self.home / "logs" / dag_id / "manual__1" / task_id / "-" / f"{claim}.log"),
            "result_file": str(self.run_folder / "results" / f"{claim}.json"),
            "rendered_file": str(self.home / "logs" / dag_id / "manual__1" / task_id / "-" / f"{claim}.rendered.json"),
            "endpoint": str(self.run_folder / "endpoint"),
            "log_max_bytes": 200_000_000,
            "kill_grace": 4.0,
            "run_as_user": None,
        }
        return AttemptSpec(**{**values, **changes})

    def run(self, version: str, dag_id: str, task_id: str, **changes: Any) -> AttemptSpec:
        spec = self.spec(dag_id, task_id, **changes)
        self.launcher.run(version, spec)
        return spec

    def exit(self, spec: AttemptSpec, seconds: float = 20) -> Message:
        return self.wait(op="exit", claim=spec.claim, seconds=seconds)

    def end(self, spec: AttemptSpec) -> Message:
        """The content of the attempt's result file."""
        data: Message = json.loads(Path(spec.result_file).read_text())
        return data

    def log(self, spec: AttemptSpec) -> str:
        return Path(spec.log).read_text(errors="replace")

    def logged(self, spec: AttemptSpec, text: str) -> None:
        """Wait until a log has `text`."""
        until(lambda: Path(spec.log).exists() and text in self.log(spec), what=f"{text!r} in {spec.log}")

    def hello(self) -> Message:
        """The launcher's state of now."""
        self.launcher._send({"op": "hello", "supervisor": 1, "settings": self.launcher._settings})
        self.messages = [message for message in self.messages if message["op"] != "state"]
        return self.wait(op="state")

    def close_client(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    def close(self) -> None:
        self.close_client()
        self.loop.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path / "home")
    yield watched
    watched.parts.close()

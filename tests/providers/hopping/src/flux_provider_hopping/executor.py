"""Runs attempts as an executor over ssh would, with `hop` in the place of ssh."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from flux.executor import Assignment, BaseExecutor

_HOP = Path(__file__).with_name("hop")


class HoppingExecutor(BaseExecutor):
    """Every attempt hops to `node-1`.

    `FLUX_HOPPING_FOLDER` is where each agent's pid and words are kept, by default a new temporary one. Files there make
    it misbehave, for all tasks or, named with `-TASK` behind, for one. `hold`: assignments are taken and nothing is
    begun, as a full cluster does. `refuse`: `start` raises. `hang`: `start` does not return while the file is there.
    `reject`: what was taken is told as gone, for the reason in the file. `python`: the program that the file names is
    run in place of an agent's interpreter.
    """

    def __init__(self, parallelism: int) -> None:
        super().__init__(parallelism)
        self._folder = Path(os.environ.get("FLUX_HOPPING_FOLDER") or tempfile.mkdtemp(prefix="hopping-"))
        self._hops: list[tuple[int, subprocess.Popen[bytes]]] = []
        self._rejected: dict[int, str] = {}
        self._is_stopped = False
        self._nothing = threading.Event()
        self._note(f"made among {' '.join(sorted(os.environ))}")

    def start(self, assignment: Assignment) -> None:
        claim, task_id = assignment.claim, assignment.task_id
        self._note(f"start {claim} {task_id}")
        if self._is_stopped:
            raise RuntimeError("The executor is stopped.")
        while self._told("hang", task_id):
            self._nothing.wait(0.02)
        if self._told("refuse", task_id):
            raise ConnectionError("node-1 does not answer")
        if reject := self._told("reject", task_id):
            self._rejected[claim] = reject.read_text()
            return
        if self._told("hold", task_id):
            return
        there = shlex.quote(str(self._folder / str(claim)))
        argv = list(assignment.argv)
        if python := self._told("python", task_id):
            argv[0] = python.read_text().strip()
        words = ["env", *(f"{name}={value}" for name, value in assignment.env.items()), *argv]
        hop = self._hop(claim, f"echo $$ >> {there}.pids; [ -e {there}.cancelled ] || exec {shlex.join(words)}")
        self._hops.append((claim, hop))

    def gone(self) -> Mapping[int, str]:
        ended = [(claim, hop.returncode) for claim, hop in self._hops if hop.poll() is not None]
        self._hops = [(claim, hop) for claim, hop in self._hops if hop.returncode is None]
        told, self._rejected = self._rejected, {}
        return told | {claim: f"exit status {status}: {self._last_words(claim)}" for claim, status in ended}

    def cancel(self, claim: int) -> None:
        self._note(f"cancel {claim}")
        there = shlex.quote(str(self._folder / str(claim)))
        if any(known == claim and hop.poll() is None for known, hop in self._hops):
            self._hop(claim, f"touch {there}.cancelled; kill -KILL $(cat {there}.pids)").wait(10)

    def stop(self) -> None:
        self._note("stop")
        self._is_stopped = True
        for _, hop in self._hops:
            with contextlib.suppress(subprocess.TimeoutExpired):
                hop.wait(0.5)

    def _hop(self, claim: int, command: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{claim}.words").open("ab") as words:
            return subprocess.Popen(
                [_HOP, "node-1", command],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
            )

    def _last_words(self, claim: int) -> str:
        words = (self._folder / f"{claim}.words").read_bytes()[-1000:]
        return " / ".join(words.decode(errors="replace").strip().splitlines()[-3:])

    def _told(self, word: str, task_id: str) -> Path | None:
        """The file that says so."""
        files = [self._folder / name for name in (word, f"{word}-{task_id}")]
        return next((file for file in files if file.exists()), None)

    def _note(self, text: str) -> None:
        with (self._folder / "calls").open("a") as calls:
            print(text, file=calls)

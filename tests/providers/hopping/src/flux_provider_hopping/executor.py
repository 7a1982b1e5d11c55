"""Runs attempts as an executor over ssh would, with `hop` in the place of ssh."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from flux.executor import Assignment, BaseExecutor

_HOP = Path(__file__).with_name("hop")


class HoppingExecutor(BaseExecutor):
    """Every attempt hops to `node-1`.

    `FLUX_HOPPING_FOLDER` is where each agent's pid and words are kept, by default a new temporary one. When the file
    `hold` is there, or `hold-TASK`, assignments are taken and nothing is begun, as a full cluster does; `refuse` makes
    `start` raise.
    """

    def __init__(self, parallelism: int) -> None:
        super().__init__(parallelism)
        self._folder = Path(os.environ.get("FLUX_HOPPING_FOLDER") or tempfile.mkdtemp(prefix="hopping-"))
        self._hops: list[tuple[int, subprocess.Popen[bytes]]] = []
        self._is_stopped = False
        self._note(f"made among {' '.join(sorted(os.environ))}")

    def start(self, assignment: Assignment) -> None:
        self._note(f"start {assignment.claim} {assignment.task_id}")
        if self._is_stopped:
            raise RuntimeError("The executor is stopped.")
        if (self._folder / "refuse").exists():
            raise ConnectionError("node-1 does not answer")
        if any((self._folder / name).exists() for name in ("hold", f"hold-{assignment.task_id}")):
            return
        there = shlex.quote(str(self._folder / str(assignment.claim)))
        words = ["env", *(f"{name}={value}" for name, value in assignment.env.items()), *assignment.argv]
        hop = self._hop(f"echo $$ >> {there}.pids; [ -e {there}.cancelled ] || exec {shlex.join(words)}")
        self._hops = [each for each in self._hops if each[1].poll() is None]
        self._hops.append((assignment.claim, hop))

    def cancel(self, claim: int) -> None:
        self._note(f"cancel {claim}")
        there = shlex.quote(str(self._folder / str(claim)))
        if any(known == claim and hop.poll() is None for known, hop in self._hops):
            self._hop(f"touch {there}.cancelled; kill -KILL $(cat {there}.pids)").wait(10)

    def stop(self) -> None:
        self._note("stop")
        self._is_stopped = True
        for _, hop in self._hops:
            with contextlib.suppress(subprocess.TimeoutExpired):
                hop.wait(0.5)

    def _hop(self, command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "words").open("ab") as words:
            return subprocess.Popen(
                [_HOP, "node-1", command],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
            )

    def _note(self, text: str) -> None:
        with (self._folder / "calls").open("a") as calls:
            print(text, file=calls)

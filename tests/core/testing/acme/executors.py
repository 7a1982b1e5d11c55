"""The executor of Acme."""

import os
import subprocess
import tempfile
from typing import IO

from flux.executor import Assignment, BaseExecutor


class AcmeExecutor(BaseExecutor):
    """Run each attempt as a process on this machine, in a folder and an environment of its own."""

    def __init__(self, parallelism: int) -> None:
        super().__init__(parallelism)
        self.running: dict[int, list[subprocess.Popen[bytes]]] = {}
        self.words: dict[int, IO[bytes]] = {}
        self.ended: dict[int, str] = {}
        self.is_stopped = False

    def start(self, assignment: Assignment) -> None:
        """Start the process."""
        self.forget()
        if self.is_stopped:
            raise RuntimeError("The executor is stopped.")
        words = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process lives
        env = {"PATH": os.defpath, **assignment.env}
        started = subprocess.Popen(list(assignment.argv), env=env, cwd="/", start_new_session=True, stderr=words)
        self.words[started.pid] = words
        self.running.setdefault(assignment.claim, []).append(started)

    def cancel(self, claim: int) -> None:
        """Tell the process to end."""
        self.forget()
        for each in self.running.get(claim, ()):
            each.terminate()

    def gone(self) -> dict[int, str]:
        """Say what has ended."""
        self.forget()
        told, self.ended = self.ended, {}
        return told

    def stop(self) -> None:
        """Start nothing more."""
        self.is_stopped = True

    def forget(self) -> None:
        """Wait for what has ended, and keep its last words."""
        for claim, started in list(self.running.items()):
            self.running[claim] = [each for each in started if each.poll() is None]
            for each in set(started).difference(self.running[claim]):
                with self.words.pop(each.pid) as words:
                    words.seek(0)
                    self.ended[claim] = f"exit status {each.returncode}: {words.read().decode()[-500:]}"

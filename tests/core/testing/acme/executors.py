"""The executor of Acme."""

import os
import subprocess

from flux.executor import Assignment, BaseExecutor


class AcmeExecutor(BaseExecutor):
    """Run each attempt as a process on this machine, in a folder and an environment of its own."""

    def __init__(self, parallelism: int) -> None:
        super().__init__(parallelism)
        self.running: dict[int, list[subprocess.Popen[bytes]]] = {}
        self.is_stopped = False

    def start(self, assignment: Assignment) -> None:
        """Start the process."""
        self.forget()
        if self.is_stopped:
            raise RuntimeError("The executor is stopped.")
        env = {"PATH": os.defpath, **assignment.env}
        started = subprocess.Popen(list(assignment.argv), env=env, cwd="/", start_new_session=True)
        self.running.setdefault(assignment.claim, []).append(started)

    def cancel(self, claim: int) -> None:
        """Tell the process to end."""
        self.forget()
        for each in self.running.get(claim, ()):
            each.terminate()

    def stop(self) -> None:
        """Start nothing more."""
        self.is_stopped = True

    def forget(self) -> None:
        """Wait for what has ended."""
        for claim, started in list(self.running.items()):
            self.running[claim] = [each for each in started if each.poll() is None]

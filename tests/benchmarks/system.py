"""A whole Flux system in a temporary home, as the benchmarks drive it: by its commands and its own functions."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tests.benchmarks import processes
from tests.waiting import until

if TYPE_CHECKING:
    from flux.app import Flux
    from flux.store.runs import DagRun

FLUX = Path(sys.executable).with_name("flux")


class System:
    """`flux up` in a home of its own, in a `with`; the home is removed afterwards.

    Args:
        environ: `FLUX_` variables to add.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="flux-bench-"))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
        self.environ = {**clean, **(environ or {}), "FLUX_HOME": str(self.home)}
        self.dags = self.home / "dags"
        self.up_log = self.home / "up.log"
        self._up: subprocess.Popen[bytes] | None = None
        self._flux: Flux | None = None

    def __enter__(self) -> System:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None and self.up_log.exists():
            print(self.up_log.read_text(errors="replace")[-4000:], file=sys.stderr)
        if self._flux is not None:
            self._flux.close()
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    # --- the system ------------------------------------------------------------------------------------------------

    def up(self) -> System:
        """Start it and wait until it takes work."""
        with self.up_log.open("wb") as log:
            self._up = subprocess.Popen(
                [FLUX, "up", "--no-ui"],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: b"Flux is up" in self.up_log.read_bytes(), 60, "flux up")
        return self

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        if self._up is None:
            return
        left = self.pids()
        self._up.send_signal(signal.SIGINT)
        try:
            self._up.wait(20)
        except subprocess.TimeoutExpired:
            self._up.kill()
            self._up.wait()
        until(lambda: not any(map(processes.is_there, left)), 20, "the end of every process")
        self._up = None

    @property
    def pid(self) -> int:
        assert self._up is not None
        return self._up.pid

    def pids(self) -> list[int]:
        """Every process of the system."""
        return processes.below(self.pid)

    def pid_of(self, kind: str) -> int:
        """The process of a component."""
        from flux.running import home

        return next(part.pid for part in home.running(self.home / "run") if part.kind == kind)

    def cpu(self) -> float:
        """CPU seconds that the system has used since its start."""
        return processes.cpu_seconds(self.pids())

    # --- work ------------------------------------------------------------------------------------------------------

    @property
    def flux(self) -> Flux:
        """The home, opened in this process."""
        if self._flux is None:
            from flux import config
            from flux.app import Flux

            self._flux = Flux.open(config.load(self.environ), create=True)
        return self._flux

    def write(self, name: str, source: str) -> None:
        """Put a DAG file into the folder."""
        self.dags.mkdir(parents=True, exist_ok=True)
        part = self.dags / f".{name}.part"
        part.write_text(source)
        part.replace(self.dags / name)

    def dag(self, name: str, source: str) -> None:
        """Put a DAG file into the folder and wait until it has been read."""
        from flux.running import actions

        self.write(name, source)
        actions.sync_folder(self.flux)

    def trigger(self, dag_id: str) -> DagRun:
        from flux.running import actions

        return actions.trigger(self.flux, dag_id, who="bench")

    def run(self, dag_id: str) -> None:
        """Trigger a DAG and wait for the end of its run, which must be a success."""
        self.finish(self.trigger(dag_id))

    def finish(self, run: DagRun) -> None:
        """Wait for the end of a run, which must be a success."""
        from flux.running import actions

        ended = actions.wait_run(self.flux, run)
        if ended.state != "success":
            raise RuntimeError(f"run {run.run_id} of {run.dag_id} ended as {ended.state}")

    def settle(self, seconds: float = 0.3) -> None:
        """Let what follows the last commit happen before something is measured."""
        time.sleep(seconds)

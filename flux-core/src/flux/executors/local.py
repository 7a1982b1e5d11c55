"""Attempts on this machine: the launcher forks each from the host of its DAG version."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from flux.errors import Refused
from flux.executor import Assignment, BaseExecutor

__all__ = ["LocalExecutor", "SequentialExecutor"]


class LocalExecutor(BaseExecutor):
    """Run attempts beside each other on this machine, `parallelism` at once."""

    uses_launcher: ClassVar[bool] = True

    def __init__(self, parallelism: int) -> None:
        super().__init__(parallelism)
        self._launch: Callable[[Assignment], None] | None = None
        self._kill: Callable[[int], None] | None = None

    def bind(self, *, launch: Callable[[Assignment], None], kill: Callable[[int], None]) -> None:
        self._launch, self._kill = launch, kill

    def start(self, assignment: Assignment) -> None:
        if self._launch is None:
            raise Refused(f"Claim {assignment.claim} cannot start: the executor is stopped or was never bound.")
        self._launch(assignment)

    def cancel(self, claim: int) -> None:
        if self._kill is not None:
            self._kill(claim)

    def stop(self) -> None:
        self._launch = self._kill = None


class SequentialExecutor(LocalExecutor):
    """Run one attempt at a time on this machine, whatever `parallelism` says."""

    def __init__(self, parallelism: int = 1) -> None:
        super().__init__(1)

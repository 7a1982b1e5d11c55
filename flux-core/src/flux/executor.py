"""What runs attempts: the interface between the supervisor and an executor.

The supervisor asks every executor the same three things. Fencing, liveness, time limits, logs and results are the
supervisor's: an executor only causes a process to begin, and asks it to end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

__all__ = ["Assignment", "BaseExecutor"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt to start, as an executor gets it."""

    #: Names the attempt; a second process with the same claim is refused by the supervisor.
    claim: int
    dag_id: str
    run_id: str
    task_id: str
    #: -1: not mapped.
    map_index: int
    #: From 1.
    attempt: int
    queue: str = "default"
    #: As the author wrote it; None: not given.
    resources: Mapping[str, Any] | None = None
    #: The attempt runner: standard library only until it has the DAG version.
    argv: tuple[str, ...] = ()
    #: To be added to the environment; holds FLUX_CLAIM and where the supervisor is.
    env: Mapping[str, str] = field(default_factory=dict)


class BaseExecutor(ABC):
    """Starts attempts somewhere. Called from the supervisor's event loop only: every method returns at once.

    Args:
        parallelism: how many attempts may run at once.
    """

    #: True: the launcher of this machine forks its attempts, and `bind` gives it the way there.
    uses_launcher: ClassVar[bool] = False

    def __init__(self, parallelism: int) -> None:
        if parallelism < 1:
            raise ValueError(f"parallelism = {parallelism} lets nothing run. Set 1 or more.")
        #: The supervisor holds back what goes beyond it.
        self.parallelism = parallelism

    def bind(self, *, launch: Callable[[Assignment], None], kill: Callable[[int], None]) -> None:  # noqa: B027
        """Take what a supervisor offers to start and kill attempts on its own machine, by claim.

        Called once, before the first `start`. An executor that reaches other machines has no use for it.
        """

    @abstractmethod
    def start(self, assignment: Assignment) -> None:
        """Cause `assignment.argv` to run with `assignment.env`. Raising means that nothing began."""

    @abstractmethod
    def cancel(self, claim: int) -> None:
        """Ask the attempt to end, whether it has begun or not. A claim that is not known is none of its business."""

    @abstractmethod
    def stop(self) -> None:
        """Start nothing more and let go of what is held. What runs is cancelled by the supervisor first."""

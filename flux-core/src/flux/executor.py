"""What runs attempts: the interface between the supervisor and an executor. Import it to write one.

An executor does three things: it causes an assignment's `argv` to run, with the assignment's `env` added to the
environment, on a machine of its choice; it cancels one; it stops. One that can learn that nothing will come of an
assignment says so. Everything else is the supervisor's, and is the same
for every executor: who may start a claim, liveness, time limits, kills, logs, results, retries, and what becomes of all
this when a supervisor is replaced.

What `argv` runs is the agent: it finds the supervisor by itself, fetches the assignment there, and runs the task. It
needs the interpreter that `argv` names, with flux-core and the providers that the task uses, and a way to the
supervisor's endpoint; nothing else. Its working folder and its environment may be anything. It never gets a database
address or a key, and the environment it is given should not hold one either: the supervisor takes its own out of its
environment before an executor is made.

`docs/how-to/write-an-executor.md` shows a whole one.
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
    #: What to run: an absolute program and its arguments, each to arrive as it is. Empty for the launcher's executors.
    argv: tuple[str, ...] = ()
    #: What to add to the environment: FLUX_CLAIM and FLUX_ENDPOINT. Empty for the launcher's executors.
    env: Mapping[str, str] = field(default_factory=dict)


class BaseExecutor(ABC):
    """Starts attempts somewhere.

    The supervisor makes one, in its own process. One that uses the launcher is called in the event loop, and must
    return at once. Any other is called in a thread of its own, one call after the other. Beside one whose call takes
    longer than 5 seconds the supervisor makes another, which gets what is to be started meanwhile. An executor keeps
    nothing that must survive the supervisor.

    Args:
        parallelism: how many attempts may run at once, those that are queued among them.
    """

    #: True: the launcher of this machine forks its attempts, and `bind` gives it the way there.
    uses_launcher: ClassVar[bool] = False
    #: pytest takes a class called Test… for tests: this is none, whatever its author calls it.
    __test__: ClassVar[bool] = False

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
        """Cause `assignment.argv` to run with `assignment.env`, and return without waiting for its end.

        Raising means that nothing began, and so does not returning for `executor_call_seconds`: the attempt is given
        back at no cost, and comes again after a second, later after up to 30. `flux why` shows what was raised, and a
        task for which nothing began in `queued_timeout_seconds` fails with it. What is taken and begins nothing for so
        long is cancelled and comes again under another claim. The same claim may come twice when a supervisor was
        replaced: the first agent that starts has it, the other ends by itself.
        """

    def gone(self) -> Mapping[int, str]:
        """Return the claims of which nothing will begin any more, each with why; each of them once.

        A submission that was refused after `start` returned, a process that has ended: what is told of a claim that no
        agent has begun counts as what `start` raises. Of all other claims it is ignored, so there is no need to know
        whether an end was a good one. Asked about every second while attempts are queued, and once after a `start`.
        Why is one line for people; the last words of the process are the best there is.
        """
        return {}

    @abstractmethod
    def cancel(self, claim: int) -> None:
        """Make sure that nothing of this claim begins any more, and end what has.

        Called for attempts that were given up: killed or interrupted ones whose agent did not end them in time, and
        lost ones. Nothing more is recorded of them, so a rough end is good enough. A claim that is not known, because
        it ended long ago or was started before a restart, is none of its business.
        """

    @abstractmethod
    def stop(self) -> None:
        """Start nothing more and let go of what is held. What runs is cancelled by the supervisor first."""

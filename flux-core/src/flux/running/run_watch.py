"""Runs as the supervisor watches them: who waits for one's end, and what takes longer than its dagrun_timeout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from flux.loop import Loop
from flux.running.writer import Writer, show
from flux.store import runs
from flux.store.advance import Outcomes, time_out
from flux.store.runs import DagRun
from flux.store.structures import StructureCache
from flux.times import Clock

#: Before what the database refused is tried again.
_AGAIN_SECONDS = 1.0


class RunWatch:
    """Lives in the supervisor's loop.

    Args:
        give_up: called with the claims that a run which took too long still has open; kills them.
    """

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        writer: Writer,
        structures: StructureCache,
        give_up: Callable[[Sequence[int]], object],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._writer = writer
        self._structures = structures
        self._give_up = give_up
        #: (dag_id, run_id) -> who waits for its end.
        self._waiting: dict[tuple[str, str], list[Callable[[Any], object]]] = {}
        #: Rows of runs that have a timer for their dagrun_timeout.
        self._timed: set[int] = set()

    def started(self, started: Sequence[DagRun]) -> None:
        """Time the runs that have a dagrun_timeout; those that are timed already stay as they are."""
        for run in started:
            if run.deadline_at is not None and run.id not in self._timed:
                self._timed.add(run.id)
                self._time(run.id, run.deadline_at)

    def ended(self, ended: Sequence[DagRun]) -> None:
        """Answer those who wait for these runs."""
        for run in ended:
            self._answer(run.dag_id, run.run_id)

    def learn(self) -> None:
        """Time the runs that others started."""
        self._writer.call(runs.with_deadline, self.started, reads_only=True)

    def wait(self, question: Mapping[str, Any], answer: Callable[[Any], object]) -> None:
        """Answer when the run has ended that `dag_id` and `run_id` name; at once if it has, or does not exist."""
        dag_id, run_id = question["dag_id"], question["run_id"]
        self._waiting.setdefault((dag_id, run_id), []).append(answer)

        def done(has_ended: bool) -> None:
            if has_ended:
                self._answer(dag_id, run_id)

        self._writer.call(lambda connection: runs.has_ended(connection, dag_id, run_id), done, reads_only=True)

    def _answer(self, dag_id: str, run_id: str) -> None:
        for answer in self._waiting.pop((dag_id, run_id), ()):
            answer({})

    def _time(self, run_row: int, deadline_at: datetime) -> None:
        seconds = (deadline_at - self._clock.now()).total_seconds()
        self._loop.call_later(max(seconds, 0.0), lambda: self._time_out(run_row, deadline_at))

    def _time_out(self, run_row: int, deadline_at: datetime) -> None:
        """Fail a run that took longer than its dagrun_timeout: what has not begun is skipped, what runs is killed."""
        if self._clock.now() < deadline_at:  # the clock was set back
            self._time(run_row, deadline_at)
            return

        def done(result: tuple[Sequence[int], Outcomes]) -> None:
            claims, outcomes = result
            self._timed.discard(run_row)
            self.started(outcomes.runs_started)
            self.ended(outcomes.runs_ended)
            self._give_up(claims)

        def failed(error: Exception) -> None:
            show(error)
            self._loop.call_later(_AGAIN_SECONDS, lambda: self._time_out(run_row, deadline_at))

        now = self._clock.now()
        self._writer.call(
            lambda connection: time_out(connection, self._structures.through(connection), run_row, now),
            done,
            failed=failed,
        )

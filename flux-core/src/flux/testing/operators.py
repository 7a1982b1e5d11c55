"""The standard tests of operators."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from flux import process
from flux.operator import BaseOperator
from flux.sensor import BaseSensor
from flux.testing.attempts import RunningTask, TaskOutcome
from flux.testing.children import tail
from flux.testing.conformance import Outside, fail, not_applicable, standard
from flux.testing.tasks import TaskConformance
from flux.times import seconds

__all__ = ["OperatorConformance"]

#: Seconds between two looks, and those that a list of remote work may lag behind.
_PAUSE = 0.01
_LAG = 2.0


class OperatorConformance(TaskConformance):
    """The standard tests of an operator: set `operator` and `arguments`.

    A fixture `world` shows what its work changes outside; see `FolderWorld`.
    """

    _under_test = "operator"
    #: The class.
    operator: ClassVar[type[BaseOperator]]
    #: Whether its work takes so long that killing it matters.
    long_running: ClassVar[bool] = False
    #: With `long_running`: changes to `arguments` that make the work take longer than the tests do.
    long_arguments: ClassVar[Mapping[str, Any]] = {}

    @property
    def subject(self) -> type[BaseOperator]:
        return self.operator

    @standard("contract")
    def test_it_is_no_sensor(self) -> None:
        if issubclass(self.operator, BaseSensor):
            fail(f"{self.name} is a sensor. Test it with SensorConformance.")

    @standard("execution", "execute")
    def test_it_executes(self, outside: Outside) -> None:
        outcome = self.run(outside, self.task(outside))
        if outcome.state != "success":
            self.unexpected(outcome, "success")

    @standard("execution", "execute")
    def test_it_leaves_no_process_behind(self, outside: Outside) -> None:
        outcome = self.run(outside, self.task(outside))
        if outcome.strays:
            fail(f"{self.name} ended and left processes running: {list(outcome.strays)}. Wait for what it starts.")

    @standard("execution", "idempotence")
    def test_running_again_for_the_same_interval_changes_nothing(self, outside: Outside) -> None:
        for number in ("first", "second"):
            outcome = self.run(outside, self.task(outside))
            if outcome.state != "success":
                self.unexpected(outcome, f"success in its {number} run")
            after = outside.snapshot()
            if number == "first":
                before = after
        if after != before:
            fail(
                f"A second run of {self.name} for the same interval changed the outside. Replace what the first run "
                f"wrote, in one step.\n--- after the first: {before!r:.1000}\n--- after the second: {after!r:.1000}"
            )

    @standard("execution", "templates")
    def test_its_template_fields_are_rendered(self, outside: Outside) -> None:
        fields = self.text_fields(outside)
        if not fields:
            not_applicable(f"no template field of {self.name} is among `arguments` as a text")
        plain = self.run(outside, self.task(outside))
        if plain.state != "success":
            self.unexpected(plain, "success")
        for field in fields:
            task = self.task(outside, **{field: "{{ params.of_the_kit }}"})
            outcome = self.run(outside, task, params={"of_the_kit": plain.rendered[field]})
            if outcome.state != "success":
                self.unexpected(outcome, f"success with a template as {field}")
            if outcome.rendered[field] != plain.rendered[field]:
                fail(f"{self.name} changes template field {field!r}: {outcome.rendered[field]!r:.300}. Leave it alone.")

    @standard("execution", "dry_run")
    def test_a_dry_run_changes_nothing(self, outside: Outside) -> None:
        before = outside.snapshot()
        outcome = self.run(outside, self.task(outside), instead=lambda task, context: print(task.execute_dry(context)))
        if outcome.state != "success":
            self.unexpected(outcome, "success in a dry run")
        if outside.snapshot() != before:
            fail(f"execute_dry() of {self.name} changed the outside. Let it only show what execute() would do.")

    @standard("execution", "kill")
    def test_a_kill_stops_its_work(self, outside: Outside) -> None:
        before, running = self._begun(outside, {})
        began = time.monotonic()
        outcome = running.kill()
        self._must_be_gone(outside, before, outcome, time.monotonic() - began, "a kill")

    @standard("execution", "execution_timeout")
    def test_its_time_limit_stops_its_work(self, outside: Outside) -> None:
        limit = 0.1
        before, running = self._begun(outside, {"execution_timeout": limit})
        began = time.monotonic()
        outcome = running.wait()
        self._must_be_gone(outside, before, outcome, time.monotonic() - began - limit, "its execution_timeout")

    def _begun(self, outside: Outside, changes: Mapping[str, Any]) -> tuple[Collection[Any], RunningTask]:
        """Start a long task and return it once its work goes on, with what went on outside before."""
        if not self.long_running:
            not_applicable(f"{type(self).__name__}.long_running is False: its work is over at once")
        before = list(outside.running())
        running = self.start(outside, self.task(outside, **outside.filled(dict(self.long_arguments)), **changes))
        deadline = time.monotonic() + self.limit_seconds
        while not self._goes_on(outside, before, running):
            if running.has_ended():
                outcome = running.wait()
                fail(
                    f"{self.name} ended as {outcome.state} before it could be killed. Give `long_arguments` with which "
                    f"it works for a minute, and a `world` whose running() shows the work.{tail(outcome.log)}"
                )
            if time.monotonic() > deadline:
                outcome = running.kill()
                fail(
                    f"Nothing of {self.name} was seen running within {self.limit_seconds:g} s. Give a fixture `world` "
                    f"whose running() returns the ids of its work elsewhere.{tail(outcome.log)}"
                )
            time.sleep(_PAUSE)
        return before, running

    def _goes_on(self, outside: Outside, before: Collection[Any], running: RunningTask) -> bool:
        """Whether its work is seen outside; with a world that shows none, in processes of its own."""
        if outside.can_show_running:
            return any(each not in before for each in outside.running())
        return bool(process.descendants(running.pid))

    def _must_be_gone(
        self, outside: Outside, before: Collection[Any], outcome: TaskOutcome, took: float, what: str
    ) -> None:
        grace = seconds(self.task(outside).kill_grace, "kill_grace")
        deadline = time.monotonic() + _LAG
        while left := [each for each in outside.running() if each not in before]:
            if time.monotonic() > deadline:
                fail(
                    f"After {what} the work of {self.name} goes on: {left}. Stop it in on_kill(), with what execute() "
                    f"has noted of it.{tail(outcome.log)}"
                )
            time.sleep(_PAUSE)
        if took > grace:
            fail(
                f"After {what} {self.name} took longer than its kill_grace of {grace:g} s and was ended by force. "
                f"Let on_kill() return sooner, and do not catch BaseException.{tail(outcome.log)}"
            )
        if outcome.state != "failed":
            self.unexpected(outcome, f"failed after {what}")

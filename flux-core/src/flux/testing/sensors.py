"""The standard tests of sensors."""

from __future__ import annotations

import time
from typing import ClassVar

from flux.sensor import BaseSensor
from flux.testing.attempts import TaskOutcome
from flux.testing.conformance import Outside, fail, not_applicable, standard
from flux.testing.tasks import TaskConformance

__all__ = ["SensorConformance"]


class SensorConformance(TaskConformance):
    """The standard tests of a sensor: set `sensor` and `arguments`.

    A fixture `world` with a method `make_true` does what the sensor waits for; before, its condition must not hold.
    """

    _under_test = "sensor"
    #: The class.
    sensor: ClassVar[type[BaseSensor]]
    #: Seconds that one poke may take: it looks, and does not wait.
    poke_seconds: ClassVar[float] = 10

    @property
    def subject(self) -> type[BaseSensor]:
        return self.sensor

    @standard("contract")
    def test_it_is_a_sensor(self) -> None:
        if not issubclass(self.sensor, BaseSensor):
            fail(f"{self.name} is no BaseSensor. Derive it from flux.BaseSensor and override poke().")

    @standard("execution", "waiting")
    def test_it_waits_while_its_condition_does_not_hold(self, outside: Outside) -> None:
        began = time.monotonic()
        outcome = self._poked(outside, "deferred")
        took = time.monotonic() - began
        if outcome.error or took > self.poke_seconds:
            fail(
                f"A poke of {self.name} took {took:.1f} s while its condition did not hold. Look once and return "
                "False: Flux pokes again after poke_interval."
            )

    @standard("execution", "poke")
    def test_it_succeeds_when_its_condition_holds(self, outside: Outside) -> None:
        if "waiting" not in self.unsupported:
            self._poked(outside, "deferred")
        outside.make_true()
        self._poked(outside, "success")

    @standard("execution", "poke")
    def test_a_poke_changes_nothing(self, outside: Outside) -> None:
        before = outside.snapshot()
        outcome = self.run(outside, self.task(outside))
        if outcome.state not in ("deferred", "success"):
            self.unexpected(outcome, "deferred or success")
        if outside.snapshot() != before:
            fail(f"A poke of {self.name} changed the outside. It is repeated at will: let it only look.")
        if outcome.strays:
            fail(f"A poke of {self.name} left processes running: {list(outcome.strays)}. Wait for what it starts.")

    @standard("execution", "templates")
    def test_its_template_fields_are_rendered(self, outside: Outside) -> None:
        fields = self.text_fields(outside)
        if not fields:
            not_applicable(f"no template field of {self.name} is among `arguments` as a text")
        plain = self.run(outside, self.task(outside))
        for field in fields:
            task = self.task(outside, **{field: "{{ params.of_the_kit }}"})
            outcome = self.run(outside, task, params={"of_the_kit": plain.rendered[field]})
            if outcome.state != plain.state:
                self.unexpected(outcome, f"{plain.state}, as without a template, with one as {field}")

    def _poked(self, outside: Outside, wanted: str) -> TaskOutcome:
        outcome = self.run(outside, self.task(outside))
        if outcome.state != wanted:
            self.unexpected(outcome, wanted)
        return outcome

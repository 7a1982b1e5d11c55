"""The base of sensors: operators that wait for a condition without holding a process between two looks at it."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from flux.arguments import check_flag
from flux.errors import AuthoringError
from flux.operator import BaseOperator
from flux.times import Duration, seconds

if TYPE_CHECKING:
    from flux.context import Context
    from flux.structure import SensorStructure


class BaseSensor(BaseOperator):
    """Base of all sensors. Override `poke`.

    Args:
        poke_interval: seconds or a timedelta between two pokes, at least 1 ms.
        poke_timeout: how long one poke may take before its process is killed.
        timeout: how long the condition is waited for, from the first poke.
        soft_fail: end as skipped, not failed, when it does not come true in time.
        exponential_backoff: each interval is twice the one before, up to max_poke_interval.
        isolated: poke in a process of its own instead of beside other sensors in threads.
    """

    ui_color = "#e6f1f2"

    def __init__(
        self,
        *,
        poke_interval: Duration = 60,
        poke_timeout: Duration = 60,
        timeout: Duration = 604_800,
        soft_fail: bool = False,
        exponential_backoff: bool = False,
        max_poke_interval: Duration = 3_600,
        isolated: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.poke_interval = self._positive("poke_interval", poke_interval)
        self.poke_timeout = self._positive("poke_timeout", poke_timeout)
        self.timeout = timeout
        seconds(timeout, self._what("timeout"))
        self.soft_fail = check_flag(soft_fail, self._what("soft_fail"))
        self.exponential_backoff = check_flag(exponential_backoff, self._what("exponential_backoff"))
        self.max_poke_interval = self._positive("max_poke_interval", max_poke_interval)
        self.isolated = check_flag(isolated, self._what("isolated"))

    def _positive(self, argument: str, value: Duration) -> Duration:
        if seconds(value, self._what(argument)) < 0.001:
            raise AuthoringError(f"{self._what(argument)} = {value!r} is too short. Give at least a millisecond.")
        return value

    @abstractmethod
    def poke(self, context: Context) -> bool:
        """Return whether the condition holds. Called again and again; must not wait for it."""

    def execute(self, context: Context) -> bool:
        """Poke once."""
        return bool(self.poke(context))

    def sensor_structure(self) -> SensorStructure:
        from flux.structure import SensorStructure

        return SensorStructure(
            poke_interval=seconds(self.poke_interval, "poke_interval"),
            poke_timeout=seconds(self.poke_timeout, "poke_timeout"),
            timeout=seconds(self.timeout, "timeout"),
            soft_fail=self.soft_fail,
            exponential_backoff=self.exponential_backoff,
            max_poke_interval=seconds(self.max_poke_interval, "max_poke_interval"),
            isolated=self.isolated,
        )

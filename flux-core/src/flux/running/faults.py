"""Named points at which the chaos tests make a Flux process die, freeze or raise. Nothing else may use them.

`FLUX_FAULT=<point>:<action>[:<file>]`, read once by each process. Actions: `kill9`, `stop` (SIGSTOP), `raise`. With a
file the fault happens once: in whichever process creates the file, so that what is restarted gets past the point.
"""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from flux.errors import ConfigError

Point = Literal[
    "after_claim_commit",  # the attempt is in the store, the launcher does not know it yet
    "after_agent_start",  # an agent's start is in the store, it was not answered
    "after_launch",  # the launcher has been told to run it
    "before_end_commit",  # the attempt's exit is known here, not in the store
    "after_end_commit",  # its end is in the store, the launcher's exit message is not acknowledged
    "before_exit_message",  # the launcher has reaped the attempt and tells nobody
    "before_result_file",  # user code has ended, its result file is not written
    "after_result_file",  # it is written, the attempt's process has not ended
]
_ACTIONS = ("kill9", "stop", "raise")


class FaultRaised(Exception):
    """What the action `raise` raises."""


class _Fault(NamedTuple):
    point: str
    action: str
    once_file: str


def point(name: Point) -> None:
    """Do here what FLUX_FAULT asks for, if it names this point."""
    fault = _fault()
    if fault is not None and fault.point == name:
        _happen(fault)


@functools.cache
def _fault() -> _Fault | None:
    return parse(os.environ.get("FLUX_FAULT", ""))


def parse(text: str) -> _Fault | None:
    """Read the value of FLUX_FAULT; None when it is empty.

    Raises:
        ConfigError: it names no point or no action.
    """
    if not text:
        return None
    name, action, once_file = (*text.split(":", 2), "", "")[:3]
    if name not in get_args(Point) or action not in _ACTIONS:
        raise ConfigError(
            f"FLUX_FAULT = {text!r} is not <point>:<action>[:<file>]. "
            f"Points: {', '.join(get_args(Point))}. Actions: {', '.join(_ACTIONS)}."
        )
    return _Fault(name, action, once_file)


def _happen(fault: _Fault) -> None:
    if fault.once_file:
        try:
            Path(fault.once_file).touch(exist_ok=False)
        except FileExistsError:
            return
    if fault.action == "raise":
        raise FaultRaised(f"FLUX_FAULT {fault.point}")
    signal.raise_signal(signal.SIGKILL if fault.action == "kill9" else signal.SIGSTOP)

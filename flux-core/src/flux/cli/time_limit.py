"""Time limits for author code that a command calls in its own process, where it may wait for ever.

`within` is for calls that any thread may make: when the time is over the command goes on, with an error. `ending_after`
is for what must run in the main thread, as the import of a DAG file whose tasks run there: nothing can take the thread
back from it, so the command ends.
"""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import click

from flux.cli import output
from flux.cli.exit_codes import FAILED
from flux.errors import PluginError

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound=Callable[..., Any])
#: Seconds after which a process ends that C code keeps from running Python, which could say why.
_GRACE = 1.0


class Seconds(click.FloatRange):
    """A number of seconds as an option takes it. `nan` is within every range, and is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return found


def timeout_option(meaning: str) -> Callable[[_Function], _Function]:
    """Add `--timeout`: seconds, 30 by default, an hour at most."""
    return click.option(
        "--timeout", default=30.0, show_default=True, metavar="SECONDS", type=Seconds(0.1, 3600), help=meaning
    )


def within(seconds: float, work: Callable[[], _T], too_late: Callable[[], str]) -> _T:
    """Call `work` in a thread of its own and return what it returns; raises what it raises.

    Blocks for at most so long, and Ctrl-C comes through. A call that is late goes on until the process ends.

    Raises:
        PluginError: it took longer; `too_late` says what to.
    """
    returned: list[_T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="author code", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not returned:
        raise PluginError(too_late())
    return returned[0]


@contextmanager
def ending_after(seconds: float, too_late: Callable[[Iterator[FrameType]], str]) -> Iterator[None]:
    """End the process with an error and exit status 1 when the block, in the main thread, takes longer.

    Args:
        too_late: says what took longer, given what the main thread is at: frames, the innermost first.
    """
    is_over = threading.Event()

    def watch() -> None:
        if not is_over.wait(seconds):
            try:
                output.complain(too_late(_frames(threading.main_thread().ident)))
            finally:
                os._exit(FAILED)

    watching = threading.Thread(target=watch, name="time limit", daemon=True)
    watching.start()
    # By a thread of C: for code that never lets another thread run. It shows where that is.
    faulthandler.dump_traceback_later(seconds + _GRACE, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        is_over.set()
        watching.join()


def _frames(thread: int | None) -> Iterator[FrameType]:
    frame = sys._current_frames().get(thread or 0)
    while frame is not None:
        yield frame
        frame = frame.f_back

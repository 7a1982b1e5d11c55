"""A sign of life on stderr for what takes longer than a second."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

#: Nothing is shown before.
PATIENCE_SECONDS = 1.0


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Show `what` and the seconds gone by while the body runs; on a terminal in one line that is wiped at its end."""
    over = threading.Event()
    shower = threading.Thread(target=_show, args=(what, over), name="progress", daemon=True)
    shower.start()
    try:
        yield
    finally:
        over.set()
        shower.join()


def _show(what: str, over: threading.Event) -> None:
    began = monotonic()
    if over.wait(PATIENCE_SECONDS):
        return
    if not sys.stderr.isatty():
        print(f"{what} …", file=sys.stderr, flush=True)
        over.wait()
        return
    while True:
        print(f"\r{what} … {monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)
        if over.wait(1.0):
            break
    print("\r\033[K", end="", file=sys.stderr, flush=True)

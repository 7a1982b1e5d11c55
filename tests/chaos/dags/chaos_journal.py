"""What every attempt of a chaos day writes down, and how it notices that it is not alone.

Each attempt appends to a file of its own, named by its claim. What may be held by so many at once (a task instance by
one, a pool by its slots) are files that are locked: the kernel frees a lock when the last process that has it is gone,
children included, so that an attempt that finds all of them taken has met another that still runs.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOME = Path(os.environ.get("FLUX_HOME", "."))


def note(claim: int, word: str, *words: object) -> None:
    """Append a line: the word, the time in ns since 1970, and further words."""
    line = " ".join([word, str(time.time_ns()), *map(str, words)]) + "\n"
    handle = os.open(HOME / "journal" / str(claim), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def take(claim: int, name: str, capacity: int = 1, wanted: int = 1) -> list[int]:
    """Take `wanted` of the `capacity` locks of a name, for as long as this process and its children live."""
    held: list[int] = []
    for number in range(capacity):
        handle = os.open(HOME / "locks" / f"{name}.{number}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        os.set_inheritable(handle, True)
        held.append(handle)
        if len(held) == wanted:
            return held
    note(claim, "over", name, f"{len(held)}/{wanted}")
    return held


@contextmanager
def attempt(context: dict[str, Any], *limits: tuple[str, int, int]) -> Iterator[random.Random]:
    """Write down that an attempt begins, and at the end of the block that it ends; give it its own random numbers.

    Args:
        limits: (name, capacity, wanted) of what it holds meanwhile, besides its task instance.
    """
    claim, ti = context["claim"], context["ti"]
    note(claim, "begin", os.getpid(), ti.dag_id, ti.run_id, ti.task_id, ti.attempt)
    handles = take(claim, f"instance.{ti.dag_id}.{ti.run_id}.{ti.task_id}")
    for name, capacity, wanted in limits:
        handles += take(claim, name, capacity, wanted)
    yield random.Random(claim)
    note(claim, "end")
    for handle in handles:
        os.close(handle)


def work(*limits: tuple[str, int, int], longest: float = 0.4, trouble: float = 0.2) -> Any:
    """Return a callable for a PythonOperator that works for a while, and with some probability ends badly."""

    def body(**context: Any) -> str:
        with attempt(context, *limits) as dice:
            time.sleep(dice.random() * longest)
            if dice.random() < trouble:
                misbehave(dice)
            return f"{context['ti'].task_id} {context['claim']}"

    return body


def misbehave(dice: random.Random) -> None:
    """Do one of the things that tasks do wrong."""
    match dice.randrange(8):
        case 0:
            os._exit(0)
        case 1:
            os._exit(3)
        case 2:
            os.kill(os.getpid(), signal.SIGKILL)
        case 3:
            os.kill(os.getpid(), signal.SIGTERM)
        case 4:
            raise ValueError("a task that raises")
        case 5:
            for _ in range(200):
                sys.stdout.write("x" * 4999 + "\n")
        case 6:
            daemon()
        case 7:
            daemon(hidden=True)


def daemon(*, hidden: bool = False) -> None:
    """Leave a process behind, in the attempt's group or, hidden, in a session of its own and deaf to SIGTERM."""
    if os.fork():
        return
    if hidden:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    os._exit(0)

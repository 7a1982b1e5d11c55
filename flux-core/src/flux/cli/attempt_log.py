"""The log of an attempt as text: whole, or as it grows."""

from __future__ import annotations

import codecs
import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flux.errors import NotFound, PluginError, Refused

if TYPE_CHECKING:
    from flux import drivers
    from flux.app import Flux
    from flux.store.listing import AttemptRow
    from flux.store.runs import DagRun

POLL_SECONDS = 0.1
#: What the log handlers may take together to give a log that is no longer here.
KEPT_SECONDS = 60.0
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Place:
    """Whose log."""

    run: DagRun
    task_id: str
    #: None: not mapped.
    map_index: int | None


def texts(
    flux: Flux, place: Place, *, attempt: int | None, follow: bool, kept_seconds: float = KEPT_SECONDS
) -> Iterator[str]:
    """Yield the log in pieces; with `follow` until its attempt, or without `attempt` the task instance, has ended.

    Args:
        kept_seconds: what the log handlers may take together.

    Raises:
        NotFound: there is no such attempt, or its log is gone and no log handler has kept it.
        PluginError: its log is gone, and a log handler fails or takes too long.
        Refused: there is no attempt yet and `follow` is not set.
    """
    if not follow:
        yield from _whole(flux, place, attempt, kept_seconds)
        return
    number = attempt or max(_latest(flux, place), 1)
    while True:
        yield from _growing(flux, place, number)
        if attempt is not None or (_has_ended(flux, place) and _latest(flux, place) <= number):
            return
        number += 1


def _whole(flux: Flux, place: Place, attempt: int | None, kept_seconds: float) -> Iterator[str]:
    latest = _latest(flux, place)
    if latest == 0:
        raise Refused(f"Task {place.task_id!r} has no attempt yet. `flux why` says what it waits for.")
    if attempt is not None and attempt > latest:
        raise NotFound.named(f"Attempt of task {place.task_id!r}", str(attempt), map(str, range(1, latest + 1)))
    path = _path(flux, place, attempt or latest)
    log = Tail(path)
    if not log.exists():
        yield _kept(flux, place, attempt or latest, path, kept_seconds)
        return
    yield from log.read()
    yield log.end()


def _kept(flux: Flux, place: Place, attempt: int, path: Path, seconds: float) -> str:
    """The log of an attempt as the first log handler that has it gives it. Bad UTF-8 is replaced."""
    from flux import drivers
    from flux.cli import time_limit

    log = drivers.KeptLog(place.run.dag_id, place.run.run_id, place.task_id, place.map_index, attempt, path)
    asked = ""

    def ask() -> bytes | None:
        nonlocal asked
        for name in flux.config.log_handlers:
            asked = name
            data = _asked(name, log)
            if data is not None:
                return data
        return None

    data = time_limit.within(
        seconds,
        ask,
        lambda: f"The log {str(path)!r} is gone, and log handler {asked!r} did not give it within {seconds:g} s.",
    )
    if data is None:
        raise NotFound(f"The log {str(path)!r} is gone.")
    return data.decode("utf-8", "replace")


def _asked(name: str, log: drivers.KeptLog) -> bytes | None:
    from flux import drivers

    (handler,) = drivers.log_handlers([name]).values()
    try:
        data: object = handler.read(log)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a handler that calls sys.exit must not end the command without a word
        raise PluginError(
            f"The log {str(log.path)!r} is gone, and log handler {name!r} cannot read it: "
            f"{type(error).__name__}: {error}."
        ) from error
    if data is not None and not isinstance(data, bytes):
        raise PluginError(f"Log handler {name!r} returned a {type(data).__name__}. It must be bytes or None.")
    return data


def _growing(flux: Flux, place: Place, number: int) -> Iterator[str]:
    """Yield what is written to one attempt's log until the attempt has ended."""
    log = Tail(_path(flux, place, number))
    while True:
        # Asked before the last read, so that nothing written before the end is missed.
        over = _attempt_is_over(flux, place, number)
        yield from log.read()
        if over:
            yield log.end()
            return
        time.sleep(POLL_SECONDS)


class Tail:
    """Reads a file from its start to its present end, again and again. Bad UTF-8 is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def exists(self) -> bool:
        return self._path.exists()

    def read(self) -> Iterator[str]:
        """Yield what was added; nothing while there is no file. A hole cut into a long log is named, not read."""
        try:
            file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return
        with file:
            while True:
                start = _seek(file.fileno(), self._position, os.SEEK_DATA)
                if start > self._position:
                    yield f"\n[{start - self._position} bytes of this log were left out]\n"
                    self._position = start
                length = _seek(file.fileno(), self._position, os.SEEK_HOLE) - self._position
                data = os.pread(file.fileno(), min(length or _CHUNK, _CHUNK), self._position)
                if not data:
                    return
                self._position += len(data)
                yield self._decoder.decode(data)

    def end(self) -> str:
        """Return what is left of a character that was cut off."""
        return self._decoder.decode(b"", final=True)


def _seek(descriptor: int, position: int, what: int) -> int:
    """Return where the next data, or the next hole, begins at or after `position` (lseek(2)).

    `position` itself at the end of the file, and where the file system knows no holes.
    """
    try:
        return os.lseek(descriptor, position, what)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EINVAL):
            return position
        raise


def _latest(flux: Flux, place: Place) -> int:
    """The number of the latest attempt; 0: none yet."""
    return max((row.attempt for row in _attempts(flux, place)), default=0)


def _attempt_is_over(flux: Flux, place: Place, number: int) -> bool:
    """Whether this attempt has ended, or will never begin."""
    rows = {row.attempt: row for row in _attempts(flux, place)}
    return rows[number].outcome is not None if number in rows else _has_ended(flux, place)


def _attempts(flux: Flux, place: Place) -> list[AttemptRow]:
    from flux.store import listing

    run = place.run
    return flux.store.read(
        lambda c: listing.attempts(c, run.dag_id, run.run_id, place.task_id, map_index=place.map_index)
    )


def _has_ended(flux: Flux, place: Place) -> bool:
    from flux.states import State
    from flux.store import naming

    found = flux.store.read(lambda c: naming.task_instance_row(c, place.run, place.task_id, place.map_index))
    return State(found[1]).is_terminal


def _path(flux: Flux, place: Place, attempt: int) -> Path:
    from flux.store.attempts import log_path

    index = -1 if place.map_index is None else place.map_index
    return flux.config.logs_folder / log_path(place.run, place.task_id, index, attempt)

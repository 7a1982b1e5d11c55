"""Streams that mask: what a process prints, through whatever keeps its stdout, has its secrets covered by stars.

A stream is covered where its bytes pass, by a `write` of its own on its binary buffer: `print`, loggers that hold the
stream, `sys.stdout.buffer` and whoever imported `stdout` by name all end there. Before the first secret of the process
nothing is changed and nothing costs. Bytes that child processes and C code write to the descriptor do not pass here;
`BashOperator` leads those of its command through a `Masker`.
"""

from __future__ import annotations

import io
import re
import threading
import weakref
from typing import Any, TextIO

from flux import secret

_MASK = secret.MASK.encode()


class Masker:
    """Masks bytes that come in pieces. A secret that two pieces share is masked too, unless a line ends within it.

    For one thread at a time.
    """

    def __init__(self) -> None:
        #: The end of what came, as far as it may be the beginning of a secret.
        self._held = b""
        self._known: tuple[str, ...] = ()
        self._forms: tuple[bytes, ...] = ()
        self._pattern: re.Pattern[bytes] | None = None

    def feed(self, data: bytes) -> bytes:
        """Return what can be shown now; the rest comes with what follows it, or from `rest`."""
        self._learn()
        if self._held:
            data = self._held + data
        has_secret = self._has_secret(data)
        done = data.rfind(b"\n") + 1
        begins = _first_beginning(data, done, self._forms)
        # A secret that ends within what would be held is whole, and is not cut in two.
        while has_secret and (over := self._end_of_match(data, begins)) is not None:
            begins = _first_beginning(data, over, self._forms)
        self._held = data[begins:]
        shown = data[:begins] if self._held else data
        return self._masked(shown) if has_secret else shown

    def rest(self) -> bytes:
        """Return what was held back: no secret, since nothing follows."""
        data, self._held = self._held, b""
        return self._masked(data) if self._has_secret(data) else data

    def _has_secret(self, data: bytes) -> bool:
        # Looking for each text by itself is many times faster than the pattern, and most output has none of them.
        for form in self._forms:  # noqa: SIM110 - a generator costs more than the search
            if form in data:
                return True
        return False

    def _end_of_match(self, data: bytes, position: int) -> int | None:
        """Where the secret ends that begins before `position` and ends after it; None: there is none."""
        found = (match.span() for match in self._compiled().finditer(data))
        return next((end for start, end in found if start < position < end), None)

    def _masked(self, data: bytes) -> bytes:
        return self._compiled().sub(_MASK, data)

    def _compiled(self) -> re.Pattern[bytes]:
        """All forms as one pattern; made when one is first met, which is late or never."""
        if self._pattern is None:
            self._pattern = re.compile(b"|".join(map(re.escape, self._forms)))
        return self._pattern

    def _learn(self) -> None:
        """Take up what has become secret since the last piece."""
        known = secret.forms()
        if known is not self._known:
            self._known = known
            self._forms = tuple(form.encode("utf-8", "backslashreplace") for form in known)
            self._pattern = None


def _first_beginning(data: bytes, start: int, forms: tuple[bytes, ...]) -> int:
    """Where, at or after `start`, the longest end of `data` begins that a form begins with; its length: nowhere."""
    first = len(data)
    if start == first:
        return first
    for form in forms:
        at = max(start, len(data) - len(form) + 1)
        while (at := data.find(form[:1], at, first)) != -1:
            if form.startswith(data[at:]):
                first = at
                break
            at += 1
    return first


class _Cover:
    """The `write` of a covered stream's buffer. Several threads may print."""

    def __init__(self, buffer: Any) -> None:
        self._write = buffer.write
        self._masker = Masker()
        # A signal's handler may print while the main thread does.
        self._lock = threading.RLock()

    def __call__(self, data: Any) -> int:
        taken = bytes(data)
        with self._lock:
            self._pass_on(self._masker.feed(taken))
        return len(taken)

    def finish(self) -> None:
        with self._lock:
            self._pass_on(self._masker.rest())

    def _pass_on(self, data: bytes) -> None:
        """Write all of it: an unbuffered stream may take only a part at a time."""
        while data:
            taken = self._write(data)
            data = data[taken:] if taken is not None else b""


#: Every stream to cover; what covers it, once there is a secret.
_streams: weakref.WeakKeyDictionary[io.TextIOWrapper, _Cover | None] = weakref.WeakKeyDictionary()


def cover(stream: TextIO | Any) -> None:
    """Mask in `stream` from the first secret of this process on. Safe to repeat.

    A stream without a descriptor below it (a notebook's, a test's) is left as it is.
    """
    if not isinstance(stream, io.TextIOWrapper) or stream in _streams:
        return
    _streams[stream] = None
    reference = weakref.ref(stream)
    secret.when_first(lambda: _begin(reference()))


def finish(stream: TextIO | Any) -> None:
    """Write what is held back of a covered stream, and flush it. For its end."""
    stream.flush()
    covering = _streams.get(stream) if isinstance(stream, io.TextIOWrapper) else None
    if covering is not None:
        covering.finish()
        stream.flush()


def _begin(stream: io.TextIOWrapper | None) -> None:
    if stream is None:
        return
    try:
        stream.flush()
        buffer: Any = stream.buffer
    except (OSError, ValueError):  # a full disk; closed or detached by the task
        return
    _streams[stream] = buffer.write = _Cover(buffer)

"""What an agent sends of its attempt's files: the log as it grows, results and rendered fields when they are whole.

One chunk of a file is under way at a time. A chunk names its offset, so that the supervisor may get it twice.
Standard library only.
"""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Callable

from flux.running.agent_line import AgentLine

#: Most bytes in one message.
CHUNK = 1 << 17


class FileSender:
    """Sends one file.

    Args:
        verb: `log` for a file that grows and may have a hole, else `file`.
        name: what the supervisor calls it; empty: it knows.
    """

    def __init__(self, line: AgentLine, path: str, verb: str, name: str = "") -> None:
        self._line = line
        self._path = path
        self._verb = verb
        self._name = name
        self._sent = 0
        self._is_sending = False
        self._on_even: Callable[[], object] | None = None

    def send(self, on_even: Callable[[], object] | None = None) -> None:
        """Send what there is beyond what was sent; call `on_even` once, when there is nothing more."""
        self._on_even = on_even or self._on_even
        if self._is_sending:
            return
        data, size = self._next()
        if not data and size <= self._sent:
            then, self._on_even = self._on_even, None
            if then is not None:
                then()
            return
        self._is_sending = True
        text = base64.b64encode(data).decode("ascii")
        end = self._sent + len(data)
        self._line.ask(self._verb, lambda _: self._taken(end), name=self._name, offset=self._sent, data=text, size=size)

    def _taken(self, end: int) -> None:
        self._is_sending = False
        self._sent = end
        self.send()

    def _next(self) -> tuple[bytes, int]:
        """Return the next bytes and the size of the file; what was freed in the middle of a log is passed over."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b"", 0
        try:
            size = os.fstat(descriptor).st_size
            self._sent = _data_from(descriptor, self._sent, size)
            return os.pread(descriptor, CHUNK, self._sent), size
        finally:
            os.close(descriptor)


def _data_from(descriptor: int, offset: int, size: int) -> int:
    """The first byte from `offset` on that is in no hole; `size` when only a hole follows."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return max(offset, size)
        return offset

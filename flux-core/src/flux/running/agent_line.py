"""An agent's connection with whichever supervisor there is.

A supervisor may be replaced under a running attempt, so every question is asked again until it is answered: by the
same supervisor, or by the next one that the endpoint file names. What is asked must therefore be safe to repeat.
Standard library only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flux import wire
from flux.errors import FluxError, Refused
from flux.loop import Loop, Timer
from flux.wire import Message, Wire

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
#: Before a question is repeated that the supervisor could not answer for now: its database is away, its disk is full.
_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Question:
    message: Message
    done: Callable[[Any], object]


class AgentLine:
    """Asks, and takes what the supervisor says by itself. For one loop; connects at once, and again when cut off.

    Args:
        endpoint: the file that holds the path of the supervisor's socket, or that socket.
        common: what every question carries beside its verb and arguments.
        on_said: takes a message that answers nothing.
        on_refused: takes the reason when a question is refused for good: the claim is not this agent's.
    """

    def __init__(
        self,
        loop: Loop,
        endpoint: str | os.PathLike[str],
        claim: int,
        common: Mapping[str, Any],
        *,
        on_said: Callable[[Message], object],
        on_refused: Callable[[FluxError], object],
    ) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._claim = claim
        self._common = dict(common)
        self._on_said = on_said
        self._on_refused = on_refused
        self._wire: Wire | None = None
        self._unanswered: dict[int, _Question] = {}
        self._asked = 0
        self._pause = _FIRST_PAUSE
        self._retry: Timer | None = loop.call_later(0, self._connect)
        #: When the supervisor was last heard, by `now`.
        self.heard_at = now()

    @property
    def is_connected(self) -> bool:
        return self._wire is not None

    @property
    def is_waiting(self) -> bool:
        """Some question has no answer yet."""
        return bool(self._unanswered)

    def ask(self, verb: str, done: Callable[[Any], object] = lambda _: None, **arguments: Any) -> None:
        """Ask until there is an answer, which `done` gets; `on_refused` is called instead when it is refused."""
        self._asked += 1
        message = {"id": self._asked, "verb": verb, **self._common, **arguments}
        self._unanswered[self._asked] = _Question(message, done)
        if self._wire is not None:
            self._wire.send(message)

    def close(self) -> None:
        """Hang up for good. Safe to repeat."""
        if self._retry is not None:
            self._retry.cancel()
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def leave(self) -> None:
        """In a forked process: let go of the connection, which stays the parent's."""
        if self._wire is not None:
            self._wire.sock.close()

    def _connect(self) -> None:
        try:
            sock = wire.connect(self._endpoint, timeout=_LONGEST_PAUSE)
        except OSError:
            self._retry = self._loop.call_later(self._pause, self._connect)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            return
        self._pause = _FIRST_PAUSE
        self._wire = Wire(sock, self._loop, self._take, self._lost)
        self._wire.send({"claim": self._claim})
        for question in self._unanswered.values():
            self._wire.send(question.message)

    def _lost(self) -> None:
        self._wire = None
        self._retry = self._loop.call_later(self._pause, self._connect)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _take(self, message: Message) -> None:
        self.heard_at = now()
        if "id" not in message:
            self._on_said(message)
            return
        question = self._unanswered.get(message["id"])
        if question is None:
            return
        error = message.get("error")
        if error is None:
            del self._unanswered[message["id"]]
            question.done(message.get("value"))
        elif error.get("code") == Refused.code:
            del self._unanswered[message["id"]]
            self._on_refused(wire.error_from(error))
        else:
            self._loop.call_later(_AGAIN_SECONDS, lambda: self._again(question))

    def _again(self, question: _Question) -> None:
        if self._wire is not None and question.message["id"] in self._unanswered:
            self._wire.send(question.message)


def now() -> float:
    """Return seconds since boot, also those the machine slept: what silence is measured by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

"""The attempt's side of its protocol with the supervisor: what a running task can reach, asked over one socket.

The first line is `{"claim": n}`, which is also the permission; then `{"id", "verb", …}` each way. A supervisor may be
replaced meanwhile: a question that got no answer is asked again, for up to a minute.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from flux import wire
from flux.errors import FluxError
from flux.secret import mask

#: How long a question is repeated while no supervisor answers.
RECONNECT_SECONDS = 60.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class ChannelWorld:
    """A `flux.attempt.World` over the socket that the endpoint file names. For any thread; connects when first asked.

    Args:
        endpoint: the file that holds the path of the supervisor's socket.
        claim: of the attempt that asks.
        patience: seconds for which an unanswered question is repeated.

    Raises:
        FluxError: every method, when the supervisor refuses (NotFound and others by their code), or none answers.
    """

    def __init__(self, endpoint: str | os.PathLike[str], claim: int, *, patience: float = RECONNECT_SECONDS) -> None:
        self._endpoint = endpoint
        self._claim = claim
        self._patience = patience
        self._lock = threading.Lock()
        self._lines: wire.Lines | None = None
        self._asked = 0

    def result(self, task_id: str, key: str = "return_value", map_index: int = -1) -> str | None:
        value: str | None = self._ask("result", task_id=task_id, key=key, map_index=map_index)
        return value

    def connection(self, conn_id: str) -> dict[str, Any]:
        value: dict[str, Any] = self._ask("connection", conn_id=conn_id)
        return value

    def variable(self, name: str) -> str | None:
        value: str | None = self._ask("variable", name=name)
        return value

    def task_state(self, dag_id: str, run_id: str, task_id: str) -> str | None:
        value: str | None = self._ask("task_state", dag_id=dag_id, run_id=run_id, task_id=task_id)
        return value

    def previous_run(self, successful: bool) -> dict[str, Any] | None:
        value: dict[str, Any] | None = self._ask("previous_run", successful=successful)
        return value

    def trigger(self, dag_id: str, conf: dict[str, Any] | None, logical_date: str | None) -> str:
        value: str = self._ask("trigger", dag_id=dag_id, conf=conf, logical_date=logical_date)
        return value

    def progress(self, text: str) -> None:
        self._ask("progress", text=mask(text))

    def close(self) -> None:
        with self._lock:
            self._hang_up()

    def _ask(self, verb: str, **arguments: Any) -> Any:
        with self._lock:
            self._asked += 1
            answer = self._answer({"id": self._asked, "verb": verb, **arguments})
        if answer.get("error"):
            raise wire.error_from(answer["error"])
        return answer.get("value")

    def _answer(self, question: wire.Message) -> wire.Message:
        give_up = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._exchange(question, give_up)
            except OSError as error:
                self._hang_up()
                left = give_up - time.monotonic()
                if left <= 0:
                    what = f"the question for {question['verb']!r} within {self._patience:g} s"
                    raise FluxError(f"No supervisor answered {what}: {error}.") from error
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE)
            except BaseException:
                self._hang_up()  # a half-read answer must not be taken for that to the next question
                raise

    def _exchange(self, question: wire.Message, give_up: float) -> wire.Message:
        if self._lines is None:
            self._lines = wire.Lines(wire.connect(self._endpoint, timeout=max(give_up - time.monotonic(), 0.1)))
            self._lines.send({"claim": self._claim}, question)
        else:
            self._lines.send(question)
        while True:
            answer = self._lines.receive(max(give_up - time.monotonic(), 0.1))
            if answer.get("id") == question["id"]:
                return answer

    def _hang_up(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

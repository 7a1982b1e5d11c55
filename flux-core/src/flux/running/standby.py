"""The standby: a process that a DAG host has forked for an attempt which is still to come.

Theory. Most of what a forked attempt costs before its author's first line is Python's memory, copied page by page as it
is written to. A standby has this behind it: it has left its host and walked through the code of an attempt once, with a
task that does nothing. Then it waits for an order. Until it has one it is no attempt: it carries no claim, nobody is
told of it, and it dies with its host. One order only; the next attempt is another process.
"""

# ruff: noqa: PTH123

from __future__ import annotations

import functools
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from flux import process, wire
from flux.attempt import AttemptSpec, execute, flat
from flux.operator import BaseOperator
from flux.running import attempt_processes
from flux.running.channel import ChannelWorld
from flux.wire import Message

#: A longer order is for a process that is forked with it.
LONGEST_ORDER = 32 * 1024


class Standby:
    """A host's view of its standby.

    Args:
        body: called in the new process with its end of the socket; never returns.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, body: Callable[[socket.socket], NoReturn]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        try:
            self.pid = process.fork()
            if self.pid == 0:
                attempt_processes.never_return(lambda: self._be(body, theirs))
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def _be(self, body: Callable[[socket.socket], NoReturn], theirs: socket.socket) -> NoReturn:
        self._socket.close()
        body(theirs)

    def give(self, order: Message, log: int) -> bool:
        """Make it an attempt. False: it is dead or stuck, or the order too long for it; end it then."""
        data = wire.encode(order)
        if len(data) > LONGEST_ORDER:
            return False
        try:
            socket.send_fds(self._socket, [data], [log])
        except OSError:
            return False
        self._socket.close()
        return True

    def forget(self) -> None:
        """Let go of it, in a process forked from its host or after its end."""
        self._socket.close()

    def end(self) -> None:
        """Kill it; to be reaped like any child."""
        self._socket.close()
        process.send(self.pid, signal.SIGKILL)


def await_order(sock: socket.socket) -> tuple[Message, int]:
    """Wait for the order, in the standby; return it with the descriptor of the attempt's log. Ends with the host."""
    data, descriptors, _flags, _address = socket.recv_fds(sock, LONGEST_ORDER, 1)
    if not data:
        os._exit(0)
    sock.close()
    order: Message = json.loads(data)
    return order, descriptors[0]


def has_order(sock: socket.socket) -> bool:
    """Whether the order is there already."""
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True


def dry_walk() -> None:
    """Go once through the code of an attempt: no author's code, nothing written."""
    task, order = nothing()
    spec = AttemptSpec(**json.loads(order)["spec"])
    attempt_processes.header(spec)
    end = execute(task, spec, ChannelWorld("", 0))
    with open(os.devnull, "w", encoding="utf-8") as file:
        file.write(json.dumps(flat(end)))


@functools.cache
def nothing() -> tuple[BaseOperator, bytes]:
    """Return a task that does nothing, and the order for an attempt of it, for walks through the code of both sides."""
    from flux.dag import DAG
    from flux.operators import PythonOperator

    task = PythonOperator(task_id="nothing", python_callable=lambda: None, dag=DAG("dry_walk", schedule=None))
    moment = "2000-01-01T00:00:00+00:00"
    spec = AttemptSpec(
        claim=0, dag_id="dry_walk", run_id=f"manual__{moment}", task_id="nothing", map_index=-1, attempt=1,
        max_attempts=1, kind="manual", logical_date=moment, interval_start=moment, interval_end=moment, conf=None,
        run_started_at=moment, first_seen_at=moment, log=os.devnull, result_file="", rendered_file="", endpoint="",
        log_max_bytes=0, kill_grace=0.0, run_as_user=None,
    )  # fmt: skip
    return task, wire.encode({"op": "run", "version": "0" * 64, "spec": flat(spec)})

"""JSON objects, one a line, over Unix stream sockets: how Flux's processes talk.

`Wire` is for processes with a `Loop` and never blocks; `request` and `Lines` are for the others. A path too long for a
socket address (107 bytes) is reached through its folder's descriptor; where the file system has no sockets, the path
is a text file that holds the real one.
"""

# ruff: noqa: PTH101, PTH105, PTH108, PTH116, PTH118, PTH119, PTH123

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from flux import errors
from flux.loop import Loop

Message = dict[str, Any]

_LONGEST_ADDRESS = 107
_CHUNK = 1 << 16


class Wire:
    """One connection on a loop. Messages are delivered whole and in order; `on_close` is called once, at the end.

    Args:
        sock: a connected stream socket, which the wire owns from now on.
        on_close: called when the other side has ended or sends what is no JSON object; not after our own `close()`.
    """

    def __init__(
        self, sock: socket.socket, loop: Loop, on_message: Callable[[Message], object], on_close: Callable[[], object]
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = loop
        self._on_message = on_message
        self._on_close = on_close
        self._received: list[bytes] = []
        self._to_send: deque[memoryview] = deque()
        self.is_open = True
        loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message) -> None:
        """Send a message, now or as soon as the other side takes it. Does nothing on a closed wire."""
        if not self.is_open:
            return
        line = encode(message)
        if self._to_send:
            self._to_send.append(memoryview(line))
            return
        try:
            sent = self.sock.send(line)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return  # the reader will see the end, after the messages that are still there
        if sent < len(line):
            self._to_send.append(memoryview(line)[sent:])
            self._loop.add_writer(self.sock.fileno(), self._writable)

    @property
    def unsent(self) -> int:
        """Bytes that the other side has not taken yet."""
        return sum(len(part) for part in self._to_send)

    def drain(self) -> None:
        """Deliver now what has arrived already."""
        while self.is_open and self._receive():
            pass

    def close(self) -> None:
        """End the connection; what is unsent is lost. Safe to repeat."""
        if self.is_open:
            self.is_open = False
            self._loop.remove(self.sock.fileno())
            self.sock.close()

    def _readable(self) -> None:
        self._receive()

    def _receive(self) -> bool:
        """Take what the socket has, up to a chunk; False: nothing."""
        try:
            data = self.sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:
            # Said once when the other side ended without reading everything; what it sent before is still there.
            return True
        except OSError:
            data = b""
        if not data:
            self._end()
            return False
        *lines, rest = data.split(b"\n")
        if lines:
            self._received.append(lines[0])
            lines[0] = b"".join(self._received)
            self._received = []
        if rest:
            self._received.append(rest)
        for line in lines:
            if not self.is_open:
                return False
            self._deliver(line)
        return True

    def _deliver(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self._end()
            return
        try:
            self._on_message(message)
        except Exception:  # one bad message must not take the rest of the chunk along
            sys.excepthook(*sys.exc_info())

    def _writable(self) -> None:
        try:
            while self._to_send:
                sent = self.sock.send(self._to_send[0])
                if sent < len(self._to_send[0]):
                    self._to_send[0] = self._to_send[0][sent:]
                else:
                    self._to_send.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._to_send.clear()
        self._loop.remove_writer(self.sock.fileno())

    def _end(self) -> None:
        self.close()
        self._on_close()


def encode(message: Message) -> bytes:
    """Return the line that carries a message."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


class Lines:
    """A blocking connection, for one thread at a time.

    Raises:
        OSError: any call, when the other side is gone (ConnectionError) or silent for `timeout` seconds (TimeoutError).
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""

    def send(self, *messages: Message) -> None:
        self._sock.sendall(b"".join(encode(message) for message in messages))

    def receive(self, timeout: float | None = None) -> Message:
        """Wait for the next message; None: for ever."""
        deadline = None if timeout is None else time.monotonic() + timeout
        parts = [self._received]
        while b"\n" not in parts[-1]:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("no answer")
            self._sock.settimeout(left)
            data = self._sock.recv(_CHUNK)
            if not data:
                raise ConnectionResetError("the other side has closed the connection")
            parts.append(data)
        line, _, self._received = b"".join(parts).partition(b"\n")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ConnectionError("the other side does not speak this protocol")
        return message

    def close(self) -> None:
        self._sock.close()


def request(path: str | os.PathLike[str], message: Message, timeout: float | None = 10.0) -> Message:
    """Ask the supervisor one thing, as the CLI does, and return the answer's value ({} when it has none).

    Args:
        path: its socket, or the `endpoint` file that names it.
        timeout: seconds for the whole; None waits for ever.

    Raises:
        OSError: nobody serves there, or no answer came in time.
        FluxError: the supervisor refused; of the class that the answer's code names.
    """
    lines = Lines(connect(path, timeout=timeout))
    try:
        lines.send({"client": "cli"}, {"id": 1, **message})
        answer = lines.receive(timeout)
    finally:
        lines.close()
    if answer.get("error"):
        raise error_from(answer["error"])
    value = answer.get("value")
    return value if isinstance(value, dict) else {}


def error_from(error: Message) -> errors.FluxError:
    """Return the error that an answer carries as {"code", "message"}; a plain FluxError for a code we do not know."""
    message = str(error.get("message", ""))
    for kind in _kinds(errors.FluxError):
        if kind.code == error.get("code") and not issubclass(kind, errors.DagFileError):
            return kind(message)
    return errors.FluxError(message)


def _kinds(base: type[errors.FluxError]) -> Iterator[type[errors.FluxError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)


def connect(path: str | os.PathLike[str], *, timeout: float | None = None) -> socket.socket:
    """Return a socket connected to the one at `path`, or to the one that the text file at `path` names.

    Raises:
        OSError: nothing is there, nobody listens, or not within `timeout` seconds.
    """
    address = os.fspath(path)
    if stat.S_ISREG(os.stat(address).st_mode):
        with open(address, encoding="utf-8") as file:
            address = file.read().strip()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        with _short(address) as short:
            sock.connect(short)
    except BaseException:
        sock.close()
        raise
    return sock


def listen(path: str | os.PathLike[str]) -> tuple[socket.socket, str]:
    """Return a non-blocking listening socket and its path, replacing what was at `path`.

    The path differs from the one asked for where that file system has no sockets: then it is in a new folder of the
    temporary one, and `path` becomes a text file that names it. Only our user may connect.
    """
    asked = os.fspath(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(asked)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    address = asked
    try:
        try:
            _bind(sock, address)
        except OSError:
            import tempfile

            address = os.path.join(tempfile.mkdtemp(prefix="flux-"), os.path.basename(asked))
            _bind(sock, address)
            write_file(asked, address.encode())
        sock.listen(128)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock, address


def _bind(sock: socket.socket, address: str) -> None:
    with _short(address) as short:
        sock.bind(short)
    os.chmod(address, 0o600)


@contextlib.contextmanager
def _short(address: str) -> Iterator[str]:
    """A name for `address` that fits into a socket address."""
    if len(os.fsencode(address)) <= _LONGEST_ADDRESS:
        yield address
        return
    folder, name = os.path.split(address)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def write_file(path: str, data: bytes) -> None:
    """Write a small file whole: readers see the old content or the new. Only our user may read it."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

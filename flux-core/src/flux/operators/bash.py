"""The operator that runs a Bash command."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from flux import masking, process, results, secret
from flux.context import Context
from flux.errors import AuthoringError, FluxError, SkipTask
from flux.operator import BaseOperator
from flux.times import seconds

__all__ = ["BashOperator"]

_CHUNK = 64 * 1024
#: Where the kernel has no pidfd: how often to look whether the command has ended.
_LOOK_SECONDS = 0.05


class BashOperator(BaseOperator):
    """Run a command with `bash -c`; the last line of its output with something in it is the result.

    It runs in the process group of the attempt, so that one signal reaches it and what it starts. What it writes goes
    to the log as it is, but for secrets that the task has asked for, which are masked. The task ends with the command;
    processes it leaves in the background are ended then.

    Args:
        bash_command: the command, or the name of a template file that ends in .sh or .bash.
        env: environment variables.
        append_env: add `env` to the environment that the task has; False: `env` is all there is.
        cwd: the folder to run in; None: where the task runs.
        skip_on_exit_code: exit code, or codes, that skip the task instead of failing it; None for none.
    """

    template_fields: Sequence[str] = ("bash_command", "env", "cwd")
    template_ext: Sequence[str] = (".sh", ".bash")
    ui_color = "#f0ede4"

    def __init__(
        self,
        *,
        bash_command: str,
        env: Mapping[str, Any] | None = None,
        append_env: bool = True,
        cwd: str | os.PathLike[str] | None = None,
        skip_on_exit_code: int | Collection[int] | None = 99,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bash_command = bash_command
        self.env = env
        self.append_env = append_env
        self.cwd = os.fspath(cwd) if isinstance(cwd, os.PathLike) else cwd
        self.skip_on_exit_code = skip_on_exit_code
        self._skip_codes = _codes(skip_on_exit_code)
        self._pid: int | None = None

    def execute(self, context: Context) -> str | None:
        """Run the command to its end."""
        masking.finish(sys.stdout)
        output = _LastLine()
        if self.store_result or secret.forms() or _log_descriptor(sys.stdout) != 1:
            ended = self._run_and_read(output)
        else:
            ended = self._wait(self._spawn(None, None))
        if ended.exit_status in self._skip_codes:
            raise SkipTask(f"bash_command ended with exit code {ended.exit_status}")
        if ended.signal is not None:
            raise FluxError(f"bash_command was ended by {process.signal_name(ended.signal)}.")
        if ended.exit_status:
            raise FluxError(f"bash_command ended with exit code {ended.exit_status}{_meaning(ended.exit_status)}.")
        text = output.text()
        if output.is_too_long and self.store_result:
            print(f"The last line has more than {results.INLINE_LIMIT:,} bytes: it is not kept as the result.")
        return text

    def on_kill(self) -> None:
        """Tell Bash to end, and make it end when it does not; what it started got the signal with its group."""
        pid = self._pid
        if pid is None:
            return
        process.send(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds(self.kill_grace, "kill_grace") / 2
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                process.send(pid, signal.SIGKILL)
            time.sleep(0.01)
        self._wait(pid)

    def _spawn(self, stdout: int | None, stderr: int | None) -> int:
        try:
            self._pid = process.spawn(
                ["bash", "-c", self.bash_command],
                env=self._environment(),
                cwd=self.cwd,
                stdout=stdout,
                stderr=stderr,
            )
        except FileNotFoundError as error:
            if self.cwd is not None and not Path(self.cwd).is_dir():
                raise FluxError(f"cwd {self.cwd!r} of task {self.task_id!r} is no folder on this machine.") from error
            raise FluxError("The program 'bash' was not found on this machine's PATH. Install it.") from error
        return self._pid

    def _wait(self, pid: int) -> process.Exit:
        ended = process.wait(pid)
        self._pid = None
        return ended

    def _run_and_read(self, output: _LastLine) -> process.Exit:
        """Run the command with its output passed on in pieces, so that no amount of it is held in memory.

        What it writes to standard error is passed on only where it is to be masked; else it has the log itself.
        """
        is_masked = bool(secret.forms())
        with contextlib.ExitStack() as stack:
            pipes = [_Pipe(stack, sys.stdout, is_masked, output)]
            if is_masked:
                pipes.append(_Pipe(stack, sys.stderr, is_masked, None))
            try:
                try:
                    pid = self._spawn(pipes[0].writing, pipes[1].writing if is_masked else None)
                finally:
                    for pipe in pipes:
                        os.close(pipe.writing)
                _pass_on(pipes, pid)
                return self._wait(pid)
            except Exception:
                self.on_kill()
                raise
            finally:
                for pipe in pipes:
                    pipe.finish()

    def _environment(self) -> dict[str, str] | None:
        if self.env is None:
            return None if self.append_env else _own_names()
        given = {name: self._variable(name, value) for name, value in self.env.items()}
        return {**(os.environ if self.append_env else _own_names()), **given}

    def _variable(self, name: str, value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, (int, float)):
            return str(value)
        raise FluxError(f"env[{name!r}] of task {self.task_id!r} is a {type(value).__name__}. Give a text or a number.")


def _codes(value: int | Collection[int] | None) -> frozenset[int]:
    codes: frozenset[Any] = frozenset() if value is None else frozenset([value] if isinstance(value, int) else value)
    if not all(isinstance(code, int) and 0 < code < 256 for code in codes):
        raise AuthoringError(f"skip_on_exit_code={value!r} is no exit code from 1 to 255, list of them, or None.")
    return codes


def _own_names() -> dict[str, str]:
    """The variables that a command keeps with an environment of its own: by its claim it is found when it must end."""
    return {name: os.environ[name] for name in ("FLUX_CLAIM",) if name in os.environ}


def _meaning(exit_code: int) -> str:
    if exit_code == 126:
        return " (a command is not executable)"
    if exit_code == 127:
        return " (a command was not found)"
    return f" (128 + {process.signal_name(exit_code - 128)})" if 128 < exit_code < 160 else ""


class _LastLine:
    """Keeps the last line with something in it of bytes that come in pieces; at most INLINE_LIMIT bytes of a line."""

    def __init__(self) -> None:
        #: Whether the last line had more than that.
        self.is_too_long = False
        self._last = b""
        self._open = bytearray()
        self._open_is_cut = False

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        head, newline, rest = data.rpartition(b"\n")
        if newline:
            head = head.rstrip()
            _, inner_newline, line = head.rpartition(b"\n")
            if inner_newline:
                self._last, self.is_too_long = line, False
            else:
                self._extend(head)
                self._close()
            self._open.clear()
            self._open_is_cut = False
        self._extend(rest)

    def text(self) -> str | None:
        """Return the line without white space around it; None if there is none, or it was too long."""
        self._close()
        return None if self.is_too_long else self._last.decode("utf-8", "replace").strip() or None

    def _extend(self, data: bytes) -> None:
        space = results.INLINE_LIMIT - len(self._open)
        self._open += data[:space]
        self._open_is_cut |= len(data) > space

    def _close(self) -> None:
        if self._open.strip():
            self._last, self.is_too_long = bytes(self._open), self._open_is_cut


class _Pipe:
    """A way from the command to one of our streams. `reading` is closed with the stack, `writing` by the caller.

    Args:
        is_masked: mask secrets on the way.
        output: is fed what came, as it came; None: nobody is.
    """

    def __init__(self, stack: contextlib.ExitStack, stream: TextIO, is_masked: bool, output: _LastLine | None) -> None:
        self._output = output
        self._write = _writer(stream)
        self._masker = masking.Masker() if is_masked else None
        self.reading, self.writing = os.pipe()
        stack.callback(os.close, self.reading)
        os.set_blocking(self.reading, False)

    def take(self, pieces: int) -> bool:
        """Pass on what is there, up to a number of pieces; False: nobody can write any more."""
        for _ in range(pieces):
            try:
                data = os.read(self.reading, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            if self._output is not None:
                self._output.feed(data)
            self._write(data if self._masker is None else self._masker.feed(data))
        return True

    def finish(self) -> None:
        """Pass on what was held back."""
        if self._masker is not None:
            self._write(self._masker.rest())


def _pass_on(pipes: Sequence[_Pipe], pid: int) -> None:
    """Pass on what comes from the pipes until the command has ended or nobody can write any more.

    Not until the end of the pipes alone: what the command left in the background may hold them open for ever.
    """
    poll = select.poll()
    for pipe in pipes:
        poll.register(pipe.reading, select.POLLIN)
    is_open = list(pipes)
    ended = _pidfd(pid)
    try:
        if ended is not None:
            poll.register(ended, select.POLLIN)
        while is_open:
            poll.poll(None if ended is not None else _LOOK_SECONDS * 1000)
            is_over = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            for pipe in list(is_open):
                if not pipe.take(16 if is_over else 1):
                    poll.unregister(pipe.reading)
                    is_open.remove(pipe)
            if is_over:
                return
    finally:
        if ended is not None:
            os.close(ended)


def _pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _log_descriptor(stream: TextIO) -> int | None:
    """The descriptor that a stream writes to; None where it is no file (a notebook)."""
    if not isinstance(stream, io.TextIOWrapper):
        return None
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _writer(stream: TextIO) -> Callable[[bytes], object]:
    descriptor = _log_descriptor(stream)
    if descriptor is None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda data: stream.write(decoder.decode(data))
    return functools.partial(_write_all, descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]

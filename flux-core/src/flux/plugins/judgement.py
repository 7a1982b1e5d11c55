"""Judging providers: a child process imports their manifests, under a time limit, and this process reads its verdicts.

Author code may hang, end its process or crash it, so it never first runs in a process of Flux. One child judges all;
when it dies or is silent for too long, the provider it was at is broken, and a new child goes on with the rest. What
providers print is kept out of the way: the last line serves the reason of one that died, and a provider that prints
gets a note. Blocks for as long as the child works: about 0.1 s, and a millisecond for each provider.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flux import process
from flux.plugins import API_VERSION
from flux.plugins.scan import Found, search_path
from flux.plugins.verdict import ProviderState, Verdict

#: The versions of the hooks that manifests are called with: this one, and the minor version before.
SERVED: tuple[str, ...] = (API_VERSION,)
#: Seconds that the child has to begin: a whole interpreter on a busy machine.
_START_SECONDS = 30.0
#: Seconds that a child which has closed its channel has to end.
_END_SECONDS = 1.0
#: Bytes of what a provider prints that are kept, and characters of its last line that are shown.
_KEPT = 4096
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider to be judged."""

    found: Found
    #: To be put first on the path before it is imported; None: it is installed.
    folder: str | None = None
    #: Whether its manifest must have FLUX_API, as an installed one must.
    needs_api: bool = True

    def to_message(self) -> dict[str, Any]:
        """Return what the judging process is told."""
        return {**asdict(self.found), "folder": self.folder, "needs_api": self.needs_api}


def judge(
    candidates: Sequence[Candidate],
    *,
    limit_seconds: float = 2.0,
    served: Sequence[str] = SERVED,
    environ: Mapping[str, str] | None = None,
) -> list[Verdict]:
    """Return a verdict for each candidate, in their order. Starts processes, and ends them.

    One that took too long is judged once more by a new child: a cold disk or a crowded machine at its first
    import must not switch a good provider off until the next start.

    Args:
        limit_seconds: what each provider's import and hooks may take together.
        served: the API versions that manifests may be made for, newest first.
        environ: for the child; None: ours. Options and secrets of Flux are taken out of either.
    """
    verdicts: list[Verdict] = []
    #: How many verdicts there were with the last one that was given a second chance.
    tried_again = 0
    while left := candidates[len(verdicts) :]:
        try:
            child = _Child(left, served, os.environ if environ is None else environ)
        except OSError as error:
            reason = f"It cannot be judged, because no process can be started: {error}."
            return [*verdicts, *(_broken(each.found, reason) for each in left)]
        with child:
            verdicts += child.verdicts(limit_seconds)
        if child.is_out_of_time and len(verdicts) > tried_again:
            tried_again = len(verdicts)
            verdicts.pop()
    return verdicts


def judging_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without Flux's options, addresses and secrets: manifests need none of them.

    FLUX_HOME stays, as in the DAG hosts and the listener process: a manifest that looks at it sees there what it saw
    here.
    """
    return {name: value for name, value in environ.items() if name == "FLUX_HOME" or not name.startswith("FLUX_")}


class _Child:
    """One judging process, for as many candidates as it gets through."""

    def __init__(self, candidates: Sequence[Candidate], served: Sequence[str], environ: Mapping[str, str]) -> None:
        self._candidates = candidates
        self._printed = bytearray()
        self._received = b""
        self._is_closed = False
        self._is_garbled = False
        #: It has said all that it has to say, and is about to end.
        self._is_through = False
        #: The last verdict says that a manifest took too long.
        self.is_out_of_time = False
        self._pid: int | None = None
        request = {
            "path": search_path(),
            "served": list(served),
            "candidates": [each.to_message() for each in candidates],
        }
        self._channel, channel = os.pipe()
        self._output, output = os.pipe()
        try:
            with tempfile.TemporaryFile() as text:
                text.write(json.dumps(request).encode())
                text.seek(0)
                self._pid = process.spawn(
                    [sys.executable, "-P", "-m", "flux.plugins.judge", str(channel)],
                    env=judging_environ(environ),
                    stdin=text.fileno(),
                    stdout=output,
                    stderr=output,
                    pass_fds=[channel],
                    new_group=True,
                )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(channel)
            os.close(output)
        os.set_blocking(self._output, False)

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing of it: neither it, nor what author code started in its process group."""
        self._end()
        self._close()

    def verdicts(self, limit: float) -> list[Verdict]:
        """Read verdicts until the candidates are through, or the child is of no use for the rest; at least one."""
        done: list[Verdict] = []
        wait, who = _START_SECONDS, "The judging process"
        while len(done) < len(self._candidates):
            message = self._next(time.monotonic() + wait)
            if message is None:
                done.append(_broken(self._candidates[len(done)].found, self._ending(who, wait)))
                break
            if "begin" in message:
                wait, who = limit, "Its manifest"
                continue
            verdict = message["verdict"]
            self._drain()
            if verdict.is_ok and self._printed:
                verdict = replace(verdict, notes=(*verdict.notes, f"Its import prints {self._last_line()!r}."))
            self._printed.clear()
            done.append(verdict)
            self._is_through = message["spoilt"] or len(done) == len(self._candidates)
            if self._is_through:
                break
        return done

    def _next(self, deadline: float) -> dict[str, Any] | None:
        """The next message; None: it is silent at the deadline, has closed the channel, or what came is no message."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._output, select.POLLIN)
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            for descriptor, _ in poll.poll(left * 1000):
                if descriptor == self._output:
                    if not self._drain():
                        poll.unregister(self._output)
                elif data := os.read(self._channel, 1 << 16):
                    self._received += data
                else:
                    self._is_closed = True
                    return None
        line, _, rest = self._received.partition(b"\n")
        self._received = rest
        try:
            message: dict[str, Any] = json.loads(line)
            return message if "begin" in message else {**message, "verdict": Verdict.from_message(message["verdict"])}
        except Exception:  # author code can write to any descriptor of its process
            self._is_garbled = True
            return None

    def _drain(self) -> bool:
        """Take what was printed, keeping the end; False: nobody can print any more."""
        while True:
            try:
                data = os.read(self._output, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._printed += data
            del self._printed[:-_KEPT]

    def _last_line(self) -> str:
        lines = [line for line in self._printed.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:_SHOWN] if lines else ""

    def _ending(self, who: str, waited: float) -> str:
        """Why there is no verdict: nothing came for so long, or the process has ended."""
        ended, by_itself = self._end()
        self._drain()
        said = f" Its last output: {self._last_line()!r}." if self._printed else ""
        if self._is_garbled:
            return f"{who} wrote to a descriptor that it had not opened.{said}"
        if not self._is_closed:
            self.is_out_of_time = True
            return f"{who} took longer than {waited:g} s.{said}"
        if ended is None or not by_itself:
            return f"{who} closed the way to the judging process.{said}"
        if ended.signal is not None:
            return f"{who} was killed by {process.signal_name(ended.signal)}.{said}"
        return f"{who} ended its process with exit status {ended.exit_status}.{said}"

    def _end(self) -> tuple[process.Exit | None, bool]:
        """Kill the process group and reap the child; None: there is nothing to reap. True: it had ended by itself."""
        if self._pid is None:
            return None, False
        pid, self._pid = self._pid, None
        # An end of its own is worth a moment; unreaped, it keeps its group's number from being used again.
        by_itself = (self._is_closed or self._is_through) and ends_within(pid, _END_SECONDS)
        process.send_group(pid, signal.SIGKILL)
        try:
            return process.wait(pid), by_itself
        except ChildProcessError:  # reaped by whoever reaps every child of this process
            return None, False

    def _close(self) -> None:
        for descriptor in (self._channel, self._output):
            os.close(descriptor)


def ends_within(pid: int, seconds: float) -> bool:
    """Wait for the end of a child without reaping it; False: it goes on after so long."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:  # reaped by somebody else
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _broken(found: Found, reason: str) -> Verdict:
    return Verdict(found.name, found.distribution, found.version, ProviderState.BROKEN, reason, module=found.module)

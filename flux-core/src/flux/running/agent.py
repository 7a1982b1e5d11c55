"""One attempt away from the launcher: what an executor's assignment runs, `python -m flux.running.agent`.

It finds the supervisor by FLUX_ENDPOINT and the attempt by FLUX_CLAIM, and needs nothing else: no home, no database, no
working folder. It says `start`; the supervisor answers with what the attempt knows and with the sources of its DAG
version, or refuses, because the claim was started before, or is over. Then it is to its one attempt what launcher and
DAG host are to many: it forks the process, ends it when told to, waits for what that leaves behind, and meanwhile sends
the log and beats. Its `end` message decides how the attempt ended.

It ends its attempt by itself when the supervisor refuses it or falls silent: by then another may have been started.
Standard library only until the attempt has its version. Exit statuses: see `Status`.
"""

# ruff: noqa: PTH118, PTH119

from __future__ import annotations

import base64
import functools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from flux import linux, process, wire
from flux.attempt import AttemptSpec, flat
from flux.errors import FluxError
from flux.loop import Loop
from flux.running import attempt_processes, runner
from flux.running.agent_files import FileSender
from flux.running.agent_folder import AgentFolder, sweep
from flux.running.agent_line import AgentLine, now
from flux.wire import Message

#: Share of the supervisor's patience between two signs of life, 5 s of its 30 s.
_BEAT = 1 / 6
#: Between two looks at the files and at the clock.
_LOOK_SECONDS = 0.5
#: A look that comes later than this was held up, by SIGSTOP or sleep: the supervisor gets so long to answer again.
_HELD_UP_SECONDS = 3.0
#: Share of the supervisor's patience after which an attempt that is not answered is ended: before it is taken for lost.
_SHARE = 0.9


class Status(IntEnum):
    """How an agent's process ends."""

    #: The attempt's end is recorded, whatever it is.
    RECORDED = 0
    #: It was started without FLUX_CLAIM or FLUX_ENDPOINT.
    USAGE = 64
    #: No supervisor answered.
    UNANSWERED = 69
    #: The claim is not this agent's, or no longer: nothing was run, or it was ended.
    REFUSED = 77


class Agent:
    """Runs the attempt of one claim.

    Args:
        endpoint: the file that names the supervisor's socket.
        patience: seconds without any supervisor after which it gives up; one that is there tells its own.
    """

    def __init__(self, claim: int, endpoint: str, *, patience: float = 60.0) -> None:
        self._claim = claim
        self._endpoint = endpoint
        self._pid = os.getpid()
        self._loop = Loop()
        #: Seconds of silence: of a supervisor that is there, and while there is none.
        self._silence, self._patience = 30.0, patience
        self._status = Status.RECORDED
        self._spec: AttemptSpec | None = None
        self._version = ""
        #: What is known of the providers.
        self._rules: Message = {}
        #: Private; None before it has begun.
        self._private: AgentFolder | None = None
        self._attempts = attempt_processes.AttemptProcesses(self._loop, self._report, own_children=set)
        self._log: FileSender | None = None
        self._has_sent_rendered = False
        #: Why the attempt's process is to end, before it has begun.
        self._killed: str | None = None
        #: Told from outside, not by the supervisor, to end.
        self._ended_by: str | None = None
        #: The attempt is not ours any more; its end concerns nobody.
        self._is_fenced = False
        self._looked_at = self._woke_at = self._beat_at = now()
        common = {"agent": f"agent-{os.urandom(8).hex()}"}
        self._line = AgentLine(
            self._loop, endpoint, claim, common, on_said=self._said, on_refused=lambda error: self._fenced(str(error))
        )

    def run(self) -> Status:
        """Run the attempt to its end and return how the process should end."""
        linux.become_subreaper()
        linux.set_name("flux-agent")
        self._loop.on_signal(signal.SIGCHLD, self._reap)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.on_signal(signum, functools.partial(self._told_to_end, signum))
        self._loop.every(_LOOK_SECONDS, self._look)
        self._line.ask("start", self._guarded(self._started), host=socket.gethostname(), pid=self._pid)
        try:
            self._loop.run()
        finally:
            self._line.close()
            if self._private is not None:
                self._private.remove()
            sweep()
        return self._status

    # --- beginning -------------------------------------------------------------------------------------------------

    def _started(self, answer: Message) -> None:
        """Take the assignment, and fetch what is missing of its version."""
        self._silence, self._patience = answer["silence_seconds"], answer["patience_seconds"]
        self._version = answer["version"]
        self._private = AgentFolder()
        self._spec = self._here(answer["spec"])
        run_folder = self._run_folder
        for name in ("versions", "sources", "results"):
            (run_folder / name).mkdir(parents=True)
        self._rules = self._with_catalogue(answer["rules"], answer["catalogue"])
        manifest = answer["manifest"]
        wire.write_file(str(run_folder / "versions" / f"{self._version}.json"), json.dumps(manifest).encode())
        self._said(answer)
        self._fetch(sorted(set(manifest["sources"].values())))

    def _guarded(self, step: Callable[[Message], object]) -> Callable[[Message], object]:
        """Have what goes wrong in a step before the attempt's process be the attempt's end."""

        def take(answer: Message) -> None:
            try:
                step(answer)
            except Exception as error:
                reason = (
                    f"{type(error).__name__}: {error}. Its flux-core must be the supervisor's, and its disk not full"
                )
                where = f"its agent on {socket.gethostname()} could not begin it"
                self._report(attempt_processes.exit_message(self._claim, error=f"{where}: {reason}"))

        return take

    @property
    def _folder(self) -> str:
        assert self._private is not None
        return str(self._private.path)

    @property
    def _run_folder(self) -> Path:
        return Path(self._folder, "run")

    def _here(self, given: Message) -> AttemptSpec:
        """The assignment with its files on this machine."""
        log = os.path.join(self._folder, "log", os.path.basename(given["log"]))
        there = {
            "log": log,
            "result_file": os.path.join(self._folder, "run", "results", os.path.basename(given["result_file"])),
            "rendered_file": os.path.join(self._folder, "log", os.path.basename(given["rendered_file"])),
            "endpoint": self._endpoint,
            "host": socket.gethostname(),
        }
        return AttemptSpec(**{**given, **there})

    def _with_catalogue(self, rules: Message, catalogue: str | None) -> Message:
        """What is to be known of the providers, with its file on this machine."""
        if catalogue is None:
            return rules
        file = str(self._run_folder / "providers.json")
        wire.write_file(file, catalogue.encode())
        return {**rules, "file": file}

    def _fetch(self, wanted: list[str]) -> None:
        """Get the sources one by one, then begin."""
        if self._killed is not None or self._is_fenced:
            self._report(attempt_processes.exit_message(self._claim, killed=self._killed))
        elif wanted:
            self._fetch_from(wanted, bytearray())
        else:
            self._begin()

    def _fetch_from(self, wanted: list[str], data: bytearray) -> None:
        def take(answer: Message) -> None:
            data.extend(base64.b64decode(answer["data"]))
            if len(data) < answer["size"] and answer["data"]:
                self._fetch_from(wanted, data)
            else:
                wire.write_file(str(self._run_folder / "sources" / wanted[0]), bytes(data))
                self._fetch(wanted[1:])

        self._line.ask("source", self._guarded(take), sha=wanted[0], offset=len(data))

    def _begin(self) -> None:
        assert self._spec is not None
        if self._spec.run_as_user not in (None, process.user_name()):
            error = f"it asks for run_as_user={self._spec.run_as_user!r}; this agent is {process.user_name()!r}"
            self._report(attempt_processes.exit_message(self._claim, error=error))
            return
        self._log = FileSender(self._line, self._spec.log, "log")
        self._attempts.start(self._spec, self._launch)

    def _launch(self, log: int) -> int:
        pid = process.fork()
        if pid == 0:
            attempt_processes.never_return(lambda: self._be_attempt(log))
        return pid

    def _be_attempt(self, log: int) -> NoReturn:
        """In the new process: become the attempt."""
        assert self._spec is not None
        self._line.leave()
        self._loop.close()
        runner.enter(self._pid, self._folder)
        runner.begin(log, self._claim)
        attempt_processes.write_header(self._spec)
        order = {"run_folder": str(self._run_folder), "version": self._version, "spec": flat(self._spec)}
        runner.carry_out({**order, "rules": self._rules})

    # --- meanwhile -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Send what has grown, beat, and see whether the supervisor still speaks to us."""
        moment = now()
        if moment - self._looked_at > _LOOK_SECONDS + _HELD_UP_SECONDS:
            self._woke_at = moment
        self._looked_at = moment
        if self._log is not None:
            self._log.send()
            self._send_rendered()
        if moment - self._beat_at >= self._silence * _BEAT or self._woke_at == moment:
            self._beat_at = moment
            self._line.ask("beat", self._said)
        self._mind_silence(moment)

    def _mind_silence(self, moment: float) -> None:
        limit = self._silence * _SHARE if self._line.is_connected else self._patience
        if self._is_fenced or not self._line.is_waiting:
            return
        if moment > max(self._line.heard_at + limit, self._woke_at + _HELD_UP_SECONDS):
            self._status = Status.UNANSWERED
            self._fenced(f"No supervisor answered for {limit:.0f} s.")

    def _send_rendered(self, then: Callable[[], object] = lambda: None) -> None:
        """Send the rendered fields, which are written whole before the user's code begins."""
        assert self._spec is not None
        path = self._spec.rendered_file
        if self._has_sent_rendered or not os.path.exists(path):  # noqa: PTH110
            then()
            return
        self._has_sent_rendered = True
        FileSender(self._line, path, "file", os.path.basename(path)).send(then)

    def _said(self, message: Message) -> None:
        """Take what the supervisor says by itself, or as the answer to a beat."""
        kill = message.get("kill")
        if kill is None or self._killed is not None:
            return
        self._killed = str(kill["reason"])
        self._attempts.kill(self._claim, float(kill["grace"]), self._killed)

    def _told_to_end(self, signum: int) -> None:
        """The executor's side ends this process: end the attempt and say so."""
        self._ended_by = f"its agent on {socket.gethostname()} was told to end by {process.signal_name(signum)}"
        self._end_attempt(self._ended_by)

    def _fenced(self, why: str) -> None:
        """The attempt is not ours, or nobody knows whether it still is: end it and tell nobody."""
        if self._is_fenced:
            return
        self._is_fenced = True
        if self._status is Status.RECORDED:
            self._status = Status.REFUSED
        print(f"flux agent: claim {self._claim}: {why}", file=sys.stderr, flush=True)
        self._end_attempt("it is not this agent's any more")

    def _end_attempt(self, why: str) -> None:
        """End the attempt's process; one that has not begun will not."""
        if self._killed is None:
            self._killed = why
        if self._attempts:
            assert self._spec is not None
            self._attempts.kill(self._claim, self._spec.kill_grace, why)
        elif self._is_fenced:
            self._loop.stop()

    # --- ending ----------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for ended in process.reap():
            self._attempts.reaped(ended)
        self._attempts.settle()

    def _report(self, message: Message) -> None:
        """Take the word of `AttemptProcesses`; after "exit" nothing is left of the attempt."""
        if message["op"] != "exit":
            return
        if self._is_fenced:
            self._loop.stop()
            return
        if self._ended_by is not None:
            message = {**message, "killed": None, "lost": True, "error": self._ended_by}
        self._send_all(lambda: self._tell_end(message))

    def _send_all(self, then: Callable[[], object]) -> None:
        """Send the rest of the log, the rendered fields and the results that are files, then go on."""
        if self._log is None or self._spec is None:
            then()
            return
        steps = [self._log.send, self._send_rendered]
        folder = os.path.dirname(self._spec.log)  # noqa: PTH120
        for name in _result_files(self._spec.result_file):
            steps.append(FileSender(self._line, os.path.join(folder, name), "file", name).send)

        def step() -> None:
            if steps:
                steps.pop(0)(step)
            else:
                then()

        step()

    def _tell_end(self, message: Message) -> None:
        told = None if self._spec is None else _read(self._spec.result_file)
        self._line.ask("end", lambda _: self._loop.stop(), exit=message, told=told, at=attempt_processes.now())


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _result_files(result_file: str) -> list[str]:
    """The names of the files beside the log that hold large results; none when there is no result file to tell them."""
    try:
        return list(map(str, json.loads(_read(result_file) or "{}").get("result_files", {}).values()))
    except (ValueError, AttributeError):
        return []


def main() -> int:
    """Run the attempt that the environment names."""
    claim, endpoint = os.environ.get("FLUX_CLAIM", ""), os.environ.get("FLUX_ENDPOINT", "")
    if not (claim.isdigit() and int(claim)) or not endpoint:
        print(
            "flux agent: FLUX_CLAIM and FLUX_ENDPOINT are not set. An executor adds its assignment's env.",
            file=sys.stderr,
        )
        return Status.USAGE
    try:
        return Agent(int(claim), endpoint).run()
    except FluxError as error:
        print(f"flux agent: {error}", file=sys.stderr)
        return Status.UNANSWERED


if __name__ == "__main__":
    sys.exit(main())

"""The standard tests of executors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import pytest

from flux import process
from flux.executor import Assignment, BaseExecutor
from flux.testing.conformance import Conformance, fail, not_applicable, standard
from flux.testing.endpoint import LAST_WORDS, FakeEndpoint, Report

__all__ = ["ExecutorConformance"]

_T = TypeVar("_T")

#: Between two questions what is gone.
_GONE_SECONDS = 0.2

#: What must not reach an attempt's machine, with values by which it would be seen.
_PRIVATE = {
    "FLUX_DATABASE_URL": "postgresql://kit:database-of-the-kit@127.0.0.1/flux",
    "FLUX_SECRET_KEY_FILE": "/nonsuch/key-of-the-kit",
    "FLUX_CONN_KIT_DEFAULT": "kit://login:connection-of-the-kit@127.0.0.1",
}
#: Arguments that a shell, a queue or a template on the way would change.
_TRICKY = (
    "",
    "two words",
    "quotes ' \" `",
    "$HOME $(echo no) ${PATH}",
    "a\nline\tand a tab",
    "*",
    "\\",
    "%s {0} {{ x }}",
    "\N{SNOWMAN}",
    "-rf",
    "x" * 10_000,
)


class ExecutorConformance(Conformance):
    """The standard tests of an executor: set `executor`.

    The programs it starts report to a socket of this machine, and so it must be able to start them here. Settings that
    it takes from the environment are set by a fixture of yours.
    """

    _under_test = "executor"
    #: The class.
    executor: ClassVar[type[BaseExecutor]]
    #: What it is made with.
    parallelism: ClassVar[int] = 4
    #: Seconds that a method may take: what takes longer costs another executor.
    call_seconds: ClassVar[float] = 5
    #: Seconds within which a cancelled assignment that had not begun is known never to begin.
    settle_seconds: ClassVar[float] = 1

    @pytest.fixture
    def scene(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Scene]:
        """An executor in an environment with a database address, and the endpoint that its programs report to."""
        for name, value in _PRIVATE.items():
            monkeypatch.setenv(name, value)
        scene = _Scene(self)
        try:
            yield scene
        finally:
            scene.close()

    @standard("contract")
    def test_it_is_a_class_of_its_kind(self) -> None:
        if not issubclass(self.executor, BaseExecutor):
            fail(f"{self.executor.__name__} is no BaseExecutor. Derive it from flux.executor.BaseExecutor.")
        missing = sorted(getattr(self.executor, "__abstractmethods__", ()))
        if missing:
            fail(f"{self.executor.__name__} does not define {', '.join(missing)}().")

    @standard("contract")
    def test_it_is_made_with_a_parallelism(self) -> None:
        try:
            made = self.executor(self.parallelism)
        except Exception as error:
            fail(f"{self.executor.__name__}({self.parallelism}) raises {type(error).__name__}: {error} {_MADE}")
        if not isinstance(getattr(made, "parallelism", None), int) or made.parallelism < 1:
            fail(f"{self.executor.__name__}({self.parallelism}).parallelism is not set. {_MADE}")
        made.stop()

    @standard("contract", "documentation")
    def test_it_is_documented(self) -> None:
        if not (vars(self.executor).get("__doc__") or "").strip():
            fail(f"{self.executor.__name__} has no docstring. Say where it runs attempts, and what it must be given.")

    @standard("execution", "start")
    def test_start_causes_the_program_to_run_with_its_environment(self, scene: _Scene) -> None:
        assignment = scene.start()
        report = scene.await_running(assignment)
        for name, value in assignment.env.items():
            # The way to the endpoint may be another there; it has led here.
            if name != "FLUX_ENDPOINT" and report.env.get(name) != value:
                fail(
                    f"The program got {name} = {report.env.get(name)!r}, not {value!r}. Give it all of assignment.env."
                )

    @standard("execution", "start")
    def test_arguments_arrive_as_they_are(self, scene: _Scene) -> None:
        assignment = scene.start(*_TRICKY)
        report = scene.await_running(assignment)
        if report.argv != _TRICKY:
            changed = [(a, b) for a, b in zip(_TRICKY, report.argv, strict=False) if a != b]
            what = f"{changed[0][0]!r:.80} arrived as {changed[0][1]!r:.80}" if changed else f"{len(report.argv)} came"
            fail(f"Arguments change on the way: {what}. Pass assignment.argv as a list; quote each where a shell is.")

    @standard("execution", "start")
    def test_several_run_beside_each_other(self, scene: _Scene) -> None:
        together = min(scene.executor.parallelism, 3)
        assignments = [scene.start() for _ in range(together)]
        for assignment in assignments:
            scene.await_running(assignment)

    @standard("execution", "start")
    def test_what_the_author_asked_for_does_no_harm(self, scene: _Scene) -> None:
        for resources in ({}, {"of_the_kit": 1, "memory": "1 GB"}):
            scene.await_running(scene.start(resources=resources))

    @standard("execution", "cancel")
    def test_cancel_ends_what_runs(self, scene: _Scene) -> None:
        assignment = scene.start()
        scene.await_running(assignment)
        scene.cancel(assignment.claim)
        scene.await_gone(assignment, "cancel()")

    @standard("execution", "cancel")
    def test_cancel_ends_only_what_it_names(self, scene: _Scene) -> None:
        if scene.executor.parallelism < 2:
            not_applicable("it runs one at a time")
        kept, cancelled = scene.start(), scene.start()
        for assignment in (kept, cancelled):
            scene.await_running(assignment)
        scene.cancel(cancelled.claim)
        scene.await_gone(cancelled, "cancel()")
        if scene.endpoint.await_gone(kept.claim, self.settle_seconds):
            fail("cancel() of one claim ended another. Keep them apart by claim.")

    @standard("execution", "cancel")
    def test_cancel_before_it_has_begun_leaves_nothing(self, scene: _Scene) -> None:
        assignment = scene.start()
        scene.cancel(assignment.claim)
        scene.endpoint.await_silence(self.settle_seconds)
        scene.await_gone(assignment, "cancel() right after start()")

    @standard("execution", "cancel")
    def test_cancel_is_repeatable_and_ignores_what_it_does_not_know(self, scene: _Scene) -> None:
        scene.cancel(1)
        assignment = scene.start()
        scene.await_running(assignment)
        for _ in range(2):
            scene.cancel(assignment.claim)
        scene.await_gone(assignment, "cancel()")
        scene.cancel(assignment.claim)

    @standard("execution", "stop")
    def test_nothing_begins_after_stop(self, scene: _Scene) -> None:
        scene.call("stop", scene.executor.stop)
        assignment = scene.endpoint.assignment()
        try:
            scene.call("start", lambda: scene.executor.start(assignment))
        except Exception:
            return
        scene.endpoint.await_silence(self.settle_seconds)
        if scene.endpoint.running(assignment.claim):
            fail("start() after stop() starts a program. Refuse it: raise, and start nothing.")

    @standard("execution", "stop")
    def test_stop_is_repeatable(self, scene: _Scene) -> None:
        for _ in range(2):
            scene.call("stop", scene.executor.stop)

    @standard("execution", "reaping")
    def test_what_has_ended_leaves_no_zombie(self, scene: _Scene) -> None:
        """A supervisor lives for months; give its children an end, at the latest when the next one starts."""
        before = _zombies()
        assignment = scene.start()
        report = scene.await_running(assignment)
        scene.endpoint.release(assignment.claim)
        deadline = time.monotonic() + self.limit_seconds
        while process.is_alive(report.pid) and time.monotonic() < deadline:
            scene.endpoint.await_silence(0.02)
        scene.await_running(scene.start())
        deadline = time.monotonic() + self.settle_seconds
        while left := _zombies() - before:
            if time.monotonic() > deadline:
                fail(f"Programs that ended stay as zombies: {sorted(left)}. Wait for the processes that it starts.")
            scene.endpoint.await_silence(0.02)

    @standard("execution", "gone")
    def test_what_ends_before_it_has_begun_is_told_as_gone(self, scene: _Scene) -> None:
        """For an executor that defines gone(): the attempt is then tried again at once, not after its time is over."""
        self._needs_gone()
        assignment = scene.begin(scene.endpoint.broken())
        why = scene.await_gone_told(assignment)
        if not str(why).strip():
            fail(f"gone() tells {why!r} as the reason. Say in a line what ended and how: people read it.")
        scene.endpoint.await_silence(self.settle_seconds)
        if assignment.claim in scene.executor.gone():
            fail("gone() tells a claim a second time. Tell each once, and forget it.")

    @standard("execution", "last_words")
    def test_what_is_gone_is_told_with_its_last_words(self, scene: _Scene) -> None:
        """An interpreter that is missing, or has no Flux, says so on its standard error, and nowhere else."""
        self._needs_gone()
        why = scene.await_gone_told(scene.begin(scene.endpoint.broken()))
        if LAST_WORDS not in str(why):
            fail(
                f"gone() tells {why!r}; the program's last line on standard error was {LAST_WORDS!r}. Keep the end of "
                "what it writes there, and put it into the reason."
            )

    @standard("execution", "gone")
    def test_what_runs_is_not_told_as_gone(self, scene: _Scene) -> None:
        self._needs_gone()
        assignment = scene.start()
        scene.await_running(assignment)
        scene.endpoint.await_silence(self.settle_seconds)
        if assignment.claim in {*scene.gone, *scene.executor.gone()}:
            fail("gone() tells a claim whose program runs: its attempt would be given away. Tell what has ended.")

    def _needs_gone(self) -> None:
        if self.executor.gone is BaseExecutor.gone:
            not_applicable("it does not define gone(), so attempts wait until their time is over")

    @standard("robustness", "secrecy")
    def test_no_database_address_and_no_secret_reaches_the_program(self, scene: _Scene) -> None:
        if self.executor.uses_launcher:
            not_applicable("the launcher forks its attempts, and core tests the launcher")
        report = scene.await_running(scene.start())
        for name, value in _PRIVATE.items():
            if name in report.env or value in report.env.values():
                fail(
                    f"The program has {name} in its environment. Give it assignment.env and what the machine where it "
                    "runs needs, not the supervisor's own environment."
                )

    @standard("robustness", "duplicate_start")
    def test_a_claim_that_is_started_twice_can_still_be_cancelled(self, scene: _Scene) -> None:
        """The supervisor refuses a second process with one claim; the executor only has to stay sound."""
        assignment = scene.start()
        scene.await_running(assignment)
        try:
            scene.call("start", lambda: scene.executor.start(assignment))
        except Exception:
            pass  # raising means that nothing began
        scene.endpoint.await_silence(self.settle_seconds)
        scene.cancel(assignment.claim)
        scene.await_gone(assignment, "cancel() of a claim that was started twice")


_MADE = "Take parallelism as the only required argument and hand it to super().__init__()."


class _Scene:
    """One executor under test, what it started, and where that reports."""

    def __init__(self, test: ExecutorConformance) -> None:
        self._test = test
        self.endpoint = FakeEndpoint()
        self.executor = test.executor(test.parallelism)
        self._launched: list[tuple[int, int]] = []
        self._claims: list[int] = []
        #: What `gone` has told.
        self.gone: dict[int, str] = {}
        self.executor.bind(launch=self._launch, kill=self._kill)

    def start(self, *arguments: str, resources: Mapping[str, Any] | None = None) -> Assignment:
        """Start a new assignment; its program stays until it is cancelled or released."""
        return self.begin(self.endpoint.assignment(*arguments, resources=resources))

    def begin(self, assignment: Assignment) -> Assignment:
        """Have an assignment started."""
        self._claims.append(assignment.claim)
        self.call("start", lambda: self.executor.start(assignment))
        return assignment

    def cancel(self, claim: int) -> None:
        self.call("cancel", lambda: self.executor.cancel(claim))

    def call(self, method: str, function: Callable[[], _T]) -> _T:
        """Call a method of the executor, which must not wait for what it starts."""
        began = time.monotonic()
        value = function()
        took = time.monotonic() - began
        if took > self._test.call_seconds:
            fail(
                f"{method}() took {took:.1f} s, and all that is asked for later waits for it. Return once the "
                "program is on its way, without waiting for its end."
            )
        return value

    def await_running(self, assignment: Assignment) -> Report:
        deadline = time.monotonic() + self._test.limit_seconds
        report = None
        while report is None and time.monotonic() < deadline:
            report = self.endpoint.await_running(assignment.claim, _GONE_SECONDS)
            self._ask_gone()
        if report is None:
            fail(
                f"start() returned, and the program did not report within {self._test.limit_seconds:g} s. Cause "
                "assignment.argv to run with assignment.env where FLUX_ENDPOINT can be reached."
            )
        return report

    def await_gone_told(self, assignment: Assignment) -> str:
        deadline = time.monotonic() + self._test.limit_seconds
        while assignment.claim not in self.gone:
            if time.monotonic() > deadline:
                fail(
                    f"The program ended, and gone() did not tell its claim within {self._test.limit_seconds:g} s. "
                    "Return the claims of what has ended, each with why."
                )
            self.endpoint.await_silence(_GONE_SECONDS)
            self._ask_gone()
        return self.gone[assignment.claim]

    def _ask_gone(self) -> None:
        """Ask as a supervisor does while anything is queued."""
        found: Any = self.call("gone", self.executor.gone)
        if not isinstance(found, Mapping) or not all(type(claim) is int for claim in found):
            fail(f"gone() returned {found!r:.80}. Return a mapping of claims, which are numbers, to reasons.")
        self.gone.update(found)

    def await_gone(self, assignment: Assignment, after: str) -> None:
        if not self.endpoint.await_gone(assignment.claim, self._test.limit_seconds):
            fail(
                f"The program still runs {self._test.limit_seconds:g} s after {after}. Send SIGTERM to it, and to the "
                "whole process group where a shell is between."
            )

    def close(self) -> None:
        for claim in self._claims:
            self._quietly(lambda claim=claim: self.executor.cancel(claim))  # type: ignore[misc]
        self._quietly(self.executor.stop)
        self.endpoint.close()
        for _, pid in self._launched:
            process.send(pid, signal.SIGKILL)
            process.wait(pid)

    @staticmethod
    def _quietly(function: Callable[[], Any]) -> None:
        try:
            function()
        except Exception:  # the test has said what is wrong
            pass

    def _launch(self, assignment: Assignment) -> None:
        """What a launcher does: start the program on this machine."""
        pid = process.spawn(assignment.argv, env={"PATH": os.defpath, **assignment.env}, new_session=True)
        self._launched.append((assignment.claim, pid))

    def _kill(self, claim: int) -> None:
        for launched, pid in self._launched:
            if launched == claim:
                process.send(pid, signal.SIGTERM)


def _zombies() -> set[int]:
    """Children of this process that have ended and that nobody has waited for."""
    me = os.getpid()
    return {entry.pid for entry in process.table() if entry.parent == me and entry.is_zombie}

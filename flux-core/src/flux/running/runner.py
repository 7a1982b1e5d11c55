"""One process of attempts: what runs in it after a DAG host has forked it, or in a fresh interpreter.

`python -m flux.running.runner` reads its order from standard input, and imports the version itself:
`{"run_folder", "rules", "version", "spec"}` for an attempt, `{"run_folder", "rules", "version", "specs", "report_fd"}`
for pokes. Standard library until it has its version.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from flux import linux, process
from flux.running import faults

if TYPE_CHECKING:
    from flux.attempt import AttemptEnd, AttemptSpec
    from flux.dag_file import DagFile

#: Added to the attempt's badness when memory runs out: tasks die before the processes that watch them.
_OOM_SCORE = b"300"
_RESET = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)


def enter(parent: int, home: str) -> None:
    """Make a process that was just forked one of attempts: own session, dies with its parent; no claim and log yet.

    Args:
        parent: pid of the process that forked it.
        home: becomes the working folder.
    """
    os.setsid()
    linux.die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for signum in _RESET:
        signal.signal(signum, signal.SIG_DFL)
    try:
        os.chdir(home)
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, _OOM_SCORE)
        os.close(score)
    except OSError:  # no such file elsewhere; already higher
        pass
    gc.enable()


def carry(claim: int) -> None:
    """Let this process and those it starts carry `claim` as FLUX_CLAIM; 0: none."""
    text = process.claim_text(claim)
    linux.overwrite_in_environment("FLUX_CLAIM", text)
    os.environ["FLUX_CLAIM"] = text


def begin(log: int, claim: int = 0) -> None:
    """Take an attempt's log for standard output and error, and its claim; closes the descriptor `log`."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    carry(claim)


def run(file: DagFile, spec: AttemptSpec) -> NoReturn:
    """Run an attempt and end the process: exit status 0 unless it failed; SIGTERM when it was killed by that.

    Logging is set up.
    """
    from flux import attempt
    from flux.errors import TaskKilled
    from flux.running.channel import ChannelWorld

    status = 70  # ours: the attempt's body itself broke; its traceback is in the log
    try:
        attempt.install_kill_handler()
        _new_random_numbers()
        task = file.task(spec.dag_id, spec.task_id)
        world = ChannelWorld(spec.endpoint, spec.claim)
        end = attempt.execute(task, spec, world, macro_source=file.providers.macro, read_file=file.read_file)
        status = _leave_end(end, spec)
    except (TaskKilled, KeyboardInterrupt):
        attempt.flush_streams()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        process.send(os.getpid(), signal.SIGTERM)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    attempt.flush_streams()
    os._exit(status)


def _leave_end(end: AttemptEnd, spec: AttemptSpec) -> int:
    from flux import attempt

    faults.point("before_result_file")
    attempt.write_end(end, spec.result_file)
    faults.point("after_result_file")
    return 1 if end.outcome == "failed" else 0


def _new_random_numbers() -> None:
    """Python reseeds its own generator at a fork; NumPy's would give every attempt the same numbers."""
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def main() -> NoReturn:
    """Carry out the order on standard input."""
    order = json.loads(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    carry_out(order)


def carry_out(order: dict[str, Any]) -> NoReturn:
    """Import the version that an order names, run its attempt or its pokes, and end the process."""
    from flux import dag_file
    from flux.attempt import AttemptSpec, setup_logging
    from flux.dag_providers import DagProviders
    from flux.errors import DagFileError

    specs = [AttemptSpec(**data) for data in order.get("specs") or [order["spec"]]]
    try:
        manifest = dag_file.Manifest.read(order["run_folder"], order["version"])
        finder = dag_file.SourceFinder(manifest.folder, manifest.contents(order["run_folder"]))
        file = dag_file.read(finder, manifest.file, DagProviders(order.get("rules")))
        file.task(specs[0].dag_id, specs[0].task_id)
    except DagFileError as error:
        if "specs" in order:
            _report_failed(order["report_fd"], specs, str(error))
        _fail(specs[0], error)
    setup_logging()
    if "specs" in order:
        from flux.running import pokes

        pokes.run(file, specs, order["report_fd"])
    run(file, specs[0])


def _fail(spec: AttemptSpec, error: Any) -> NoReturn:
    from flux import attempt
    from flux.times import iso, utc_now

    print(error.traceback or error, file=sys.stderr)
    now = iso(utc_now()) or ""
    reason = f"its DAG file could not be imported: {error}"
    status = _leave_end(attempt.AttemptEnd("failed", reason, True, {}, {}, None, now, now), spec)
    attempt.flush_streams()
    os._exit(status)


def _report_failed(report_fd: int, specs: list[AttemptSpec], error: str) -> NoReturn:
    from flux.running import pokes

    for spec in specs:
        pokes.tell(report_fd, pokes.failure(spec.claim, error))
    os._exit(1)


if __name__ == "__main__":
    main()

"""One attempt: render, execute, encode. The one body of every attempt, whichever process runs it; knows no store.

`execute` never raises for what user code does: it returns an `AttemptEnd`, which the process writes with `write_end`
before it leaves. What kills an attempt passes through: `TaskKilled` (SIGTERM, turned into an exception by the handler
of `install_kill_handler`) and Ctrl-C, after `on_kill` was called once.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flux import masking, results
from flux.context import RETURN_VALUE, Context, MacroSource, running
from flux.errors import FailTask, FluxError, SkipTask, TaskKilled, TemplateError
from flux.secret import mask
from flux.templating import FileReader, Templates, shown
from flux.times import iso, utc_now

if TYPE_CHECKING:
    from types import FrameType

    from flux.operator import BaseOperator
    from flux.sensor import BaseSensor

#: Longer reasons are cut; the log has the whole.
_REASON_LENGTH = 500
_HANDLER_NAME = "flux"


@dataclass(frozen=True, slots=True)
class AttemptSpec:
    """Everything an attempt knows at its start. JSON by `flat` and `AttemptSpec(**data)`."""

    claim: int
    dag_id: str
    run_id: str
    task_id: str
    #: -1 for a task that is not mapped.
    map_index: int
    attempt: int
    max_attempts: int
    #: scheduled, manual or backfill.
    kind: str
    logical_date: str
    interval_start: str
    interval_end: str
    conf: dict[str, Any] | None
    run_started_at: str | None
    first_seen_at: str | None
    #: Absolute paths.
    log: str
    result_file: str
    rendered_file: str
    #: File that holds the path of the supervisor's socket.
    endpoint: str
    log_max_bytes: int
    kill_grace: float
    run_as_user: str | None
    sensor: bool = False
    #: A sensor's first poke, and when it gives up.
    started_at: str | None = None
    deadline_at: str | None = None
    pool: str | None = None
    queue: str = "default"
    host: str = ""


class World(Protocol):
    """What a running task can reach. Each method may block on the supervisor."""

    def result(self, task_id: str, key: str = RETURN_VALUE, map_index: int = -1) -> str | None:
        """Return what a task of this run left, as typed JSON; None when there is none."""

    def connection(self, conn_id: str) -> dict[str, Any]:
        """Return what `Connection.from_message` reads; raises NotFound."""

    def variable(self, name: str) -> str | None:
        """Return the text of a stored variable; None when it is not set."""

    def task_state(self, dag_id: str, run_id: str, task_id: str) -> str | None:
        """Return a State's value; None when there is no such task instance."""

    def previous_run(self, successful: bool) -> dict[str, Any] | None:
        """Return logical_date, interval_start and interval_end of the previous scheduled or backfilled run."""

    def trigger(self, dag_id: str, conf: dict[str, Any] | None, logical_date: str | None) -> str:
        """Make a run and return its run_id."""

    def progress(self, text: str) -> None:
        """Tell people how far the attempt is."""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended: the content of its result file."""

    #: success, failed or skipped.
    outcome: str
    #: One line for people; None when there is nothing to say.
    reason: str | None
    #: False: no further attempt, whatever the task allows.
    retry: bool
    #: Typed JSON by key, up to `results.INLINE_LIMIT` bytes each.
    results: dict[str, str]
    #: Name of a file beside the log by key, for larger ones.
    result_files: dict[str, str]
    #: Of a branch: the task_ids it chose. Of a short-circuit: [] closes everything that it gates, None closes nothing.
    chosen: list[str] | None
    #: Around the user's code.
    started_at: str
    ended_at: str
    #: Template fields as text, where nothing was rendered; else they are in a file of their own since before the start.
    rendered: dict[str, str] | None = None


def execute(
    task: BaseOperator,
    spec: AttemptSpec,
    world: World,
    *,
    macro_source: MacroSource | None = None,
    read_file: FileReader | None = None,
) -> AttemptEnd:
    """Run one attempt of `task` in this thread and return how it ended; tracebacks go to stderr.

    Args:
        task: is not changed; a copy is rendered and executed.
        macro_source: finds the macros of providers.
        read_file: gives the stored bytes of template files; None reads the disk.

    Raises:
        TaskKilled: the attempt was told to stop; `on_kill` has been called.
        KeyboardInterrupt: likewise.
    """
    started_at = _now()
    task = copy.copy(task)
    context = Context(task, spec, world, macro_source=macro_source)
    inline: dict[str, str] = {}
    files: dict[str, str] = {}
    chosen: list[str] | None = None
    rendered: dict[str, str] | None = None
    outcome, reason, retry = "success", None, True
    with running(context):
        try:
            rendered = _render(task, context, read_file)
            value = _call(task, context)
            chosen = _chosen(task, value)
            inline, files = _stored(_left(task, context, value), spec)
        except BaseException as error:
            if isinstance(error, TaskKilled) or (isinstance(error, KeyboardInterrupt) and not _own_process):
                _end_by_kill(task, spec.kill_grace)
                raise
            outcome, reason, retry = end_of(error)
            print_error(error)
    flush_streams()
    return AttemptEnd(outcome, reason, retry, inline, files, chosen, started_at, _now(), rendered)


def poke(
    task: BaseSensor,
    spec: AttemptSpec,
    world: World,
    *,
    macro_source: MacroSource | None = None,
    read_file: FileReader | None = None,
) -> bool:
    """Render `task` and poke once, in this thread; return whether its condition holds. Raises what the poke raises."""
    task = copy.copy(task)
    context = Context(task, spec, world, macro_source=macro_source)
    with running(context):
        _render(task, context, read_file)
        return bool(task.poke(context))


def end_of(error: BaseException) -> tuple[str, str | None, bool]:
    """Return the outcome, the reason and whether a retry makes sense, for what user code raised."""
    if isinstance(error, SkipTask):
        return "skipped", _line(error) or None, False
    if isinstance(error, FailTask):
        return "failed", _line(error) or "FailTask", False
    if isinstance(error, SystemExit):
        if error.code is None or error.code == 0:
            return "success", None, True
        code = error.code if isinstance(error.code, int) else 1
        told = f": {_line(error)}" if isinstance(error.code, str) else ""
        return "failed", f"exit code {code}{told}"[:_REASON_LENGTH], True
    if isinstance(error, FluxError):
        return "failed", _line(error) or type(error).__name__, True
    line = _line(error)
    name = type(error).__qualname__
    return "failed", f"{name}: {line}"[:_REASON_LENGTH] if line else name, True


def print_error(error: BaseException) -> None:
    """Print to stderr what people need to find the fault: one line for what was raised on purpose, else a traceback."""
    if isinstance(error, (SkipTask, FailTask, SystemExit)):
        outcome, reason, _ = end_of(error)
        text = f"{outcome}: {reason}\n" if reason else ""
    else:
        text = _traceback(error)
    try:
        sys.stderr.write(mask(text))
        sys.stderr.flush()
    except (OSError, ValueError):  # a full disk, or closed by the task: how it ended must still be told
        pass


def write_end(end: AttemptEnd, path: str) -> None:
    """Write the result file whole, readable for its owner only; one that is there is replaced."""
    _write_whole(path, json.dumps(flat(end)))


def flat(record: AttemptSpec | AttemptEnd) -> dict[str, Any]:
    """Return the fields by name, as messages and result files have them; the values are the record's own."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


_ending = False
_told = False
_own_process = False


def install_kill_handler() -> None:
    """Make SIGTERM raise TaskKilled in the main thread. For a process that runs one attempt and nothing else."""
    import signal

    global _own_process, _told
    _own_process, _told = True, False
    signal.signal(signal.SIGTERM, _raise_killed)


def _raise_killed(signum: int, frame: FrameType | None) -> None:
    global _told
    if not _ending and not _told:  # a second signal would interrupt what the task does at its end
        _told = True
        raise TaskKilled("told to stop by SIGTERM")


def setup_logging() -> None:
    """Send what Python logs to stderr with time and level; make both streams write whole lines and mask secrets.

    For a process of attempts; safe to repeat. Handlers of the root logger that write to the terminal are replaced,
    since each line would come twice; others stay. The level stays where the author has set one, else it is INFO.
    """
    import logging

    for stream in (sys.stdout, sys.stderr):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")
        masking.cover(stream)
    root = logging.getLogger()
    for handler in list(root.handlers):
        terminal = isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        if terminal or handler.get_name() == _HANDLER_NAME:
            root.removeHandler(handler)
    root.addHandler(_log_handler())
    if root.level == logging.WARNING:
        root.setLevel(logging.INFO)


def _log_handler() -> Any:
    import logging

    class Handler(logging.Handler):
        """Writes to whatever sys.stderr is at that moment: a batch of pokes gives each thread its own."""

        def emit(self, record: logging.LogRecord) -> None:
            try:
                sys.stderr.write(mask(self.format(record)) + "\n")
                sys.stderr.flush()
            except Exception:
                self.handleError(record)

    handler = Handler()
    handler.set_name(_HANDLER_NAME)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def render(task: BaseOperator, context: Context, read_file: FileReader | None = None) -> dict[str, str]:
    """Render the template fields of `task` in place; return each as text, secrets masked.

    Call it on a copy, with `context` running.

    Raises:
        TemplateError: a field cannot be rendered; names the field and the cause.
    """
    Templates(task, context, read_file).render()
    return _as_text(task)


def _as_text(task: BaseOperator) -> dict[str, str]:
    return {name: mask(shown(getattr(task, name))) for name in task.template_fields}


def _render(task: BaseOperator, context: Context, read_file: FileReader | None) -> dict[str, str] | None:
    """Render the fields and write them to their file, so that people see them while the attempt runs.

    Returns them where nothing was rendered, and no file is written: they say no more than the DAG file does.
    """
    templates = Templates(task, context, read_file)
    templates.render()
    if not task.template_fields or not context.spec.rendered_file:
        return None
    if not templates.has_rendered:
        return _as_text(task)
    _write_whole(context.spec.rendered_file, json.dumps(_as_text(task)))
    return None


def _call(task: BaseOperator, context: Context) -> Any:
    task.pre_execute(context)
    try:
        value = task.execute(context)
    except SystemExit as error:
        if error.code is None or error.code == 0:
            return None
        raise
    task.post_execute(context, value)
    return value


def _chosen(task: BaseOperator, value: Any) -> list[str] | None:
    """What the result of a gate means; None for other tasks."""
    if task.gate == "short_circuit":
        return None if value else []
    if task.gate == "branch":
        return _branches(task, value)
    return None


def _branches(task: BaseOperator, value: Any) -> list[str]:
    """The direct downstream tasks that a branch chose; a group_id stands for those of them that are in the group."""
    direct = sorted(task.downstream_task_ids)
    known = f"Its direct downstream tasks are: {', '.join(direct) or 'none'}."
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in names):
        raise FluxError(
            f"Branch {task.task_id!r} returned {value!r:.100}. Return a task_id or a list of them, [] for none. {known}"
        )
    chosen: list[str] = []
    for name in names:
        found = [name] if name in direct else [task_id for task_id in direct if task_id.startswith(f"{name}.")]
        if not found:
            raise FluxError(f"Branch {task.task_id!r} chose {name!r}, which is not directly downstream of it. {known}")
        chosen += (task_id for task_id in found if task_id not in chosen)
    return chosen


def _left(task: BaseOperator, context: Context, value: Any) -> dict[str, str]:
    """The results of the attempt as typed JSON. No value leaves no result."""
    if not task.store_result:
        return {}
    left = dict(context.kept)
    if value is not None:
        left[RETURN_VALUE] = results.encode(value, limit_bytes=results.RESULT_LIMIT)
    return left


def _stored(left: dict[str, str], spec: AttemptSpec) -> tuple[dict[str, str], dict[str, str]]:
    """Split results into those for the store's row and those put into files beside the log (key -> file name)."""
    inline: dict[str, str] = {}
    files: dict[str, str] = {}
    for key, text in left.items():
        if len(text.encode()) <= results.INLINE_LIMIT:
            inline[key] = text
        else:
            files[key] = f"{Path(spec.log).stem}.{len(files)}.result"
            _write_whole(str(Path(spec.log).with_name(files[key])), text)
    return inline, files


def _end_by_kill(task: BaseOperator, grace: float) -> None:
    """Call on_kill once. In a process of its own the kernel ends it when the grace is over, whatever it hangs in."""
    global _ending
    if _own_process:
        import signal

        _ending = True
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(grace, 0.01))
    try:
        task.on_kill()
    except (Exception, SystemExit) as error:
        print_error(error)
    flush_streams()


def flush_streams() -> None:
    """Write out what this process has printed, as far as that is still possible."""
    for stream in (sys.stdout, sys.stderr):
        try:
            masking.finish(stream)
        except (OSError, ValueError):  # closed by the task
            pass


def _line(error: BaseException) -> str:
    """The first line of the error's text with something in it, bounded, secrets masked."""
    try:
        text = mask(str(error))
    except Exception:
        return "(its text cannot be read)"
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")[:_REASON_LENGTH]
    # Databases take neither lone surrogates nor NUL.
    return line.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


def _traceback(error: BaseException) -> str:
    """The traceback as Python prints it, without Flux's own frames at the top; an error of Flux alone is one line."""
    import traceback

    whole = traceback.TracebackException.from_exception(error)
    ours = f"{Path(__file__).parent}{os.sep}"
    pending: list[traceback.TracebackException | None] = [whole]
    seen: set[int] = set()
    while pending:
        part = pending.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        kept = next((index for index, frame in enumerate(part.stack) if not frame.filename.startswith(ours)), None)
        if kept is not None:
            del part.stack[:kept]
        elif part is whole and _says_all(error):
            return f"{type(error).__name__}: {error}\n"
        pending += [part.__cause__, part.__context__, *(part.exceptions or ())]
    return "".join(whole.format())


def _says_all(error: BaseException) -> bool:
    """Whether the message of an error from Flux's own code is enough: not where code called by a template failed."""
    cause = error.__cause__
    by_author = cause is not None and not (
        isinstance(cause, FluxError) or type(cause).__module__.partition(".")[0] == "jinja2"
    )
    return isinstance(error, FluxError) and not (isinstance(error, TemplateError) and by_author)


def _write_whole(path: str, text: str) -> None:
    """Write a file so that readers see it whole or not at all."""
    temporary = f"{path}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode())
    os.replace(temporary, path)  # noqa: PTH105


def _now() -> str:
    return iso(utc_now()) or ""

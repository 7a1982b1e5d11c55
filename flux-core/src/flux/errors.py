"""Every error that Flux raises on purpose, and the signals by which user code ends its own task.

    FluxError
    ├── AuthoringError          a DAG file or a call in it is wrong; names file and line
    │   ├── UnknownArgument
    │   ├── InvalidId
    │   ├── DuplicateTask
    │   ├── Cycle
    │   ├── BadSchedule
    │   ├── BadDate
    │   ├── BadParam
    │   └── OutsideTask         used where only a running task can
    ├── DagFileError            a DAG file could not be read: its import failed, hung or died
    ├── TemplateError           a template field could not be rendered
    ├── ResultError             a result is too large or of a type that is not kept
    ├── SensorTimeout           a sensor's condition did not come true in time
    ├── ConfigError             an option has a value that cannot be used
    ├── NotFound                a name that does not exist; lists the nearest known ones
    │   └── UnknownName         one that a task or a template asked for
    ├── Refused                 what was asked for conflicts with what is there
    │   ├── AlreadyRunning      a second system on one home or database
    │   └── NeedsConfirmation
    ├── StoreError
    │   ├── DatabaseUnavailable
    │   ├── DatabaseTooNew
    │   ├── DatabaseTooOld
    │   └── StaleState          another process was faster; `Store.write` begins the transaction again
    ├── DamagedVersion          the stored structure of a DAG version cannot be read
    ├── EncryptionError         stored secrets cannot be encrypted or decrypted
    ├── PluginError
    └── PolicyViolation         raised by a provider's policy: a task is not allowed

    SkipTask, FailTask          raised by user code; no errors of Flux
    TaskKilled                  BaseException: a broad `except Exception` cannot stop a kill

Messages say what happened, to which object, and what to do. Each class has a `code`: a section of `docs/errors.md`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def printable(text: str, *, keep: str = "") -> str:
    """Return a text as a terminal shows it and nothing more: its control characters, but those to keep, are escaped."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )


def shown(text: str, *, limit: int = 1000) -> str:
    """Return somebody else's text as one printable line of at most so many characters, for messages and lists."""
    line = printable(" ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def told(error: BaseException) -> str:
    """Return type and text of an error of somebody else's code as one line; the type alone where it has no text."""
    try:
        text = shown(str(error))
    except Exception:  # its own __str__ raises
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class FluxError(Exception):
    """Something Flux refuses or could not do. Read the message: it names the object and the remedy."""

    #: Section of `docs/errors.md`.
    code = "error"


class AuthoringError(FluxError):
    """A DAG definition is wrong. Mend the line the message names; nothing of the file was stored.

    Args:
        message: what, which object, what to do.
        file: the DAG file, as the author knows it; None outside a file.
        line: 1-based line in `file`; None if unknown.
    """

    code = "authoring"

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.line = line


class UnknownArgument(AuthoringError, TypeError):
    """An operator or a DAG was given an argument it does not take."""

    code = "unknown-argument"


class InvalidId(AuthoringError, ValueError):
    """A dag_id, task_id or group_id has characters or a length that is not allowed."""

    code = "invalid-id"


class DuplicateTask(AuthoringError):
    """A DAG has two tasks of one id."""

    code = "duplicate-task"


class Cycle(AuthoringError):
    """The tasks of a DAG depend on each other in a circle."""

    code = "cycle"


class BadSchedule(AuthoringError, ValueError):
    """A schedule is no cron expression, preset or duration, or can never be due."""

    code = "bad-schedule"


class BadDate(AuthoringError, ValueError):
    """A date is malformed, does not exist or exists twice in its time zone, or is missing where needed."""

    code = "bad-date"


class BadParam(AuthoringError, ValueError):
    """A param's value does not keep what its declaration asks for."""

    code = "bad-param"


class OutsideTask(AuthoringError, RuntimeError):
    """Something that only works inside a running task was used outside one."""

    code = "outside-task"


class DagFileError(FluxError):
    """A DAG file could not be read: its import raised, hung, or its process died.

    Args:
        message: the cause in one line.
        file: the file, relative to the DAGs folder.
        line: 1-based line, None if unknown.
        traceback: as Python prints it, the author's frames only; empty if there is none.
    """

    code = "dag-file"

    def __init__(self, message: str, *, file: str, line: int | None = None, traceback: str = "") -> None:
        super().__init__(message)
        self.file = file
        self.line = line
        self.traceback = traceback


class TemplateError(FluxError):
    """A template field could not be rendered. The message names the field and the name or file at fault."""

    code = "template"


class ResultError(FluxError):
    """A result is larger than its limit or of a type that is not kept; the message names the path to it."""

    code = "result"


class SensorTimeout(FluxError):
    """A sensor's condition did not come true before its timeout."""

    code = "sensor-timeout"


class ConfigError(FluxError):
    """An option has a value that cannot be used. The message says where the value came from."""

    code = "config"


class NotFound(FluxError):
    """A name does not exist. The message lists the nearest known names."""

    code = "not-found"

    @classmethod
    def named(cls, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> NotFound:
        """Build the error for `name`, a `kind` such as "DAG", listing the nearest of `known`."""
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or known[:5]
        message = f"{kind} {name!r} does not exist."
        message += f" Known: {', '.join(near)}." if near else f" There is no {kind} yet."
        return cls(f"{message} {hint}".rstrip())


class UnknownName(NotFound, AttributeError, LookupError):
    """A task or a template asked for a name that does not exist; as an attribute or an item, so it is either error."""


class Refused(FluxError):
    """What was asked for conflicts with what is there; nothing was changed."""

    code = "refused"


class AlreadyRunning(Refused):
    """A second system was started on one home or one SQLite database. Stop the first, whose pid is named."""

    code = "already-running"


class NeedsConfirmation(Refused):
    """A dangerous action was asked for without a terminal to confirm it. Look at the list, then add --yes."""

    code = "needs-confirmation"


class StoreError(FluxError):
    """The metadata database did not do what was asked."""

    code = "store"


class DatabaseUnavailable(StoreError):
    """The metadata database cannot be reached or stays busy. Nothing is lost; try again."""

    code = "database-unavailable"


class DatabaseTooNew(StoreError):
    """The database was made by a newer Flux. Upgrade this installation; nothing was touched."""

    code = "database-too-new"


class DatabaseTooOld(StoreError):
    """The database needs `flux db upgrade`."""

    code = "database-too-old"


class StaleState(StoreError):
    """A row was no longer in the state it was read in, five times running. Try again; nothing was changed."""

    code = "stale-state"


class DamagedVersion(FluxError):
    """The stored structure of a DAG version cannot be read. What ran of it is recorded, nothing of it starts.

    Other DAGs go on. Restore the database from a copy.
    """

    code = "damaged-version"


class EncryptionError(FluxError):
    """Stored secrets cannot be encrypted or decrypted. The message names the key file, and the connection if it is one.

    Nothing is lost or changed: with the right key everything can be read again.
    """

    code = "encryption"


class PluginError(FluxError):
    """A provider, executor or macro cannot be used. The message names its distribution and the cause."""

    code = "plugin"


class PolicyViolation(FluxError):
    """A provider's policy does not allow a task. Change the task as the message says, or ask who wrote the policy."""

    code = "policy"


class SkipTask(Exception):
    """Raise in a task to end it as skipped. The message becomes the reason."""


class FailTask(Exception):
    """Raise in a task to fail it at once, without a retry. The message becomes the reason."""


class TaskKilled(BaseException):
    """Raised in a task's main thread when it is told to stop; derives from BaseException on purpose."""

"""`flux`: the table of commands, and what an error becomes: a line on stderr and an exit code.

0 done · 1 refused or failed · 2 wrong usage · 130 interrupted. Anything but a `FluxError` is our bug and keeps its
traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from flux import linux
from flux.cli.exit_codes import DONE, FAILED, INTERRUPTED, WRONG_USAGE
from flux.cli.group import Entry, LazyGroup
from flux.errors import FluxError

COMMANDS = {
    "init": Entry("flux.cli.system:init", "Make the home folder and the database."),
    "up": Entry("flux.cli.system:up", "Run the whole system in the foreground."),
    "status": Entry("flux.cli.system:status", "Say whether the system runs, and its parts."),
    "doctor": Entry("flux.cli.doctor:doctor", "Say what is wrong with this installation."),
    "dag": Entry("flux.cli.dag:dag", "List, show, check, pause, trigger and test DAGs."),
    "next": Entry("flux.cli.next:next_command", "Say when a DAG's next runs are due."),
    "run": Entry("flux.cli.run:run", "List, show and delete DAG runs."),
    "task": Entry("flux.cli.task:task", "Show tasks, their attempts, logs and results."),
    "why": Entry("flux.cli.why:why", "Say what keeps a task instance from running."),
    "pool": Entry("flux.cli.pool:pool", "List, set and delete pools."),
    "variable": Entry("flux.cli.variable:variable", "List, get, set and delete variables."),
    "connection": Entry("flux.cli.connection:connection", "Add, list, show and test connections."),
    "provider": Entry("flux.cli.provider:provider", "List, check and search providers, and begin a new one."),
    "job": Entry("flux.cli.job:job", "List the long-lived processes of Flux."),
    "audit": Entry("flux.cli.audit:audit", "List who did what."),
    "config": Entry("flux.cli.config:config", "List the options and where their values come from."),
    "db": Entry("flux.cli.db:db", "Upgrade and check the metadata database."),
    "version": Entry("flux.cli.system:version", "Print the version."),
}

#: Commands that come with another distribution, which the message names while it is not installed.
ELSEWHERE = {"ui": "flux-ui", "worker": "flux-provider-celery"}

root = LazyGroup(
    "flux",
    table=COMMANDS,
    elsewhere=ELSEWHERE,
    purpose="Author, schedule and monitor data pipelines.",
    epilog="Example: flux init && flux up",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments=None` takes the process's own."""
    if arguments is None:
        _fill_descriptors()
        linux.forbid_inspection()  # the environment may hold the database's password
    try:
        answer = root.main(args=arguments, prog_name="flux", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return WRONG_USAGE
    except click.Abort as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            return INTERRUPTED
        _complain("The question was not answered; nothing was done.")
        return FAILED
    except FluxError as error:
        _complain(str(error))
        return FAILED
    return answer if isinstance(answer, int) else DONE


def _fill_descriptors() -> None:
    """Open what is closed of descriptors 0 to 2, as under some cron: a pipe to a child would take their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8")


def _complain(message: str) -> None:
    from flux.cli import output

    output.complain(message)


if __name__ == "__main__":
    sys.exit(main())

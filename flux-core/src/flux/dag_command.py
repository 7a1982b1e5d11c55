"""The command line of one DAG: what `dag.cli()` at the end of a DAG file offers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux import drawing, in_process
from flux.errors import FluxError, NotFound
from flux.times import utc_now

if TYPE_CHECKING:
    from flux.dag import DAG
    from flux.operator import BaseOperator

_FAILED = 1
_INTERRUPTED = 130


def main(dag: DAG, argv: Sequence[str]) -> int:
    """Run one command and return the exit code: 0; 1 when a task or the command failed; 130 after Ctrl-C.

    Raises:
        SystemExit: wrong usage, with exit code 2, or --help.
    """
    arguments = _parser(dag).parse_args(argv)
    try:
        code: int = arguments.run(dag, arguments)
    except FluxError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _parser(dag: DAG) -> argparse.ArgumentParser:
    program = Path(dag.file).name if dag.file else dag.dag_id
    parser = argparse.ArgumentParser(prog=program, description=dag.description or f"DAG {dag.dag_id}.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, about: str, *arguments: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about)
        made.set_defaults(run=run)
        for argument in arguments:
            made.add_argument(
                argument.strip("[]").lower(),
                metavar=argument.strip("[]"),
                nargs="?" if argument.startswith("[") else None,
            )
        return made

    run = command(
        "run", _run, "Run it for a date, or all data intervals from DATE to END, both included.", "DATE", "[END]"
    )
    run.add_argument("--task", metavar="REGEX", help="only tasks whose id has a match of this")
    run.add_argument("--conf", metavar="JSON", type=_json_object, help="what a trigger would give the run")
    command("test", _test, "Run one task alone.", "TASK", "DATE")
    command("render", _render, "Print the template fields of a task for a date.", "TASK", "DATE")
    command("dry-run", _dry_run, "Print what a task would do on a date.", "TASK", "DATE")
    command("list", _list, "Print the ids of the tasks.")
    command("tree", _tree, "Print the tasks as a tree.")
    upcoming = command("next", _next, "Print the data intervals that are due next.")
    upcoming.add_argument("-n", metavar="N", dest="count", type=int, default=5, help="how many (5)")
    return parser


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("is not a JSON object")
    return value


def _run(dag: DAG, arguments: argparse.Namespace) -> int:
    report = in_process.run_dag(dag, arguments.date, arguments.end, conf=arguments.conf, task=arguments.task)
    print(report)
    return 0 if report.ok else _FAILED


def _test(dag: DAG, arguments: argparse.Namespace) -> int:
    report = in_process.run_task(_task(dag, arguments.task), arguments.date)
    print(report)
    return 0 if report.ok else _FAILED


def _render(dag: DAG, arguments: argparse.Namespace) -> int:
    for name, text in in_process.render_task(_task(dag, arguments.task), arguments.date).items():
        print(f"{name}: {text}")
    return 0


def _dry_run(dag: DAG, arguments: argparse.Namespace) -> int:
    shown = in_process.dry_run_task(_task(dag, arguments.task), arguments.date)
    if isinstance(shown, dict):
        shown = "\n".join(f"{name}: {value}" for name, value in shown.items())
    if shown is not None:
        print(shown)
    return 0


def _list(dag: DAG, arguments: argparse.Namespace) -> int:
    for task in dag.structure().tasks:
        print(task.task_id)
    return 0


def _tree(dag: DAG, arguments: argparse.Namespace) -> int:
    print("\n".join(drawing.tree(dag.structure())))
    return 0


def _next(dag: DAG, arguments: argparse.Namespace) -> int:
    bound = in_process.bound_schedule(dag)
    print(f"{dag.dag_id}: {bound.describe()}")
    for interval in islice(bound.due_after(utc_now()), arguments.count):
        due, start = interval.end.astimezone(dag.zone), interval.start.astimezone(dag.zone)
        print(f"  due {due.isoformat()}  for {start.isoformat()}")
    return 0


def _task(dag: DAG, task_id: str) -> BaseOperator:
    if task_id not in dag.tasks:
        raise NotFound.named("Task", task_id, dag.tasks)
    return dag.tasks[task_id]

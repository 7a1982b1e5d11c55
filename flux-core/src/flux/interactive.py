"""What `dag.run(...)`, `task.run(...)`, `dag.cli()` and their like load, by the one door up from `flux.dag`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flux.attempt import setup_logging
from flux.dag_command import main
from flux.drawing import Drawing
from flux.in_process import dry_run_task, render_task, run_dag, run_task

if TYPE_CHECKING:
    from flux.dag import DAG

__all__ = ["dag_cli", "draw", "dry_run_task", "render_task", "run_dag", "run_task"]


def dag_cli(dag: DAG, argv: Sequence[str] | None = None) -> int:
    """Be the command line of one DAG and return the exit code.

    `argv` None: the process is this command. Its arguments are read, its logging is set up, and it ends here.
    """
    if argv is not None:
        return main(dag, argv)
    setup_logging()
    sys.exit(main(dag, sys.argv[1:]))


def draw(dag: DAG) -> Drawing:
    """Return the DAG as something that prints as a tree and shows as SVG."""
    return Drawing(dag.structure())

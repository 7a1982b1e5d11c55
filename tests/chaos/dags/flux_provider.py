"""Listens to every change of state, so that the day has a listener process."""

import json
import os
from pathlib import Path

from flux.plugins import hookimpl


def note(*words):
    with (Path(os.environ["FLUX_HOME"]) / "told").open("a") as file:
        file.write(json.dumps(words) + "\n")


@hookimpl
def flux_task_state_changed(task_instance, previous, state):
    note(task_instance.dag_id, task_instance.run_id, task_instance.task_id, previous, state)


@hookimpl
def flux_dag_run_state_changed(dag_run, previous, state):
    note(dag_run.dag_id, dag_run.run_id, None, previous, state)

"""Sensors of all ways to wait: poked beside others, in a process of their own, with a deadline, in a pool."""

import os
import time
from pathlib import Path

from chaos_journal import attempt, note, take, work

from flux import DAG
from flux.operators import PythonOperator
from flux.sensors import FileSensor, PythonSensor

FOLDER = Path(os.environ["FLUX_HOME"]) / "files"


def make(**context):
    with attempt(context) as dice:
        time.sleep(dice.random() * 2)
        (FOLDER / context["run_id"]).touch()


def is_there(**context):
    claim = context["claim"]
    note(claim, "poke", os.getpid())
    for handle in take(claim, f"poke.{claim}"):
        os.close(handle)
    return (FOLDER / context["run_id"]).exists()


def look(**context):
    with attempt(context):
        if not (FOLDER / context["run_id"]).exists():
            note(context["claim"], "early")


with DAG(
    "waits", schedule=None, max_active_runs=5, on_interrupt="retry", default_args={"retries": 9, "retry_delay": 0.2}
) as dag:
    path = "{{ run_id }}"
    waits = [
        FileSensor(task_id="beside", filepath=f"{FOLDER}/{path}", poke_interval=0.4, timeout=40),
        FileSensor(task_id="alone", filepath=f"{FOLDER}/{path}", poke_interval=0.7, timeout=40, isolated=True),
        PythonSensor(task_id="asked", python_callable=is_there, poke_interval=0.3, timeout=40),
        FileSensor(task_id="pooled", filepath=f"{FOLDER}/{path}", poke_interval=0.5, timeout=40, pool="triple"),
    ]
    never = FileSensor(task_id="never", filepath="/nowhere", poke_interval=0.5, timeout=2, soft_fail=True)
    PythonOperator(task_id="make", python_callable=make, retries=30)
    waits >> PythonOperator(task_id="found", python_callable=look)
    never >> PythonOperator(task_id="unless", python_callable=work(), trigger_rule="all_skipped")

"""Results from nothing to a megabyte, each compared by the task after it."""

import hashlib
import random

from chaos_journal import attempt, note

from flux import DAG
from flux.operators import PythonOperator

SIZES = (0, 1, 60_000, 70_000, 1_000_000)


def text(run_id, size):
    return random.Random(f"{run_id} {size}").randbytes(size // 2).hex()


def give(size, **context):
    with attempt(context):
        return text(context["run_id"], size)


def compare(size, got, **context):
    with attempt(context):
        wanted = text(context["run_id"], size)
        if hashlib.sha256(got.encode()).digest() != hashlib.sha256(wanted.encode()).digest():
            note(context["claim"], "wrong", size, len(got))
        return len(got)


with DAG("sizes", schedule=None, max_active_runs=3, default_args={"retries": 3, "retry_delay": 0.1}) as dag:
    for size in SIZES:
        gives = PythonOperator(task_id=f"give{size}", python_callable=give, op_kwargs={"size": size})
        PythonOperator(task_id=f"compare{size}", python_callable=compare, op_kwargs={"size": size, "got": gives.output})

"""Tasks that take too long, some of them deaf to SIGTERM, in runs that take too long."""

import signal
import time

from chaos_journal import attempt, daemon

from flux import DAG
from flux.operators import BashOperator, EmptyOperator, PythonOperator


def slow(**context):
    with attempt(context) as dice:
        time.sleep(dice.random() * 2)


def deaf(**context):
    with attempt(context) as dice:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        daemon(hidden=True)
        time.sleep(dice.random() * 3)


with DAG(
    "late", schedule=None, max_active_runs=2, dagrun_timeout=6,
    default_args={"retries": 2, "retry_delay": 0.1, "execution_timeout": 1, "kill_grace": 0.5},
) as dag:  # fmt: skip
    tasks = [
        PythonOperator(task_id="slow", python_callable=slow),
        PythonOperator(task_id="deaf", python_callable=deaf),
        BashOperator(task_id="bash", bash_command="trap '' TERM; sleep 1000 & sleep 0.$RANDOM; wait"),
    ]
    (
        tasks
        >> EmptyOperator(task_id="join", trigger_rule="all_done")
        >> PythonOperator(task_id="after", python_callable=slow)
    )

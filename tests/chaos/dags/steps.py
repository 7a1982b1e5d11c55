"""A chain, made every few seconds while the day lasts."""

import os

from chaos_journal import work

from flux import DAG, Every, chain
from flux.operators import EmptyOperator, PythonOperator

with DAG(
    "steps", schedule=Every(seconds=4), start_date="2026-01-01", end_date=os.environ["CHAOS_END"], max_active_runs=4,
    default_args={"retries": 3, "retry_delay": 0.5},
) as dag:  # fmt: skip
    chain(
        PythonOperator(task_id="one", python_callable=work()),
        PythonOperator(task_id="two", python_callable=work()),
        EmptyOperator(task_id="nothing"),
        PythonOperator(task_id="three", python_callable=work(), retry_exponential_backoff=True, max_retry_delay=2),
        PythonOperator(task_id="four", python_callable=work(), trigger_rule="all_done"),
    )

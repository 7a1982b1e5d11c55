"""Thirty days to catch up with, each only after the day before."""

from chaos_journal import work

from flux import DAG
from flux.operators import PythonOperator

with DAG(
    "past", schedule="@daily", start_date="2026-01-01", end_date="2026-01-30", catchup=True, max_active_runs=4,
    on_interrupt="retry", default_args={"retries": 60, "retry_delay": 0.1},
) as dag:  # fmt: skip
    first = PythonOperator(task_id="first", python_callable=work(), depends_on_past=True)
    second = PythonOperator(task_id="second", python_callable=work(), wait_for_downstream=True)
    first >> second >> PythonOperator(task_id="third", python_callable=work())

"""Limits of a task, of a DAG and of its runs, and a pool beside them."""

from chaos_journal import work

from flux import DAG
from flux.operators import PythonOperator

OF_DAG = ("dag.limits", 3, 1)

with DAG(
    "limits", schedule=None, max_active_runs=4, max_active_tasks=3, default_args={"retries": 2, "retry_delay": 0}
) as dag:
    few = PythonOperator(
        task_id="few", python_callable=work(OF_DAG, ("task.limits.few", 2, 1)), max_active_tis_per_dag=2
    )
    lone = PythonOperator(
        task_id="lone", python_callable=work(OF_DAG, ("task.limits.lone", 1, 1), ("pool.single", 1, 1)), pool="single",
        max_active_tis_per_dag=1,
    )  # fmt: skip
    for number in range(4):
        few >> PythonOperator(task_id=f"many{number}", python_callable=work(OF_DAG)) >> lone

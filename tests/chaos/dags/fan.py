"""Out and in again, through pools of one and of three slots."""

from chaos_journal import work

from flux import DAG
from flux.operators import PythonOperator

with DAG("fan", schedule=None, max_active_runs=3, default_args={"retries": 2, "retry_delay": 0.2}) as dag:
    out = PythonOperator(task_id="out", python_callable=work())
    narrow = [
        PythonOperator(task_id=f"narrow{n}", python_callable=work(("pool.single", 1, 1)), pool="single")
        for n in range(3)
    ]
    broad = [
        PythonOperator(
            task_id=f"broad{n}", python_callable=work(("pool.triple", 3, 1 + n % 2)), pool="triple",
            pool_slots=1 + n % 2, priority_weight=n,
        )
        for n in range(6)
    ]  # fmt: skip
    into = PythonOperator(task_id="into", python_callable=work(), trigger_rule="all_done")
    last = PythonOperator(task_id="last", python_callable=work())
    out >> [*narrow, *broad] >> into >> last

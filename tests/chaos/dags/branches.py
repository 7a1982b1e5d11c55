"""A branch, a short-circuit, and one task for each trigger rule below them."""

import random

from chaos_journal import attempt, work

from flux import DAG
from flux.operators import BranchPythonOperator, PythonOperator, ShortCircuitOperator

RULES = (
    "all_success", "all_failed", "all_done", "all_skipped", "one_success", "one_failed", "one_done", "none_failed",
    "none_failed_min_one_success", "none_skipped", "always",
)  # fmt: skip


def choose(**context):
    with attempt(context):
        return random.Random(context["run_id"]).choice([["left"], ["right"], ["left", "right"], []])


def open_or_not(**context):
    with attempt(context):
        return random.Random(context["run_id"]).random() < 0.6


with DAG("branches", schedule=None, max_active_runs=3, default_args={"retries": 1, "retry_delay": 0.1}) as dag:
    choice = BranchPythonOperator(task_id="choice", python_callable=choose, retries=5)
    left = PythonOperator(task_id="left", python_callable=work(longest=0.1, trouble=0.4), retries=0)
    right = PythonOperator(task_id="right", python_callable=work(longest=0.1, trouble=0.4), retries=0)
    door = ShortCircuitOperator(task_id="door", python_callable=open_or_not, retries=5)
    inner = ShortCircuitOperator(
        task_id="inner", python_callable=open_or_not, retries=5, ignore_downstream_trigger_rules=False
    )
    behind = PythonOperator(task_id="behind", python_callable=work(longest=0.1, trouble=0.3))
    choice >> [left, right]
    door >> inner >> behind
    for rule in RULES:
        task = PythonOperator(task_id=rule, python_callable=work(longest=0.1, trouble=0.1), trigger_rule=rule)
        [left, right, behind] >> task

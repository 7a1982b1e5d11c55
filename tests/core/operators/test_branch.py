"""What the results of gates mean is tested with `flux.attempt`, which gives them their meaning."""

from __future__ import annotations

from flux import DAG
from flux.operators import BranchPythonOperator, EmptyOperator, ShortCircuitOperator


def gated(gate: type, **arguments: object) -> list[str]:
    with DAG("sales", start_date="2026-01-01") as dag:
        first = gate(task_id="first", python_callable=bool, **arguments)
        first >> EmptyOperator(task_id="a") >> EmptyOperator(task_id="b")
    structure = dag.structure()
    return [structure.tasks[index].task_id for index in structure.task("first").gates]


def test_a_branch_gates_its_direct_downstream_tasks() -> None:
    assert gated(BranchPythonOperator) == ["a"]


def test_a_short_circuit_gates_all_descendants_or_the_direct_ones() -> None:
    assert gated(ShortCircuitOperator) == ["a", "b"]
    assert gated(ShortCircuitOperator, ignore_downstream_trigger_rules=False) == ["a"]

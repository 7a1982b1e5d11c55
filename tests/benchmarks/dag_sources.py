"""The DAG files that the benchmarks run. Tasks write when they began and ended, by the clock that processes share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HEAD = """import os, time
from flux import DAG
from flux.operators import PythonOperator

def step(name):
    began = time.monotonic_ns()
    file = os.open({stamps!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{{name}} {{began}} {{time.monotonic_ns()}}\\n".encode())

def task(task_id, name):
    return PythonOperator(task_id=task_id, python_callable=step, op_args=[name])

with DAG({dag_id!r}, max_active_tasks=1000) as dag:
"""
_CHAINS = """    for c in range({chains}):
        tasks = [task(f"c{{c}}_{{i}}", f"{{c}} {{i}}") for i in range({length})]
        for one, next in zip(tasks, tasks[1:]):
            one >> next
"""
_FAN = """    first, last = (task(name, f"0 {{name}}") for name in ("first", "last"))
    first >> [task(f"t{{i}}", f"0 {{i}}") for i in range({width})] >> last
"""


@dataclass(frozen=True, slots=True)
class Stamp:
    """One task, as it saw itself; nanoseconds of the monotonic clock."""

    chain: str
    task: str
    began: int
    ended: int


def chains(dag_id: str, stamps: Path, number: int, length: int) -> str:
    """`number` independent chains of `length` tasks that do nothing."""
    return _HEAD.format(stamps=str(stamps), dag_id=dag_id) + _CHAINS.format(chains=number, length=length)


def fan(dag_id: str, stamps: Path, width: int) -> str:
    """One task, `width` tasks that do nothing below it, and one below all of these."""
    return _HEAD.format(stamps=str(stamps), dag_id=dag_id) + _FAN.format(width=width)


def take(path: Path) -> list[Stamp]:
    """Return the stamps that were written, by their beginning, and forget them."""
    rows = [line.split() for line in path.read_text().splitlines()]
    path.unlink()
    return sorted((Stamp(c, t, int(b), int(e)) for c, t, b, e in rows), key=lambda stamp: stamp.began)


def rate(found: list[Stamp], asked: int) -> float:
    """Tasks a second, from the moment they were asked for to the end of the last."""
    return len(found) / (max(stamp.ended for stamp in found) - asked) * 1e9


def hops(found: list[Stamp]) -> list[float]:
    """Seconds from the end of each task to the first line of the one below it, in chains."""
    last: dict[str, Stamp] = {}
    seconds = []
    for stamp in found:
        if stamp.chain in last:
            seconds.append((stamp.began - last[stamp.chain].ended) / 1e9)
        last[stamp.chain] = stamp
    return seconds


def noop(dag_id: str, number: int, *, schedule: str | None = None) -> str:
    """A DAG of a kind that folders are full of: `number` tells one file from the other."""
    return f"""from flux import DAG
from flux.operators import EmptyOperator

with DAG({dag_id!r}, schedule={schedule!r}, start_date="2026-01-01", tags=["n{number}"]) as dag:
    EmptyOperator(task_id="first") >> EmptyOperator(task_id="last")
"""


def sensors(dag_id: str, number: int, interval: float) -> str:
    """`number` sensors that never see what they wait for."""
    return f"""from flux import DAG
from flux.sensors import PythonSensor

def arrived():
    return False

with DAG({dag_id!r}) as dag:
    for i in range({number}):
        PythonSensor(task_id=f"t{{i}}", python_callable=arrived, poke_interval={interval!r})
"""


def sleeper(dag_id: str, stamps: Path) -> str:
    """One task that says which process it is and then waits to be killed."""
    return f"""import os, time
from flux import DAG
from flux.operators import PythonOperator

def wait():
    with open({str(stamps)!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    while True:
        time.sleep(60)

with DAG({dag_id!r}) as dag:
    PythonOperator(task_id="wait", python_callable=wait)
"""

"""Sensors in a whole system: they wait without a process or a slot, and one that hangs is named and harms nobody."""

from __future__ import annotations

from flux import process
from tests.acceptance.system import NOISE, Run, System, both_databases
from tests.waiting import until

HEAD = """
    import os, subprocess, sys, threading, time
    from pathlib import Path
    from flux import DAG, FailTask, SkipTask, task
    from flux.operators import BashOperator
    from flux.sensors import FileSensor, PythonSensor

    HOME = Path(os.environ["FLUX_HOME"])
    def note(name):
        with (HOME / name).open("a") as file:
            file.write("poke\\n")
"""


def start(system: System, dag_id: str, body: str, **environ: str) -> Run:
    system.dag(dag_id, HEAD + body)
    system.up(**environ)
    return system.trigger(dag_id)


def pokes(system: System, name: str) -> int:
    file = system.home / name
    return len(file.read_text().splitlines()) if file.exists() else 0


@both_databases
def test_many_waiting_sensors_hold_no_slot_and_no_process(system: System) -> None:
    run = start(
        system,
        "many",
        """
    with DAG("many"):
        for number in range(100):
            FileSensor(task_id=f"s{number}", filepath="{{ dag_run.conf['file'] }}", poke_interval=0.5)
        FileSensor(task_id="s", filepath=HOME / "there", poke_interval=0.2) >> BashOperator(
            task_id="after", bash_command="true")
        BashOperator(task_id="beside", bash_command="true")
    """.replace("{{ dag_run.conf['file'] }}", str(system.home / "there")),
        FLUX_PARALLELISM="1",
    )
    system.wait_task(run, "beside", "success")
    until(
        lambda: all(row.state in ("deferred", "success", "waiting") for row in system.tasks(run).values()), 20 * NOISE
    )
    reasons = system.json("why", "many", run.run_id, "s0")
    assert reasons["state"] == "deferred"
    assert [reason["code"] for reason in reasons["reasons"]] == ["poke"]
    hosts = set(system.dag_hosts())

    def nobody_pokes() -> bool:
        return not [entry for entry in process.table() if entry.parent in hosts and not entry.is_zombie]

    until(nobody_pokes, 10 * NOISE, "no process between pokes")
    (system.home / "there").touch()
    system.wait(run, seconds=20 * NOISE)
    assert system.outcomes(run, "s0") == ["success"], "all pokes are one attempt"


ENDINGS = """
    def counted(name, value):
        def poke():
            note(name)
            return value
        return poke
    def skips(): raise SkipTask("not today")
    def fails(ti):
        note("fails")
        raise ValueError(f"attempt {ti.attempt}")
    def for_good(): raise FailTask("never")
    def exits(): sys.exit(3)
    def dies(): os._exit(1)
    def second(ti):
        note("second")
        if ti.attempt == 1: raise ValueError("first")
        return True
    with DAG("endings"):
        def sensor(name, function, **kwargs):
            return PythonSensor(task_id=name, python_callable=function, **{"poke_interval": 0.1, **kwargs})
        sensor("times_out", counted("times_out", False), timeout=1, retries=3)
        sensor("soft", counted("soft", False), timeout=1, soft_fail=True) >> BashOperator(
            task_id="after_soft", bash_command="true")
        sensor("backs_off", counted("backs_off", False), timeout=2, exponential_backoff=True)
        sensor("skips", skips)
        sensor("fails", fails, retries=2, retry_delay=0)
        sensor("for_good", for_good, retries=3)
        sensor("exits", exits)
        sensor("dies", dies, isolated=True)
        sensor("second", second, retries=1, retry_delay=0)
"""


def test_every_way_a_sensor_ends(system: System) -> None:
    run = start(system, "endings", ENDINGS)
    system.wait(run, "failed", seconds=5 * NOISE)
    tasks = system.tasks(run)
    assert {name: (row.state, row.attempt) for name, row in tasks.items()} == {
        "times_out": ("failed", 1),
        "soft": ("skipped", 1),
        "after_soft": ("skipped", 0),
        "backs_off": ("failed", 1),
        "skips": ("skipped", 1),
        "fails": ("failed", 3),
        "for_good": ("failed", 1),
        "exits": ("failed", 1),
        "dies": ("failed", 1),
        "second": ("success", 2),
    }
    assert "within 1 s" in (tasks["times_out"].reason or "")
    assert "exit code 3" in (tasks["exits"].reason or "")
    assert "exit status 1" in (tasks["dies"].reason or "")
    assert pokes(system, "fails") == 3
    assert 3 <= pokes(system, "times_out") <= 11
    # 0, 0.1, 0.3, 0.7, 1.5 s
    assert pokes(system, "backs_off") <= 5
    assert "attempt 3" in system.log(run, "fails", attempt=3)


def test_poke_that_hangs_is_named_and_the_others_go_on(system: System) -> None:
    """Its process is killed at poke_timeout; after a second time the sensor is poked alone."""
    run = start(
        system,
        "hangs",
        """
    def hang():
        note("hang")
        time.sleep(1000)
    def isolated(ti):
        note("isolated")
        while not (HOME / "go").exists():
            time.sleep(0.01)
        return True
    with DAG("hangs"):
        PythonSensor(task_id="hanging", python_callable=hang, poke_interval=0.2, poke_timeout=1, timeout=60)
        PythonSensor(task_id="isolated", python_callable=isolated, poke_timeout=60, isolated=True)
        for number in range(4):
            PythonSensor(task_id=f"fine{number}", python_callable=lambda: (HOME / "go").exists(), poke_interval=0.2,
                         poke_timeout=1)
    """,
    )
    until(lambda: pokes(system, "hang") >= 3, 10 * NOISE, "a third poke of the hanging sensor")
    assert system.task(run, "hanging").state == "deferred"
    assert "did not end within 1 s" in system.log(run, "hanging")
    (system.home / "go").touch()
    for name in ("fine0", "fine1", "fine2", "fine3", "isolated"):
        system.wait_task(run, name, "success", seconds=5 * NOISE)
    assert pokes(system, "isolated") == 1, "a long poke of its own process is left alone"
    assert "did not end" not in system.log(run, "fine0")


def test_what_a_poke_prints_is_in_its_own_log(system: System) -> None:
    run = start(
        system,
        "prints",
        """
    import logging
    def poke(name):
        print("printed by", name)
        logging.getLogger("x").warning("logged by %s", name)
        subprocess.run(["echo", "child of", name])
        return (HOME / "go").exists()
    with DAG("prints"):
        for name in ("one", "two", "three"):
            PythonSensor(task_id=name, python_callable=poke, op_args=[name], poke_interval=0.2)
        PythonSensor(task_id="alone", python_callable=poke, op_args=["alone"], poke_interval=0.2, isolated=True)
    """,
    )
    for name in ("one", "two", "three", "alone"):
        log = system.wait_log(run, name, f"logged by {name}")
        assert f"printed by {name}" in log
        assert not any(f"by {other}" in log for other in ("one", "two", "three", "alone") if other != name)
    assert "child of alone" in system.wait_log(run, "alone", "child of alone")
    named = system.wait_log(run, "one", "output of child processes")
    batch = named.split("these pokes: ")[1].splitlines()[0]
    assert "child of one" in (system.home / batch).read_text()
    (system.home / "go").touch()
    system.wait(run)


def test_waiting_sensor_is_one_attempt_with_one_deadline_across_restarts(system: System) -> None:
    """Scenario 27, shortened."""
    run = start(
        system,
        "restarts",
        """
    def poke():
        note("pokes")
        return False
    with DAG("restarts"):
        PythonSensor(task_id="sensor", python_callable=poke, poke_interval=0.2, timeout=12)
    """,
    )
    system.wait_task(run, "sensor", "deferred")
    for _ in range(2):
        seen = pokes(system, "pokes")
        pid = system.kill("supervisor")
        system.wait_replaced("supervisor", pid, 5 * NOISE)
        until(lambda seen=seen: pokes(system, "pokes") > seen, 5 * NOISE, "a poke after the restart")
    pid = system.kill("launcher")
    seen = pokes(system, "pokes")
    system.wait_replaced("launcher", pid, 5 * NOISE)
    until(lambda: pokes(system, "pokes") > seen, 5 * NOISE, "a poke by the new launcher")
    system.wait(run, "failed", seconds=12 * NOISE)
    (attempt,) = system.attempts(run, "sensor")
    assert attempt.started_at is not None
    assert attempt.ended_at is not None
    lasted = (attempt.ended_at - attempt.started_at).total_seconds()
    assert 12 <= lasted < 12 * NOISE


def test_sensor_with_a_pool_holds_its_slot_while_it_waits(system: System) -> None:
    system.up()
    system.flux("pool", "set", "one", "1")
    system.dag(
        "pooled",
        HEAD
        + """
    with DAG("pooled"):
        FileSensor(task_id="waits", filepath=HOME / "go", poke_interval=0.2, pool="one", priority_weight=9)
        BashOperator(task_id="other", bash_command="true", pool="one")
    """,
    )
    run = system.trigger("pooled")
    system.wait_task(run, "waits", "deferred")
    assert [reason["code"] for reason in system.json("why", "pooled", run.run_id, "other")["reasons"]] == ["pool"]
    (system.home / "go").touch()
    system.wait(run)

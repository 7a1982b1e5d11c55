"""What one task does, or refuses to do, in a whole system: its ends, its retries, and what keeps it from beginning."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flux import process
from tests.acceptance.system import NOISE, Run, System, both_databases
from tests.waiting import until

#: A command that no other test's process has.
SLEEP = f"sleep 1000.{os.getpid()}"

#: Offers `hold`: a task that runs until the test lets it go, and notes when it began and ended.
HOLDING = """
    import os
    from pathlib import Path
    from flux import DAG, task
    from flux.operators import BashOperator, EmptyOperator

    HOME = Path(os.environ["FLUX_HOME"])

    def hold(task_id, go="go", **kwargs):
        note = 'echo "%s {{ task.task_id }} {{ ds }}" >> "$FLUX_HOME/notes"; '
        wait = 'until [ -e "$FLUX_HOME/' + go + '" ]; do sleep 0.02; done; '
        return BashOperator(task_id=task_id, bash_command=note % "+" + wait + note % "-", **kwargs)
"""


def start(system: System, dag_id: str, source: str, **environ: str) -> Run:
    system.up(**environ)
    system.dag(dag_id, source)
    return system.trigger(dag_id)


def go(system: System, name: str = "go") -> None:
    (system.home / name).touch()


def notes(system: System) -> list[str]:
    file = system.home / "notes"
    return file.read_text().splitlines() if file.exists() else []


def most_at_once(system: System) -> int:
    """The largest number of holding tasks that ran beside each other."""
    running = most = 0
    for line in notes(system):
        running += 1 if line.startswith("+") else -1
        most = max(most, running)
    return most


def began(system: System, count: int) -> None:
    def enough() -> bool:
        return sum(line.startswith("+") for line in notes(system)) >= count

    until(enough, 10 * NOISE, f"{count} tasks to begin; {notes(system)}")


def codes(system: System, run: Run, task_id: str) -> list[str]:
    """The codes of `flux why`, in its order."""
    return [reason["code"] for reason in system.json("why", run.dag_id, run.run_id, task_id)["reasons"]]


def why(system: System, run: Run, task_id: str, code: str) -> str:
    """Wait until `flux why` names this cause, and return its message."""

    def named() -> str | None:
        reasons = system.json("why", run.dag_id, run.run_id, task_id)["reasons"]
        return next((reason["message"] for reason in reasons if reason["code"] == code), None)

    return until(named, 10 * NOISE, f"{code!r} among the reasons of {task_id}") or ""


# --- how a task ends -------------------------------------------------------------------------------------------------

ENDS = """
    import os, re, signal, sys, threading, time
    from flux import DAG, FailTask, SkipTask, task

    with DAG("ends"):
        @task
        def no_result(): os._exit(0)
        @task
        def exit_0(): sys.exit(0)
        @task
        def exit_3(): sys.exit(3)
        @task
        def segfault():
            import ctypes
            ctypes.string_at(0)
        @task
        def kill_9(): os.kill(os.getpid(), signal.SIGKILL)
        @task
        def kills_its_group(): os.killpg(0, signal.SIGKILL)
        @task
        def zombies():
            for _ in range(100):
                if os.fork() == 0:
                    os._exit(0)
        @task
        def descriptors(): os.closerange(0, 1000)
        @task
        def no_output():
            sys.stdout.close()
            sys.stderr.close()
            return 5
        @task
        def thread():
            threading.Thread(target=time.sleep, args=(1000,)).start()
            return 1
        @task
        def elsewhere():
            os.chdir("/")
            os.umask(0o777)
        @task
        def recursion(): deeper()
        def deeper(): deeper()
        @task
        def unprintable():
            class Odd(Exception):
                def __str__(self): raise RuntimeError("no text")
            raise Odd
        @task
        def skips(): raise SkipTask("nothing to do")
        @task(execution_timeout=1, kill_grace=1)
        def deaf():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(0.1)
        @task(execution_timeout=1, kill_grace=1)
        def busy_in_c(): re.match(r"(a+)+$", "a" * 64 + "b")
        @task(execution_timeout=1)
        def broad():
            while True:
                try:
                    time.sleep(0.1)
                except Exception:
                    pass
        for each in (no_result, exit_0, exit_3, segfault, kill_9, kills_its_group, zombies, descriptors, no_output,
                     thread, elsewhere, recursion, unprintable, skips, deaf, busy_in_c, broad):
            each()
"""

#: {task_id: (state, outcome, part of the reason)}
EXPECTED = {
    "no_result": ("failed", "failed", "without a result"),
    "exit_0": ("success", "success", None),
    "exit_3": ("failed", "failed", "exit code 3"),
    "segfault": ("failed", "failed", "SIGSEGV"),
    "kill_9": ("failed", "failed", "SIGKILL"),
    "kills_its_group": ("failed", "failed", "SIGKILL"),
    "zombies": ("success", "success", None),
    "descriptors": ("success", "success", None),
    "no_output": ("success", "success", None),
    "thread": ("success", "success", None),
    "elsewhere": ("success", "success", None),
    "recursion": ("failed", "failed", "RecursionError"),
    "unprintable": ("failed", "failed", "Odd"),
    "skips": ("skipped", "skipped", "nothing to do"),
    "deaf": ("failed", "timed_out", "execution_timeout is 1 s"),
    "busy_in_c": ("failed", "timed_out", "execution_timeout is 1 s"),
    "broad": ("failed", "timed_out", "execution_timeout is 1 s"),
}


def test_every_way_to_end_is_told_apart_and_leaves_nothing(system: System) -> None:
    """Scenarios 28, 29, 32, 34: nothing that one task does to itself or its process touches another."""
    run = start(system, "ends", ENDS)
    # Timeouts of 1 s and a grace of 1 s: all is over in 2 s and a little.
    system.wait(run, "failed", seconds=3 * NOISE)
    tasks = system.tasks(run)
    found = {name: (row.state, system.attempts(run, name)[-1].outcome) for name, row in tasks.items()}
    assert found == {name: (state, outcome) for name, (state, outcome, _) in EXPECTED.items()}
    for name, (_, _, part) in EXPECTED.items():
        assert (part or "") in (tasks[name].reason or ""), name
        assert "--- flux: attempt 1 ended" in system.log(run, name)
    assert system.attempts(run, "segfault")[0].signal == 11
    assert "deeper" in system.log(run, "recursion")
    hosts = set(system.dag_hosts())
    left = [entry.pid for entry in process.table() if entry.parent in hosts]
    assert left == [], "children of DAG hosts, zombies among them, are left"


@pytest.mark.parametrize(
    "command",
    [
        f"{SLEEP} & setsid {SLEEP} & wait",
        f"nohup {SLEEP} > /dev/null 2>&1 & setsid env -i {SLEEP} & wait",
        f"(setsid env -i bash -c 'trap \"\" TERM; {SLEEP}; {SLEEP}') & exec {SLEEP}",
    ],
)
def test_what_a_killed_command_started_is_gone_with_it(system: System, command: str) -> None:
    """Scenario 31, and children that left the group, emptied their environment or ignore SIGTERM."""
    source = f"""
        from flux import DAG
        from flux.operators import BashOperator
        with DAG("strays"):
            BashOperator(task_id="strays", bash_command={"echo begun; " + command!r}, execution_timeout=1, kill_grace=1)
    """
    run = start(system, "strays", source)
    system.wait_log(run, "strays", "begun")
    system.wait(run, "failed", seconds=3 * NOISE)
    assert system.outcomes(run, "strays") == ["timed_out"]
    assert sleepers() == []


def sleepers() -> list[int]:
    found = []
    for entry in process.table():
        try:
            command = Path(f"/proc/{entry.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if command == SLEEP.replace(" ", "\0").encode() + b"\0":
            found.append(entry.pid)
    return found


def test_what_a_command_left_in_the_background_is_ended_after_it(system: System) -> None:
    source = f"""
        from flux import DAG
        from flux.operators import BashOperator
        with DAG("left"):
            left = BashOperator(task_id="left", bash_command="setsid {SLEEP} & {SLEEP} & echo done")
            left >> BashOperator(task_id="after", bash_command="true")
    """
    run = start(system, "left", source)
    system.wait(run)
    assert system.json("task", "result", "left", run.run_id, "left")["value"] == "done"
    assert sleepers() == []
    assert "left 2 processes behind" in system.log(run, "left")


# --- retries ---------------------------------------------------------------------------------------------------------

RETRIES = """
    import os, signal
    from flux import DAG, FailTask, task

    with DAG("again", default_args={"retries": 2, "retry_delay": 0.3}):
        @task
        def third_time(ti):
            print("attempt", ti.attempt)
            if ti.attempt < 3:
                raise ValueError(f"not yet {ti.attempt}")
            return ti.attempt
        @task
        def dies(ti):
            if ti.attempt == 1:
                os.kill(os.getpid(), signal.SIGSEGV)
        @task
        def for_good(): raise FailTask("no use")
        @task(retries=1)
        def never(): raise ValueError("never")
        @task
        def after(x): print("got", x)
        after(third_time()), dies(), for_good(), never()
"""


@both_databases
def test_retries_are_for_failures_and_signals_and_not_for_fail_task(system: System) -> None:
    run = start(system, "again", RETRIES)
    system.wait(run, "failed")
    assert system.outcomes(run, "third_time") == ["failed", "failed", "success"]
    assert system.outcomes(run, "dies") == ["failed", "success"]
    assert system.outcomes(run, "for_good") == ["failed"]
    assert system.outcomes(run, "never") == ["failed", "failed"]
    assert "not yet 2" in system.log(run, "third_time", attempt=2)
    assert "got 3" in system.log(run, "after"), "readers get the winning attempt's result"
    first, second, _ = system.attempts(run, "third_time")
    assert first.ended_at is not None
    assert second.started_at is not None
    assert (second.started_at - first.ended_at).total_seconds() >= 0.3


def test_why_names_the_moment_of_the_next_attempt(system: System) -> None:
    source = """
        from flux import DAG, task
        with DAG("later"):
            @task(retries=1, retry_delay=3600)
            def fails(): raise ValueError("once")
            fails()
    """
    run = start(system, "later", source)
    system.wait_task(run, "fails", "retrying")
    assert "Attempt 2 begins at 20" in why(system, run, "fails", "retry")


# --- what keeps a task instance from beginning -----------------------------------------------------------------------


def test_task_that_asks_for_more_than_its_pool_has_waits_and_is_named(system: System) -> None:
    """Scenario 24; and a pool that nobody made."""
    source = (
        HOLDING
        + """
    with DAG("pools"):
        BashOperator(task_id="large", bash_command="true", pool="small", pool_slots=4)
        BashOperator(task_id="lost", bash_command="true", pool="nobodys")
        BashOperator(task_id="fits", bash_command="true", pool="small", pool_slots=2)
        BashOperator(task_id="free", bash_command="true")
    """
    )
    system.up()
    assert system.flux("pool", "set", "small", "2").code == 0
    system.dag("pools", source)
    run = system.trigger("pools")
    for name in ("fits", "free"):
        system.wait_task(run, name, "success")
    assert "has 2 slots, the task asks for 4" in why(system, run, "large", "pool")
    assert "does not exist" in why(system, run, "lost", "pool")
    doctor = system.flux("doctor", "--json")
    assert "nobodys" in doctor.out
    assert system.flux("pool", "set", "small", "4").code == 0
    assert system.flux("pool", "set", "nobodys", "1").code == 0
    system.wait(run, seconds=1 * NOISE)


def test_pool_is_never_overdrawn_and_the_largest_weight_goes_first(system: System) -> None:
    source = (
        HOLDING
        + """
    with DAG("pooled"):
        for number in range(6):
            hold(f"t{number}", pool="two", priority_weight=number, weight_rule="absolute")
    """
    )
    system.up()
    system.flux("pool", "set", "two", "0")
    system.dag("pooled", source)
    run = system.trigger("pooled")
    until(lambda: codes(system, run, "t5") == ["pool"], what="t5 to wait for its pool")
    assert notes(system) == []
    system.flux("pool", "set", "two", "2")
    began(system, 2)
    assert {line.split()[1] for line in notes(system)} == {"t5", "t4"}
    go(system)
    system.wait(run)
    assert most_at_once(system) == 2
    first_begun = [line.split()[1] for line in notes(system) if line.startswith("+")]
    assert set(first_begun[:4]) == {"t5", "t4", "t3", "t2"}


@pytest.mark.parametrize(
    ("of_dag", "of_task", "environ", "code"),
    [
        ("max_active_tasks=2", "", {}, "dag_limit"),
        ("", "", {"FLUX_PARALLELISM": "2"}, "parallelism"),
        ("", "", {"FLUX_EXECUTOR": "sequential"}, "parallelism"),
    ],
)
def test_limit_is_kept_and_named(system: System, of_dag: str, of_task: str, environ: dict[str, str], code: str) -> None:
    source = (
        HOLDING
        + f"""
    with DAG("limited", {of_dag}):
        for number in range(5):
            hold(f"t{{number}}", {of_task})
    """
    )
    limit = 1 if "FLUX_EXECUTOR" in environ else 2
    run = start(system, "limited", source, **environ)
    began(system, limit)
    waiting = next(name for name, row in system.tasks(run).items() if row.state == "ready")
    system.environ |= environ
    if "FLUX_EXECUTOR" not in environ:  # `flux why` asks for the option, not for the executor's own limit
        assert str(limit) in why(system, run, waiting, code)
    go(system)
    system.wait(run)
    assert most_at_once(system) == limit


def test_limit_of_a_task_counts_all_runs_of_its_dag(system: System) -> None:
    source = (
        HOLDING
        + """
    with DAG("both"):
        hold("one", max_active_tis_per_dag=1) >> EmptyOperator(task_id="end")
        BashOperator(task_id="free", bash_command="true")
    """
    )
    first = start(system, "both", source)
    began(system, 1)
    second = system.trigger("both")
    system.wait_task(second, "free", "success")
    assert "max_active_tis_per_dag is 1" in why(system, second, "one", "task_limit")
    go(system)
    for run in (first, second):
        system.wait(run)
    assert most_at_once(system) == 1


def test_run_beyond_max_active_runs_waits_its_turn(system: System) -> None:
    source = (
        HOLDING
        + """
    with DAG("runs", max_active_runs=1):
        hold("one")
    """
    )
    first = start(system, "runs", source)
    began(system, 1)
    second, third = system.trigger("runs"), system.trigger("runs")
    assert [system.run_state(run) for run in (first, second, third)] == ["running", "queued", "queued"]
    go(system)
    for run in (first, second, third):
        system.wait(run)
    assert most_at_once(system) == 1


def test_pause_lets_what_runs_end_and_nothing_new_begin(system: System) -> None:
    source = (
        HOLDING
        + """
    with DAG("paused"):
        hold("one") >> BashOperator(task_id="two", bash_command="true")
    """
    )
    run = start(system, "paused", source)
    began(system, 1)
    assert system.flux("dag", "pause", "paused").code == 0
    go(system)
    system.wait_task(run, "one", "success")
    assert "flux dag unpause paused" in why(system, run, "two", "paused")
    later = system.trigger("paused")
    assert codes(system, later, "one") == ["paused"]
    assert system.flux("dag", "unpause", "paused").code == 0
    for each in (run, later):
        system.wait(each, seconds=2 * NOISE)


def test_why_names_upstream_tasks_and_is_empty_for_what_runs_or_is_done(system: System) -> None:
    source = (
        HOLDING
        + """
    with DAG("why"):
        done, waits = (BashOperator(task_id=name, bash_command="true") for name in ("done", "waits"))
        done >> hold("runs") >> waits
    """
    )
    run = start(system, "why", source)
    began(system, 1)
    assert "'runs' above it is started" in why(system, run, "waits", "upstream")
    assert codes(system, run, "runs") == []
    assert codes(system, run, "done") == []
    system.dag("why", "broken(")
    until(lambda: "broken_file" in codes(system, run, "waits"), 5 * NOISE, "the broken file among the reasons")
    go(system)
    system.wait(run)


def test_run_that_takes_too_long_is_failed_its_tasks_killed_or_skipped(system: System) -> None:
    source = (
        HOLDING
        + """
    with DAG("slow", dagrun_timeout=1, default_args={"kill_grace": 1}):
        hold("one", retries=3) >> BashOperator(task_id="two", bash_command="true")
    """
    )
    run = start(system, "slow", source)
    system.wait(run, "failed", seconds=3 * NOISE)
    tasks = system.tasks(run)
    assert {name: row.state for name, row in tasks.items()} == {"one": "failed", "two": "skipped"}
    assert system.outcomes(run, "one") == ["killed"]


# --- ways through a run ----------------------------------------------------------------------------------------------

WAYS = """
    from flux import DAG, task
    from flux.operators import (
        BashOperator, BranchPythonOperator, EmptyOperator, ShortCircuitOperator,
    )

    with DAG("ways"):
        def done(name, **kwargs): return BashOperator(task_id=name, bash_command="true", **kwargs)
        branch = BranchPythonOperator(task_id="branch", python_callable=lambda: ["left"])
        left, right = done("left"), done("right")
        branch >> [left, right]
        right >> done("right_after")
        [left, right] >> done("joined", trigger_rule="none_failed_min_one_success")

        closed = ShortCircuitOperator(task_id="closed", python_callable=lambda: False)
        closed >> done("below") >> done("far_below", trigger_rule="all_done")
        near = ShortCircuitOperator(
            task_id="near", python_callable=lambda: False, ignore_downstream_trigger_rules=False)
        near >> done("next") >> done("after_next", trigger_rule="all_done")
        open_ = ShortCircuitOperator(task_id="open", python_callable=lambda: True)
        open_ >> done("through")

        fails = BashOperator(task_id="fails", bash_command="exit 1")
        fine = EmptyOperator(task_id="fine")
        for rule in ("all_success", "all_failed", "all_done", "one_success", "one_failed", "one_done", "none_failed",
                     "none_failed_min_one_success", "none_skipped", "all_skipped", "always"):
            [fails, fine] >> done(rule, trigger_rule=rule)
"""


def test_branches_short_circuits_and_every_trigger_rule(system: System) -> None:
    run = start(system, "ways", WAYS)
    system.wait(run, "failed")
    states = {name: row.state for name, row in system.tasks(run).items()}
    assert states == {
        "branch": "success", "left": "success", "right": "skipped", "right_after": "skipped", "joined": "success",
        "closed": "success", "below": "skipped", "far_below": "skipped",
        "near": "success", "next": "skipped", "after_next": "success",
        "open": "success", "through": "success",
        "fails": "failed", "fine": "success",
        "all_success": "upstream_failed", "all_failed": "skipped", "all_done": "success", "one_success": "success",
        "one_failed": "success", "one_done": "success", "none_failed": "upstream_failed",
        "none_failed_min_one_success": "upstream_failed", "none_skipped": "success", "all_skipped": "skipped",
        "always": "success",
    }  # fmt: skip


def test_branch_that_chooses_what_is_not_below_it_fails_and_says_so(system: System) -> None:
    source = """
        from flux import DAG
        from flux.operators import BranchPythonOperator, EmptyOperator
        with DAG("astray"):
            BranchPythonOperator(task_id="branch", python_callable=lambda: "elsewhere") >> EmptyOperator(task_id="here")
    """
    run = start(system, "astray", source)
    system.wait(run, "failed")
    assert "elsewhere" in (system.task(run, "branch").reason or "")
    assert system.task(run, "here").state == "upstream_failed"

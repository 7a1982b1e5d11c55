"""Listeners of a whole system: told everything, in order, whatever happens to their process or to each other."""

from __future__ import annotations

import json
import signal
import textwrap
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flux.running import home, listeners
from flux.store.schema import outbox
from tests.acceptance.system import NOISE, Run, System, both_databases
from tests.waiting import until

#: Writes down what it is told, a line each.
NOTES = """
    import json, os
    from pathlib import Path
    from flux.plugins import hookimpl

    def note(*words):
        with (Path(os.environ["FLUX_HOME"]) / "{file}").open("a") as file:
            file.write(json.dumps(words) + "\\n")

    @hookimpl
    def flux_task_state_changed(task_instance, previous, state):
        what = task_instance
        note("task", what.run_id, what.task_id, previous, state, what.operator, what.attempt)

    @hookimpl
    def flux_dag_run_state_changed(dag_run, previous, state):
        note("run", dag_run.run_id, None, previous, state, dag_run.kind)
"""
#: Eight attempts in three levels; `shaky` fails once.
DAG = """
    from flux import DAG
    from flux.operators import BashOperator, EmptyOperator

    with DAG("sales", schedule=None, default_args={"retries": 1, "retry_delay": 0}):
        first = [BashOperator(task_id=f"first{n}", bash_command="true") for n in range(4)]
        shaky = BashOperator(task_id="shaky", bash_command="[ {{ ti.attempt }} = 2 ]")
        last = BashOperator(task_id="last", bash_command="true")
        first >> shaky >> EmptyOperator(task_id="joint") >> last
"""


def provide(system: System, source: str, **fields: str) -> None:
    """Write the one-file provider."""
    folder = system.home / "dags"
    folder.mkdir(parents=True, exist_ok=True)
    text = textwrap.dedent(source)
    for name, value in fields.items():
        text = text.replace(f"{{{name}}}", value)
    (folder / "flux_provider.py").write_text(text)


def told(system: System, file: str = "told") -> list[list[Any]]:
    path = system.home / file
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_repeats(lines: list[list[Any]]) -> list[list[Any]]:
    return [json.loads(text) for text in dict.fromkeys(json.dumps(line) for line in lines)]


def waiting(system: System) -> int:
    """Rows of the outbox."""
    query = sa.select(sa.func.count()).select_from(outbox)
    return int(system.opened.store.read(lambda connection: connection.execute(query).scalar_one()))


def check_told(system: System, run: Run, lines: list[list[Any]]) -> None:
    """Every move of the run was told in order: chains from the first state to what the rows say, its end last."""
    mine = [line for line in lines if line[1] == run.run_id]
    runs = [(line[3], line[4]) for line in mine if line[0] == "run"]
    assert runs == [("queued", "running"), ("running", system.run_state(run))]
    assert mine[-1][0] == "run"
    for task_id, row in system.tasks(run).items():
        chain = [(line[3], line[4]) for line in mine if line[2] == task_id]
        assert chain[0][0] in ("waiting", "ready"), chain
        assert [state for _, state in chain[:-1]] == [before for before, _ in chain[1:]], chain
        assert chain[-1][1] == row.state
        assert sum(state == "started" for _, state in chain) == row.attempt


def finish(system: System, dag_id: str = "sales") -> Run:
    """Run the DAG to its end."""
    run = system.trigger(dag_id)
    system.wait(run, "success")
    return run


@both_databases
def test_every_move_is_told_in_order_with_names(system: System) -> None:
    provide(system, NOTES, file="told")
    system.dag("sales", DAG)
    system.up()
    runs = [finish(system), finish(system)]
    until(lambda: ["run", runs[1].run_id, None, "running", "success", "manual"] in told(system), 10, "the last event")
    lines = told(system)
    assert lines == without_repeats(lines)
    for run in runs:
        check_told(system, run, lines)
    assert {line[5] for line in lines if line[0] == "task"} == {"BashOperator", "EmptyOperator"}
    until(lambda: waiting(system) == 0, 10, "an empty outbox")
    assert "listener" in {part["kind"] for part in system.json("status")["components"]}
    environ = Path(f"/proc/{system.pid_of('listener')}/environ").read_bytes()
    assert b"FLUX_DATABASE_URL" not in environ


def test_without_a_listener_there_is_neither_process_nor_row(system: System) -> None:
    provide(system, "from flux.plugins import hookimpl\n\n@hookimpl\ndef flux_operators():\n    return []\n")
    system.dag("sales", DAG)
    system.up()
    finish(system)
    assert waiting(system) == 0
    assert {part.kind for part in home.running(system.home / "run")} == {"hypervisor", "launcher", "supervisor"}
    assert not (system.home / "run" / "listener.log").exists()


def test_a_provider_that_comes_and_goes_while_flux_runs_is_told_from_then_on(system: System) -> None:
    system.dag("sales", DAG)
    system.up()
    finish(system)
    provide(system, NOTES, file="told")
    until(
        lambda: "listener" in {part.kind for part in home.running(system.home / "run")},
        60 * NOISE,
        "a listener process",
    )
    run = finish(system)
    until(
        lambda: told(system)[-1:] == [["run", run.run_id, None, "running", "success", "manual"]], 10, "the last event"
    )
    check_told(system, run, told(system))
    provide(system, NOTES, file="again")  # other code needs another process
    until(lambda: finish(system) and told(system, "again"), 30, "an event in the new code")
    (system.home / "dags" / "flux_provider.py").unlink()
    until(
        lambda: "listener" not in {part.kind for part in home.running(system.home / "run")},
        60 * NOISE,
        "no listener process",
    )
    finish(system)
    assert waiting(system) == 0


def test_what_commands_change_while_nothing_runs_is_told_at_the_next_start(system: System) -> None:
    provide(system, NOTES, file="told")
    system.dag("sales", DAG)
    system.up()
    finish(system)
    system.stop()
    before = told(system)
    run = system.trigger("sales")
    assert waiting(system) == 1
    assert told(system) == before
    system.up()
    system.wait(run, "success")
    until(lambda: ["run", run.run_id, None, "running", "success", "manual"] in told(system), 10, "the last event")
    check_told(system, run, without_repeats(told(system)))


def test_a_listener_process_that_is_killed_in_the_middle_loses_nothing(system: System) -> None:
    provide(system, NOTES + "        import time; time.sleep(0.02)\n", file="told")
    system.dag("sales", DAG)
    system.up()
    runs = [system.trigger("sales") for _ in range(6)]
    for _ in range(3):
        count = len(told(system))
        until(lambda count=count: len(told(system)) > count + 5, 20, "some events")
        pid = system.kill("listener")
        system.wait_replaced("listener", pid, 10 * NOISE)
    for run in runs:
        system.wait(run, "success")
    until(lambda: waiting(system) == 0, 60, "an empty outbox")
    for run in runs:
        check_told(system, run, without_repeats(told(system)))


def test_a_supervisor_that_is_killed_in_the_middle_loses_nothing(system: System) -> None:
    provide(system, NOTES, file="told")
    system.dag("sales", DAG)
    system.up()
    runs = [system.trigger("sales") for _ in range(4)]
    until(lambda: len(told(system)) > 10, 20, "some events")
    system.wait_replaced("supervisor", system.kill("supervisor"), 10 * NOISE)
    for run in runs:
        system.wait(run, "success")
    until(lambda: waiting(system) == 0, 30, "an empty outbox")
    for run in runs:
        check_told(system, run, without_repeats(told(system)))


#: A provider beside the one-file provider, by the option `plugins`.
RAISING = """
    import sys
    from flux.plugins import hookimpl

    @hookimpl
    def flux_task_state_changed(task_instance):
        sys.exit(f"no {task_instance.task_id}")
"""


def test_one_that_raises_five_times_is_switched_off_and_the_others_go_on(system: System) -> None:
    provide(system, NOTES, file="told")
    (system.home / "dags" / "raising.py").write_text(textwrap.dedent(RAISING))
    system.dag("sales", DAG)
    system.environ["FLUX_PLUGINS"] = "raising"
    system.up()
    run = finish(system)
    [state] = until(lambda: [one for one in listeners.states(system.home / "run") if one.is_off], 10, "it is off")
    assert (state.provider, state.failures) == ("raising", 5)
    assert "flux_task_state_changed raised SystemExit: no " in state.reason
    until(lambda: ["run", run.run_id, None, "running", "success", "manual"] in told(system), 10, "the last event")
    check_told(system, run, told(system))
    log = system.component_log("listener")
    assert log.count("provider 'raising': flux_task_state_changed raised") == 5
    assert "provider 'raising' is switched off" in log
    rows = {row["name"]: row for row in system.json("provider", "list")}
    assert rows["raising"]["state"] == "ok"
    assert rows["raising"]["reason"].startswith("It is told of no changes any more: flux_task_state_changed raised")


HANGING = """
    import os, time
    from pathlib import Path
    from flux.plugins import hookimpl

    @hookimpl
    def flux_task_state_changed(task_instance, state):
        if state == "success":
            (Path(os.environ["FLUX_HOME"]) / "hung").open("a").write("x")
            time.sleep(1000)
"""


def test_one_that_hangs_is_cut_off_and_after_five_times_switched_off(system: System) -> None:
    provide(system, NOTES, file="told")
    (system.home / "dags" / "hanging.py").write_text(textwrap.dedent(HANGING))
    system.dag("sales", DAG)
    system.expect_deaths(5)
    system.up(FLUX_PLUGINS="hanging", FLUX_STUCK_SECONDS="2")
    run = finish(system)
    until(
        lambda: [one for one in listeners.states(system.home / "run") if one.is_off],
        60 * NOISE,
        "it to be switched off",
    )
    [state] = listeners.states(system.home / "run")
    assert (state.provider, state.failures) == ("hanging", 5)
    assert (system.home / "hung").read_text() == "x" * 5
    until(lambda: waiting(system) == 0, 20, "an empty outbox")
    check_told(system, run, without_repeats(told(system)))


COMPONENTS = """
    import os
    from pathlib import Path
    from flux.plugins import hookimpl

    def note(word, component):
        with (Path(os.environ["FLUX_HOME"]) / "components").open("a") as file:
            file.write(f"{word} {component.kind}\\n")

    @hookimpl
    def flux_component_started(component):
        note("started", component)

    @hookimpl
    def flux_component_stopping(component):
        note("stopping", component)
"""
ALL = {"hypervisor", "launcher", "supervisor", "listener"}


def test_components_are_told_when_they_start_and_before_all_ends(system: System) -> None:
    provide(system, COMPONENTS)
    system.up()
    lines = lambda: (system.home / "components").read_text().split("\n")[:-1]  # noqa: E731
    system.wait_file("components")
    until(lambda: set(lines()) == {f"started {kind}" for kind in ALL}, 10, "all started")
    assert waiting(system) == 0
    system.wait_replaced("launcher", system.kill("launcher"), 10 * NOISE)
    until(lambda: lines()[4:] == ["stopping launcher", "started launcher"], 10, "the launcher's end and start")
    system.stop()
    assert sorted(lines()[6:]) == sorted(f"stopping {kind}" for kind in ALL)


def test_a_listener_that_hangs_at_the_end_delays_it_by_no_more_than_a_second(system: System) -> None:
    provide(system, COMPONENTS.replace('note("stopping", component)', "import time; time.sleep(1000)"))
    system.up()
    system.wait_file("components")
    system.send(signal.SIGINT)
    assert system.wait_down(5) == 130  # by itself it would be 6


def test_a_listener_sees_the_interruption_of_running_tasks(system: System) -> None:
    provide(system, NOTES, file="told")
    system.dag(
        "slow",
        """
        from flux import DAG
        from flux.operators import BashOperator

        with DAG("slow", schedule=None):
            BashOperator(task_id="sleep", bash_command="echo begun; trap '' TERM; while :; do sleep 1; done")
        """,
    )
    system.up()
    run = system.trigger("slow")
    system.wait_log(run, "sleep", "begun")
    system.stop()
    assert told(system)[-2:] == [
        ["task", run.run_id, "sleep", "started", "failed", "BashOperator", 1],
        ["run", run.run_id, None, "running", "failed", "manual"],
    ]


def test_a_required_provider_that_is_missing_keeps_flux_from_starting(system: System) -> None:
    system.up(ready=False, FLUX_PROVIDERS_REQUIRED="acme")
    assert system.wait_down(30) == 1
    assert "Provider 'acme' is required" in system.said()


def test_an_executor_that_no_provider_offers_keeps_flux_from_starting(system: System) -> None:
    system.up(ready=False, FLUX_EXECUTOR="loacl")
    assert system.wait_down(30) == 1
    assert "supervisor: " in system.said()
    assert "loacl" in system.said()
    assert not any((system.home / "logs").iterdir())

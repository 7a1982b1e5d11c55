"""Runs that the schedule makes in a whole system: each interval once, in order, as many at once as allowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.system import NOISE, Run, System, both_databases
from tests.acceptance.test_tasks import HOLDING, began, codes, go, most_at_once, notes, why
from tests.waiting import until


def wait_runs(system: System, dag_id: str, count: int, state: str = "success", seconds: float = 30) -> list[Run]:
    """Wait until a DAG has exactly so many runs, all in this state; return them, oldest first."""

    def there() -> bool:
        return [run["state"] for run in system.runs(dag_id)] == [state] * count

    until(there, seconds, f"{count} runs of {dag_id} to be {state}")
    return [Run(dag_id, run["run_id"]) for run in sorted(system.runs(dag_id), key=lambda run: run["logical_date"])]


def days(*found: Run) -> list[str]:
    return [run.run_id.split("__")[1][:10] for run in found]


@both_databases
def test_catchup_makes_every_interval_once_oldest_first_and_never_more_than_allowed(system: System) -> None:
    source = (
        HOLDING
        + """
    with DAG("caught", schedule="@daily", start_date="2026-01-01", end_date="2026-01-07", catchup=True,
             max_active_runs=2):
        hold("one")
    """
    )
    system.dag("caught", source)
    system.up()
    began(system, 2)
    assert [run["state"] for run in system.runs("caught")] == ["running", "running"]
    go(system)
    found = wait_runs(system, "caught", 7)
    assert days(*found) == [f"2026-01-0{day}" for day in range(1, 8)]
    assert most_at_once(system) <= 2
    system.stop()
    system.up()
    system.wait(system.trigger("caught"))
    assert len(system.runs("caught")) == 8, "a restart makes no run again"


def test_without_catchup_there_is_one_run_for_the_latest_complete_interval(system: System) -> None:
    source = """
        from flux import DAG
        from flux.operators import EmptyOperator
        with DAG("latest", schedule="@daily", start_date="2026-01-01"):
            EmptyOperator(task_id="one")
        with DAG("future", schedule="@daily", start_date="2999-01-01"):
            EmptyOperator(task_id="one")
        with DAG("over", schedule="@daily", start_date="2026-01-01", end_date="2026-01-03"):
            EmptyOperator(task_id="one")
        with DAG("once", schedule="@once"):
            EmptyOperator(task_id="one")
    """
    system.dag("latest", source)
    before = datetime.now(UTC).date()
    system.up()
    (run,) = wait_runs(system, "latest", 1)
    assert days(run)[0] in {str(day - timedelta(days=1)) for day in (before, datetime.now(UTC).date())}
    wait_runs(system, "once", 1)
    assert days(*wait_runs(system, "over", 1)) == ["2026-01-03"]
    assert system.runs("future") == []


def test_runs_are_made_when_they_are_due(system: System) -> None:
    start = datetime.now(UTC).replace(microsecond=0)
    source = f"""
        from flux import DAG, Every
        from flux.operators import EmptyOperator
        with DAG("often", schedule=Every(seconds=1), start_date="{start.isoformat()}", catchup=True):
            EmptyOperator(task_id="one")
    """
    system.dag("often", source)
    system.up()
    until(lambda: len(system.runs("often")) >= 4, 6 * NOISE, "four runs")
    system.flux("dag", "pause", "often")
    for run in system.runs("often"):
        due, made = (datetime.fromisoformat(run["data_interval"]["end"]), datetime.fromisoformat(run["created_at"]))
        assert made >= due
    starts = [run["logical_date"] for run in system.runs("often")]
    assert sorted(set(starts)) == sorted(starts)


def test_paused_dag_gets_no_runs_and_goes_on_when_unpaused(system: System) -> None:
    source = """
        from flux import DAG, Every
        from flux.operators import EmptyOperator
        with DAG("often", schedule=Every(seconds=1), start_date="2026-01-01"):
            EmptyOperator(task_id="one")
        with DAG("witness", schedule=Every(seconds=1), start_date="2026-01-01"):
            EmptyOperator(task_id="one")
    """
    system.dag("often", source)
    system.up()
    until(lambda: system.runs("often"), 5 * NOISE, "a first run")
    assert system.flux("dag", "pause", "often").code == 0
    count, seen = len(system.runs("often")), len(system.runs("witness"))
    until(lambda: len(system.runs("witness")) >= seen + 3, 6 * NOISE, "three more runs of the other DAG")
    assert len(system.runs("often")) <= count + 1
    paused = len(system.runs("often"))
    assert system.flux("dag", "unpause", "often").code == 0
    until(lambda: len(system.runs("often")) > paused, 3 * NOISE, "a run after unpause")


@pytest.mark.parametrize(
    ("schedule", "start", "end", "expected"),
    [
        ("30 2 * * *", "2026-03-06", "2026-03-09", ["07:30", "07:30", "07:00", "06:30"]),
        ("30 1 * * *", "2026-10-30", "2026-11-02", ["05:30", "05:30", "05:30", "06:30"]),
        ("0 0 * * *", "2026-03-07", "2026-03-09", ["05:00", "05:00", "04:00"]),
    ],
)
def test_each_local_day_of_a_clock_change_has_one_run(
    system: System, schedule: str, start: str, end: str, expected: list[str]
) -> None:
    """Scenario 66, in New York: on 8 March 2026 there is no 02:30, on 1 November 2026 01:30 comes twice."""
    source = f"""
        from flux import DAG
        from flux.operators import BashOperator
        with DAG("dst", schedule="{schedule}", start_date="{start}", end_date="{end}", catchup=True,
                 timezone="America/New_York"):
            BashOperator(task_id="one", bash_command="echo {{{{ ds }}}} {{{{ ts }}}}")
    """
    system.dag("dst", source)
    system.up()
    found = wait_runs(system, "dst", len(expected))
    assert [run.run_id.split("T")[1][:5] for run in found] == expected
    first = datetime.fromisoformat(start).date()
    local_days = [system.log(run, "one").splitlines()[1].split()[0] for run in found]
    assert local_days == [str(first + timedelta(days=number)) for number in range(len(expected))]


PAST = (
    HOLDING
    + """
    with DAG("past", schedule="@daily", start_date="2026-01-01", end_date="2026-01-03", catchup=True):
        hold("first", go="go-{{ ds_nodash }}", ARGUMENT=True) >> BashOperator(task_id="second", bash_command=
            'until [ -e "$FLUX_HOME/two-{{ ds_nodash }}" ]; do sleep 0.02; done')
        BashOperator(task_id="free", bash_command="true")
"""
)


def test_depends_on_past_waits_for_the_same_task_of_the_previous_run(system: System) -> None:
    system.dag("past", PAST.replace("ARGUMENT", "depends_on_past"))
    system.up()
    until(lambda: len(system.runs("past")) == 3, what="three runs")
    one, two, three = (Run("past", run["run_id"]) for run in system.runs("past"))
    for run in (one, two, three):
        system.wait_task(run, "free", "success")
    began(system, 1)
    assert "'first' of the previous run" in why(system, two, "first", "past")
    assert codes(system, three, "first") == ["past"]
    go(system, "go-20260101")
    began(system, 2)
    assert [line.split()[2] for line in notes(system) if line.startswith("+")] == ["2026-01-01", "2026-01-02"]
    go(system, "go-20260102")
    go(system, "go-20260103")
    for day in ("20260101", "20260102", "20260103"):
        go(system, f"two-{day}")
    for run in (one, two, three):
        system.wait(run)
    assert most_at_once(system) == 1


def test_wait_for_downstream_waits_for_what_is_directly_below_it_too(system: System) -> None:
    system.dag("past", PAST.replace("ARGUMENT", "wait_for_downstream"))
    system.up()
    until(lambda: len(system.runs("past")) == 3, what="three runs")
    one, two, three = (Run("past", run["run_id"]) for run in system.runs("past"))
    for day in ("20260101", "20260102", "20260103"):
        go(system, f"go-{day}")
    system.wait_task(one, "first", "success")
    assert "'second' of the previous run" in why(system, two, "first", "past")
    for run, day in ((one, "20260101"), (two, "20260102"), (three, "20260103")):
        system.wait_task(run, "second", "started")
        go(system, f"two-{day}")
        system.wait(run)


def test_failed_past_holds_the_next_run_back(system: System) -> None:
    source = """
        from flux import DAG
        from flux.operators import BashOperator
        with DAG("past", schedule="@daily", start_date="2026-01-01", end_date="2026-01-02", catchup=True):
            BashOperator(task_id="one", bash_command="exit 1", depends_on_past=True)
    """
    system.dag("past", source)
    system.up()
    until(lambda: len(system.runs("past")) == 2, what="two runs")
    one, two = (Run("past", run["run_id"]) for run in system.runs("past"))
    system.wait(one, "failed")
    assert "is failed" in why(system, two, "one", "past")
    assert system.run_state(two) == "running"


def test_latest_only_skips_what_is_not_the_latest(system: System) -> None:
    source = """
        from flux import DAG
        from flux.operators import BashOperator, LatestOnlyOperator
        with DAG("latest", schedule="@daily", start_date="2026-01-01", end_date="2026-01-02", catchup=True):
            LatestOnlyOperator(task_id="gate") >> BashOperator(task_id="below", bash_command="true")
    """
    system.dag("latest", source)
    system.up()
    for run in wait_runs(system, "latest", 2):
        assert system.task(run, "gate").state == "success"
        assert system.task(run, "below").state in ("skipped", "success")
    first, last = wait_runs(system, "latest", 2)
    assert system.task(first, "below").state == "skipped"
    assert last.run_id.startswith("scheduled__2026-01-02")


def test_changed_schedule_never_asks_for_the_past_again(system: System) -> None:
    source = """
        from flux import DAG
        from flux.operators import EmptyOperator
        with DAG("changed", schedule="@daily", start_date="2026-01-01", end_date="2026-01-03", catchup=True):
            EmptyOperator(task_id="one")
    """
    system.dag("changed", source)
    system.up()
    before = {run.run_id for run in wait_runs(system, "changed", 3)}
    system.dag("changed", source.replace("@daily", "0 */12 * * *").replace("2026-01-03", "2026-01-04T12:00"))
    until(lambda: len(system.runs("changed")) == 5, 5 * NOISE, "the two intervals that are left")
    new = sorted(run["logical_date"] for run in system.runs("changed") if run["run_id"] not in before)
    assert new == ["2026-01-04T00:00:00+00:00", "2026-01-04T12:00:00+00:00"]

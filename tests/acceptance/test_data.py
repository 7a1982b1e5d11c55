"""What tasks hand to each other, and what they print: typed, bounded, and never able to stop the system."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.acceptance.system import NOISE, System, every_database
from tests.waiting import until

MB = 1_000_000

RESULTS = """
    import datetime as d, math
    from decimal import Decimal
    from flux import DAG, task

    VALUES = {
        "decimal": Decimal("1.20"), "moment": d.datetime(2026, 1, 5, 2, tzinfo=d.UTC), "date": d.date(2026, 1, 5),
        "time": d.time(2, 3), "delta": d.timedelta(seconds=1.5), "bytes": b"\\0\\xff", "set": {1, 2}, "tuple": (1, "x"),
        "inf": math.inf, "keys": {1: "one", "$type": 2}, "text": "\\0 \\U0001f600", "none": None,
    }
    with DAG("results"):
        @task
        def gives(): return VALUES
        @task
        def takes(values):
            assert values == VALUES and repr(values) == repr(VALUES), values
        @task
        def other_key(results): results.set("rows", [1, 2])
        @task
        def takes_key(rows): assert rows == [1, 2], rows
        @task
        def large(): return "x" * 3_000_000
        @task
        def takes_large(x): return len(x)
        @task
        def kept_small(): return "y" * 60_000
        takes(gives())
        other = other_key()
        takes_key(other["rows"])
        takes_large(large())
        kept_small()

    with DAG("refused", default_args={"retries": 0}):
        @task
        def too_large():
            print("worked for it")
            return "x" * 100_000_000
        @task
        def function(): return {"a": [1, lambda: 1]}
        @task
        def file(): return open("/dev/null")
        @task
        def generator(): return (x for x in "ab")
        @task
        def itself():
            x = []
            x.append(x)
            return x
        @task(store_result=False)
        def kept_by_nobody(): return lambda: 1
        too_large(), function(), file(), generator(), itself(), kept_by_nobody()
"""


@every_database
def test_values_arrive_as_they_left(system: System) -> None:
    """Scenarios 52 and 53: beyond 64 KB beside the log, up to 10 MB."""
    system.dag("results", RESULTS)
    system.up()
    run = system.trigger("results")
    system.wait(run)
    assert system.json("task", "result", "results", run.run_id, "takes_large")["value"] == 3_000_000
    assert len(system.json("task", "result", "results", run.run_id, "large")["value"]) == 3_000_000
    folder = system.home / "logs" / "results" / run.run_id
    assert len(list((folder / "large" / "-").glob("*.result"))) == 1
    assert list((folder / "kept_small" / "-").glob("*.result")) == []


def test_result_that_cannot_be_kept_fails_its_attempt_and_says_why(system: System) -> None:
    system.dag("results", RESULTS)
    system.up()
    run = system.trigger("refused")
    system.wait(run, "failed")
    reasons = {name: row.reason for name, row in system.tasks(run).items()}
    assert "limit" in (reasons["too_large"] or "")
    assert "worked for it" in system.log(run, "too_large")
    for name, part in {"function": "function", "file": "TextIOWrapper", "generator": "generator"}.items():
        assert part in (reasons[name] or ""), reasons
    assert "['a'][1]" in (reasons["function"] or ""), "the path to what cannot be kept"
    assert system.task(run, "itself").state == "failed"
    assert system.task(run, "kept_by_nobody").state == "success"
    assert system.flux("task", "result", "refused", run.run_id, "kept_by_nobody").code == 1


OUTPUT = """
    import os, time
    from flux import DAG, task
    from flux.operators import BashOperator

    with DAG("output"):
        @task
        def line():
            for _ in range(1000):
                os.write(1, b"x" * 1_000_000)
            os.write(1, b"\\n")
            while not os.path.exists(os.environ["FLUX_HOME"] + "/go"):
                time.sleep(0.02)
            os.write(1, b"the end\\n")
        @task
        def bytes_():
            os.write(1, bytes(range(256)) + b"\\n\\x1b[31mred\\x1b[0m\\n")
            print("\\ud800 half a pair")
        line()
        bytes_()
        BashOperator(task_id="bash", bash_command="head -c 300000000 /dev/zero | tr '\\\\0' y; echo; "
            'until [ -e "$FLUX_HOME/go" ]; do sleep 0.02; done; echo last')
"""


def test_any_output_is_taken_in_flat_memory_and_the_disk_keeps_both_ends(system: System) -> None:
    """Scenario 54, and FLUX_LOG_MAX_BYTES: the middle of a long log is given back to the disk while it is written."""
    if shutil.disk_usage(system.home.parent).free < 4000 * MB:
        pytest.skip("needs 4 GB of free disk")
    system.dag("output", OUTPUT)
    system.up(FLUX_LOG_MAX_BYTES="50MB")
    run = system.trigger("output")
    logs = system.home / "logs" / "output" / run.run_id
    files = {logs / "line" / "-" / "1.log": 1000 * MB, logs / "bash" / "-" / "1.log": 300 * MB}
    for file, size in files.items():
        until(lambda file=file, size=size: file.exists() and file.stat().st_size > size, 60 * NOISE, f"all of {file}")
        until(lambda file=file: file.stat().st_blocks * 512 < 60 * MB, 5 * NOISE, f"the middle of {file} to be freed")
    (system.home / "go").touch()
    system.wait(run)
    for file in files:
        with file.open("rb") as log:
            assert log.read(12) == b"--- flux: ou"
            log.seek(-300, os.SEEK_END)
            end = log.read()
        assert b"the end\n" in end or b"last\n" in end
        assert b"--- flux: attempt 1 ended" in end
    assert system.json("task", "result", "output", run.run_id, "bash")["value"] == "last"
    for kind in ("supervisor", "launcher"):
        assert peak_kb(system.pid_of(kind)) < 200_000
    shown = system.flux("task", "log", "output", run.run_id, "bytes_").out
    assert "\ufffd" in shown
    assert "\x1b[31mred" in shown
    assert "half a pair" in shown


def test_log_of_a_task_that_ends_at_once_is_bounded_too(system: System) -> None:
    source = """
        import os
        from flux import DAG, task
        with DAG("quick"):
            @task
            def quick():
                for _ in range(100):
                    os.write(1, b"x" * 1_000_000)
            quick()
    """
    system.dag("quick", source)
    system.up(FLUX_LOG_MAX_BYTES="10MB")
    run = system.trigger("quick")
    system.wait(run)
    log = system.home / "logs" / "quick" / run.run_id / "quick" / "-" / "1.log"
    assert log.stat().st_size > 100 * MB
    assert log.stat().st_blocks * 512 < 12 * MB


def peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


@every_database
def test_any_text_of_an_error_is_kept_as_a_reason_of_bounded_length(system: System) -> None:
    """A NUL is no text for PostgreSQL, half a surrogate pair none for any database."""
    source = """
        from flux import DAG, SkipTask, task
        from flux.sensors import PythonSensor
        def fails(): raise ValueError("\\ud800 poked \\0")
        with DAG("texts"):
            @task
            def surrogate(): raise ValueError("half \\ud800 a pair")
            @task
            def nul(): raise ValueError("a \\0 byte")
            @task
            def long(): raise ValueError("x" * 10_000_000)
            @task
            def skip(): raise SkipTask("\\ud800 \\0")
            surrogate(), nul(), long(), skip()
            PythonSensor(task_id="sensor", python_callable=fails)
    """
    system.dag("texts", source)
    system.up()
    run = system.trigger("texts")
    system.wait(run, "failed")
    reasons = {name: row.reason or "" for name, row in system.tasks(run).items()}
    assert "a pair" in reasons["surrogate"]
    assert "byte" in reasons["nul"]
    assert "poked" in reasons["sensor"]
    assert len(reasons["long"]) < 10_000
    assert system.task(run, "skip").state == "skipped"

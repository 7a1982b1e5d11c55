"""What DAG files may do while they are read, and what becomes of runs when files change, break or go."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flux.store import dags
from tests.acceptance.system import NOISE, System
from tests.acceptance.test_tasks import HOLDING, began, go
from tests.waiting import until

#: A DAG `kept` that prints what it was made of.
KEPT = """
    from flux import DAG, task
    with DAG("kept"):
        @task
        def says(): print("this is {name}")
        says()
"""


def errors(system: System) -> dict[str, dict[str, Any]]:
    """{file: its import error} as people are shown it."""
    return {row["file"]: row for row in json.loads(system.flux("dag", "errors", "--json").out)}


def wait_error(system: System, file: str, seconds: float = 5 * NOISE) -> dict[str, Any]:
    return until(lambda: system.dag_errors().get(file), seconds, f"an error of {file}") or {}


def wait_version(system: System, dag_id: str, version: int, seconds: float = 2 * NOISE) -> None:
    """Wait until the store has so many versions of a DAG."""

    def there() -> bool:
        newest = system.dag_version(dag_id)
        return newest is not None and newest.number == version

    until(there, seconds, f"version {version} of {dag_id}")


# --- files that are not fit to be read -------------------------------------------------------------------------------


CYCLE = """
from flux import DAG
from flux.operators import EmptyOperator
with DAG("cycle"):
    a, b = EmptyOperator(task_id="a"), EmptyOperator(task_id="b")
    a >> b >> a
"""
#: {name: (source, part of the message)}
BAD = {
    "loops": ("while True:\n    pass\n", "did not finish importing within 2 s"),
    "sleeps": (
        "import time\nwhile True:\n    try:\n        time.sleep(60)\n    except BaseException:\n        pass\n",
        "did not finish importing within 2 s",
    ),
    "sys_exit": ("import sys\nsys.exit()\n", "sys.exit"),
    "os_exit": ("import os\nos._exit(0)\n", "os._exit"),
    "segfault": ("import ctypes\nctypes.string_at(0)\n", "SIGSEGV"),
    "killed": ("import os\nos.kill(os.getpid(), 9)\n", "SIGKILL"),
    "odd": ("raise BaseException('odd')\n", "odd"),
    "recursion": ("def deeper():\n    deeper()\ndeeper()\n", "RecursionError"),
    "syntax": ("from flux import DAG\nwith DAG('x' as d:\n", "SyntaxError"),
    "bytes": ("\0", "null bytes"),
    "clash": ("from flux import DAG\nwith DAG('kept'):\n    pass\n", "already defined in 'kept.py'"),
    "cycle": (
        CYCLE,
        "a -> b -> a",
    ),
}
LINES = {"sleeps": 4, "segfault": 2, "odd": 1, "syntax": 2, "clash": 2}


def test_bad_files_are_named_with_their_fault_and_everything_else_goes_on(system: System) -> None:
    """Scenario 46."""
    system.dag("kept", KEPT.format(name="one"))
    system.up(FLUX_IMPORT_TIMEOUT_SECONDS="2")
    for name, (source, _) in BAD.items():
        (system.home / "dags" / f"{name}.py").write_text(source)
    run = system.trigger("kept")
    system.wait(run, seconds=5 * NOISE)
    until(lambda: len(system.dag_errors()) == len(BAD), 10 * NOISE, "all errors")
    found = errors(system)
    for name, (_, message) in BAD.items():
        assert message in found[f"{name}.py"]["message"], found[f"{name}.py"]
        if name in LINES:
            assert found[f"{name}.py"]["line"] == LINES[name], found[f"{name}.py"]
    # Files that never finish hold nobody up when another one changes.
    system.dag("new", KEPT.format(name="new").replace("kept", "new"))
    wait_version(system, "new", 1)
    for name in BAD:
        (system.home / "dags" / f"{name}.py").unlink()
    until(lambda: system.dag_errors() == {}, 5 * NOISE, "the errors to go with their files")


def test_file_that_prints_a_gigabyte_is_read_in_flat_memory(system: System) -> None:
    system.up()
    source = """
        import sys
        for _ in range(1000):
            sys.stdout.write("x" * 1_000_000)
        raise ValueError("after all that")
    """
    system.dag("prints", source)
    assert "after all that" in wait_error(system, "prints.py", seconds=20 * NOISE)["message"]
    for kind in ("supervisor", "launcher"):
        status = Path(f"/proc/{system.pid_of(kind)}/status").read_text()
        peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        assert peak < 200_000, f"{kind} took {peak} kB"
    folder = sum(file.stat().st_size for file in (system.home / "run").rglob("*") if file.is_file())
    assert folder < 20_000_000


def test_broken_file_leaves_its_last_good_version_running_and_its_mending_is_live(system: System) -> None:
    """Scenario 49."""
    system.dag("kept", KEPT.format(name="one"))
    system.up()
    system.dag("kept", "broken(")
    assert wait_error(system, "kept.py")["line"] == 1
    assert errors(system)["kept.py"]["line"] == 1
    run = system.trigger("kept")
    system.wait(run)
    assert "this is one" in system.log(run, "says")
    system.dag("kept", KEPT.format(name="two"))
    wait_version(system, "kept", 2)
    assert errors(system) == {}
    again = system.trigger("kept")
    system.wait(again)
    assert "this is two" in system.log(again, "says")


def test_dag_id_that_becomes_free_goes_to_the_file_that_was_refused(system: System) -> None:
    system.dag("kept", KEPT.format(name="first"))
    system.up()
    system.dag("other", KEPT.format(name="other"))
    assert "already defined in 'kept.py'" in wait_error(system, "other.py")["message"]
    (system.home / "dags" / "kept.py").unlink()
    until(lambda: system.dag_errors() == {}, 5 * NOISE, "the refused file to be read again")
    run = system.trigger("kept")
    system.wait(run)
    assert "this is other" in system.log(run, "says")


def test_pipe_in_the_folder_is_not_waited_for(system: System) -> None:
    system.up()
    os.mkfifo(system.home / "dags" / "pipe.py")
    system.dag("kept", KEPT.format(name="one"))
    system.wait(system.trigger("kept"), seconds=5 * NOISE)
    assert errors(system) == {}, "what is no file is no DAG file"


def test_file_whose_name_is_not_text_is_an_error_until_it_is_renamed(system: System) -> None:
    system.up()
    file = Path(os.fsdecode(os.fsencode(system.home / "dags") + b"/odd\xff.py"))
    system.dag("kept", KEPT.format(name="odd")).rename(file)
    (name,) = until(lambda: list(system.dag_errors()), 5 * NOISE, "an error")
    assert "not valid UTF-8" in errors(system)[name]["message"]
    system.stop()
    system.up()
    assert list(errors(system)) == [name]
    file.rename(system.home / "dags" / "even.py")
    system.wait(system.trigger("kept"))
    assert errors(system) == {}


# --- edits -----------------------------------------------------------------------------------------------------------


def test_edit_of_a_helper_module_or_a_template_file_makes_a_version_within_a_second(system: System) -> None:
    system.dag("helpers/__init__", "")
    system.dag("helpers/words", "WORD = 'one'")
    system.dag("sql/inner.sql", "-- inner one")
    system.dag("sql/query.sh", "echo {% include 'sql/inner.sql' %} {{ ds }}")
    source = """
        from flux import DAG, task
        from flux.operators import BashOperator
        with DAG("edited"):
            @task
            def says():
                from helpers import words
                print("this is", words.WORD)
            says()
            BashOperator(task_id="rendered", bash_command="sql/query.sh")
    """
    system.dag("edited", source)
    system.up()
    first = system.trigger("edited")
    system.wait(first)
    assert "this is one" in system.log(first, "says")
    system.dag("helpers/words", "WORD = 'two'")
    wait_stored(system, "edited", 2)
    system.dag("sql/inner.sql", "-- inner two")
    wait_stored(system, "edited", 3)
    run = system.trigger("edited")
    system.wait(run)
    assert "this is two" in system.log(run, "says")
    assert "inner two" in system.json("task", "rendered", "edited", run.run_id, "rendered")["bash_command"]
    assert [row["version"] for row in system.json("run", "list", "--dag", "edited")] == [3, 1]


def test_folder_that_is_replaced_is_watched_like_the_one_before(system: System) -> None:
    """As deployments do that rename a new checkout into place."""
    system.dag("team/kept", KEPT.format(name="one"))
    system.up(FLUX_SCAN_SECONDS="600")
    wait_version(system, "kept", 1)
    folder = system.home / "dags" / "team"
    new = system.home / "new"
    new.mkdir()
    (new / "kept.py").write_text((folder / "kept.py").read_text().replace("is one", "is two"))
    folder.rename(system.home / "old")
    new.rename(folder)
    wait_stored(system, "kept", 2)
    system.dag("team/kept", KEPT.format(name="three"))
    wait_stored(system, "kept", 3)


def wait_stored(system: System, dag_id: str, version: int) -> None:
    """Wait until the running system alone, asked by nobody, has stored a version."""

    def there() -> bool:
        found = system.opened.store.read(lambda connection: dags.by_id(connection, dag_id))
        return (
            found.dag_version_id is not None
            and system.opened.store.read(lambda connection: dags.version(connection, found.dag_version_id or 0)).number
            == version
        )

    until(there, 1 * NOISE, f"version {version} of {dag_id}")


def test_import_happens_once_for_each_content_and_not_for_each_task(system: System) -> None:
    """Scenario 47: as often as there are DAG hosts, and one version has one."""
    source = """
        import os
        from flux import DAG
        from flux.operators import BashOperator
        with open(os.environ["FLUX_HOME"] + "/imports", "a") as file:
            file.write("one\\n")
        with DAG("counted"):
            for number in range(20):
                BashOperator(task_id=f"t{number}", bash_command="true")
    """
    system.dag("counted", source)
    system.up()
    for _ in range(3):
        system.wait(system.trigger("counted"))
    system.dag("other", KEPT.format(name="other"))
    system.wait(system.trigger("kept"))
    assert (system.home / "imports").read_text().splitlines() == ["one"]


# --- pinned versions -------------------------------------------------------------------------------------------------

PINNED = (
    HOLDING
    + """
    import helper_of_pinned
    with DAG("pinned"):
        @task
        def says():
            import late_helper
            print("this is", helper_of_pinned.WORD, late_helper.WORD, __file__)
        hold("one") >> says()
"""
)


@pytest.mark.parametrize("fate", ["broken", "gone", "changed", "task gone", "folder gone"])
def test_run_goes_on_with_the_source_it_began_with(system: System, fate: str) -> None:
    """Scenarios 43 and 44 as design.md 3 has them: a run executes its pinned version from the store."""
    system.dag("helper_of_pinned", "WORD = 'old'")
    system.dag("late_helper", "WORD = 'late'")
    file = system.dag("pinned", PINNED)
    system.up()
    run = system.trigger("pinned")
    began(system, 1)
    for name in ("helper_of_pinned.py", "late_helper.py"):
        (system.home / "dags" / name).unlink()
    match fate:
        case "broken":
            system.dag("pinned", "broken(")
            wait_error(system, "pinned.py")
        case "gone":
            file.unlink()
        case "changed":
            system.dag("pinned", PINNED.replace("helper_of_pinned", "os").replace("os.WORD", "'new'"))
        case "task gone":
            system.dag("pinned", HOLDING + '\n    with DAG("pinned"):\n        hold("one")\n')
            wait_version(system, "pinned", 2)
        case "folder gone":
            file.parent.rename(system.home / "elsewhere")
            file.parent.mkdir()
    go(system)
    system.wait(run)
    assert f"this is old late {file}" in system.log(run, "says")
    assert system.json("run", "show", "pinned", run.run_id)["version"] == 1


def test_pinned_version_runs_from_the_store_after_a_restart_of_everything(system: System) -> None:
    source = """
        from flux import DAG, task
        with DAG("pinned"):
            @task(retries=1, retry_delay=1)
            def says(ti):
                import words
                print("this is", words.WORD)
                if ti.attempt == 1:
                    raise ValueError("again")
            says()
    """
    system.dag("words", "WORD = 'old'")
    file = system.dag("pinned", source.replace("retry_delay=1", "retry_delay=3"))
    system.up()
    run = system.trigger("pinned")
    system.wait_task(run, "says", "retrying")
    system.stop()
    file.unlink()
    (system.home / "dags" / "words.py").unlink()
    for name in ("versions", "sources"):
        for kept in (system.home / "run" / name).iterdir():
            kept.unlink()
    system.up()
    system.wait(run)
    assert "this is old" in system.log(run, "says", attempt=2)
    assert system.flux("dag", "trigger", "pinned").code == 1, "a DAG without a file makes no new runs"


@pytest.mark.parametrize(
    ("change", "reason"),
    [("raises", "ValueError: not any more"), ("lacks", "no longer exists"), ("hangs", "did not finish importing")],
)
def test_version_that_cannot_be_imported_any_more_fails_what_is_left_of_its_run(
    system: System, change: str, reason: str
) -> None:
    """Scenarios 43 and 44 where the stored source is not enough: it reads what is elsewhere."""
    source = """
        import os
        from flux import DAG, task
        HOME = os.environ["FLUX_HOME"]
        if os.path.exists(HOME + "/raises"):
            raise ValueError("not any more")
        while os.path.exists(HOME + "/hangs"):
            pass
        with DAG("moody"):
            if not os.path.exists(HOME + "/lacks"):
                @task(retries=1, retry_delay=3)
                def one(ti):
                    if ti.attempt == 1:
                        raise ValueError("again")
                one()
    """
    system.dag("moody", source)
    system.up()
    run = system.trigger("moody")
    system.wait_task(run, "one", "retrying")
    system.stop()
    (system.home / change).touch()
    system.up(FLUX_IMPORT_TIMEOUT_SECONDS="1", ready=False)
    system.wait(run, "failed", seconds=10 * NOISE)
    assert reason in (system.task(run, "one").reason or "")
    assert system.outcomes(run, "one") == ["failed", "failed"]
    system.wait_said("Flux is up", seconds=30)


# --- forks -----------------------------------------------------------------------------------------------------------


def test_file_that_leaves_a_thread_and_a_socket_runs_in_fresh_interpreters(system: System) -> None:
    """Scenario 37."""
    source = """
        import os, socket, threading, time
        from flux import DAG, task
        from flux.sensors import PythonSensor
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        opened = socket.socket()
        with DAG("threaded"):
            @task
            def one(): return os.getpid()
            @task
            def two(x): print("got", x)
            PythonSensor(task_id="sensor", python_callable=lambda: True) >> two(one())
    """
    system.dag("threaded", source)
    system.up()
    run = system.trigger("threaded")
    system.wait(run)
    assert "got" in system.log(run, "two")
    files = {file.path: file for file in system.opened.store.read(dags.files)}
    assert "fresh interpreters" in files["threaded.py"].warnings[-1]


def test_dag_may_opt_out_of_forks(system: System) -> None:
    system.dag("kept", KEPT.format(name="one").replace('"kept"', '"kept", fork=False'))
    system.up()
    run = system.trigger("kept")
    system.wait(run)
    assert "this is one" in system.log(run, "says")


def test_two_hundred_forks_after_libraries_with_native_threads(system: System) -> None:
    for library in ("numpy", "pandas", "pyarrow"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    source = """
        import numpy, pandas, pyarrow.compute
        from flux import DAG, task

        def work():
            assert (numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum() == 300**3
            assert pandas.DataFrame({"a": range(1000)}).sum()["a"] == 499_500
            assert pyarrow.compute.sum(pyarrow.array(range(1000))).as_py() == 499_500
            return float(numpy.random.random())

        work()
        with DAG("forks"):
            for number in range(200):
                task(task_id=f"t{number}")(work)()
    """
    system.dag("forks", source)
    system.up()
    run = system.trigger("forks")
    system.wait(run, seconds=30 * NOISE)
    drawn = {system.json("task", "result", "forks", run.run_id, f"t{number}")["value"] for number in range(5)}
    assert len(drawn) == 5, "forks must not share NumPy's random numbers"

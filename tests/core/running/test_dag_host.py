"""What a DAG file may do to its host while it is imported, and how its attempts run afterwards."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from flux import process
from tests.waiting import until

pytestmark = pytest.mark.slow

GOOD = """
from flux import DAG
from flux.operators import PythonOperator
with DAG("good") as dag:
    PythonOperator(task_id="t", python_callable=lambda: __file__)
"""


def good_still_runs(desk: Any) -> bool:
    desk.write("good.py", GOOD)
    spec = desk.run(desk.version("good.py"), "good", "t")
    return bool(desk.exit(spec)["exit_status"] == 0)


def test_a_reading_gives_structure_and_sources(desk: Any) -> None:
    desk.write("good.py", GOOD)
    reading = desk.read("good.py")
    (structure,) = reading["structures"]
    assert json.loads(structure)["file"] == "good.py"
    assert list(reading["sources"]) == ["good.py"]
    stored = desk.run_folder / "sources" / reading["sources"]["good.py"]
    assert stored.read_bytes() == (desk.folder / "good.py").read_bytes()
    assert (reading["error"], reading["forkable"], reading["warnings"]) == (None, True, [])


def test_an_exception_names_line_and_shows_the_authors_frames_only(desk: Any) -> None:
    desk.write("bad.py", "def f():\n    raise ValueError('no such table')\n\nf()\n")
    error = desk.read("bad.py")["error"]
    assert error["message"] == "ValueError: no such table"
    assert error["line"] == 2
    assert "bad.py" in error["traceback"]
    assert "importlib" not in error["traceback"]
    assert "dag_file.py" not in error["traceback"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import os\nprint('last words', flush=True)\nos._exit(3)", "exit status 3"),
        ("import sys\nsys.exit('bye')", "sys.exit('bye')"),
        ("import os, signal\nprint('last words', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("x = ", "SyntaxError"),
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("raise BaseException('base')", "BaseException: base"),
    ],
)
def test_what_ends_an_import_is_an_error_that_says_so(desk: Any, text: str, words: str) -> None:
    """Scenario 46."""
    desk.write("bad.py", text)
    reading = desk.read("bad.py")
    assert words in reading["error"]["message"]
    assert reading["host"] is None
    if "last words" in text:
        assert "last words" in reading["error"]["traceback"]
    assert good_still_runs(desk)


@pytest.mark.parametrize("body", ["while True:\n    pass\n", "import time\ntime.sleep(1000)\n", "sum(range(10**15))\n"])
def test_an_import_that_hangs_is_ended_and_says_where_it_was(desk: Any, body: str) -> None:
    desk.write("bad.py", f"x = 1\n\n{body}")
    error = desk.read("bad.py", timeout=0.5)["error"]
    assert "did not finish importing within 0.5 s" in error["message"]
    assert error["line"] in (3, 4)
    assert good_still_runs(desk)


def test_children_of_an_import_that_hangs_are_killed(desk: Any) -> None:
    desk.write("bad.py", "import os\nos.system('sleep 1000 & setsid sleep 1000 & echo begun; sleep 1000')\n")
    assert desk.read("bad.py", timeout=0.5)["error"]
    launcher = desk.launcher.pid
    until(lambda: not process.descendants(launcher))


def test_a_file_that_prints_without_end_harms_nobody(desk: Any) -> None:
    desk.write("bad.py", "for _ in range(20_000):\n    print('x' * 10_000)\n1 / 0\n")
    assert desk.read("bad.py")["error"]["message"].startswith("ZeroDivisionError")


def test_a_file_with_a_thread_runs_its_attempts_in_fresh_interpreters(desk: Any) -> None:
    """Scenario 37."""
    desk.write(
        "threads.py",
        """
        import socket, threading, time
        from flux import DAG
        from flux.operators import PythonOperator
        threading.Thread(target=time.sleep, args=(1000,), daemon=True, name="poller").start()
        opened = socket.socket()
        def work():
            print("worked")
            return threading.active_count()
        with DAG("threads"):
            PythonOperator(task_id="t", python_callable=work)
        """,
    )
    reading = desk.read("threads.py")
    assert not reading["forkable"]
    assert "thread 'poller' and an open socket" in reading["warnings"][0]
    version = desk.version("threads.py")
    for _ in range(2):
        spec = desk.run(version, "threads", "t")
        assert desk.exit(spec)["exit_status"] == 0, desk.log(spec)
        assert desk.end(spec)["outcome"] == "success"
        assert "worked" in desk.log(spec)


def test_a_dag_can_ask_for_fresh_interpreters(desk: Any) -> None:
    desk.write(
        "fresh.py",
        """
        import os, sys
        from flux import DAG
        from flux.operators import PythonOperator
        def work():
            carried = open("/proc/self/environ").read().count("FLUX_CLAIM=4")
            return [os.environ["FLUX_CLAIM"], sys.orig_argv[-1], carried]
        with DAG("fresh", fork=False):
            PythonOperator(task_id="t", python_callable=work)
        with DAG("forked"):
            PythonOperator(task_id="t", python_callable=work)
        """,
    )
    version = desk.version("fresh.py", keep=False)
    fresh, forked = desk.run(version, "fresh", "t"), desk.run(version, "forked", "t")
    for spec, last in ((fresh, "flux.running.runner"), (forked, None)):
        assert desk.exit(spec)["exit_status"] == 0, desk.log(spec)
        claim, argument, carried = json.loads(desk.end(spec)["results"]["return_value"])
        assert claim == process.claim_text(spec.claim)
        assert carried == 1
        assert (argument == "flux.running.runner") == (last is not None)


def test_a_stored_version_runs_when_its_files_are_gone(desk: Any) -> None:
    desk.write("team/helper.py", "def name():\n    return 'old'\n")
    desk.write(
        "team/sales.py",
        """
        from flux import DAG
        from flux.operators import PythonOperator
        def work():
            from team import helper
            return [helper.name(), __file__]
        with DAG("sales"):
            PythonOperator(task_id="t", python_callable=work)
        """,
    )
    version = desk.version("team/sales.py", keep=False)
    for file in (desk.folder / "team").iterdir():
        if file.is_file():
            file.unlink()
    spec = desk.run(version, "sales", "t")
    assert desk.exit(spec)["exit_status"] == 0, desk.log(spec)
    result = json.loads(desk.end(spec)["results"]["return_value"])
    assert result == ["old", str(desk.folder / "team" / "sales.py")]


def test_a_version_whose_import_fails_now_ends_its_attempts_with_the_cause(desk: Any) -> None:
    desk.write(
        "fragile.py", f"import pathlib\nassert pathlib.Path({str(desk.home / 'needed')!r}).exists(), 'gone'\n{GOOD}"
    )
    (desk.home / "needed").touch()
    version = desk.version("fragile.py", keep=False)
    (desk.home / "needed").unlink()
    spec = desk.run(version, "good", "t")
    assert "AssertionError: gone" in desk.exit(spec)["error"]


def test_the_middle_of_a_log_that_is_too_long_is_freed(desk: Any) -> None:
    desk.write(
        "long.py",
        """
        import sys, time
        from flux import DAG
        from flux.operators import PythonOperator
        def work():
            for number in range(4000):
                print(number, "x" * 1000)
            while True:
                time.sleep(0.01)
        with DAG("long"):
            PythonOperator(task_id="t", python_callable=work)
        """,
    )
    spec = desk.run(desk.version("long.py"), "long", "t", log_max_bytes=1_000_000)
    desk.logged(spec, "3999 xxx")
    until(lambda: Path(spec.log).stat().st_blocks * 512 < 1_000_000)
    desk.launcher.kill(spec.claim, 0, "test")
    desk.exit(spec)
    log = Path(spec.log).read_bytes()
    assert b"\n0 xxx" in log[:500_000]
    assert b"\n3999 xxx" in log[-200_000:]


SENSORS = """
import os, subprocess, time
from flux import DAG
from flux.errors import FailTask, SkipTask
from flux.sensors import PythonSensor

def hang():
    print("hanging", flush=True)
    time.sleep(1000)

def loud(number):
    def poke():
        print("poke", number)
        subprocess.run(["echo", "child"])
        return number % 2 == 0
    return poke

def broken():
    raise ValueError("no such host")

def skip():
    raise SkipTask("not today")

def crash():
    os._exit(9)

with DAG("sensors"):
    for number in range(12):
        PythonSensor(task_id=f"loud{number}", python_callable=loud(number))
    for function in (hang, broken, skip, crash):
        PythonSensor(task_id=function.__name__, python_callable=function)
    PythonSensor(task_id="claim", python_callable=lambda: os.environ["FLUX_CLAIM"].strip("0") != "")
"""


@pytest.fixture
def sensors(desk: Any) -> str:
    desk.write("sensors.py", SENSORS)
    return str(desk.version("sensors.py"))


def poke(desk: Any, version: str, *tasks: str, timeout: float = 20, isolated: bool = False) -> list[dict[str, Any]]:
    specs = [desk.spec("sensors", task, sensor=True) for task in tasks]
    desk.launcher.poke(version, 7, specs, timeout, isolated=isolated)
    return [{**desk.wait(op="poked", claim=spec.claim), "log": spec.log} for spec in specs]


def test_pokes_share_a_process_and_each_has_its_own_log(desk: Any, sensors: str) -> None:
    answers = poke(desk, sensors, *(f"loud{number}" for number in range(12)))
    assert [answer["result"] for answer in answers] == [number % 2 == 0 for number in range(12)]
    assert {answer["batch"] for answer in answers} == {7}
    for number, answer in enumerate(answers):
        assert f"poke {number}\n" in Path(answer["log"]).read_text()
    until(lambda: "output of child processes" in Path(answers[0]["log"]).read_text())
    (shared,) = (desk.run_folder / "pokes").iterdir()
    assert shared.read_text() == "child\n" * 12


@pytest.mark.parametrize("others", [(), ("loud0",)])
def test_what_a_poke_raises_is_its_outcome(desk: Any, sensors: str, others: tuple[str, ...]) -> None:
    broken, skip, *_ = poke(desk, sensors, "broken", "skip", *others)
    assert (broken["outcome"], broken["error"], broken["retry"]) == ("failed", "ValueError: no such host", True)
    assert "ValueError: no such host" in Path(broken["log"]).read_text()
    assert (skip["outcome"], skip["error"], skip["result"]) == ("skipped", "not today", None)


def test_a_hanging_poke_is_named_and_the_others_are_poked_again(desk: Any, sensors: str) -> None:
    tasks = ["hang"] * 9 + [f"loud{number}" for number in range(6)]
    answers = poke(desk, sensors, *tasks, timeout=0.5)
    assert [answer["hung"] for answer in answers] == [True] * 9 + [False] * 6
    assert [answer["result"] for answer in answers[9:]] == [True, False, True, False, True, False]


def test_a_poke_that_ends_its_process_takes_no_other_along(desk: Any, sensors: str) -> None:
    answers = poke(desk, sensors, "crash", *(f"loud{number}" for number in range(12)))
    assert "exit status 9" in answers[0]["error"]
    assert all(answer["result"] is not None or "exit status 9" in answer["error"] for answer in answers[1:])


def test_an_isolated_poke_carries_its_claim(desk: Any, sensors: str) -> None:
    alone, too = poke(desk, sensors, "claim", "claim", isolated=True)
    assert (alone["result"], too["result"]) == (True, True)


def test_a_cancelled_poke_is_answered_within_the_grace(desk: Any, sensors: str) -> None:
    spec = desk.spec("sensors", "hang", sensor=True, kill_grace=0.2)
    desk.launcher.poke(sensors, 1, [spec], 100)
    desk.logged(spec, "hanging")
    desk.launcher.cancel_poke(spec.claim)
    assert desk.wait(op="poked", claim=spec.claim)["cancelled"]
    desk.launcher.cancel_poke(spec.claim)
    assert desk.wait(op="poked", claim=spec.claim)["error"] == "no poke was running"


def test_a_poke_that_is_cancelled_while_its_file_is_imported_holds_up_no_other(desk: Any, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    wait = f"while os.path.exists({str(hold)!r}):\n    time.sleep(0.01)\n"
    desk.write("sensors.py", SENSORS + wait)
    version = desk.version("sensors.py", keep=False)
    hold.touch()
    gone, stays, alone = (desk.spec("sensors", task, sensor=True) for task in ("loud1", "loud2", "loud3"))
    desk.launcher.poke(version, 1, [gone, stays], 100)
    desk.launcher.poke(version, 2, [alone], 100)
    for spec, batch in ((gone, 1), (alone, 2)):
        desk.launcher.cancel_poke(spec.claim)
        answer = desk.wait(op="poked", claim=spec.claim)
        assert (answer["cancelled"], answer["batch"]) == (True, batch)
    hold.unlink()
    answer = desk.wait(op="poked", claim=stays.claim)
    assert (answer["result"], answer["batch"]) == (True, 1)


def test_pokes_of_a_dead_host_are_done_by_another(desk: Any, sensors: str) -> None:
    spec = desk.spec("sensors", "hang", sensor=True)
    desk.launcher.poke(sensors, 1, [spec], 100)
    desk.logged(spec, "hanging")
    (host,) = [entry.pid for entry in process.table() if entry.parent == desk.launcher.pid]
    process.send(host, signal.SIGKILL)
    until(lambda: desk.log(spec).count("hanging") == 2)


def test_pokes_in_fresh_interpreters(desk: Any) -> None:
    desk.write("sensors.py", SENSORS.replace('DAG("sensors")', 'DAG("sensors", fork=False)'))
    answers = poke(desk, desk.version("sensors.py"), "loud0", "loud1", "broken")
    assert [answer["result"] for answer in answers] == [True, False, None]
    assert poke(desk, desk.version("sensors.py"), "claim", isolated=True)[0]["result"]

"""The supervisor with everything below it: a real launcher, real attempts, SQLite; its loop is the test's."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flux import process, wire
from flux.builtin import core_verdict
from flux.errors import AlreadyRunning, Refused
from flux.loop import Loop
from flux.plugins.catalogue import Catalogue
from flux.plugins.verdict import ProviderState, Verdict
from flux.running import actions
from flux.running.components import launcher_environ
from flux.running.supervisor import Supervisor
from flux.running.supervisor_process import lock_database
from flux.states import RunKind
from flux.store import announcing, dags, jobs, outbox, runs
from flux.store.dags import DagVersion
from flux.store.schema import task_instance
from flux.times import utc_now
from tests.parts import Parts

pytestmark = pytest.mark.slow

CHAIN = """
from flux import DAG
from flux.operators import PythonOperator
with DAG("chain") as dag:
    first = PythonOperator(task_id="first", python_callable=lambda: 7)
    second = PythonOperator(task_id="second", python_callable=lambda ti: print("got", ti.result("first")))
    first >> second
"""
#: Says that it runs, and waits until it is let go.
SLOW = """
import pathlib, time
from flux import DAG
from flux.operators import PythonOperator

def wait():
    pathlib.Path({began!r}).touch()
    while not pathlib.Path({go!r}).exists():
        time.sleep(0.01)

with DAG("slow", {fields}) as dag:
    PythonOperator(task_id="t", python_callable=wait, retries={retries}, retry_delay=0)
"""


class Office:
    """A supervisor in the test's loop, and a launcher."""

    def __init__(self, home: Path, **options: str) -> None:
        self.parts = Parts(home, **{"scan_seconds": "1", "adopt_timeout_seconds": "60", **options})
        self.launcher: subprocess.Popen[bytes] | None = None
        self.supervisor: Supervisor | None = None
        self.ready: list[bool] = []
        #: What the hypervisor would have heard, but for that.
        self.said: list[dict[str, Any]] = []
        self.began, self.go = home / "began", home / "go"
        self.parts.at_close(self.end_launcher)

    def start_launcher(self) -> None:
        self.hypervisor, its = socket.socketpair()  # which we play: while it is open, attempts outlive a supervisor
        argv = [sys.executable, "-P", "-m", "flux.running.launcher", "--run-folder", str(self.parts.config.run_folder)]
        argv += ["--hypervisor-fd", str(its.fileno())]
        environ = launcher_environ(os.environ)
        self.launcher = subprocess.Popen(argv, env=environ, start_new_session=True, pass_fds=[its.fileno()])
        its.close()

    def end_launcher(self) -> None:
        if self.launcher is not None:
            below = process.descendants(self.launcher.pid)
            self.launcher.kill()
            self.launcher.wait()
            self.hypervisor.close()
            for pid in below:
                process.send(pid, 9)
            self.launcher = None

    def start(self, *verdicts: Verdict) -> Supervisor:
        """Start launcher and supervisor with these providers beside core, and wait until the system takes work."""
        if self.launcher is None:
            self.start_launcher()
        supervisor = Supervisor(
            self.parts.flux,
            self.parts.loop,
            os.environ,
            lambda: self.ready.append(True),
            catalogue=Catalogue([core_verdict(), *verdicts]),
            tell_hypervisor=self.said.append,
        )
        self.supervisor = supervisor
        self.parts.at_close(lambda: supervisor.close() if self.supervisor is supervisor else None)
        self.ready.clear()
        supervisor.start()
        self.parts.until(lambda: self.ready, seconds=20, what="ready")
        return supervisor

    def abandon(self) -> None:
        """Leave the supervisor as a SIGKILL would leave it: everything is cut, nothing is written."""
        assert self.supervisor is not None
        self.supervisor._server.stop()
        self.supervisor._client.close()
        self.supervisor._writer.stop_claiming()
        assert self.supervisor._writer.stop(10)
        self.supervisor = None
        self.parts.loop.close()
        self.parts.loop = Loop()

    def dag(self, source: str, path: str = "dag.py") -> None:
        (self.parts.config.dags_folder / path).write_text(textwrap.dedent(source))

    def slow(self, retries: int = 0, fields: str = "") -> None:
        self.dag(SLOW.format(began=str(self.began), go=str(self.go), retries=retries, fields=fields))

    def elsewhere(self, work: Callable[[], Any]) -> Any:
        """Do what a command does, in a thread, while the loop runs."""
        results: list[Any] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(work())
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self.parts.until(lambda: results or errors, seconds=30)
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def ask(self, **message: Any) -> dict[str, Any]:
        return self.elsewhere(lambda: wire.request(self.parts.config.run_folder / "endpoint", message, 20))

    def trigger(self, dag_id: str) -> runs.DagRun:
        """Trigger as the command does, once the folder is read."""
        self.ask(verb="sync")
        return self.elsewhere(lambda: actions.trigger(self.parts.flux, dag_id, who="ada"))

    def version(self, dag_id: str) -> DagVersion:
        row = self.parts.dag(dag_id).dag_version_id
        assert row is not None
        return self.parts.read(lambda connection: dags.version(connection, row))

    def await_run(self, dag_id: str, state: str, seconds: float = 30) -> None:
        self.parts.until(
            lambda: [run.state for run in self.parts.runs(dag_id)][-1:] == [state], seconds, f"{dag_id} {state}"
        )

    def log(self, number: int = 0) -> str:
        return (self.parts.config.logs_folder / self.parts.attempts()[number].log).read_text()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path / "home")
    yield office
    office.parts.close()


def test_it_takes_work_as_soon_as_the_folder_is_read(office: Office) -> None:
    office.dag(CHAIN)
    office.start()
    assert [dag.dag_id for dag in office.parts.read(dags.every)] == ["chain"]
    (job,) = office.parts.read(jobs.every)
    assert (job.kind, job.state, job.pid) == ("supervisor", "running", os.getpid())
    status = office.ask(verb="status")
    assert (status["pid"], status["trouble"]) == (os.getpid(), None)


def test_a_triggered_run_goes_through_all_its_tasks(office: Office) -> None:
    office.start()
    office.dag(CHAIN)
    run = office.trigger("chain")
    office.await_run("chain", "success")
    assert office.parts.states() == {"first": "success", "second": "success"}
    assert "got 7" in office.log(1)
    assert [row.outcome for row in office.parts.attempts()] == ["success", "success"]
    assert run.run_id == office.parts.runs("chain")[0].run_id
    results = office.parts.config.run_folder / "results"
    office.parts.until(lambda: not list(results.iterdir()), what="the results, recorded now, are forgotten")


def test_scheduled_runs_come_by_themselves(office: Office) -> None:
    office.dag(CHAIN.replace('DAG("chain")', 'DAG("chain", schedule="@daily")'))
    office.start()
    office.await_run("chain", "success")
    (run,) = office.parts.runs("chain")
    assert run.kind == RunKind.SCHEDULED
    assert utc_now() - run.interval_end < timedelta(days=1)


def test_wait_run_answers_when_the_run_is_over(office: Office) -> None:
    office.start()
    office.dag(CHAIN)
    run = office.trigger("chain")
    assert office.ask(verb="wait_run", dag_id="chain", run_id=run.run_id) == {}
    assert office.parts.runs("chain")[0].state == "success"
    assert office.ask(verb="wait_run", dag_id="chain", run_id=run.run_id) == {}
    assert office.ask(verb="wait_run", dag_id="chain", run_id="none") == {}


def test_what_a_command_wrote_is_taken_up_when_it_says_so(office: Office) -> None:
    office.start()
    office.dag(CHAIN)
    office.ask(verb="sync")
    version = office.version("chain")
    office.parts.trigger(version, utc_now())
    office.ask(verb="wake")
    office.await_run("chain", "success")


def test_an_unknown_verb_is_refused(office: Office) -> None:
    office.start()
    with pytest.raises(Refused, match="no verb 'fly'"):
        office.ask(verb="fly")


def test_a_failed_task_is_tried_again(office: Office, tmp_path: Path) -> None:
    office.start()
    office.dag(f"""
        import pathlib
        from flux import DAG
        from flux.operators import PythonOperator
        def fail_once():
            mark = pathlib.Path({str(tmp_path / "tried")!r})
            if not mark.exists():
                mark.touch()
                raise ValueError("not yet")
        with DAG("again"):
            PythonOperator(task_id="t", python_callable=fail_once, retries=1, retry_delay=0.1)
    """)
    office.trigger("again")
    office.await_run("again", "success")
    assert [(row.outcome, row.reason) for row in office.parts.attempts()] == [
        ("failed", "ValueError: not yet"),
        ("success", None),
    ]


def test_a_run_goes_on_from_the_stored_source_when_its_file_is_broken(office: Office) -> None:
    office.start()
    office.dag(CHAIN)
    office.ask(verb="sync")
    office.dag("1 / 0\n")
    office.trigger("chain")
    office.await_run("chain", "success")
    assert [file.path for file in office.parts.read(dags.errors)] == ["dag.py"]


def test_a_run_that_takes_too_long_fails_and_its_tasks_are_killed(office: Office) -> None:
    office.start()
    office.slow(fields="dagrun_timeout=1.0")
    office.trigger("slow")
    office.await_run("slow", "failed")
    (row,) = office.parts.attempts()
    assert row.outcome == "killed"
    assert not process.is_alive(row.pid)


def test_a_sensor_waits_without_a_slot_until_its_condition_is_true(office: Office) -> None:
    office.start()
    office.dag(f"""
        from flux import DAG
        from flux.sensors import FileSensor
        with DAG("waits"):
            FileSensor(task_id="t", filepath={str(office.go)!r}, poke_interval=0.1)
    """)
    office.trigger("waits")
    office.parts.until(lambda: office.parts.states() == {"t": "deferred"})
    office.go.touch()
    office.await_run("waits", "success")


# --- stopping ---


def stopped(office: Office) -> None:
    """Run the loop until the supervisor ends it, then close."""
    supervisor = office.supervisor
    assert supervisor is not None
    late: list[bool] = []
    timer = office.parts.loop.call_later(20, lambda: (late.append(True), office.parts.loop.stop()))
    office.parts.loop.run()
    timer.cancel()
    assert not late, "it did not end"
    supervisor.close()
    office.supervisor = None


@pytest.mark.parametrize(("on_interrupt", "states"), [("fail", {"failed"}), ("retry", {"retrying", "ready"})])
def test_on_stop_what_runs_is_recorded_then_ended(office: Office, on_interrupt: str, states: set[str]) -> None:
    supervisor = office.start()
    office.slow(fields=f"on_interrupt={on_interrupt!r}")
    office.trigger("slow")
    office.parts.until(office.began.exists, seconds=20)
    supervisor.order({"op": "stop", "grace": 1, "reason": "interrupted by ada"})
    stopped(office)
    (row,) = office.parts.attempts()
    assert (row.outcome, row.reason) == ("interrupted", "interrupted by ada")
    assert office.parts.states()["t"] in states
    assert office.launcher is not None
    assert office.launcher.wait(20) == 0
    assert not process.is_alive(row.pid)
    assert [job.state for job in office.parts.read(jobs.every)] == ["stopped"]
    assert not (office.parts.config.run_folder / "endpoint").exists()


def test_a_drain_waits_for_what_runs_and_starts_nothing(office: Office) -> None:
    supervisor = office.start()
    office.slow()
    office.trigger("slow")
    office.parts.until(office.began.exists, seconds=20)
    supervisor.order({"op": "drain", "reason": "drained"})
    office.trigger("slow")
    office.go.touch()
    stopped(office)
    assert [run.state for run in office.parts.runs("slow")] == ["success", "running"]
    assert len(office.parts.attempts()) == 1


def test_an_idle_system_stops_at_once(office: Office) -> None:
    supervisor = office.start()
    supervisor.order({"op": "stop", "grace": 4, "reason": "interrupted"})
    stopped(office)
    assert [job.state for job in office.parts.read(jobs.every)] == ["stopped"]


# --- deaths ---


def test_the_next_supervisor_adopts_what_runs(office: Office) -> None:
    office.start()
    office.slow()
    office.trigger("slow")
    office.parts.until(office.began.exists, seconds=20)
    office.abandon()
    office.start()
    office.go.touch()
    office.await_run("slow", "success")
    assert [row.outcome for row in office.parts.attempts()] == ["success"]
    assert sorted(job.state for job in office.parts.read(jobs.every)) == ["lost", "running"]


def test_the_next_supervisor_hears_of_what_ended_while_there_was_none(office: Office) -> None:
    office.start()
    office.slow()
    office.trigger("slow")
    office.parts.until(office.began.exists, seconds=20)
    office.abandon()
    office.go.touch()
    results = office.parts.config.run_folder / "results"
    office.parts.until(lambda: list(results.glob("*.json")), seconds=20, what="the result file")
    office.start()
    office.await_run("slow", "success")
    assert len(office.parts.attempts()) == 1
    office.parts.until(lambda: not list(results.iterdir()))


def test_attempts_of_a_launcher_that_died_are_lost_and_tried_again_by_the_next(
    office: Office, capfd: pytest.CaptureFixture[str]
) -> None:
    office.start()
    office.slow(retries=1)
    office.trigger("slow")
    office.parts.until(office.began.exists, seconds=20)
    office.end_launcher()
    office.go.touch()
    office.start_launcher()
    office.await_run("slow", "success")
    assert [row.outcome for row in office.parts.attempts()] == ["lost", "success"]
    assert "the launcher died" in capfd.readouterr().err


def test_a_result_that_was_written_before_both_died_counts(office: Office) -> None:
    """Its task is done; it must not run again."""
    office.start()
    office.slow()
    office.trigger("slow")
    office.parts.until(office.began.exists, seconds=20)
    office.abandon()
    office.go.touch()
    results = office.parts.config.run_folder / "results"
    office.parts.until(lambda: list(results.glob("*.json")), seconds=20, what="the result file")
    office.end_launcher()
    office.start()
    office.await_run("slow", "success")
    assert [row.outcome for row in office.parts.attempts()] == ["success"]


def test_retries_that_are_due_later_are_taken_over(office: Office) -> None:
    office.start()
    office.dag(CHAIN)
    office.ask(verb="sync")
    version = office.version("chain")
    office.abandon()
    office.parts.trigger(version, utc_now())
    wake_at = utc_now() + timedelta(seconds=0.3)
    office.parts.write(lambda connection: connection.execute(
        sa.update(task_instance).where(task_instance.c.task_id == "first").values(state="retrying", wake_at=wake_at)
    ))  # fmt: skip
    office.start()
    office.await_run("chain", "success")


# --- health ---


def test_a_database_thread_that_hangs_is_not_well(tmp_path: Path) -> None:
    office = Office(tmp_path / "home", stuck_seconds="1")
    supervisor = office.start()
    assert supervisor.is_well
    held = sqlite3.connect(str(office.parts.config.database_file))
    held.execute("BEGIN IMMEDIATE")
    supervisor._writer.look()
    office.parts.until(lambda: not supervisor.is_well, seconds=20)
    held.rollback()
    held.close()
    office.parts.until(lambda: supervisor.is_well, seconds=20)
    assert office.ask(verb="status")["pid"] == os.getpid()
    office.parts.close()


def test_a_clock_that_was_set_is_noticed(office: Office, capfd: pytest.CaptureFixture[str]) -> None:
    """At the next tick; at once where the kernel tells."""
    supervisor = office.start()
    office.ask(verb="sync")

    def is_said() -> bool:
        return "the clock was set by 7200 s" in capfd.readouterr().err

    supervisor._wall_offset -= 7200
    office.parts.until(is_said, seconds=20)
    supervisor._wall_offset -= 7200
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME))
    except PermissionError:
        pytest.skip("this user may not set the clock")
    office.parts.until(is_said, seconds=1.5)  # less than until the next tick


def waiting(office: Office) -> int:
    """Announcements in the outbox."""
    return office.parts.read(lambda connection: outbox.waiting(connection, announcing.KINDS))


def test_while_nobody_listens_what_was_announced_before_is_dropped(office: Office) -> None:
    office.parts.write(lambda c: outbox.add_all(c, announcing.TASK_STATE, [(1, {})], utc_now()))
    office.dag(CHAIN)
    office.start()
    assert office.said == [{"op": "end", "kind": "listener"}]
    office.parts.until(lambda: waiting(office) == 0)


def test_while_somebody_listens_all_is_announced_and_waits_for_the_listener_process(office: Office) -> None:
    verdict = Verdict("acme", None, None, ProviderState.OK, module="acme", hooks=("flux_task_state_changed",))
    office.dag(CHAIN)
    office.start(verdict)
    assert office.said == [{"op": "start", "kind": "listener"}]
    office.trigger("chain")
    office.await_run("chain", "success")
    told = office.parts.read(lambda c: outbox.due(c, announcing.KINDS, utc_now()))
    assert [(one.payload["task_id"], one.payload["state"]) for one in told] == [
        ("first", "started"), ("first", "success"), ("second", "ready"), ("second", "started"), ("second", "success"),
    ]  # fmt: skip


def test_a_database_has_one_supervisor(office: Office) -> None:
    lock = lock_database(office.parts.config)
    assert lock is not None
    script = (
        "import sys; from pathlib import Path; from flux import config; from flux.running import supervisor_process\n"
        "supervisor_process.lock_database(config.load({}, home=Path(sys.argv[1])))"
    )
    other = subprocess.run(
        [sys.executable, "-c", script, str(office.parts.config.home)], capture_output=True, text=True, check=False
    )
    assert other.returncode != 0
    assert f"has a supervisor already (pid {os.getpid()})" in other.stderr
    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        lock_database(office.parts.config)
    os.close(lock)
    again = lock_database(office.parts.config)
    assert again is not None
    os.close(again)

"""The hypervisor as a real process, over small stand-ins for launcher, supervisor and UI."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from flux import process
from flux.running import home
from flux.running.components import Component
from flux.running.hypervisor import Patience
from tests.waiting import until

pytestmark = pytest.mark.slow

#: A component: beats every 20 ms, records its starts, its signals and its orders in the folder it is given, and says
#: once what the test has put into its file there.
STAND_IN = """
import faulthandler, json, os, select, signal, socket, subprocess, sys, time
folder, kind, *modes = sys.argv[1].split(",")
fds = dict(zip(sys.argv[2::2], map(int, sys.argv[3::2])))
def record(what):
    with open(os.path.join(folder, kind + ".events"), "a") as file:
        file.write(json.dumps({"what": what, "pid": os.getpid(), "at": time.monotonic()}) + "\\n")
def ended(signum, frame):
    record(signal.Signals(signum).name)
    if "stubborn" not in modes:
        os._exit(0)
def times(what):
    with open(os.path.join(folder, kind + ".events")) as file:
        return file.read().count('"' + what + '"')
signal.signal(signal.SIGTERM, ended)
record("start")
print("I am the", kind, flush=True)
if "dies" in modes:
    sys.exit("I die at once")
beats, control = fds["--hypervisor-fd"], fds.get("--control-fd")
if "refuses" in modes:
    os.write(beats, b'{"op":"refused","message":"the database is newer"}\\n')
    sys.exit(1)
if "child" in modes:
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    record("child %d" % child.pid)
os.write(beats, b'...\\nno message\\n{"op":"ready"}\\n' if "babbles" in modes else b'.{"op":"ready"}\\n')
buffer = b""
while True:
    if "hangs" in modes and times("start") == 1:
        time.sleep(1000)
    try:
        os.write(beats, b"." if "bare" in modes else b".\\n")
    except OSError:
        record("orphan")
        if "survives" not in modes:
            os._exit(0)
        beats = os.open("/dev/null", os.O_WRONLY)
    words = os.path.join(folder, kind + ".words")
    if os.path.exists(words):
        with open(words, "rb") as file:
            os.write(beats, file.read())
        os.unlink(words)
    if "quits" in modes and times("start") < 3:
        os._exit(0)
    if control is None:
        time.sleep(0.02)
    elif select.select([control], [], [], 0.02)[0]:
        data = os.read(control, 4096)
        if not data:
            control = None
            continue
        *lines, buffer = (buffer + data).split(b"\\n")
        for line in lines:
            order = json.loads(line)
            record(order)
            if "stubborn" in modes or ("slow" in modes and order["op"] == "drain"):
                continue
            if "records" in modes:
                time.sleep(0.3)
                record("recorded")
            os._exit(0)
"""

#: Runs the hypervisor over the components and the patience of its argument.
PROGRAM = """
import json, sys
from pathlib import Path
from flux import linux
from flux.running.components import Component
from flux.running.hypervisor import Hypervisor, Patience, say
given = json.loads(sys.argv[1])
linux.become_subreaper()
components = [Component(**{**row, "argv": tuple(row["argv"])}) for row in given["components"]]
patience = Patience(**given["patience"])
sys.exit(Hypervisor(Path(given["folder"]), components, patience=patience, drain=given["drain"], say=say).run())
"""

#: Quick enough for tests, slow enough for a busy machine.
QUICK = Patience(
    stuck=1.0, first_beat=8, abort=0.3, shortest_pause=0.02, longest_pause=0.2, healthy=0.2, deaths=4,
    grace=0.1, end=3, last_word=1.5, look=0.05, overslept=0.5,
)  # fmt: skip


class System:
    """A hypervisor under test, and what its components have recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "hypervisor.output"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, components: dict[str, str], *, drain: float = 0, **patience: float) -> subprocess.Popen[bytes]:
        """Start it over components {kind: modes}.

        The supervisor is controlled, the listener on demand; UI and listener are not vital.
        """
        rows = [
            Component(
                kind,
                (sys.executable, "-S", "-X", "faulthandler", "-c", STAND_IN, f"{self.folder},{kind},{modes}"),
                {"PATH": os.environ["PATH"]},
                vital=kind not in ("ui", "listener"),
                controlled=kind == "supervisor",
                on_demand=kind == "listener",
            )
            for kind, modes in components.items()
        ]
        given = {
            "folder": str(self.folder),
            "components": [asdict(row) for row in rows],
            "patience": {**asdict(QUICK), **patience},
            "drain": drain,
        }
        with self.output.open("ab") as output:
            command = [sys.executable, "-c", PROGRAM, json.dumps(given)]
            hypervisor = subprocess.Popen(command, stdout=output, stderr=output)
        self.processes.append(hypervisor)
        return hypervisor

    def say(self, kind: str, /, **message: Any) -> None:
        """Have a component send the hypervisor a message, and wait until it has."""
        part, words = self.folder / "part", self.folder / f"{kind}.words"
        part.write_text(json.dumps(message) + "\n")
        part.rename(words)
        until(lambda: not words.exists(), what=f"{message} to be said")

    def events(self, kind: str) -> list[dict[str, Any]]:
        file = self.folder / f"{kind}.events"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def recorded(self, kind: str) -> list[Any]:
        """What the component did after its start."""
        return [event["what"] for event in self.events(kind) if event["what"] != "start"]

    def pids(self, kind: str) -> list[int]:
        """The pids of all lives of a component, oldest first."""
        return [event["pid"] for event in self.events(kind) if event["what"] == "start"]

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def is_up(self) -> bool:
        """Every component of the list has said that it works."""
        rows = home.running(self.folder)
        return len(rows) > 1 and all(row.state == "running" for row in rows) and "Flux is up" in self.said()

    def wait_until_up(self) -> None:
        until(self.is_up, what="the system to be up")

    def all_gone(self) -> bool:
        """No process has the folder on its command line any more."""
        return not [pid for pid in self._pids_ever() if process.is_alive(pid)]

    def clean_up(self) -> None:
        for hypervisor in self.processes:
            for pid in process.descendants(hypervisor.pid):
                process.send(pid, signal.SIGKILL)
            hypervisor.kill()
            hypervisor.wait()
        for pid in self._pids_ever():
            process.send(pid, signal.SIGKILL)

    def _pids_ever(self) -> set[int]:
        kinds = [file.stem for file in self.folder.glob("*.events")]
        children = {int(str(what).split()[1]) for kind in kinds for what in self.recorded(kind) if "child" in str(what)}
        return {pid for kind in kinds for pid in self.pids(kind)} | children


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    yield system
    system.clean_up()


BOTH = {"launcher": "", "supervisor": ""}


def test_it_says_once_that_flux_is_up_when_the_supervisor_is_ready(system: System) -> None:
    hypervisor = system.start(BOTH)
    system.wait_until_up()
    assert system.said().count("Flux is up") == 1
    assert str(hypervisor.pid) in system.said()


def test_the_list_of_components_names_every_living_process(system: System) -> None:
    hypervisor = system.start({**BOTH, "ui": ""})
    system.wait_until_up()
    listed = {row.kind: row.pid for row in home.running(system.folder)}
    expected = {kind: system.pids(kind)[-1] for kind in ("launcher", "supervisor", "ui")}
    assert listed == {"hypervisor": hypervisor.pid, **expected}


def test_components_lead_their_own_process_groups(system: System) -> None:
    hypervisor = system.start(BOTH)
    system.wait_until_up()
    groups = {os.getpgid(pid) for kind in BOTH for pid in system.pids(kind)}
    assert len(groups) == 2
    assert os.getpgid(hypervisor.pid) not in groups


def test_their_output_goes_to_their_logs(system: System) -> None:
    system.start(BOTH)
    system.wait_until_up()
    assert (system.folder / "launcher.log").read_text() == "I am the launcher\n"
    assert (system.folder / "launcher.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["launcher", "supervisor", "ui"])
def test_a_killed_component_is_started_again_and_the_others_stay(system: System, kind: str) -> None:
    system.start({**BOTH, "ui": ""})
    system.wait_until_up()
    os.kill(system.pids(kind)[0], signal.SIGKILL)
    until(lambda: len(system.pids(kind)) == 2 and system.is_up(), what="a second life")
    assert [len(system.pids(other)) for other in ("launcher", "supervisor", "ui")].count(1) == 2
    assert "killed by SIGKILL" in system.said()


def test_a_silent_component_leaves_its_stacks_in_its_log_and_is_replaced(system: System) -> None:
    system.start({"launcher": "hangs", "supervisor": ""})
    until(lambda: len(system.pids("launcher")) == 2, what="a second life")
    system.wait_until_up()
    log = (system.folder / "launcher.log").read_text()
    assert "Fatal Python error: Aborted" in log
    assert 'File "<string>"' in log
    assert "no sign of life" in system.said()
    assert "killed by SIGABRT" in system.said()


def test_a_frozen_component_that_ignores_the_abort_is_killed(system: System) -> None:
    system.start(BOTH)
    system.wait_until_up()
    os.kill(system.pids("supervisor")[0], signal.SIGSTOP)
    until(lambda: len(system.pids("supervisor")) == 2, what="a second life")
    assert "killed by SIGKILL" in system.said()


def test_silence_while_the_hypervisor_slept_itself_is_forgiven(system: System) -> None:
    hypervisor = system.start(BOTH)
    system.wait_until_up()
    everybody = [hypervisor.pid, *system.pids("launcher"), *system.pids("supervisor")]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    stopped_at = time.monotonic()
    until(lambda: time.monotonic() > stopped_at + 2 * QUICK.stuck)
    os.kill(hypervisor.pid, signal.SIGCONT)  # it looks before the others can beat
    for pid in everybody[1:]:
        os.kill(pid, signal.SIGCONT)
    woken_at = time.monotonic()
    until(lambda: time.monotonic() > woken_at + QUICK.stuck / 2)
    assert "no sign of life" not in system.said()
    assert len(system.pids("launcher")) == len(system.pids("supervisor")) == 1


def test_bare_bytes_are_beats_and_what_is_no_message_is_ignored(system: System) -> None:
    system.start({"launcher": "bare", "supervisor": "babbles"})
    system.wait_until_up()
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 1.5 * QUICK.stuck)
    assert len(system.pids("launcher")) == len(system.pids("supervisor")) == 1
    assert "no message" in system.said()


def test_a_component_that_always_dies_early_is_given_up_ever_more_slowly_and_loudly(system: System) -> None:
    hypervisor = system.start({"launcher": "", "supervisor": "dies"}, shortest_pause=0.05, longest_pause=10)
    assert hypervisor.wait(20) == 1
    starts = [event["at"] for event in system.events("supervisor")]
    pauses = [after - before for before, after in itertools.pairwise(starts)]
    assert len(starts) == QUICK.deaths
    assert all(pause > least for pause, least in zip(pauses, (0.05, 0.1, 0.2), strict=True))
    assert "I die at once" in system.said(), "the end of its log is shown"
    assert "given up" in system.said()
    assert system.all_gone()


def test_without_its_ui_the_system_goes_on(system: System) -> None:
    hypervisor = system.start({**BOTH, "ui": "dies"})
    until(lambda: "given up" in system.said(), what="the UI to be given up")
    assert len(system.pids("ui")) == QUICK.deaths
    assert hypervisor.poll() is None
    assert len(system.pids("supervisor")) == 1


def test_a_program_that_does_not_exist_is_given_up(system: System, tmp_path: Path) -> None:
    given = Component("launcher", (str(tmp_path / "missing"),), {})
    argument = json.dumps(
        {"folder": str(tmp_path), "components": [asdict(given)], "patience": asdict(QUICK), "drain": 0}
    )
    done = subprocess.run([sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "could not be started" in done.stderr


def test_ctrl_c_tells_the_supervisor_first_and_then_ends_the_launcher(system: System) -> None:
    hypervisor = system.start({"launcher": "", "supervisor": "records", "ui": ""})
    system.wait_until_up()
    hypervisor.send_signal(signal.SIGINT)
    assert hypervisor.wait(10) == 130
    order = {"op": "stop", "grace": QUICK.grace, "reason": "interrupted (Ctrl-C)"}
    assert system.recorded("supervisor") == [order, "recorded"]
    assert system.recorded("launcher") == system.recorded("ui") == ["SIGTERM"]
    assert system.events("launcher")[-1]["at"] > system.events("supervisor")[-1]["at"]
    assert system.all_gone()
    assert not (system.folder / "components.json").exists()


def test_what_does_not_end_is_killed_at_the_deadline_with_all_that_it_started(system: System) -> None:
    hypervisor = system.start({"launcher": "child,stubborn", "supervisor": "stubborn"}, end=0.5)
    system.wait_until_up()
    began = time.monotonic()
    hypervisor.send_signal(signal.SIGINT)
    assert hypervisor.wait(10) == 130
    assert time.monotonic() - began < 0.5 + QUICK.last_word + 1
    assert system.all_gone()


def test_orphans_of_a_killed_launcher_are_gone_when_the_system_has_ended(system: System) -> None:
    hypervisor = system.start({"launcher": "child", "supervisor": ""})
    system.wait_until_up()
    os.kill(system.pids("launcher")[0], signal.SIGKILL)
    until(lambda: len(system.pids("launcher")) == 2, what="a second launcher")
    hypervisor.send_signal(signal.SIGTERM)
    assert hypervisor.wait(10) == 0
    assert system.all_gone()


def test_a_second_ctrl_c_kills_at_once_and_leaves_the_supervisor_its_last_word(system: System) -> None:
    hypervisor = system.start({"launcher": "child,stubborn", "supervisor": "records"}, end=30)
    system.wait_until_up()
    began = time.monotonic()
    hypervisor.send_signal(signal.SIGINT)
    until(lambda: system.recorded("supervisor"), what="the order to stop")
    hypervisor.send_signal(signal.SIGINT)
    assert hypervisor.wait(10) == 130
    assert time.monotonic() - began < 5
    assert system.recorded("supervisor")[-1] == "recorded"
    assert system.all_gone()


def test_a_second_ctrl_c_does_not_wait_for_a_supervisor_that_hangs(system: System) -> None:
    hypervisor = system.start({"launcher": "stubborn", "supervisor": "stubborn"}, end=30, last_word=0.2)
    system.wait_until_up()
    hypervisor.send_signal(signal.SIGINT)
    until(lambda: system.recorded("supervisor"), what="the order to stop")
    hypervisor.send_signal(signal.SIGINT)
    assert hypervisor.wait(10) == 130
    assert system.all_gone()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_service_manager_ends_it_with_exit_code_0(system: System, signum: signal.Signals) -> None:
    hypervisor = system.start(BOTH)
    system.wait_until_up()
    hypervisor.send_signal(signum)
    assert hypervisor.wait(10) == 0
    assert system.recorded("supervisor")[0]["reason"] == f"stopped ({signum.name})"
    assert system.all_gone()


def test_draining_ends_as_soon_as_the_supervisor_has_nothing_left(system: System) -> None:
    hypervisor = system.start(BOTH, drain=60)
    system.wait_until_up()
    hypervisor.send_signal(signal.SIGTERM)
    assert hypervisor.wait(10) == 0
    assert system.recorded("supervisor") == [{"op": "drain", "reason": "stopped (SIGTERM)"}]
    assert system.all_gone()


def test_draining_ends_at_its_limit(system: System) -> None:
    hypervisor = system.start({"launcher": "", "supervisor": "slow"}, drain=0.3)
    system.wait_until_up()
    hypervisor.send_signal(signal.SIGTERM)
    assert hypervisor.wait(QUICK.end - 0.5) == 0, "the end of the supervisor ends it, not the last deadline"
    assert [order["op"] for order in system.recorded("supervisor")] == ["drain", "stop"]


def test_a_supervisor_that_dies_while_draining_is_restarted_and_drains_on(system: System) -> None:
    hypervisor = system.start({"launcher": "", "supervisor": "slow"}, drain=60)
    system.wait_until_up()
    hypervisor.send_signal(signal.SIGTERM)
    until(lambda: len(system.recorded("supervisor")) == 1, what="the order to drain")
    os.kill(system.pids("supervisor")[0], signal.SIGKILL)
    until(lambda: len(system.recorded("supervisor")) == 2, what="the order to drain, to the second one")
    hypervisor.send_signal(signal.SIGINT)
    assert hypervisor.wait(10) == 130
    assert [order["op"] for order in system.recorded("supervisor")] == ["drain", "drain", "stop"]


def test_ctrl_c_while_a_dead_supervisor_waits_for_its_restart_ends_the_rest(system: System) -> None:
    hypervisor = system.start(BOTH, shortest_pause=60, longest_pause=60)
    system.wait_until_up()
    os.kill(system.pids("supervisor")[0], signal.SIGKILL)
    until(lambda: "started again" in system.said(), what="the death to be noticed")
    hypervisor.send_signal(signal.SIGINT)
    assert hypervisor.wait(10) == 130
    assert system.recorded("launcher") == ["SIGTERM"]
    assert system.all_gone()


WITH_LISTENER = {**BOTH, "listener": ""}


def test_a_component_on_demand_runs_only_while_it_is_wanted(system: System) -> None:
    system.start(WITH_LISTENER)
    system.wait_until_up()
    assert system.pids("listener") == []
    for _ in range(2):  # of which the second changes nothing, as from a supervisor that was started anew
        system.say("supervisor", op="start", kind="listener")
        until(lambda: system.is_up() and len(home.running(system.folder)) == 4, what="the listener to run")
    [first] = system.pids("listener")
    system.say("supervisor", op="end", kind="listener")
    until(lambda: len(home.running(system.folder)) == 3, what="the listener to be gone")
    assert system.recorded("listener") == ["SIGTERM"]
    assert "is started again" not in system.said()
    system.say("supervisor", op="start", kind="listener")
    until(lambda: len(system.pids("listener")) == 2, what="another listener")
    assert first != system.pids("listener")[1]


def test_one_that_is_wanted_again_before_it_has_ended_is_started_anew_and_not_taken_for_dead(system: System) -> None:
    system.start({**BOTH, "listener": "stubborn"}, last_word=0.5)
    system.wait_until_up()
    system.say("supervisor", op="start", kind="listener")
    until(lambda: system.is_up() and len(home.running(system.folder)) == 4, what="the listener to run")
    system.say("supervisor", op="end", kind="listener")
    until(lambda: system.recorded("listener") == ["SIGTERM"], what="the order to end")
    system.say("supervisor", op="start", kind="listener")
    until(lambda: len(system.pids("listener")) == 2, what="another listener")
    assert "is started again" not in system.said()


def test_only_the_supervisor_says_what_is_wanted_and_only_of_what_is_on_demand(system: System) -> None:
    system.start(WITH_LISTENER)
    system.wait_until_up()
    system.say("launcher", op="start", kind="listener")
    system.say("supervisor", op="end", kind="launcher")
    system.say("supervisor", op="start", kind="nothing")
    system.say("supervisor", op="start", kind="listener")
    until(lambda: system.is_up() and len(home.running(system.folder)) == 4, what="the listener to run")
    assert (len(system.pids("launcher")), len(system.pids("listener"))) == (1, 1)


def test_one_on_demand_that_ends_well_is_started_again_at_once_and_without_words(system: System) -> None:
    system.start({**BOTH, "listener": "quits"})
    system.wait_until_up()
    system.say("supervisor", op="start", kind="listener")
    until(lambda: len(system.pids("listener")) == 3, what="the third life")
    assert "is started again" not in system.said()


def test_one_on_demand_that_dies_is_never_given_up(system: System) -> None:
    system.start({**BOTH, "listener": "dies"}, longest_pause=0.02)
    system.wait_until_up()
    system.say("supervisor", op="start", kind="listener")
    until(lambda: len(system.pids("listener")) > 2 * QUICK.deaths, what="many deaths")
    assert "It is given up" not in system.said()


def test_one_on_demand_that_ignores_its_end_delays_the_system_by_no_more_than_its_last_word(system: System) -> None:
    hypervisor = system.start({**BOTH, "listener": "stubborn"}, last_word=0.2, end=20)
    system.wait_until_up()
    system.say("supervisor", op="start", kind="listener")
    until(lambda: system.is_up() and len(home.running(system.folder)) == 4, what="the listener to run")
    began = time.monotonic()
    hypervisor.send_signal(signal.SIGINT)
    assert hypervisor.wait(10) == 130
    assert time.monotonic() - began < 10
    assert "SIGTERM" in system.recorded("listener")
    assert system.all_gone()


def test_a_refusal_ends_the_system_with_its_message(system: System) -> None:
    hypervisor = system.start({"launcher": "", "supervisor": "refuses"})
    assert hypervisor.wait(10) == 1
    assert "supervisor: the database is newer" in system.said()
    assert len(system.pids("supervisor")) == 1
    assert system.all_gone()


def test_components_notice_that_the_hypervisor_is_gone(system: System) -> None:
    hypervisor = system.start(BOTH)
    system.wait_until_up()
    hypervisor.kill()
    hypervisor.wait()
    until(system.all_gone, what="the components to end by themselves")
    assert system.recorded("launcher") == ["orphan"]


def test_the_next_hypervisor_ends_what_a_killed_one_left_behind(system: System) -> None:
    first = system.start({"launcher": "survives", "supervisor": "survives,stubborn"})
    system.wait_until_up()
    left = system.pids("launcher") + system.pids("supervisor")
    first.kill()
    first.wait()
    assert all(process.is_alive(pid) for pid in left)
    system.start(BOTH, end=0.5)
    until(lambda: len(system.pids("supervisor")) == 2, what="a second system")
    assert not any(process.is_alive(pid) for pid in left)
    assert "has been ended" in system.said()
    assert "SIGTERM" in system.recorded("launcher")


@pytest.fixture
def environ(tmp_path: Path) -> Callable[[], dict[str, str]]:
    return lambda: {**os.environ, "FLUX_HOME": str(tmp_path)}


def test_a_second_system_on_one_home_is_refused_with_the_pid_of_the_first(
    tmp_path: Path, environ: Callable[[], dict[str, str]]
) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    held = home.lock(run_folder)
    command = [sys.executable, "-m", "flux.running.hypervisor", "--no-ui"]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=20)
    os.close(held)
    assert done.returncode == 1
    assert f"(pid {os.getpid()})" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_loads_no_third_party_module(environ: Callable[[], dict[str, str]]) -> None:
    """What restarts the others must work when any of their libraries does not."""
    program = "import sys, flux.running.hypervisor; print(*sorted(m for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], env=environ(), capture_output=True, text=True, timeout=20)
    roots = {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, timeout=20
    )
    assert roots - {name.partition(".")[0] for name in before.stdout.split()} <= {"flux"}

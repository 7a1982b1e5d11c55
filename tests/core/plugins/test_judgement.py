"""Judging in a child process: every way to be bad has its state and reason, and the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from flux import process
from flux.plugins import judgement, scan
from flux.plugins.judgement import Candidate, judge, judging_environ
from flux.plugins.scan import Found
from flux.plugins.verdict import ProviderState, Verdict
from tests.bad_providers import GOOD, JUDGED, TOLERATED
from tests.installed import HEAD, install, manifest, operators
from tests.waiting import until


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, first on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def judged(limit_seconds: float = 10.0, **options: object) -> dict[str, Verdict]:
    """Judge what is installed; {name: verdict}. The limit is for a busy machine."""
    candidates = [Candidate(found) for found in scan.entry_points("flux.providers").found]
    verdicts = judge(candidates, limit_seconds=limit_seconds, **options)  # type: ignore[arg-type]
    assert [verdict.name for verdict in verdicts] == [candidate.found.name for candidate in candidates]
    return {verdict.name: verdict for verdict in verdicts}


@pytest.mark.slow
def test_a_good_provider_is_ok_with_everything_it_offers(site: Path) -> None:
    hooks = {
        "operators": '[Ref("MoveOperator", "acme.transfers:MoveOperator", summary="Move.", source="a", target="b")]',
        "sensors": '(Ref(name, "acme.sensors:S") for name in ("S1Sensor", "S2Sensor"))',
        "executors": '[Ref("far", "acme.executors:Far")]',
        "macros": 'iter([Ref("latest", "acme.macros:latest")])',
        "connection_types": '[ConnectionType("acme", client=Ref("C", "acme.client:C"), fields=("host", Field("f")))]',
    }
    install(site, "acme", manifest(**hooks))
    acme = judged()["acme"]
    assert (acme.state, acme.reason, acme.notes) == (ProviderState.OK, None, ())
    assert (acme.distribution, acme.version, acme.module) == (
        "flux-provider-acme",
        "0.3",
        "flux_provider_acme.provider",
    )
    assert acme.operators[0].summary == "Move."
    assert acme.operators[0].target == "b"
    assert [ref.name for ref in acme.sensors] == ["S1Sensor", "S2Sensor"]
    assert acme.executors[0].path == "acme.executors:Far"
    assert acme.macros[0].name == "latest"
    assert [getattr(field, "name", field) for field in acme.connection_types[0].fields] == ["host", "f"]
    assert acme.hooks == tuple(sorted(f"flux_{name}" for name in hooks))


@pytest.mark.slow
@pytest.mark.parametrize("case", JUDGED)
def test_a_bad_provider_has_its_state_and_reason_and_the_next_is_judged(case: str, site: Path) -> None:
    text, says, state = JUDGED[case]
    install(site, "bad", text)
    install(site, "good", GOOD)
    verdicts = judged(limit_seconds=0.5 if case.endswith("forever") else 10.0)
    assert verdicts["bad"].state == state, verdicts["bad"]
    assert str(says) in str(verdicts["bad"].reason)
    assert verdicts["bad"].operators == ()
    assert verdicts["good"].is_ok, verdicts["good"]


@pytest.mark.slow
@pytest.mark.parametrize("case", TOLERATED)
def test_what_can_be_used_is_ok_with_a_note_and_spoils_nothing_for_the_next(case: str, site: Path) -> None:
    (site / "heavy_library.py").write_text("")
    text, says, _ = TOLERATED[case]
    install(site, "bad", text)
    install(site, "good", GOOD)
    verdicts = judged()
    bad = verdicts["bad"]
    assert bad.is_ok, bad
    assert verdicts["good"].is_ok, verdicts["good"]
    assert verdicts["good"].notes == ()
    assert (says or "") in " ".join(bad.notes)
    assert bool(bad.notes) == (says is not None)


@pytest.mark.slow
def test_all_bad_providers_together_cost_the_good_ones_nothing(site: Path) -> None:
    for number, case in enumerate(JUDGED):
        if not case.endswith("forever"):
            install(site, f"bad{number:02}", JUDGED[case].text, distribution=f"bad-{number:02}")
            install(site, f"good{number:02}", GOOD)
    verdicts = judged()
    assert {name[:3] for name, verdict in verdicts.items() if not verdict.is_ok} == {"bad"}
    assert {name[:3] for name, verdict in verdicts.items() if verdict.is_ok} == {"goo"}


@pytest.mark.slow
def test_a_manifest_that_never_returns_is_named_and_its_process_is_gone(site: Path) -> None:
    """It and what it started: the group is killed."""
    install(site, "first", GOOD)
    install(site, "loops", "import subprocess\nsubprocess.Popen(['sleep', '61.125'])\nwhile True: pass\n")
    install(site, "next", GOOD)
    began = time.monotonic()
    verdicts = judged(limit_seconds=1.0)
    assert time.monotonic() - began < 8
    assert verdicts["loops"].reason == "Its manifest took longer than 1 s."
    assert verdicts["first"].is_ok
    assert verdicts["next"].is_ok
    until(lambda: not running("sleep", "61.125"))


@pytest.mark.slow
def test_a_manifest_that_was_slow_once_gets_a_second_chance(site: Path, tmp_path: Path) -> None:
    """A cold disk or a crowded machine at the first import must not switch a good provider off."""
    been = tmp_path / "been"
    slow_once = f"import pathlib, time\nbeen = pathlib.Path({str(been)!r})\n"
    slow_once += "if not been.exists():\n    been.touch()\n    time.sleep(60)\n"
    install(site, "first", GOOD)
    install(site, "slow", slow_once + GOOD)
    install(site, "z_next", GOOD)
    verdicts = judged(limit_seconds=1.0)
    assert been.exists()
    assert {name: verdict.state for name, verdict in verdicts.items()} == {"first": "ok", "slow": "ok", "z_next": "ok"}


def running(*argv: str) -> list[int]:
    """Pids of the processes with these arguments."""
    wanted = b"\0".join(map(str.encode, argv)) + b"\0"
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes() == wanted:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_what_it_prints_is_kept_away_and_noted(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    install(site, "prints", "import os\nprint('hello')\nos.write(2, b'and goodbye\\n')\n" + GOOD)
    install(site, "quiet", GOOD)
    verdicts = judged()
    assert verdicts["prints"].is_ok
    assert "prints" in verdicts["prints"].notes[0]
    assert verdicts["quiet"].notes == ()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_last_line_of_one_that_dies_is_in_the_reason_however_much_it_prints(site: Path) -> None:
    text = "import os\nfor _ in range(3000): print('x' * 99)\nprint('no license', flush=True)\nos._exit(3)\n"
    install(site, "talks", text)
    reason = str(judged()["talks"].reason)
    assert "exit status 3" in reason
    assert reason.endswith("Its last output: 'no license'.")


@pytest.mark.slow
def test_a_manifest_that_reads_its_input_gets_the_end_of_file(site: Path) -> None:
    install(site, "asks", "import sys\nassert sys.stdin.read() == ''\n" + GOOD)
    assert judged()["asks"].is_ok


@pytest.mark.slow
def test_a_manifest_that_forks_is_judged_once(site: Path) -> None:
    install(site, "forks", "import os\nos.fork()\n" + GOOD)
    install(site, "good", GOOD)
    assert [verdict.is_ok for verdict in judged().values()] == [True, True]


@pytest.mark.slow
def test_a_short_thread_is_allowed(site: Path) -> None:
    install(site, "brief", "import threading\nthreading.Thread(target=int).start()\n" + GOOD)
    assert judged()["brief"].is_ok


@pytest.mark.slow
def test_a_heavy_import_is_noted_also_when_another_provider_brought_it_first(site: Path) -> None:
    (site / "heavy_library").mkdir()
    (site / "heavy_library" / "__init__.py").write_text("class Frame: ...\n")
    install(site, "a", "import heavy_library\n" + GOOD)
    install(site, "b", "from heavy_library import Frame\n" + GOOD)
    install(site, "c", "import json, decimal\nfrom flux import DAG, BaseOperator\n" + GOOD)
    verdicts = judged()
    assert [verdicts[name].notes for name in "ab"] == [
        ("Its manifest imports heavy_library: import what is heavy where it is used.",)
    ] * 2
    assert verdicts["c"].notes == ()


@pytest.mark.slow
def test_what_will_not_be_called_and_names_offered_twice_are_noted(site: Path) -> None:
    install(site, "acme", operators("A", "A") + "\ndef flux_sensors(): return []\n")
    acme = judged()["acme"]
    assert acme.is_ok
    assert acme.notes == ("flux_sensors is not called: mark it with @hookimpl.", "It offers the name 'A' twice.")


@pytest.mark.slow
def test_the_judging_process_has_no_options_and_no_secrets_of_flux(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "spy", "import os\nassert [n for n in os.environ if n[:5] == 'FLUX_'] == ['FLUX_HOME']\n" + GOOD)
    monkeypatch.setenv("FLUX_HOME", "/some/home")
    for name in ("FLUX_DATABASE_URL", "FLUX_CONN_ACME", "FLUX_VAULT_TOKEN"):
        monkeypatch.setenv(name, "secret")
    assert judged()["spy"].is_ok


def test_only_what_is_fluxes_own_is_taken_out_of_the_environment() -> None:
    """But for FLUX_HOME: where hooks are called it is there too, and a manifest that looks at it would see another."""
    given: Mapping[str, str] = {"FLUX_CONN_A": "x", "PATH": "/bin", "FLUXION": "1"}
    assert judging_environ(given) == {"PATH": "/bin", "FLUXION": "1"}
    assert judging_environ({**given, "FLUX_HOME": "/h"}) == {"PATH": "/bin", "FLUXION": "1", "FLUX_HOME": "/h"}


@pytest.mark.slow
def test_modules_of_a_folder_are_judged_with_the_folder_first_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "flux_provider.py").write_text(operators("LocalOperator").replace("FLUX_API", "API"))
    found = Found("local", None, None, "flux_provider", "flux.providers")
    (verdict,) = judge([Candidate(found, str(tmp_path), needs_api=False)], limit_seconds=10)
    assert [ref.name for ref in verdict.operators] == ["LocalOperator"]


@pytest.mark.slow
def test_an_entry_point_that_names_an_object_is_broken(site: Path) -> None:
    manifest_class = (
        "class Manifest:\n"
        "    FLUX_API = '>=1.0,<2'\n"
        "    @hookimpl\n"
        "    def flux_operators(self): return [Ref('A', 'a:A')]\n"
        "manifest = Manifest()\n"
    )
    text = HEAD + manifest_class
    install(site, "acme", text, entry_points="[flux.providers]\nacme = flux_provider_acme.provider:manifest\n")
    acme = judged()["acme"]
    assert acme.state == ProviderState.BROKEN
    assert "'flux_provider_acme.provider:manifest', which is no module" in str(acme.reason)


@pytest.mark.slow
@pytest.mark.parametrize("value", ["a:b:c", "pack age.provider", "flux_provider_acme.provider:"])
def test_an_entry_point_that_names_nothing_says_what_it_has_to_be(value: str, site: Path) -> None:
    install(site, "acme", entry_points=f"[flux.providers]\nacme = {value}\n")
    acme = judged()["acme"]
    assert acme.state == ProviderState.BROKEN
    assert f"{value!r} is no 'package.module'" in str(acme.reason)


@pytest.mark.slow
@pytest.mark.parametrize("session", ["", ", start_new_session=True"])
def test_a_program_that_an_import_leaves_running_is_named_and_ended(session: str, site: Path, tmp_path: Path) -> None:
    started = tmp_path / "pid"
    text = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']{session})\n"
        f"open({str(started)!r}, 'w').write(str(child.pid))\n"
    )
    install(site, "bad", text + GOOD)
    install(site, "good", GOOD)
    verdicts = judged()
    assert "leaves a process running" in str(verdicts["bad"].reason)
    assert verdicts["good"].is_ok
    until(lambda: process.group(int(started.read_text())) is None)


@pytest.mark.slow
def test_a_program_that_has_ended_is_allowed(site: Path) -> None:
    install(site, "acme", f"import subprocess\nsubprocess.Popen(['true'])\n{GOOD}")
    assert judged()["acme"].is_ok


@pytest.mark.slow
def test_reasons_are_one_printable_line_of_some_length(site: Path) -> None:
    install(site, "escapes", "raise ValueError('a\\n\\x1b[31mred\\u202e')\n")
    install(site, "large", "raise ValueError('x' * 1_000_000)\n")
    verdicts = judged()
    assert r"ValueError: a \x1b[31mred\u202e (flux_provider_escapes" in str(verdicts["escapes"].reason)
    assert len(str(verdicts["large"].reason)) <= 1000


@pytest.mark.slow
def test_memory_of_the_machine_is_not_for_manifests(site: Path) -> None:
    install(site, "acme", f"keep = []\nwhile True: keep.append(bytearray(100 << 20))\n{GOOD}")
    assert "MemoryError" in str(judged()["acme"].reason)


def test_without_a_process_everybody_is_broken_and_nothing_is_raised(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "one")
    install(site, "two")
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert ["no process can be started" in str(verdict.reason) for verdict in judged().values()] == [True, True]


@pytest.mark.slow
def test_a_judging_process_that_does_not_begin_is_not_the_providers_fault(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "one")
    monkeypatch.setenv("PYTHONPATH", str(site))
    (site / "sitecustomize.py").write_text("import os\nos.write(2, b'bad site')\nos._exit(4)\n")
    reason = judged()["one"].reason
    assert reason == "The judging process ended its process with exit status 4. Its last output: 'bad site'."


def test_with_nobody_to_judge_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert judge([]) == []


@pytest.mark.slow
def test_judging_leaves_no_process_and_no_descriptor(site: Path) -> None:
    install(site, "exits", "import os\nos._exit(0)\n")
    install(site, "good", GOOD)
    judged()
    before = set(Path("/proc/self/fd").iterdir())
    judged()
    assert set(Path("/proc/self/fd").iterdir()) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.slow
def test_a_judge_that_is_interrupted_leaves_no_process(site: Path) -> None:
    """Ctrl-C in a command that lists providers: the child is in a group of its own and would live on."""
    install(site, "slow", "import subprocess\nsubprocess.run(['sleep', '62.125'])\n")
    code = (
        "from flux.plugins import judgement, scan\n"
        "judgement.judge([judgement.Candidate(f) for f in scan.entry_points('flux.providers').found], limit_seconds=60)"
    )
    environ = {**os.environ, "PYTHONPATH": str(site)}
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stderr=subprocess.DEVNULL) as child:
        until(lambda: running("sleep", "62.125"))
        child.send_signal(signal.SIGINT)
    until(lambda: not running("sleep", "62.125"))
    assert child.returncode != 0


@pytest.mark.slow
def test_the_judging_process_does_not_outlive_a_parent_that_is_killed(site: Path) -> None:
    install(site, "slow", f"import os\nopen({str(site / 'pid')!r}, 'w').write(str(os.getpid()))\nwhile True: ...\n")
    code = (
        "from flux.plugins import judgement, scan\n"
        "judgement.judge([judgement.Candidate(f) for f in scan.entry_points('flux.providers').found], limit_seconds=60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(site)}) as parent:
        pid = int(until(lambda: (site / "pid").exists() and (site / "pid").read_text()))
        parent.kill()
    until(lambda: not process.is_alive(pid))
    assert parent.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_the_served_versions_decide_what_is_compatible(site: Path) -> None:
    install(site, "old", GOOD.replace(">=1.0,<2", "==1.0"))
    install(site, "new", GOOD.replace(">=1.0,<2", ">=1.1"))
    states = {name: verdict.state for name, verdict in judged(served=("1.1", "1.0")).items()}
    assert states == {"old": ProviderState.OK, "new": ProviderState.OK}
    assert judged(served=judgement.SERVED)["new"].state is ProviderState.INCOMPATIBLE

"""The listener process's parts in the test's own loop, with a supervisor that the test plays."""

from __future__ import annotations

import itertools
import json
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux import wire
from flux.loop import Loop
from flux.running import home, listeners
from flux.running.home import Running
from flux.running.listener import Listener, dag_run_of, task_instance_of
from flux.running.listeners import CallMark
from flux.wire import Message, Wire

_numbers = itertools.count()

#: Writes down what it is told.
KEEPS = """
    from flux.plugins import hookimpl
    TOLD = []

    @hookimpl
    def flux_task_state_changed(task_instance, previous, state):
        TOLD.append((task_instance.task_id, previous, state))

    @hookimpl
    def flux_dag_run_state_changed(dag_run, state):
        TOLD.append((dag_run.run_id, state))

    @hookimpl
    def flux_component_started(component):
        TOLD.append(("started", component.kind))

    @hookimpl
    def flux_component_stopping(component):
        TOLD.append(("stopping", component.kind))
"""
#: Raises where `WHEN` says so.
RAISES = """
    from flux.plugins import hookimpl
    WHEN = set()
    CALLS = []

    @hookimpl
    def flux_task_state_changed(task_instance):
        CALLS.append(task_instance.task_id)
        if task_instance.task_id in WHEN or not WHEN:
            raise SystemExit("no")
"""


class Desk:
    """A run folder, a supervisor's socket, and a listener that has connected to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_folder = folder / "run"
        self.run_folder.mkdir()
        self.loop = Loop()
        self.heard: list[Message] = []
        self.wire: Wire | None = None
        self.modules: dict[str, str] = {}
        self.listener: Listener | None = None
        self._socket, path = wire.listen(self.run_folder / "supervisor.sock")
        wire.write_file(str(self.run_folder / "endpoint"), path.encode())
        self.loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        sock, _ = self._socket.accept()
        self.wire = Wire(sock, self.loop, self.heard.append, lambda: None)

    def close(self) -> None:
        self.end()
        if self.wire is not None:
            self.wire.close()
        self._socket.close()
        self.loop.close()
        for module in self.modules.values():
            sys.modules.pop(module, None)

    def provide(self, name: str, source: str, *, stamp: str = "1") -> Message:
        """Write a provider's manifest and return what the supervisor says of it."""
        module = self.modules[name] = f"listening_{next(_numbers)}"
        (self.folder / f"{module}.py").write_text(textwrap.dedent(source))
        return {"name": name, "module": module, "folder": str(self.folder), "stamp": stamp}

    def start(self, *providers: Message, system: str = "1-1") -> None:
        """Start a listener that loads these, and wait until it is ready."""
        self.end()
        self.heard.clear()
        self.listener = Listener(self.loop, self.run_folder, system)
        self.listener.start()
        self.until(lambda: {"client": "listener"} in self.heard)
        self.send({"op": "providers", "providers": list(providers)})
        self.until(lambda: {"op": "ready"} in self.heard)

    def end(self) -> None:
        """Let go of the listener, as the end of its process does."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None

    def send(self, message: Message) -> None:
        assert self.wire is not None
        self.wire.send(message)

    def tell(self, *events: Message) -> None:
        """Give events, and wait until they are acknowledged."""
        before = len(self.acknowledged)
        self.send({"op": "events", "events": list(events)})
        self.until(lambda: len(self.acknowledged) == before + len(events))

    @property
    def acknowledged(self) -> list[int]:
        return [number for message in self.heard if message.get("op") == "told" for number in message["ids"]]

    def of(self, name: str) -> Any:
        """The manifest of a provider."""
        return sys.modules[self.modules[name]]

    def until(self, predicate: Any) -> None:
        """Run the loop until this holds."""

        def look() -> None:
            if predicate():
                self.loop.stop()
            else:
                self.loop.call_later(0.002, look)

        timer = self.loop.call_later(10, self.loop.stop)
        self.loop.call_later(0, look)
        self.loop.run()
        timer.cancel()
        assert predicate(), self.heard


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def task_event(number: int, task_id: str = "load", **fields: Any) -> Message:
    return {
        "id": number, "what": "task_state", "previous": "ready", "dag_id": "sales", "run_id": "manual__1",
        "task_id": task_id, "map_index": None, "state": "started", "attempt": 1, "max_attempts": 2,
        "operator": "BashOperator", "started_at": "2026-01-05T02:00:00+00:00", "ended_at": None, "reason": None,
        **fields,
    }  # fmt: skip


def run_event(number: int, **fields: Any) -> Message:
    moment = "2026-01-05T00:00:00+00:00"
    return {
        "id": number, "what": "dag_run_state", "previous": "queued", "dag_id": "sales", "run_id": "manual__1",
        "kind": "manual", "state": "running", "logical_date": moment, "interval_start": moment, "interval_end": moment,
        "conf": None, "started_at": moment, "ended_at": None, **fields,
    }  # fmt: skip


def failing(desk: Desk) -> list[tuple[str, int, bool]]:
    return [(state.provider, state.failures, state.is_off) for state in listeners.states(desk.run_folder)]


def test_events_are_told_in_order_and_acknowledged(desk: Desk) -> None:
    desk.start(desk.provide("keeps", KEEPS))
    desk.tell(run_event(1), *(task_event(number, f"t{number}") for number in range(2, 5)))
    assert desk.of("keeps").TOLD == [
        ("manual__1", "running"), ("t2", "ready", "started"), ("t3", "ready", "started"), ("t4", "ready", "started"),
    ]  # fmt: skip
    assert desk.acknowledged == [1, 2, 3, 4]


def test_what_is_told_are_records_with_moments() -> None:
    what = task_instance_of(task_event(1, ended_at="2026-01-05T02:00:05+00:00", reason="why", map_index=3))
    assert (what.task_id, what.map_index, what.operator, what.reason) == ("load", 3, "BashOperator", "why")
    assert what.started_at is not None
    assert what.ended_at is not None
    assert (what.ended_at - what.started_at).total_seconds() == 5
    run = dag_run_of(run_event(1, conf={"depth": 3}))
    assert (run.conf, run.kind, run.logical_date.isoformat()) == ({"depth": 3}, "manual", "2026-01-05T00:00:00+00:00")
    with pytest.raises(TypeError):
        run.conf["depth"] = 4  # type: ignore[index]


@pytest.mark.slow
def test_one_that_raises_is_named_and_the_others_are_told(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.start(desk.provide("bad", RAISES), desk.provide("keeps", KEEPS))
    desk.tell(task_event(1))
    assert desk.of("keeps").TOLD == [("load", "ready", "started")]
    said = capsys.readouterr().err
    assert "listener: provider 'bad': flux_task_state_changed raised SystemExit: no (1 in a row)" in said
    assert 'raise SystemExit("no")' in said
    desk.until(lambda: failing(desk) == [("bad", 1, False)])


def test_five_in_a_row_switch_a_provider_off(desk: Desk) -> None:
    desk.start(desk.provide("bad", RAISES), desk.provide("keeps", KEEPS))
    desk.tell(*(task_event(number) for number in range(1, 9)))
    assert len(desk.of("bad").CALLS) == 5
    assert len(desk.of("keeps").TOLD) == 8
    assert failing(desk) == [("bad", 5, True)]


def test_one_that_goes_well_ends_the_row(desk: Desk) -> None:
    desk.start(desk.provide("bad", RAISES + "    WHEN.add('bad')\n"))
    for number in range(1, 40, 5):
        desk.tell(*(task_event(number + more, "bad") for more in range(4)), task_event(number + 4, "good"))
    assert len(desk.of("bad").CALLS) == 40
    desk.until(lambda: failing(desk) == [])


def test_one_that_is_off_stays_off_in_the_next_process_but_not_after_a_change_or_a_new_start(desk: Desk) -> None:
    bad = desk.provide("bad", RAISES)
    desk.start(bad)
    desk.tell(*(task_event(number) for number in range(1, 6)))
    assert failing(desk) == [("bad", 5, True)]
    desk.start(bad)
    desk.tell(task_event(6))
    assert len(desk.of("bad").CALLS) == 5
    desk.start({**bad, "stamp": "2"})
    desk.tell(task_event(7))
    assert len(desk.of("bad").CALLS) == 6
    desk.tell(*(task_event(number) for number in range(8, 12)))
    assert failing(desk) == [("bad", 5, True)]
    desk.start(bad, system="2-2")
    desk.tell(task_event(12))
    assert len(desk.of("bad").CALLS) == 11


def hang(desk: Desk, provider: str, event: int) -> None:
    """Leave the run folder as a listener process does that was killed in a call."""
    mark = CallMark(desk.run_folder)
    mark.begin(event, CallMark.encode(provider))
    mark.close()


@pytest.mark.slow
def test_a_call_that_ended_the_process_counts_until_that_event_was_told(desk: Desk) -> None:
    keeps = desk.provide("keeps", KEEPS)
    for count in range(1, 4):
        hang(desk, "keeps", 3)
        desk.start(keeps)
        assert failing(desk) == [("keeps", count, False)]
        desk.tell(task_event(2))  # comes again, and says nothing
        assert failing(desk) == [("keeps", count, False)]
    desk.tell(task_event(3))
    desk.until(lambda: failing(desk) == [])


def test_five_calls_that_ended_the_process_switch_a_provider_off(desk: Desk) -> None:
    keeps = desk.provide("keeps", KEEPS)
    for _ in range(5):
        hang(desk, "keeps", 3)
        desk.start(keeps)
    assert failing(desk) == [("keeps", 5, True)]
    told = len(desk.of("keeps").TOLD)
    desk.tell(task_event(3))
    assert len(desk.of("keeps").TOLD) == told


def test_a_call_is_marked_while_it_lasts_and_not_afterwards(desk: Desk) -> None:
    source = KEEPS.replace("TOLD.append((task_instance.task_id, previous, state))", "LOOK()")
    desk.start(desk.provide("looks", source + "    LOOK = None\n"))
    seen: list[tuple[int, str] | None] = []
    mark = CallMark(desk.run_folder)
    desk.of("looks").LOOK = lambda: seen.append(mark.left())
    desk.tell(task_event(7))
    assert [*seen, mark.left()] == [(7, "looks"), None]
    mark.close()


def test_a_manifest_that_cannot_be_loaded_switches_its_provider_off(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.start(desk.provide("gone", "import sys; sys.exit('no')"), desk.provide("keeps", KEEPS))
    desk.tell(task_event(1))
    assert desk.of("keeps").TOLD == [("load", "ready", "started")]
    assert failing(desk) == [("gone", 1, True)]
    assert "provider 'gone': its manifest cannot be loaded: SystemExit: no" in capsys.readouterr().err


@pytest.mark.slow
def test_long_calls_leave_the_loop_its_turn_and_are_acknowledged_in_between(desk: Desk) -> None:
    takes_long = KEEPS.replace(
        "TOLD.append((task_instance.task_id, previous, state))", "__import__('time').sleep(0.06)"
    )
    desk.start(desk.provide("slow", takes_long))
    turns: list[int] = []

    def turn() -> None:
        turns.append(len(desk.acknowledged))
        desk.loop.call_later(0, turn)

    turn()
    desk.tell(*(task_event(number) for number in range(1, 11)))
    assert len([message for message in desk.heard if message.get("op") == "told"]) >= 2
    assert any(0 < count < 10 for count in turns)


def test_other_providers_end_the_process(desk: Desk) -> None:
    keeps = desk.provide("keeps", KEEPS)
    desk.start(keeps)
    desk.send({"op": "providers", "providers": [{**keeps, "stamp": "2"}]})
    desk.loop.call_later(10, lambda: pytest.fail("it goes on"))
    desk.loop.run()


def test_the_same_providers_from_the_next_supervisor_are_not_loaded_anew(desk: Desk) -> None:
    keeps = desk.provide("keeps", KEEPS)
    desk.start(keeps)
    desk.tell(task_event(1))
    desk.heard.clear()
    assert desk.wire is not None
    desk.wire.close()
    desk.until(lambda: {"client": "listener"} in desk.heard)
    desk.send({"op": "providers", "providers": [keeps]})
    desk.until(lambda: {"op": "ready"} in desk.heard)
    desk.tell(task_event(2))
    assert [line[0] for line in desk.of("keeps").TOLD] == ["load", "load"]


def components(desk: Desk, *states: tuple[str, str]) -> None:
    """Publish components that all are this very process."""
    home.publish(desk.run_folder, [Running.now(kind, os.getpid(), state, 0.0) for kind, state in states])


def test_components_are_told_as_they_start_and_stop(desk: Desk) -> None:
    components(desk, ("hypervisor", "running"), ("supervisor", "starting"))
    desk.start(desk.provide("keeps", KEEPS))
    told = desk.of("keeps").TOLD
    assert told == [("started", "hypervisor")]
    components(desk, ("hypervisor", "running"), ("supervisor", "running"))
    desk.until(lambda: told[1:] == [("started", "supervisor")])
    components(desk, ("hypervisor", "running"))
    desk.until(lambda: told[2:] == [("stopping", "supervisor")])
    components(desk, ("hypervisor", "stopping"))
    desk.until(lambda: told[3:] == [("stopping", "hypervisor")])


def test_at_its_end_it_tells_of_itself(desk: Desk) -> None:
    components(desk, ("hypervisor", "running"), ("listener", "running"))
    desk.start(desk.provide("keeps", KEEPS))
    assert desk.listener is not None
    desk.listener.end()
    desk.listener.end()
    assert desk.of("keeps").TOLD[2:] == [("stopping", "listener")]


def test_it_loads_neither_store_nor_database_library() -> None:
    import subprocess

    program = "import sys, json, flux.running.listener; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not {"sqlalchemy", "flux.store", "flux.dag", "jinja2", "stevedore"} & loaded


@pytest.mark.parametrize("ends", ["", "raise SystemExit(3)"])
def test_a_child_process_that_a_provider_lets_go_does_not_become_a_second_listener(desk: Desk, ends: str) -> None:
    source = f"""
        import os, signal, warnings
        from flux.plugins import hookimpl
        CHILDREN = []

        @hookimpl
        def flux_task_state_changed(task_instance):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # later Pythons warn of forks beside threads
                child = os.fork()
            if child:
                CHILDREN.append(child)
            else:
                signal.alarm(10)
                {ends}
    """
    forks, keeps = desk.provide("forks", source), desk.provide("keeps", KEEPS)
    desk.start(forks, keeps)
    desk.tell(task_event(1))
    (child,) = desk.of("forks").CHILDREN
    assert os.waitpid(child, 0)[1] == 0
    assert desk.acknowledged == [1]
    assert failing(desk) == []

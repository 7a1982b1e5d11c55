"""How the rules of the providers reach DAG files: through the launcher and its hosts, and by reading files again."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from flux.errors import FluxError
from flux.running.folder_sync import sync_here
from flux.store import dags
from tests.watched_folder import Watched

pytestmark = pytest.mark.slow

REFUSED = {"refused": {"acme": "Provider 'acme' is broken: It is so."}}
POLICY = {"policies": [["house", "house", None]]}
HOUSE = """
from flux.plugins import hookimpl
@hookimpl
def flux_task_policy(task):
    task.pool = "house"
"""


def pool(watched: Watched, dag_id: str) -> str | None:
    """The pool of the first task of a DAG's newest version."""
    row = watched.parts.dag(dag_id).dag_version_id
    assert row is not None
    version = watched.parts.read(lambda connection: dags.version(connection, row))
    return version.structure.tasks[0].pool


def obey(watched: Watched, rules: dict[str, Any]) -> None:
    """Give other rules to launcher and folder, as the supervisor does."""
    assert watched.launcher is not None
    watched.launcher.set({"provider_rules": rules})
    watched.folder.obey(rules)


# --- the folder ------------------------------------------------------------------------------------------------------


def test_files_that_have_not_changed_are_read_again_under_other_rules(watched: Watched) -> None:
    watched.write("acme.py", "")
    watched.write(".fluxignore", "acme.py\nhouse.py\n")
    watched.write("house.py", HOUSE)
    watched.dag("sales.py", more="import acme")
    watched.dag("stock.py")
    watched.start()
    watched.sync()
    obey(watched, REFUSED)
    watched.sync()
    assert watched.errors() == {"sales.py": "ImportError: Provider 'acme' is broken: It is so."}
    obey(watched, POLICY)
    watched.sync()
    assert watched.errors() == {}
    assert (pool(watched, "sales"), pool(watched, "stock")) == ("house", "house")


def test_the_same_rules_have_nothing_read_again_not_even_by_the_next_system(watched: Watched) -> None:
    watched.dag("sales.py")
    watched.start()
    obey(watched, REFUSED)
    watched.sync()
    assert watched.reads == ["sales.py"]
    obey(watched, {**REFUSED, "macros": {"acme": {"latest": "acme:latest"}}})
    watched.sync()
    watched.end()
    watched.start_launcher()
    obey(watched, REFUSED)
    watched.folder.start()
    watched.sync()
    assert watched.reads == ["sales.py"]


def test_rules_that_changed_while_nothing_ran_have_all_files_read_at_the_start(watched: Watched) -> None:
    watched.dag("sales.py")
    watched.dag("stock.py")
    watched.start()
    watched.sync()
    watched.end()
    watched.reads.clear()
    watched.start_launcher()
    obey(watched, REFUSED)
    watched.folder.start()
    watched.sync()
    assert sorted(watched.reads) == ["sales.py", "stock.py"]


def test_a_file_that_is_being_read_when_the_rules_change_is_read_once_more(watched: Watched) -> None:
    watched.write("acme.py", "")
    watched.write(".fluxignore", "acme.py\n")
    watched.dag("sales.py", more="import acme")
    changed: list[str] = []

    def change(message: Any) -> None:
        if not changed:
            changed.append("once")
            obey(watched, REFUSED)

    watched.on_answer = change  # the answer to the reading by the old rules is not taken yet
    watched.start()
    watched.sync()
    assert watched.errors() == {"sales.py": "ImportError: Provider 'acme' is broken: It is so."}


def test_rules_that_are_taken_back_while_files_are_read_by_them_have_all_read_again(watched: Watched) -> None:
    watched.write("house.py", HOUSE)
    watched.write(".fluxignore", "house.py\n")
    watched.dag("sales.py")
    watched.start()
    watched.sync()
    rules: list[dict[str, Any]] = [{}]
    watched.on_answer = lambda message: obey(watched, rules.pop()) if rules else None
    obey(watched, POLICY)
    watched.sync()
    assert (pool(watched, "sales"), watched.reads) == (None, ["sales.py"] * 3)


@pytest.mark.parametrize("is_read_before", [False, True])
def test_nothing_is_read_nor_taken_for_read_while_the_one_file_provider_is_judged(
    watched: Watched, is_read_before: bool
) -> None:
    """Else an edit would be read by rules that hold no more."""
    watched.judges_long = True
    if is_read_before:
        watched.dag("sales.py")
    watched.start()
    watched.sync()
    watched.reads.clear()
    watched.write("flux_provider.py", HOUSE)
    watched.dag("sales.py")
    done: list[bool] = []
    watched.folder.sync(lambda: done.append(True))
    assert watched.provider_changes == 1
    passed: list[bool] = []
    watched.parts.loop.call_later(0.2, lambda: passed.append(True))
    watched.parts.until(lambda: passed)
    assert (watched.reads, done) == ([], [])
    obey(watched, {"policies": [["local", "flux_provider", None]]})
    watched.parts.until(lambda: done)
    assert (pool(watched, "sales"), watched.reads) == ("house", ["sales.py"])


def test_broken_files_are_read_once_more_when_a_system_starts(watched: Watched) -> None:
    watched.dag("late.py", more="import not_installed_yet")
    watched.dag("sales.py")
    watched.start()
    watched.sync()
    assert list(watched.errors()) == ["late.py"]
    watched.end()
    watched.reads.clear()
    watched.start()
    watched.sync()
    assert watched.reads == ["late.py"]


def test_a_command_that_finds_nothing_to_read_starts_no_launcher(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.dag("sales.py")
    watched.start()
    watched.sync()
    watched.end()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    sync_here(watched.parts.flux)
    watched.dag("stock.py")
    with pytest.raises(FluxError, match=r"no process can be started for it: .*/no/such/python"):
        sync_here(watched.parts.flux)


# --- the launcher ----------------------------------------------------------------------------------------------------

NAMED = """
from flux import DAG
from flux.operators import PythonOperator
def work():
    import acme
for dag_id, fork in (("forked", True), ("fresh", False)):
    with DAG(dag_id, fork=fork):
        PythonOperator(task_id="t", python_callable=work)
"""


@pytest.mark.parametrize("dag_id", ["forked", "fresh"])
def test_attempts_are_refused_what_their_file_is_refused(desk: Any, dag_id: str) -> None:
    desk.start(provider_rules=REFUSED)
    desk.write("named.py", NAMED)
    spec = desk.run(desk.version("named.py"), dag_id, "t")
    assert desk.exit(spec)["exit_status"] == 1
    assert desk.end(spec)["reason"] == "ImportError: Provider 'acme' is broken: It is so."


def test_fresh_interpreters_obey_rules_that_came_after_their_host(desk: Any) -> None:
    desk.write("named.py", NAMED)
    desk.write("acme.py", "")
    version = desk.version("named.py", keep=False)
    spec = desk.run(version, "fresh", "t")
    assert desk.exit(spec)["exit_status"] == 0, desk.log(spec)
    desk.launcher.set({"provider_rules": REFUSED})
    spec = desk.run(version, "fresh", "t")
    assert desk.exit(spec)["exit_status"] == 1
    assert "Provider 'acme' is broken" in desk.end(spec)["reason"]


def test_macros_reach_attempts_and_pokes(desk: Any) -> None:
    desk.start(provider_rules={"macros": {"acme": {"latest": "acme:latest"}}})
    desk.write("acme.py", "def latest(*names): return max(names)\n")
    desk.write(
        "macros.py",
        """
        from flux import DAG
        from flux.operators import PythonOperator
        from flux.sensors import PythonSensor
        with DAG("macros"):
            PythonOperator(
                task_id="t", python_callable=lambda text: text, op_args=["{{ macros.acme.latest('a', 'b') }}"]
            )
            PythonSensor(
                task_id="s", python_callable=lambda text: text == "b", op_args=["{{ macros.acme.latest('a', 'b') }}"]
            )
        """,
    )
    version = desk.version("macros.py")
    spec = desk.run(version, "macros", "t")
    assert desk.exit(spec)["exit_status"] == 0, desk.log(spec)
    assert desk.end(spec)["results"] == {"return_value": '"b"'}
    spec = desk.spec("macros", "s", sensor=True)
    desk.launcher.poke(version, 1, [spec], 10.0)
    assert desk.wait(op="poked", claim=spec.claim)["result"] is True

"""Providers in a whole system: what DAG files and tasks get of good ones, and what they are told of bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.system import NOISE, System
from tests.acceptance.test_dag_files import errors, wait_error
from tests.installed import HEAD, install, manifest
from tests.waiting import until

#: The one-file provider of the documentation.
STAMP = """\
from flux import BaseOperator
from flux.plugins import Ref, hookimpl
class StampOperator(BaseOperator):
    def execute(self, context): print("stamp", context["ds"])
@hookimpl
def flux_operators(): return [Ref("StampOperator", "flux_provider:StampOperator")]
"""
STAMPED = """
    from flux import DAG
    from flux_provider import StampOperator
    with DAG("stamped"):
        StampOperator(task_id="t")
"""


@pytest.fixture
def site(system: System, tmp_path: Path) -> Path:
    """A folder in which the system finds installed distributions."""
    site = tmp_path / "site"
    site.mkdir()
    system.environ["PYTHONPATH"] = str(site)
    return site


def retries(system: System, dag_id: str) -> int:
    """Of the first task of a DAG, as its newest version has it."""
    newest = system.dag_version(dag_id)
    return -1 if newest is None else newest.structure.tasks[0].retries


def wait_no_errors(system: System) -> None:
    until(lambda: not system.dag_errors(), 5 * NOISE, "no import error")


# --- the one-file provider -------------------------------------------------------------------------------------------


def test_a_one_file_provider_is_dropped_used_edited_broken_and_mended(system: System) -> None:
    assert len([line for line in STAMP.splitlines() if line.strip()]) <= 8
    system.up()
    system.dag("flux_provider", STAMP)
    system.dag("stamped", STAMPED)
    run = system.trigger("stamped")
    system.wait(run)
    assert "stamp 20" in system.log(run, "t")

    system.dag("flux_provider", STAMP.replace('print("stamp"', 'print("second edition"'))
    run = system.trigger("stamped")
    system.wait(run)
    assert "second edition 20" in system.log(run, "t")

    system.dag("flux_provider", "1 / 0\n")
    until(
        lambda: "Provider 'local' is broken" in system.dag_errors().get("stamped.py", {}).get("message", ""),
        5 * NOISE,
        "the provider's own message",
    )
    message = errors(system)["stamped.py"]["message"]
    assert "ZeroDivisionError" in message
    assert "flux_provider.py:1" in message

    system.dag("flux_provider", STAMP)
    wait_no_errors(system)
    run = system.trigger("stamped")
    system.wait(run)
    assert "stamp 20" in system.log(run, "t")


def test_a_policy_that_appears_in_the_one_file_provider_decides_about_every_file(system: System) -> None:
    system.up()
    for name in ("one", "two"):
        system.dag(name, f"from flux import DAG, task\nwith DAG({name!r}):\n    @task\n    def t(): ...\n    t()\n")
    until(lambda: (retries(system, "one"), retries(system, "two")) == (0, 0), 5 * NOISE, "both DAGs")
    policy = f"{HEAD}from flux.plugins import PolicyViolation\n@hookimpl\ndef flux_task_policy(task):\n"
    system.dag("flux_provider", f"{policy}    task.retries = 7\n")
    until(lambda: (retries(system, "one"), retries(system, "two")) == (7, 7), 5 * NOISE, "the policy's retries")

    refusal = "    if task.dag.dag_id == 'two': raise PolicyViolation('Two is too many.')\n"
    system.dag("flux_provider", f"{policy}{refusal}")
    error = wait_error(system, "two.py")
    assert error["message"] == "Task 't' is refused by provider 'local': Two is too many."
    assert list(errors(system)) == ["two.py"]
    assert retries(system, "one") == 0

    (system.home / "dags" / "flux_provider.py").unlink()
    wait_no_errors(system)


# --- installed providers ---------------------------------------------------------------------------------------------


def test_a_dag_file_that_needs_a_bad_provider_has_its_message_and_others_are_read(system: System, site: Path) -> None:
    for name, head in (("pig", HEAD.replace(">=1.0,<2", ">=2")), ("off", HEAD), ("good", HEAD)):
        operator = f"from flux.operators import EmptyOperator as {name.title()}Operator\n"
        install(site, name, head, modules={"operators.py": operator})
    system.environ["FLUX_PROVIDERS_DISABLED"] = "off"
    for name in ("pig", "off", "good"):
        system.dag(
            name,
            f"from flux import DAG\nfrom flux_provider_{name}.operators import {name.title()}Operator\n"
            f"with DAG({name!r}):\n    {name.title()}Operator(task_id='t')\n",
        )
    system.up()
    found = {file: row["message"] for file, row in errors(system).items()}
    assert set(found) == {"pig.py", "off.py"}
    assert "Provider 'pig' (flux-provider-pig 0.3) is incompatible: It needs API >=2" in found["pig.py"]
    assert "Provider 'off' (flux-provider-off 0.3) is disabled: Switched off by providers_disabled" in found["off.py"]
    checked = system.flux("dag", "check", str(system.home / "dags"), "--json")
    assert checked.code == 1
    assert {row["file"]: row["message"] for row in checked.json} == found
    system.wait(system.trigger("good"))


def test_names_that_core_does_not_have_lead_to_their_provider(system: System, site: Path) -> None:
    install(site, "acme", modules={"operators.py": "class AcmeOperator: ...\n"})
    system.dag("hive", "from flux.operators import HiveOperator\n")
    system.dag("acme", "import flux.operators\nflux.operators.AcmeOperator\n")
    system.up()
    found = {file: row["message"] for file, row in errors(system).items()}
    assert "pip install flux-provider-hive" in found["hive.py"]
    assert "use `from flux_provider_acme.operators import AcmeOperator`" in found["acme.py"]


def test_what_was_installed_while_nothing_ran_mends_the_files_that_lacked_it(system: System, site: Path) -> None:
    system.dag("late", "from flux import DAG\nimport flux_provider_late.provider\nDAG('late')\n")
    system.up()
    assert "flux_provider_late" in errors(system)["late.py"]["message"]
    system.stop()
    install(site, "late")
    system.up()
    assert errors(system) == {}


def test_a_provider_that_was_disabled_while_nothing_ran_is_refused_from_the_start(system: System, site: Path) -> None:
    install(site, "acme")
    system.dag("acme", "from flux import DAG\nimport flux_provider_acme.provider\nDAG('acme')\n")
    system.up()
    assert errors(system) == {}
    system.stop()
    system.environ["FLUX_PROVIDERS_DISABLED"] = "acme"
    system.up()
    assert "is disabled" in errors(system)["acme.py"]["message"]


MACRO_DAG = """
    from flux import DAG, task
    from flux.operators import BashOperator
    from flux.sensors import PythonSensor
    for dag_id, fork in (("forked", True), ("fresh", False)):
        with DAG(dag_id, fork=fork):
            PythonSensor(
                task_id="wait", python_callable=lambda given: given == "b",
                op_kwargs={"given": "{{ macros.acme.latest('a', 'b') }}"}, poke_interval=1,
            ) >> BashOperator(task_id="say", bash_command="echo newest is {{ macros.acme.latest('a', 'c') }}")
"""


def test_templates_find_macros_of_providers_wherever_they_are_rendered(system: System, site: Path) -> None:
    macros = manifest(macros='[Ref("latest", "flux_provider_acme.macros:latest")]')
    install(site, "acme", macros, modules={"macros.py": "def latest(*names):\n    return max(names)\n"})
    system.dag("macros", MACRO_DAG)
    system.up()
    runs = [system.trigger(dag_id) for dag_id in ("forked", "fresh")]
    for run in runs:
        system.wait(run)
        assert "newest is c" in system.log(run, "say")
    done = system.flux("task", "render", "forked", "say", "2026-01-05")
    assert "echo newest is c" in done.out, done
    done = system.flux("dag", "test", "forked")
    assert (done.code, "newest is c" in done.out) == (0, True), done


def test_commands_without_a_system_obey_policies_and_refusals(system: System, site: Path) -> None:
    body = "    if task.owner is None: raise PolicyViolation('Name an owner.')\n"
    head = f"{HEAD}from flux.plugins import PolicyViolation\n@hookimpl\ndef flux_task_policy(task):\n"
    install(site, "house", f"{head}{body}")
    system.dag("nobody", "from flux import DAG, task\nwith DAG('nobody'):\n    @task\n    def t(): ...\n    t()\n")
    message = "Task 't' is refused by provider 'house': Name an owner."
    assert message in system.flux("dag", "test", "nobody").err
    rows = json.loads(system.flux("dag", "check", str(system.home / "dags"), "--json").out)
    assert [row["message"] for row in rows] == [message]
    assert system.flux("init").code == 0
    assert errors(system)["nobody.py"]["message"] == message


def test_a_module_of_the_option_plugins_is_a_provider_that_dag_files_import(system: System) -> None:
    system.environ["FLUX_PLUGINS"] = "house.plugin"
    system.dag("house/__init__", "")
    system.dag("house/plugin", STAMP.replace("flux_provider:", "house.plugin:"))
    system.dag("stamped", STAMPED.replace("flux_provider", "house.plugin"))
    system.up()
    assert errors(system) == {}
    run = system.trigger("stamped")
    system.wait(run)
    assert "stamp 20" in system.log(run, "t")


# --- what is loaded where --------------------------------------------------------------------------------------------


def test_no_process_imports_a_client_library_before_a_task_needs_it(system: System, site: Path, tmp_path: Path) -> None:
    """The library writes down who imports it: nobody, with every kind of hook in use, until the task runs."""
    witness = tmp_path / "imported"
    library = f"import os\nwith open({str(witness)!r}, 'a') as file:\n    file.write(f'{{os.getpid()}}\\n')\n"
    (site / "acmelib.py").write_text(library)
    hooks = manifest(
        operators='[Ref("AcmeOperator", "flux_provider_acme.operators:AcmeOperator")]',
        macros='[Ref("latest", "flux_provider_acme.client:latest")]',
        connection_types='[ConnectionType("acme", client=Ref("AcmeClient", "flux_provider_acme.client:AcmeClient"))]',
    )
    events = (
        "\n\n@hookimpl\ndef flux_task_policy(task):\n    task.retries = 0\n\n\n"
        "@hookimpl\ndef flux_task_state_changed(task_instance, previous, state):\n    pass\n"
    )
    operator = """
        from flux.operator import BaseOperator

        class AcmeOperator(BaseOperator):
            def execute(self, context):
                import os
                from flux_provider_acme.client import AcmeClient
                print("client of", os.getpid())
    """
    client = "import acmelib\nclass AcmeClient: ...\ndef latest(): ...\n"
    install(site, "acme", hooks + events, modules={"operators.py": operator, "client.py": client})
    system.dag(
        "acme",
        "from flux import DAG\nfrom flux_provider_acme.operators import AcmeOperator\n"
        "with DAG('acme'):\n    AcmeOperator(task_id='t')\n",
    )
    system.dag("plain", "from flux import DAG, task\nwith DAG('plain'):\n    @task\n    def t(): ...\n    t()\n")
    system.up()
    system.wait(system.trigger("plain"))
    system.environ["FLUX_CONN_A"] = "acme://host"
    for arguments in (("provider", "list"), ("connection", "list"), ("dag", "list"), ("doctor",)):
        system.flux(*arguments)
    until(lambda: system.pid_of("listener"), 10, "the listener process")
    assert not witness.exists(), witness.read_text()
    run = system.trigger("acme")
    system.wait(run)
    assert system.log(run, "t").count("client of") == 1
    importers = witness.read_text().split()
    assert [f"client of {pid}" in system.log(run, "t") for pid in importers] == [True]

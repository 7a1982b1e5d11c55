"""Connections, secrets and drivers in a whole system: where they come from, what logs show, what a bad driver does."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.acceptance.system import NOISE, Run, System, both_databases
from tests.waiting import until

PROVIDER = """
    from flux.plugins import ConnectionType, Field, Ref, hookimpl

    class LedgerClient:
        def __init__(self, connection): ...

    @hookimpl
    def flux_connection_types():
        fields = ("host", "port", "login", "password", Field("token", secret=True), Field("region", default="eu"))
        client = Ref("LedgerClient", "flux_provider:LedgerClient")
        return [ConnectionType("ledger", client=client, default_port=7000, fields=fields)]
"""

#: Shows what it gets of a connection in as many ways as there are.
SHOWING = """
    import logging, subprocess, sys, urllib.parse
    from flux import DAG, BaseSensor, get_connection, task
    from flux.operators import BashOperator, PythonOperator

    early = logging.StreamHandler(sys.stdout)

    class Look(BaseSensor):
        def poke(self, context):
            print("poked with", get_connection("books").password.reveal())
            raise RuntimeError(get_connection("books").password.reveal())

    with DAG("show", schedule=None) as dag:
        @task
        def show():
            books = get_connection("books")
            password = books.password.reveal()
            print(books.type, books.host, books.port, dict(books.extra))
            print("printed", password, urllib.parse.quote(password, safe=""))
            sys.stdout.buffer.write(("raw " + password + "\\n").encode())
            sys.stdout.write("split " + password[:4])
            sys.stdout.flush()
            print(password[4:])
            logger = logging.getLogger("author")
            logger.addHandler(early)
            logger.warning("logged %s", password)
            return len(password)

        @task
        def fail():
            raise RuntimeError("cannot log in with " + get_connection("books").password.reveal())

        bash = BashOperator(
            task_id="bash", bash_command='set -x; echo "$P"; echo "$P" >&2', store_result=False,
            env={"P": "{{ conn.books.password.reveal() }}"},
        )
        for name in ("look", "look_too", "look_three"):
            Look(task_id=name, retries=0)
        show() >> bash
        fail()
"""


def store_books(system: System, password: str, *arguments: str) -> None:
    """Store the connection `books` with this password, as people do."""
    file = system.home.parent / "password"
    file.write_text(password)
    done = system.flux(
        "connection", "add", "books", "--type", "ledger", "--host", "stored.example", "--login", "etl",
        "--password-file", str(file), *arguments,
    )  # fmt: skip
    assert done.code == 0, done
    file.unlink()


@pytest.fixture
def ledger(system: System) -> System:
    """A home with the connection type `ledger` and a key; not up."""
    system.dag("flux_provider", PROVIDER)
    assert system.flux("init").code == 0
    assert system.flux("connection", "key").code == 0
    return system


@both_databases
def test_a_stored_connection_reaches_its_task_and_its_password_no_log(ledger: System) -> None:
    password = "tr0ub4dor & three's"
    store_books(ledger, password)
    ledger.up()
    ledger.dag("show", SHOWING)
    run = ledger.trigger("show")
    ledger.wait(run, "failed")
    log = ledger.log(run, "show")
    assert "ledger stored.example 7000 {'region': 'eu'}" in log
    for words in ("printed *** ***\n", "raw ***\n", "split ***\n", "logged ***\n"):
        assert words in log
    assert "+ echo" in ledger.log(run, "bash")
    assert ledger.log(run, "bash").count("***") >= 2
    for name in ("look", "look_too", "look_three"):
        assert "poked with ***" in ledger.log(run, name)
        assert ledger.task(run, name).reason == "RuntimeError: ***"
    assert ledger.task(run, "fail").reason == "RuntimeError: cannot log in with ***"
    assert ledger.json("task", "result", "show", run.run_id, "show")["value"] == len(password)
    assert ledger.json("task", "rendered", "show", run.run_id, "bash")["env"].count("***") == 1
    ledger.stop()
    needles = [password.encode(), b"tr0ub4dor"]
    files = [path for path in ledger.home.rglob("*") if path.is_file()]
    assert [str(path) for path in files if any(needle in path.read_bytes() for needle in needles)] == []


ASKING = """
    from flux import DAG, get_connection, get_variable, task

    with DAG("ask", schedule=None) as dag:
        @task
        def books():
            found = get_connection("books")
            print("books at", found.host, len(found.password.reveal()))

        books()
"""


def test_the_environment_wins_over_the_store(ledger: System) -> None:
    store_books(ledger, "from-the-store")
    ledger.up(FLUX_CONN_BOOKS="ledger://etl:from-outside@env.example")
    ledger.dag("ask", ASKING)
    run = ledger.trigger("ask")
    ledger.wait(run)
    assert "books at env.example 12" in ledger.log(run, "books")


def test_a_setting_that_the_type_does_not_have_fails_the_task_that_asks(ledger: System) -> None:
    ledger.up(FLUX_CONN_BOOKS="ledger://etl@env.example?local_infile=1")
    ledger.dag("ask", ASKING)
    run = ledger.trigger("ask")
    ledger.wait(run, "failed")
    assert "sets 'local_infile', which type 'ledger' does not have" in (ledger.task(run, "books").reason or "")


def test_the_key_is_changed_under_tasks_that_ask_all_the_time(ledger: System) -> None:
    store_books(ledger, "changed-under-tasks")
    ledger.up()
    ledger.dag(
        "busy",
        """
        import os, time
        from pathlib import Path
        from flux import DAG, get_connection, task

        with DAG("busy", schedule=None) as dag:
            @task
            def ask(name):
                count = 0
                while not Path(os.environ["FLUX_HOME"], "enough").exists():
                    assert get_connection("books").password.reveal() == "changed-under" + "-tasks"
                    count += 1
                    Path(os.environ["FLUX_HOME"], name).write_text(str(count))
                return count

            ask("one"), ask("two")
        """,
    )
    run = ledger.trigger("busy")
    counts = [ledger.home / name for name in ("one", "two")]

    def asked() -> int:
        return min((int(path.read_text() or 0) for path in counts if path.exists()), default=0)

    for action in ("--rotate", "--drop-old", "--rotate"):
        before = asked()
        until(lambda before=before: asked() > before + 5, 30)  # type: ignore[misc]
        done = ledger.flux("connection", "key", action)
        assert done.code == 0, done
    (ledger.home / "enough").touch()
    ledger.wait(run)


# --- drivers ---------------------------------------------------------------------------------------------------------


BACKEND = """
    import os, threading
    from pathlib import Path

    class Vault:
        def __init__(self):
            self.token = os.environ["FLUX_VAULT_TOKEN"]

        def connection(self, conn_id):
            if conn_id == "hangs":
                threading.Event().wait()
            if conn_id == "raises":
                raise OSError("sealed, whatever " + self.token)
            return f"ledger://etl:{self.token}@vault.example" if conn_id == "books" else None

        def variable(self, name):
            return {"region": "north"}.get(name)

    class Archive:
        def __init__(self):
            self.folder = Path(os.environ["FLUX_ARCHIVE_FOLDER"])

        def _file(self, log):
            return self.folder / f"{log.dag_id}.{log.task_id}.{log.attempt}"

        def keep(self, log):
            self._file(log).write_bytes(log.path.read_bytes())

        def read(self, log):
            return self._file(log).read_bytes() if self._file(log).exists() else None
"""
ENTRY_POINTS = """
    [flux.secrets_backends]
    vault = vaulting:Vault
    broken = vaulting:Nothing
    [flux.log_handlers]
    archive = vaulting:Archive
"""


@pytest.fixture
def driven(system: System, tmp_path: Path) -> System:
    """A home whose interpreter has a distribution with drivers."""
    site = tmp_path / "site"
    metadata = site / "vaulting-2.1.dist-info"
    metadata.mkdir(parents=True)
    (site / "vaulting.py").write_text(textwrap.dedent(BACKEND))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vaulting\nVersion: 2.1\n")
    (metadata / "entry_points.txt").write_text(textwrap.dedent(ENTRY_POINTS))
    (tmp_path / "archive").mkdir()
    system.environ |= {
        "PYTHONPATH": str(site),
        "FLUX_VAULT_TOKEN": "t0ken-of-the-vault",
        "FLUX_ARCHIVE_FOLDER": str(tmp_path / "archive"),
    }
    return system


def test_a_backend_answers_tasks_and_one_that_hangs_fails_only_those_that_ask(driven: System) -> None:
    driven.environ["FLUX_SECRETS_BACKENDS"] = "vault"
    driven.up()
    driven.dag(
        "ask",
        """
        import os
        from flux import DAG, get_connection, get_variable, task

        with DAG("ask", schedule=None) as dag:
            @task
            def ask(name):
                found = get_connection(name)
                print("books at", found.host, get_variable("region"), found.password.reveal())
                print("seen", [name for name in os.environ if "VAULT" in name])

            ask.override(task_id="hangs")("hangs")
            ask.override(task_id="raises")("raises")
            ask.override(task_id="books")("books")
        """,
    )
    run = driven.trigger("ask")
    driven.wait_task(run, "books", "success", seconds=8)
    assert driven.task(run, "hangs").state == "started"
    assert "books at vault.example north ***" in driven.log(run, "books")
    assert "seen []" in driven.log(run, "books")
    driven.wait(run, "failed", seconds=10 + 5 * NOISE)
    assert "'vault' did not answer for connection 'hangs' within 10 s" in (driven.task(run, "hangs").reason or "")
    assert "'vault' failed on connection 'raises': OSError" in (driven.task(run, "raises").reason or "")
    shown = driven.json("connection", "show", "books")
    assert (shown["host"], shown["source"]) == ("vault.example", "secrets backend vault")


def log_file(system: System, run: Run, task_id: str) -> Path:
    return system.home / "logs" / run.dag_id / run.run_id / task_id / "-" / "1.log"


def test_a_log_is_kept_elsewhere_and_read_there_when_it_is_gone(driven: System, tmp_path: Path) -> None:
    driven.environ["FLUX_LOG_HANDLERS"] = "archive"
    driven.up()
    driven.dag(
        "talk",
        """
        from flux import DAG
        from flux.operators import BashOperator

        with DAG("talk", schedule=None) as dag:
            one = BashOperator(task_id="one", bash_command="echo it was said")
            one >> BashOperator(task_id="two", bash_command="exit 3")
        """,
    )
    run = driven.trigger("talk")
    driven.wait(run, "failed")
    until(lambda: sorted(path.name for path in (tmp_path / "archive").iterdir()) == ["talk.one.1", "talk.two.1"])
    log_file(driven, run, "one").unlink()
    done = driven.flux("task", "log", "talk", run.run_id, "one")
    assert (done.code, "\nit was said\n" in done.out) == (0, True)
    (tmp_path / "archive" / "talk.one.1").unlink()
    done = driven.flux("task", "log", "talk", run.run_id, "one")
    assert (done.code, "is gone" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"FLUX_SECRETS_BACKENDS": "broken"}, "Secrets backend 'broken' (vaulting 2.1) cannot be loaded"),
        ({"FLUX_SECRETS_BACKENDS": "valut"}, "Secrets backend 'valut' does not exist. Known: vault"),
        ({"FLUX_SECRETS_BACKENDS": "vault", "FLUX_VAULT_TOKEN": ""}, ""),
        ({"FLUX_LOG_HANDLERS": "archive,other"}, "Log handler 'other' does not exist. Known: archive"),
    ],
)
def test_a_configured_driver_that_fails_keeps_flux_from_starting_in_one_line(
    driven: System, options: dict[str, str], words: str
) -> None:
    driven.environ |= options
    if not words:
        del driven.environ["FLUX_VAULT_TOKEN"]
        words = "secrets backend 'vault' cannot be made: KeyError: 'FLUX_VAULT_TOKEN'"
    driven.up(ready=False)
    assert driven.wait_down() == 1
    lines = [line for line in driven.said().splitlines() if words in line]
    assert len(lines) == 1, driven.said()
    assert "Traceback" not in driven.said()
    driven.expect_lines(r"(secrets backend|Secrets backend|Log handler) ")

"""`flux connection …`: stored connections, their secrets, their key, and trying them."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flux import encryption, process
from flux.store import connections
from tests.installed import install

if TYPE_CHECKING:
    from tests.core.cli.conftest import Cli

pytestmark = pytest.mark.slow

#: A one-file provider with a connection type, whose client does what the host's name says.
PROVIDER = """
import os, signal, subprocess, sys, time
from flux import FluxError
from flux.plugins import ConnectionType, Field, Ref, hookimpl


class AcmeClient:
    def __init__(self, connection):
        self.connection = connection

    def check(self):
        c = self.connection
        print("on stdout", c.password.reveal() if c.password else None)
        match c.host:
            case "refuses":
                raise OSError(f"access denied for {c.login} using {c.password.reveal()}")
            case "names":
                raise FluxError("Connection 'shop' (h:1): it is closed.")
            case "hangs":
                subprocess.Popen(["sleep", "4711"])
                time.sleep(600)
            case "exits":
                sys.exit("no way")
            case "dies":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "says":
                return None
        return f"Acme 1.0 at {c.host}:{c.port} {dict(c.extra)['region']} token {len(c.extra['token'].reveal())}"

    def close(self):
        print("closed")


@hookimpl
def flux_connection_types():
    return [ConnectionType("acme", client=Ref("AcmeClient", "flux_provider:AcmeClient"), default_port=7000, fields=(
        "host", "port", "login", "password", Field("token", secret=True), Field("region", default="eu"),
    ))]
"""


@pytest.fixture
def acme(cli: Cli) -> Cli:
    """A home with the connection type `acme` and a key."""
    cli.write("flux_provider.py", PROVIDER)
    cli.ok("connection", "key")
    return cli


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text("geheim 4713\n")
    return str(path)


def test_a_stored_connection_is_listed_and_shown_without_its_secrets(acme: Cli, secret_file: str) -> None:
    acme.ok(
        "connection", "add", "shop", "--type", "acme", "--host", "h", "--login", "ann", "--field", "region=us",
        "--password-file", secret_file, "--secret-file", f"token={secret_file}",
    )  # fmt: skip
    row = {
        "conn_id": "shop",
        "type": "acme",
        "host": "h",
        "port": None,
        "login": "ann",
        "schema": None,
        "source": "store",
    }
    assert acme.ok("connection", "list", "--json").json == [row]
    shown = acme.ok("connection", "show", "shop", "--json")
    assert shown.json == {**row, "extra": {"region": "us"}, "has_secrets": True}
    for done in (shown, acme.ok("connection", "show", "shop"), acme.ok("connection", "list"), acme.ok("audit", "list")):
        assert "geheim" not in done.out + done.err
    files = [path for path in acme.home.rglob("*") if path.is_file()]
    assert not [path for path in files if b"geheim" in path.read_bytes()]


def test_the_environment_hides_a_stored_connection(acme: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    acme.ok("connection", "add", "Shop.eu", "--uri", "acme://ann@stored")
    monkeypatch.setenv("FLUX_CONN_SHOP_EU", "acme://env")
    (row,) = acme.ok("connection", "list", "--json").json
    assert (row["conn_id"], row["host"], row["source"]) == ("Shop.eu", "env", "FLUX_CONN_SHOP_EU")
    assert acme.ok("connection", "show", "Shop.eu", "--json").json["source"] == "FLUX_CONN_SHOP_EU"


def test_a_password_in_an_argument_is_refused_with_the_way(acme: Cli) -> None:
    done = acme("connection", "add", "shop", "--uri", "acme://ann:geheim4714@h")
    assert (done.code, "--uri -" in done.err, "geheim4714" in done.err) == (1, True, False)
    for arguments in (("--uri", "acme://h?token=geheim4714"), ("--type", "acme", "--field", "token=geheim4714")):
        done = acme("connection", "add", "shop", *arguments)
        assert (done.code, "--secret-file token=" in done.err, "geheim4714" in done.err) == (1, True, False)
    assert acme.ok("connection", "list", "--json").json == []


def test_a_uri_on_stdin_may_hold_everything(acme: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("acme://ann:geheim4715@h?token=t0ken4715\n"))
    acme.ok("connection", "add", "shop", "--uri", "-")
    assert acme.ok("connection", "show", "shop", "--json").json["has_secrets"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--uri", "acme://h?local_infile=1"), "'local_infile'"),
        (("--uri", "acme://h/schema"), "'schema'"),
        (("--uri", "acmo://h"), "Connection type 'acmo' does not exist. Known: acme"),
        (("--type", "acme", "--field", "regon=us"), "'regon'"),
        (("--type", "acme", "--secret-file", "region=/dev/null"), "no secret field 'region'"),
        (("--type", "acme", "--password-file", "/none/password"), "'/none/password' cannot be read"),
    ],
)
def test_what_does_not_fit_the_type_is_refused_and_nothing_is_stored(
    acme: Cli, arguments: tuple[str, ...], words: str
) -> None:
    done = acme("connection", "add", "shop", *arguments)
    assert (done.code, words in done.err) == (1, True), done
    assert acme.ok("connection", "list", "--json").json == []


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--uri", "acme://h", "--type", "acme"),
        ("--uri", "acme://h", "--port", "1"),
        ("--type", "acme", "--field", "x"),
        ("--type", "acme", "--field", "region=us", "--field", "region=eu"),
    ],
)
def test_wrong_usage_is_told_apart(acme: Cli, arguments: tuple[str, ...]) -> None:
    assert acme("connection", "add", "shop", *arguments).code == 2


def test_one_that_is_there_is_replaced_only_when_that_is_said(acme: Cli) -> None:
    acme.ok("connection", "add", "shop", "--uri", "acme://one")
    done = acme("connection", "add", "shop", "--uri", "acme://two")
    assert (done.code, "--replace" in done.err) == (1, True)
    acme.ok("connection", "add", "shop", "--uri", "acme://three", "--replace")
    assert acme.ok("connection", "list", "--json").json[0]["host"] == "three"
    acme.ok("connection", "delete", "shop")
    done = acme("connection", "delete", "shop")
    assert (done.code, acme.ok("connection", "list", "--json").json) == (1, [])


def test_without_a_key_a_secret_is_refused_with_the_command_that_makes_one(cli: Cli, secret_file: str) -> None:
    cli.write("flux_provider.py", PROVIDER)
    done = cli("connection", "add", "shop", "--type", "acme", "--password-file", secret_file)
    assert (done.code, "`flux connection key`" in done.err) == (1, True)
    cli.ok("connection", "add", "open", "--type", "acme", "--host", "h")
    assert [row["conn_id"] for row in cli.ok("connection", "list", "--json").json] == ["open"]


def test_the_key_is_made_once_and_changed_by_rotation(acme: Cli, secret_file: str) -> None:
    key = acme.home / "secret.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert acme("connection", "key").code == 1
    acme.ok("connection", "add", "shop", "--type", "acme", "--password-file", secret_file)
    first = key.read_text()
    said = acme.ok("connection", "key", "--rotate").err
    assert "1 connections were encrypted anew" in said
    assert key.read_text().endswith(first)
    acme.ok("connection", "key", "--drop-old")
    assert len(key.read_text().splitlines()) == 1
    assert acme("connection", "key", "--rotate", "--drop-old").code == 2


def test_a_connection_that_works_prints_what_its_client_found(acme: Cli, secret_file: str) -> None:
    acme.ok("connection", "add", "shop", "--type", "acme", "--host", "h", "--secret-file", f"token={secret_file}")
    done = acme.process("connection", "test", "shop")
    assert (done.code, done.out) == (0, "Acme 1.0 at h:7000 eu token 11\n"), done
    assert "comes from store" in done.err
    assert "closed" in done.err


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("refuses", "'shop': OSError: access denied for ann using ***"),
        ("names", "Error: Connection 'shop' (h:1): it is closed."),
        ("exits", "SystemExit: no way"),
        ("dies", "ended: killed by SIGSEGV"),
        ("says", "returned None"),
        ("hangs", "no answer in 1.5 s"),
    ],
)
def test_a_connection_that_does_not_work_is_told_by_exit_code_one(acme: Cli, host: str, words: str) -> None:
    os.environ["FLUX_CONN_SHOP"] = f"acme://ann:geheim4716@{host}?token=x"
    began = time.monotonic()
    try:
        done = acme.process("connection", "test", "shop", "--timeout", "1.5")
    finally:
        del os.environ["FLUX_CONN_SHOP"]
    assert (done.code, done.out, words in done.err) == (1, "", True), done
    assert "geheim4716" not in done.err
    assert time.monotonic() - began < 20
    left = [entry.pid for entry in process.table() if b"sleep\x004711" in _command(entry.pid)]
    assert not left


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_connection_whose_type_nobody_offers_cannot_be_tried(acme: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_CONN_SHOP", "other://h?x=y")
    done = acme("connection", "test", "shop")
    assert (done.code, "Connection type 'other'" in done.err) == (1, True)
    assert acme.ok("connection", "show", "shop", "--json").json["extra"] == {"x": "***"}


def findings(cli: Cli, check: str) -> list[tuple[str, str]]:
    """What `flux doctor` finds on this, without what is well."""
    rows = cli("doctor", "--json").json
    return [(row["state"], row["message"]) for row in rows if row["check"] == check and row["state"] != "ok"]


def test_the_doctor_names_what_cannot_be_decrypted_and_types_that_nobody_offers(acme: Cli, secret_file: str) -> None:
    acme.ok("connection", "add", "shop", "--type", "acme", "--password-file", secret_file)
    assert (findings(acme, "key file"), findings(acme, "connections")) == ([], [])
    key = acme.home / "secret.key"
    right = key.read_text()
    key.unlink()
    ((state, message),) = findings(acme, "key file")
    assert (state, "does not exist" in message) == ("error", True)
    acme.ok("connection", "key")
    ((state, message),) = findings(acme, "connections")
    assert (state, "'shop': it cannot be decrypted" in message) == ("error", True)
    key.write_text(right)
    (acme.home / "dags" / "flux_provider.py").unlink()
    ((state, message),) = findings(acme, "connections")
    assert (state, "type 'acme', which no provider here offers" in message) == ("warning", True)


def test_the_doctor_names_drivers_that_cannot_be_loaded(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_SECRETS_BACKENDS", "valut")
    monkeypatch.setenv("FLUX_LOG_HANDLERS", "s4")
    assert findings(cli, "secrets backends")[0][0] == "error"
    assert "'valut'" in findings(cli, "secrets backends")[0][1]
    assert "'s4'" in findings(cli, "log handlers")[0][1]


def test_without_a_system_a_connection_of_the_environment_is_completed_and_masked_too(
    acme: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_CONN_SHOP", "acme://ann:geheim4717@h?token=t0ken4717")
    file = acme.write(
        "look.py",
        """
from flux import DAG, get_connection, task

with DAG("look", schedule=None) as dag:
    @task
    def look():
        shop = get_connection("shop")
        print(shop.host, shop.port, shop.extra["region"], shop.extra["token"].reveal(), shop.password.reveal())

    look()

if __name__ == "__main__":
    dag.cli()
""",
    )
    done = acme.process("dag", "test", "look", "2026-01-05")
    assert (done.code, "h 7000 eu *** ***" in done.out + done.err) == (0, True), done
    ran = subprocess.run([sys.executable, file, "run", "2026-01-05"], capture_output=True, text=True, check=False)
    assert (ran.returncode, "h 7000 eu *** ***" in ran.stdout + ran.stderr) == (0, True), ran
    monkeypatch.setenv("FLUX_CONN_SHOP", "acme://h?local_infile=1")
    done = acme.process("dag", "test", "look", "2026-01-05")
    assert (done.code, "'local_infile'" in done.out + done.err) == (1, True), done


def test_a_terminal_is_asked_for_the_secrets_that_are_missing(acme: Cli) -> None:
    master, slave = os.openpty()
    argv = [sys.executable, "-m", "flux.cli.main", "connection", "add", "shop", "--uri", "acme://ann@h"]
    with subprocess.Popen(argv, stdin=slave, stderr=subprocess.PIPE, start_new_session=True) as asking:
        os.close(slave)
        assert asking.stderr is not None
        said = ""
        # What is typed before the question is asked is dropped.
        for prompt, answer in (("password (empty: none)", b"geheim4719\n"), ("token (empty: none)", b"\n")):
            while prompt not in said and (more := os.read(asking.stderr.fileno(), 1000)):
                said += more.decode()
            os.write(master, answer)
        said += asking.stderr.read().decode()
    os.close(master)
    assert asking.returncode == 0, said
    assert said.index("password (empty: none)") < said.index("token (empty: none)")
    assert "geheim4719" not in said
    with acme.opened() as flux:
        stored = flux.store.read(lambda connection: connections.get(connection, "shop"))
    assert stored is not None
    assert stored.secrets is not None
    assert encryption.read(acme.home / "secret.key").decrypt(stored.secrets) == {"password": "geheim4719"}


@pytest.mark.parametrize("data", [b"geheim\xff", b"geheim\0"])
def test_a_secret_that_no_server_could_store_is_refused_without_showing_it(
    acme: Cli, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "bad").write_bytes(data)
    for way in ({"stdin": data}, {}):
        argv = ["connection", "add", "shop", "--type", "acme", "--password-file", "-" if way else str(tmp_path / "bad")]
        done = subprocess.run(
            [sys.executable, "-m", "flux.cli.main", *argv],
            input=way.get("stdin", b""),
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert (done.returncode, done.stderr.count(b"\n"), b"geheim" in done.stderr) == (1, 1, False), done.stderr
    assert acme.ok("connection", "list", "--json").json == []


def test_an_argument_that_is_no_utf8_is_refused(acme: Cli) -> None:
    for option, value in (("--host", "h\udcff"), ("--field", "region=\udcff")):
        done = acme("connection", "add", "shop", "--type", "acme", option, value)
        assert (done.code, "no UTF-8" in done.err) == (1, True), done


def test_an_answer_that_is_no_utf8_is_refused_without_showing_it(acme: Cli) -> None:
    master, slave = os.openpty()
    argv = [sys.executable, "-m", "flux.cli.main", "connection", "add", "shop", "--uri", "acme://ann@h"]
    with subprocess.Popen(
        argv, stdin=slave, stderr=subprocess.PIPE, start_new_session=True, env={**os.environ, "PYTHONUTF8": "0"}
    ) as asking:
        os.close(slave)
        assert asking.stderr is not None
        said = b""
        while b"none)" not in said and (more := os.read(asking.stderr.fileno(), 1000)):
            said += more
        os.write(master, b"geheim\xff\n")
        while b"token" not in said and (more := os.read(asking.stderr.fileno(), 1000)):
            said += more
        if b"token" in said:  # in some locales the bytes pass, and are refused in the end
            os.write(master, b"\n")
        said += asking.stderr.read()
    os.close(master)
    assert (asking.returncode, b"no UTF-8" in said, b"Traceback" in said, b"geheim" in said) == (1, True, False, False)


def test_secrets_that_are_too_long_to_be_masked_are_refused(acme: Cli, tmp_path: Path) -> None:
    (tmp_path / "long").write_text("0123456789\n" * 6000)
    done = acme("connection", "add", "shop", "--type", "acme", "--password-file", str(tmp_path / "long"))
    assert (done.code, "65536" in done.err) == (1, True), done


def test_one_malformed_variable_does_not_hide_the_other_connections(acme: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    acme.ok("connection", "add", "shop", "--uri", "acme://h")
    acme.ok("connection", "add", "hidden", "--uri", "acme://h")
    monkeypatch.setenv("FLUX_CONN_HIDDEN", "geheim4720")
    done = acme.ok("connection", "list", "--json")
    assert [row["conn_id"] for row in done.json] == ["shop"]
    assert "Connection 'hidden' (from FLUX_CONN_HIDDEN) is not a URI" in done.err
    assert "geheim4720" not in done.err
    monkeypatch.setenv("FLUX_CONN_HIDDEN", "acme://h?local_infile=1")
    monkeypatch.setenv("FLUX_CONN_OTHER", "elsewhere://h?anything=1")
    assert [message for _, message in findings(acme, "connections") if "local_infile" in message] != []


def test_the_type_of_a_provider_that_is_broken_is_answered_with_its_name(acme: Cli) -> None:
    acme.write("flux_provider.py", PROVIDER + "1 / 0\n")
    done = acme("connection", "add", "shop", "--uri", "acme://h")
    assert (done.code, "Not taking part: local (broken); `flux provider list` says why." in done.err) == (1, True)


def test_a_closed_stdin_is_an_empty_one(acme: Cli) -> None:
    for arguments, code, words in (("--uri -", 1, "is not a URI"), ("--type acme", 0, "was added")):
        command = f"{sys.executable} -m flux.cli.main connection add shop {arguments} <&-"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, words in done.stderr) == (code, True), done


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "No password and no token was stored"),
        (["--password-file", "-"], "No token was stored"),
        (["--secret-file", "token=-"], "with --replace and --password-file FILE, or --password-file - for standard"),
    ],
)
def test_without_a_terminal_it_is_said_which_secrets_were_not_stored(
    acme: Cli, given: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("geheim4716\n"))
    done = acme.ok("connection", "add", "shop", "--type", "acme", "--host", "h", *given)
    assert (words in done.err, "geheim4716" in done.err) == (True, False), done
    assert acme.ok("connection", "show", "shop", "--json").json["has_secrets"] is bool(given)


def test_of_a_connection_that_has_all_its_secrets_nothing_is_said(
    acme: Cli, secret_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--type", "acme", "--host", "h", "--password-file", "-", "--secret-file", f"token={secret_file}")
    monkeypatch.setattr(sys, "stdin", io.StringIO("geheim4716\n"))
    assert acme.ok("connection", "add", "shop", *arguments).err == "Connection 'shop' was added.\n"


def test_a_backend_that_does_not_answer_fails_the_command_in_time(
    acme: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = (
        "import time\nclass Vault:\n    def connection(self, conn_id): time.sleep(1000)\n    variable = connection\n"
    )
    lines = "[flux.secrets_backends]\nvault = flux_provider_slow.vault:Vault\n"
    install(tmp_path, "slow", entry_points=lines, modules={"vault.py": vault})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("FLUX_SECRETS_BACKENDS", "vault")
    done = acme.process("connection", "test", "shop", "--timeout", "0.5")
    words = "Error: Secrets backend 'vault' did not answer for connection 'shop' within 0.5 s.\n"
    assert (done.code, done.err) == (1, words)


@pytest.mark.parametrize("seconds", ["0", "0.05", "3601", "nan", "inf"])
def test_a_timeout_out_of_its_range_is_wrong_usage(acme: Cli, seconds: str) -> None:
    done = acme("connection", "test", "shop", "--timeout", seconds)
    assert (done.code, "--timeout" in done.err) == (2, True), done

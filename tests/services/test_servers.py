"""The script that starts private servers: it starts one, keeps it, and ends it and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.services import servers

pytestmark = pytest.mark.slow

VARIABLES = {"postgres": "FLUX_TEST_POSTGRES", "mariadb": "FLUX_TEST_MARIADB", "mysql": "FLUX_TEST_MYSQL"}


def is_installed(name: str) -> bool:
    done = subprocess.run([servers.SCRIPT, "status", name], capture_output=True, text=True, check=True)
    return "not installed" not in done.stdout


@pytest.fixture(params=VARIABLES)
def name(request: pytest.FixtureRequest) -> str:
    """Each server that is installed."""
    found = str(request.param)
    if not is_installed(found):
        pytest.skip(f"{found} is not installed; tests/services/services.sh installs it")
    return found


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The data of the servers, which takes seconds to make; pytest's folders are closed to the servers' users."""
    folder = Path(tempfile.mkdtemp(prefix="flux-services-"))
    folder.chmod(0o755)
    # MySQL's programs lie in the folder of the servers.
    usual = subprocess.run([servers.SCRIPT, "folder"], capture_output=True, text=True, check=True).stdout.strip()
    for programs in Path(usual).glob("mysql-*"):
        (folder / programs.name).symlink_to(programs)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def environ(folder: Path) -> Iterator[dict[str, str]]:
    """Servers there, on ports of this test's own."""
    environ = {**os.environ, "FLUX_SERVICES": str(folder), "FLUX_SERVICES_PORT": str(free_ports(len(VARIABLES)))}
    yield environ
    subprocess.run([servers.SCRIPT, "stop"], env=environ, check=True)


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody uses."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as found:
            first = int(found.getsockname()[1])
            try:
                for port in range(first + 1, first + count):
                    socket.create_server(("127.0.0.1", port)).close()
            except (OSError, OverflowError):
                continue
            return first


def pid(environ: dict[str, str], name: str) -> int:
    return int((Path(environ["FLUX_SERVICES"]) / f"{name}.pid").read_text().split()[0])


def answer(url: str) -> str:
    """Log in and return the address that the server is bound to."""
    parts = urlsplit(url)
    if parts.scheme == "mysql":
        import pymysql

        with pymysql.connect(
            host=parts.hostname, port=parts.port or 0, user=parts.username, password=parts.password or ""
        ) as session:
            cursor = session.cursor()
            cursor.execute("SHOW VARIABLES LIKE 'bind_address'")
            return str(cursor.fetchall()[0][1])
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute("SHOW listen_addresses").fetchone()
        return str(row[0]) if row else ""


def test_a_server_is_there_while_it_is_wanted(name: str, environ: dict[str, str]) -> None:
    with servers.running(name, environ=environ) as found:
        assert list(found) == [VARIABLES[name]]
        assert answer(found[VARIABLES[name]]) == "127.0.0.1"
        first = pid(environ, name)
        with servers.running(name, environ=environ) as again:
            assert again == found
        assert pid(environ, name) == first
    assert servers.variables(environ=environ) == {}


def test_a_killed_server_can_be_started_again(name: str, environ: dict[str, str]) -> None:
    with servers.running(name, environ=environ):
        first = pid(environ, name)
        os.kill(first, signal.SIGKILL)
        with servers.running(name, environ=environ) as found:
            assert pid(environ, name) != first
            assert answer(found[VARIABLES[name]]) == "127.0.0.1"


def test_stop_does_not_end_a_process_that_has_the_pid_of_an_old_server(name: str, environ: dict[str, str]) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (Path(environ["FLUX_SERVICES"]) / f"{name}.pid").write_text(f"{stranger.pid} 1\n")
        subprocess.run([servers.SCRIPT, "stop", name], env=environ, check=True)
        assert stranger.poll() is None
        stranger.kill()


def test_a_taken_port_is_said_to_be_taken(name: str, environ: dict[str, str]) -> None:
    port = int(environ["FLUX_SERVICES_PORT"]) + list(VARIABLES).index(name)
    taken = socket.create_server(("127.0.0.1", port))
    with taken, pytest.raises(RuntimeError, match="FLUX_SERVICES_PORT"), servers.running(name, environ=environ):
        pass


def test_an_unknown_server_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(RuntimeError, match="known: postgres mariadb mysql"):
        servers.variables("oracle", environ=os.environ)

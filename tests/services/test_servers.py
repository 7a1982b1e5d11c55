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

import pytest
import sqlalchemy as sa

from tests.services import servers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")), reason="PostgreSQL is not installed"
    ),
]


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    """Servers in a folder and on a port of this test's own; pytest's folders are closed to the server's user."""
    folder = Path(tempfile.mkdtemp(prefix="flux-services-"))
    folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {**os.environ, "FLUX_SERVICES": str(folder), "FLUX_SERVICES_PORT": str(port)}
    yield environ
    subprocess.run([servers.SCRIPT, "stop"], env=environ, check=True)
    shutil.rmtree(folder)


def pid(environ: dict[str, str]) -> int:
    return int((Path(environ["FLUX_SERVICES"]) / "postgres.pid").read_text().split()[0])


def test_a_server_is_there_while_it_is_wanted(environ: dict[str, str]) -> None:
    with servers.running("postgres", environ=environ) as found:
        engine = sa.create_engine(found["FLUX_TEST_POSTGRES"])
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user"))
            assert connection.scalar(sa.text("SHOW listen_addresses")) == "127.0.0.1"
        engine.dispose()
        first = pid(environ)
        with servers.running("postgres", environ=environ) as again:
            assert again == found
        assert pid(environ) == first
    assert servers.variables(environ=environ) == {}


def test_a_killed_server_can_be_started_again(environ: dict[str, str]) -> None:
    with servers.running("postgres", environ=environ):
        first = pid(environ)
        os.kill(first, signal.SIGKILL)
        with servers.running("postgres", environ=environ) as found:
            assert pid(environ) != first
            engine = sa.create_engine(found["FLUX_TEST_POSTGRES"])
            with engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT 1")) == 1
            engine.dispose()


def test_stop_does_not_end_a_process_that_has_the_pid_of_an_old_server(environ: dict[str, str]) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (Path(environ["FLUX_SERVICES"]) / "postgres.pid").write_text(f"{stranger.pid} 1\n")
        subprocess.run([servers.SCRIPT, "stop", "postgres"], env=environ, check=True)
        assert stranger.poll() is None
        stranger.kill()


def test_a_taken_port_is_said_to_be_taken(environ: dict[str, str]) -> None:
    taken = socket.create_server(("127.0.0.1", int(environ["FLUX_SERVICES_PORT"])))
    with taken, pytest.raises(RuntimeError, match="FLUX_SERVICES_PORT"), servers.running("postgres", environ=environ):
        pass


def test_an_unknown_server_is_refused_and_the_known_ones_named(environ: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match="known: postgres"):
        servers.variables("oracle", environ=environ)

"""What this machine can do at best: bare processes and bare durable commits. A noisy machine shows here first."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.measure import Row

_FORKS = """
import json, os, time
seconds = []
for _ in range(300):
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    seconds.append(time.perf_counter() - began)
print(json.dumps(seconds))
"""
_COMMITS = 200


def rows(when: str, postgres: str | None) -> list[Row]:
    """Measure them all.

    Args:
        when: what the rows' names say of the moment.
        postgres: URL of the server; None: there is none.
    """
    found = [
        Row(f"floor: fork and wait, {when}", "ms", _forks()),
        Row(f"floor: commit, SQLite full, {when}", "ms", _sqlite()),
    ]
    if postgres is not None:
        found.append(Row(f"floor: commit, PostgreSQL, {when}", "ms", _postgres(postgres)))
    return found


def _forks() -> list[float]:
    """A process of a bare interpreter, which does nothing."""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", _FORKS], check=True, capture_output=True)
    return [seconds * 1e3 for seconds in json.loads(done.stdout)]


def _sqlite() -> list[float]:
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        connection = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE floor (n INTEGER)")
            return _timed(lambda: _one_row(connection))
        finally:
            connection.close()


def _one_row(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO floor VALUES (1)")
    connection.execute("COMMIT")


def _postgres(url: str) -> list[float]:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS floor (n INTEGER)")
        connection.commit()

        def commit() -> None:
            connection.execute("INSERT INTO floor VALUES (1)")
            connection.commit()

        seconds = _timed(commit)
        connection.execute("DROP TABLE floor")
        connection.commit()
        return seconds


def _timed(work: Callable[[], None]) -> list[float]:
    milliseconds = []
    for _ in range(_COMMITS):
        began = time.perf_counter()
        work()
        milliseconds.append((time.perf_counter() - began) * 1e3)
    return milliseconds

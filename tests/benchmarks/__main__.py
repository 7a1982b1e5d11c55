"""Measure Flux on this machine and print the table. `python -m tests.benchmarks`, or `nox -s bench`.

A whole run keeps its table under docs/benchmarks/. What is asked of a row is what design.md 9 asks. Floors are measured
in the same run, before and after: a machine that is busy with other things shows there.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import deaths, floors, folder, peers, postgres, processes, providers, starting
from tests.benchmarks.measure import Row, table
from tests.benchmarks.tasks import Bench, waiting_sensors

KEPT = Path(__file__).parents[2] / "docs" / "benchmarks"


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    began = time.monotonic()
    with postgres.server() as url:
        groups = _groups(options, url)
        rows, others = floors.rows("before", url), []
        for name, group in groups.items():
            if not options.only or name in options.only:
                print(f"{time.monotonic() - began:4.0f} s  {name}", file=sys.stderr, flush=True)
                with _Others() as share:
                    rows += group()
                others.append(f"{name} {share.percent:.0f} %")
        rows += floors.rows("after", url)
    text = (
        f"{_machine(bool(url))}\n\n{table(rows)}\n\n"
        f"CPU of the machine that others used meanwhile (a database server counts as one): {', '.join(others)}.\n"
        f"Took {time.monotonic() - began:.0f} s.\n"
    )
    print(text)
    if not options.only:
        _keep(text)


class _Others:
    """What others leave of the machine inside the block: figures taken on a busy one say little about Flux."""

    def __enter__(self) -> _Others:
        self._began = (time.monotonic(), self._used())
        return self

    def __exit__(self, *_: object) -> None:
        took = (time.monotonic() - self._began[0]) * (os.cpu_count() or 1)
        self.percent = max(self._used() - self._began[1], 0.0) / took * 100

    def _used(self) -> float:
        return processes.machine_seconds() - processes.own_tree_seconds()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s bench --", allow_abbrev=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", action="append", metavar="GROUP", help="measure this group alone; repeatable")
    parser.add_argument("--sensors", type=int, default=500, help="how many wait (500); 10000 is the row itself")
    parser.add_argument("--files", type=int, default=500, help="how many DAG files lie there (500)")
    parser.add_argument("--peers-python", metavar="PATH", help="measure Luigi and Huey, installed for this interpreter")
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(_groups(options, ""))
    if unknown:
        parser.error(f"no group {', '.join(sorted(unknown))}; there are: {', '.join(_groups(options, ''))}")
    return options


def _groups(options: argparse.Namespace, postgres_url: str | None) -> dict[str, Callable[[], list[Row]]]:
    """What can be measured, by name, in the order of the table."""
    groups: dict[str, Callable[[], list[Row]]] = {
        "sqlite": lambda: list(_on_sqlite()),
        "sqlite-fast": lambda: list(_on_fast_sqlite()),
        "postgresql": lambda: list(_on_postgresql(postgres_url)) if postgres_url else [],
        "sensors": lambda: waiting_sensors(options.sensors),
        "folder": lambda: folder.rows(options.files),
        "starting": starting.rows,
        "providers": providers.rows,
        "deaths": deaths.rows,
    }
    if options.peers_python:
        groups["peers"] = lambda: peers.rows(options.peers_python)
    return groups


def _on_sqlite() -> Iterator[Row]:
    with Bench("SQLite", {}) as bench:
        yield from bench.hop(must=12, aim=3)
        yield from bench.many()
        yield bench.first_line()
        yield from bench.beside_many()


def _on_fast_sqlite() -> Iterator[Row]:
    with Bench("SQLite, durability fast", {"FLUX_DURABILITY": "fast"}) as bench:
        yield from bench.hop(must=None, aim=None, durable=False)


def _on_postgresql(url: str) -> Iterator[Row]:
    with Bench("PostgreSQL", {"FLUX_DATABASE_URL": url}) as bench:
        yield from bench.hop(must=15, aim=5)
        yield from bench.many()
        yield bench.first_line()
        yield from bench.beside_many()


def _machine(has_postgres: bool) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    databases = f"SQLite {sqlite3.sqlite_version}{' and PostgreSQL' if has_postgres else ''}, durable commits"
    load = os.getloadavg()[1]
    return (
        f"Flux on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} CPUs, {memory:.0f} GB of memory, "
        f"{platform.system()}, Python {platform.python_version()}.\n"
        f"{databases}. Load of the last five minutes: {load:.1f}."
    )


def _keep(text: str) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{datetime.now(UTC):%Y-%m-%d}-{os.cpu_count()}-cpus-{memory:.0f}-gb.txt"
    path.write_text(text, encoding="utf-8")
    print(f"Kept as {path.relative_to(KEPT.parents[1])}.", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Live through one chaos day and say what was wrong. `python -m tests.chaos`, or `nox -s chaos`."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import checker, database
from tests.chaos.day import Day
from tests.chaos.deeds import DEEDS


def main() -> int:
    options = _options()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="flux-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}, {options.minutes:g} minutes on {options.database}, in {folder}", flush=True)
    began = time.monotonic()
    with database.made(options.database, folder / "home") as base:
        day = Day(folder, base, options.seed, options.minutes, options.pace)
        try:
            day.live(DEEDS)
            findings = [*day.findings, *checker.check(day)]
            print(_summary(day, time.monotonic() - began))
        finally:
            day.close()
    for finding in findings:
        print(f"FINDING {finding}")
    if not findings and not options.keep:
        shutil.rmtree(folder)
    elif not options.folder:
        print(f"what is left is in {folder}")
    return 1 if findings else 0


def _summary(day: Day, seconds: float) -> str:
    rows = checker.Rows(day.database)
    outcomes = ", ".join(
        f"{row.n} {row.outcome}"
        for row in day.database.rows("SELECT outcome, count(*) AS n FROM attempt GROUP BY outcome ORDER BY n DESC")
    )
    done = ", ".join(f"{count} {kind}" for kind, count in sorted(day.deeds.done.items()))
    strange = "\n".join(f"  {count} x {line}" for line, count in checker.unknown_lines(day).most_common(25))
    return (
        f"{len(rows.runs)} runs, {len(rows.attempts)} attempts ({outcomes}) in {seconds:.0f} s\n"
        f"flux up ended within {day.slowest_end:.1f} s\n"
        f"done to it: {done}\nsaid by components:\n{strange}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s chaos --", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of a former day")
    parser.add_argument("--minutes", type=float, default=5, help="in which it is interfered with")
    parser.add_argument("--pace", type=float, default=0.6, help="mean seconds between two deeds")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--folder", help="for home, diary and what is left; by default a temporary one")
    parser.add_argument("--keep", action="store_true", help="keep the folder also when nothing was wrong")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

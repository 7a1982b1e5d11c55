"""Seattle's temperatures, a file a day: wait for it, look at it, parse, aggregate, load, report.

Runs daily in Seattle's time zone and catches up March 2010, in which the 14th has 23 hours. It needs one variable,
`seattle_folder`: the folder with `incoming/` (one `YYYY-MM-DD.csv` a day), where the database and the reports go too.

    flux variable set seattle_folder /path/to/folder
"""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from flux import DAG, get_variable, task
from flux.operators import BashOperator
from flux.sensors import FileSensor

INCOMING = "{{ var.value.seattle_folder }}/incoming/{{ ds }}.csv"

#: On this day `aggregate` fails at its first attempt, to show a retry.
BAD_DAY = "2010-03-10"

with DAG(
    "seattle",
    schedule="@daily",
    start_date="2010-03-01",
    end_date="2010-03-31",
    timezone="America/Los_Angeles",
    catchup=True,
    description="Hourly temperatures of Seattle, March 2010 (NOAA), a file a day",
    tags=["example"],
) as dag:
    # Waits as long as it takes, and holds no process and no slot meanwhile.
    wait_for_file = FileSensor(task_id="wait_for_file", filepath=INCOMING, poke_interval=0.5, timeout=3600)

    # The last line a Bash step prints is its result: here, how many hours the file has.
    count_hours = BashOperator(
        task_id="count_hours",
        bash_command=f"""
            set -eu
            file="{INCOMING}"
            head -n 3 "$file"
            tail -n +2 "$file" | grep -c .
        """,
    )

    @task
    def parse(path: str, hours: str) -> list[Decimal]:
        """Read the day's temperatures, and refuse a file that Bash counted otherwise."""
        with Path(path).open(newline="") as file:
            temperatures = [Decimal(row["temp"]) for row in csv.DictReader(file)]
        if len(temperatures) != int(hours):
            raise ValueError(f"{path} has {len(temperatures)} readings, but {hours} lines")
        return temperatures

    @task(retries=2, retry_delay=1)
    def aggregate(temperatures: list[Decimal], ds: str, ti: Any) -> dict[str, Any]:
        """Reduce the day to its number of hours, mean, lowest and highest temperature (°F)."""
        if ds == BAD_DAY and ti.attempt == 1:
            raise ConnectionError(f"The example fails here once, on {BAD_DAY}, so that you see a retry")
        mean = (sum(temperatures) / len(temperatures)).quantize(Decimal("0.01"))
        return {"hours": len(temperatures), "mean": mean, "low": min(temperatures), "high": max(temperatures)}

    @task(retries=3, retry_delay=1)
    def load(day: dict[str, Any], ds: str) -> None:
        """Put the day into the database in one transaction; loading a day again replaces it."""
        database = Path(get_variable("seattle_folder")) / "seattle.db"
        with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS day (ds TEXT PRIMARY KEY, hours INTEGER, mean REAL, low REAL, high REAL)"
            )
            values = (ds, day["hours"], float(day["mean"]), float(day["low"]), float(day["high"]))
            connection.execute("INSERT OR REPLACE INTO day VALUES (?, ?, ?, ?, ?)", values)
        print("loaded", values)

    @task
    def report(day: dict[str, Any], ds: str) -> str:
        """Write the day's line into `reports/`; the line is the result too."""
        line = f"{ds}  {day['hours']} h  mean {day['mean']:>6}  low {day['low']:>5}  high {day['high']:>5} °F"
        folder = Path(get_variable("seattle_folder")) / "reports"
        folder.mkdir(exist_ok=True)
        (folder / f"{ds}.txt").write_text(line + "\n", encoding="utf-8")
        print(line)
        return line

    temperatures = parse(INCOMING, count_hours.output)
    day = aggregate(temperatures)
    wait_for_file >> count_hours
    load(day) >> report(day)

if __name__ == "__main__":
    dag.cli()

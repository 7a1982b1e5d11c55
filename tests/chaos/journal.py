"""What the attempts wrote down themselves (`dags/chaos_journal.py`), as records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Journal:
    """One attempt's own words."""

    claim: int
    #: (dag_id, run_id, task_id) and the attempt's number; None of what only poked.
    instance: tuple[str, str, str] | None = None
    attempt: int = 0
    #: Seconds since 1970.
    begins: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    #: What it complained of: more at once than allowed, begun too early, a wrong result.
    complaints: list[str] = field(default_factory=list)


def read(folder: Path) -> list[Journal]:
    """Return the journals of a folder."""
    return [_read(path) for path in sorted(folder.iterdir())]


def _read(path: Path) -> Journal:
    journal = Journal(int(path.name))
    for line in path.read_text().splitlines():
        word, at, *words = line.split(" ")
        if word == "begin":
            _, dag_id, run_id, task_id, number = words
            journal.instance, journal.attempt = (dag_id, run_id, task_id), int(number)
            journal.begins.append(int(at) / 1e9)
        elif word == "end":
            journal.ends.append(int(at) / 1e9)
        elif word != "poke":
            journal.complaints.append(" ".join([word, *words]))
    return journal

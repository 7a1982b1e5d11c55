"""What must hold after a chaos day, computed from the rows, the journals and the logs, by SQL of its own.

Nothing of `flux.store` is used here: a mistake there must not be made twice. Each function returns what does not hold,
in words.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from tests.chaos import journal
from tests.chaos.database import Database
from tests.chaos.day import Day
from tests.chaos.journal import Journal

TERMINAL = {"success", "failed", "skipped", "upstream_failed", "removed"}
HELD = {"queued", "started", "deferred"}
#: Tasks that write no journal: sensors, what needs no process, and a Bash command that only hangs.
SILENT_OPERATORS = {"EmptyOperator", "FileSensor", "PythonSensor"}
SILENT_TASKS = {("late", "bash")}
#: Rules that decide only when every upstream has ended. The others of their kind may decide early.
PATIENT = {
    "all_success", "all_failed", "all_done", "all_skipped", "none_failed", "none_failed_min_one_success",
    "none_skipped",
}  # fmt: skip
EARLY = {"one_success": {"success"}, "one_failed": {"failed", "upstream_failed"}}
#: Outcomes after which another attempt follows while one is allowed, but for the third loss in a row.
RETRIED, MOST_LOSSES = {"failed", "timed_out", "lost"}, 3
#: Seconds between the moment a thing happened and the moment that was written down for it.
SLACK = 0.01
#: Around a death of what writes the ends of logs, in seconds.
NEAR = 8.0


class Rows:
    """Every row of a home, once read."""

    def __init__(self, database: Database) -> None:
        read = database.rows
        self.dags = {row.id: row for row in read("SELECT * FROM dag")}
        self.runs = {row.id: row for row in read("SELECT * FROM dag_run")}
        self.pools = {row.id: row for row in read("SELECT * FROM pool")}
        self.limits = {row.id: row for row in read("SELECT * FROM task_limit")}
        self.instances = {row.id: row for row in read("SELECT * FROM task_instance ORDER BY id")}
        self.attempts = read("SELECT * FROM attempt ORDER BY task_instance_id, attempt")
        structures = read("SELECT id, structure FROM dag_version")
        self.tasks = {row.id: _tasks(json.loads(row.structure)) for row in structures}
        self.outbox = read("SELECT count(*) AS n FROM outbox")[0].n
        self.of_run: dict[int, dict[int, Any]] = defaultdict(dict)
        for row in self.instances.values():
            self.of_run[row.dag_run_id][row.task_index] = row

    def name(self, instance: Any) -> tuple[str, str, str]:
        """(dag_id, run_id, task_id)"""
        run = self.runs[instance.dag_run_id]
        return self.dags[run.dag_row].dag_id, run.run_id, instance.task_id

    def task(self, instance: Any) -> Mapping[str, Any]:
        return self.tasks[self.runs[instance.dag_run_id].dag_version_id][instance.task_index]  # type: ignore[no-any-return]

    def past(self, instance: Any) -> list[Any]:
        """What a task instance waits for in the run before its own; empty when it asks for nothing."""
        run, task = self.runs[instance.dag_run_id], self.task(instance)
        names = {instance.task_id} if task["depends_on_past"] or task["wait_for_downstream"] else set()
        if task["wait_for_downstream"]:
            names |= {self.tasks[run.dag_version_id][index]["task_id"] for index in task["downstream"]}
        before = [
            other
            for other in self.runs.values()
            if other.dag_row == run.dag_row and other.kind != "manual" and other.logical_date < run.logical_date
        ]
        if not names or not before or run.kind == "manual":
            return []
        latest = max(before, key=lambda other: other.logical_date)
        return [row for row in self.of_run[latest.id].values() if row.task_id in names]


def _tasks(structure: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a version, by index; what is not written down has its default."""
    defaults: dict[str, Any] = {
        "upstream": [], "downstream": [], "gates": [], "trigger_rule": "all_success", "gate": None,
        "retry_delay": 300.0, "depends_on_past": False, "wait_for_downstream": False,
    }  # fmt: skip
    return [{**defaults, **task} for task in structure["tasks"]]


def check(day: Day) -> list[str]:
    """Check a home in which nothing runs."""
    rows = Rows(day.database)
    journals = journal.read(day.home / "journal")
    return [
        *states(rows),
        *counters(rows),
        *upstream_counters(rows),
        *attempts(rows),
        *journals_against_rows(rows, journals, day.deeds.deleted),
        *order(rows, journals, day.deeds.upgraded),
        *active_runs(rows, day.deeds.deleted | day.deeds.upgraded),
        *told(rows, day),
        *logs(rows, day),
        *leftovers(day),
        *components(day),
    ]


# --- rows ------------------------------------------------------------------------------------------------------------


def states(rows: Rows) -> Iterator[str]:
    """Nothing is under way, and what is open has a reason that the rows show."""
    for row in rows.instances.values():
        if row.state in TERMINAL or row.state in ("waiting", "ready"):
            if row.state == "ready" and not row.blocked_on.startswith("past:"):
                yield f"{rows.name(row)} is ready, blocked on {row.blocked_on!r}"
            if row.state == "ready" and row.blocked_on.startswith("past:"):
                before = rows.instances.get(int(row.blocked_on.partition(":")[2]))
                if before is None or before.state in ("success", "skipped", "removed"):
                    yield f"{rows.name(row)} waits for its past, which is {before and before.state}"
            continue
        yield f"{rows.name(row)} is {row.state}, claim {row.claim}"
    for run in rows.runs.values():
        states_of = [row.state for row in rows.of_run[run.id].values()]
        still_open = sum(state not in TERMINAL for state in states_of)
        name = f"run {rows.dags[run.dag_row].dag_id} {run.run_id}"
        if run.open_tasks != still_open:
            yield f"{name} counts {run.open_tasks} open tasks, there are {still_open}"
        if (run.state == "running") != (still_open > 0):
            yield f"{name} is {run.state} with {still_open} open tasks"
        if run.state == "success" and run.reason is None and {"failed", "upstream_failed"} & _leaves(rows, run):
            yield f"{name} is success, its leaves are {_leaves(rows, run)}"
        dag = rows.dags[run.dag_row]
        if run.state == "queued" and dag.active_runs < dag.max_active_runs:
            yield f"{name} is queued, {dag.active_runs} of {dag.max_active_runs} run"


def _leaves(rows: Rows, run: Any) -> set[str]:
    """The states of the tasks that nothing is downstream of."""
    alive = {index: row for index, row in rows.of_run[run.id].items() if row.state != "removed"}
    above = {up for index in alive for up in rows.tasks[run.dag_version_id][index]["upstream"]}
    return {row.state for index, row in alive.items() if index not in above}


def counters(rows: Rows) -> Iterator[str]:
    """What is in use of pools and limits, and how much runs, is what the rows say."""
    held = [row for row in rows.instances.values() if row.state in HELD]
    for row in rows.instances.values():
        if (row.holds == 1) != (row.state in HELD):
            yield f"{rows.name(row)} is {row.state} and holds {row.holds}"
    pools, limits, tasks = Counter[int](), Counter[int](), Counter[int]()
    for row in held:
        pools[row.pool_id] += row.pool_slots
        limits[row.task_limit_id] += 1
        tasks[rows.runs[row.dag_run_id].dag_row] += bool(row.needs_slot)
    for number, pool in rows.pools.items():
        if pool.used != pools[number]:
            yield f"pool {pool.name} counts {pool.used}, there are {pools[number]}"
    for number, limit in rows.limits.items():
        if limit.used != limits[number]:
            yield f"limit of {limit.task_id} counts {limit.used}, there are {limits[number]}"
    running = Counter(run.dag_row for run in rows.runs.values() if run.state == "running")
    for number, dag in rows.dags.items():
        if dag.active_tasks != tasks[number]:
            yield f"DAG {dag.dag_id} counts {dag.active_tasks} active tasks, there are {tasks[number]}"
        if dag.active_runs != running[number]:
            yield f"DAG {dag.dag_id} counts {dag.active_runs} active runs, there are {running[number]}"
    if rows.outbox:
        yield f"{rows.outbox} messages are still in the outbox"


def upstream_counters(rows: Rows) -> Iterator[str]:
    """Each task instance counts the states above it, and the gates that it waits for."""
    for run in rows.runs.values():
        tasks = rows.tasks[run.dag_version_id]
        alive = {index: row for index, row in rows.of_run[run.id].items() if row.state != "removed"}
        for index, row in alive.items():
            if index >= len(tasks):
                yield f"{rows.name(row)} has index {index}, its version {len(tasks)} tasks"
                continue
            above = [alive[up].state for up in tasks[index]["upstream"] if up in alive]
            gates = [alive[task["index"]] for task in tasks if index in task["gates"] and task["index"] in alive]
            ended = [gate for gate in gates if gate.state in TERMINAL]
            wanted = {
                "upstream_total": len(above),
                "upstream_ok": above.count("success"),
                "upstream_bad": above.count("failed") + above.count("upstream_failed"),
                "upstream_skipped": above.count("skipped"),
                "gates_open": len(gates) - len(ended),
                "gates_closed": sum(index in json.loads(gate.closes or "[]") for gate in ended),
            }
            for name, value in wanted.items():
                if getattr(row, name) != value:
                    yield f"{rows.name(row)} ({row.state}) counts {name} {getattr(row, name)}, there are {value}"


def attempts(rows: Rows) -> Iterator[str]:
    """Attempts are numbered without gaps, one after the other in time, and a success has one winner, the last."""
    of_row: dict[int, list[Any]] = defaultdict(list)
    for one in rows.attempts:
        of_row[one.task_instance_id].append(one)
    for number, row in rows.instances.items():
        own = of_row[number]
        name = rows.name(row)
        if [one.attempt for one in own] != list(range(1, row.attempt + 1)):
            yield f"{name} counts {row.attempt} attempts, there are {[one.attempt for one in own]}"
        winners = [one.attempt for one in own if one.outcome == "success"]
        if own and row.state != "removed" and winners != ([row.attempt] if row.state == "success" else []):
            yield f"{name} is {row.state}, the attempts {winners} succeeded"
        if row.state not in HELD and (row.claim is not None or any(one.outcome is None for one in own)):
            yield f"{name} is {row.state} with an open attempt"
        for before, after in itertools.pairwise(own):
            if before.ended_at is None or _time(after.started_at) < _time(before.ended_at) - SLACK:
                yield f"{name} began attempt {after.attempt} before {before.attempt} ended"
            elif before.outcome in RETRIED and row.state != "removed":
                pause, wanted = _time(after.started_at) - _time(before.ended_at), rows.task(row)["retry_delay"]
                if pause < wanted - SLACK:
                    yield f"{name} began attempt {after.attempt} after {pause:.2f} s, retry_delay is {wanted:g} s"
        if own and row.state == "failed" and own[-1].outcome in RETRIED and row.attempt < row.max_attempts:
            lost = [one.outcome for one in own[-MOST_LOSSES:]] == ["lost"] * MOST_LOSSES
            final = (row.reason or "").startswith("SensorTimeout") or rows.runs[row.dag_run_id].reason is not None
            if not lost and not final:
                yield f"{name} failed in attempt {row.attempt} of {row.max_attempts}: {row.reason}"
        if len(own) > row.max_attempts:
            yield f"{name} had {len(own)} attempts, {row.max_attempts} were allowed"


# --- journals --------------------------------------------------------------------------------------------------------


def journals_against_rows(rows: Rows, journals: Iterable[Journal], deleted: set[tuple[str, str]]) -> Iterator[str]:
    """Whoever wrote a journal had an attempt, nobody had company, and each success did its work once."""
    of_claim = {one.claim: one for one in rows.attempts}
    by_claim = {entry.claim: entry for entry in journals}
    numbers: dict[tuple[str, str, str, int], int] = {}
    for claim, entry in by_claim.items():
        for complaint in entry.complaints:
            yield f"claim {claim} of {entry.instance}: {complaint}"
        if len(entry.begins) > 1 or len(entry.ends) > 1:
            yield f"claim {claim} of {entry.instance} began {len(entry.begins)} times, ended {len(entry.ends)}"
        if entry.instance is None:
            continue
        other = numbers.setdefault((*entry.instance, entry.attempt), claim)
        if other != claim and entry.instance[:2] not in deleted:
            yield f"attempt {entry.attempt} of {entry.instance} ran with the claims {other} and {claim}"
        row = of_claim.get(claim)
        if row is None:
            if entry.instance[:2] not in deleted:
                yield f"claim {claim} of {entry.instance} ran, and is no attempt"
            continue
        if (*rows.name(rows.instances[row.task_instance_id]), row.attempt) != (*entry.instance, entry.attempt):
            yield f"claim {claim} ran as {entry.instance} {entry.attempt}, and is {row}"
        if row.outcome == "never_launched":
            yield f"claim {claim} of {entry.instance} began, its outcome is never_launched: {row.reason}"
        if entry.begins[0] < _time(row.started_at) - SLACK:
            yield f"claim {claim} of {entry.instance} began before its claim"
        if row.outcome == "success" and entry.ends and entry.ends[0] > _time(row.ended_at) + SLACK:
            yield f"claim {claim} of {entry.instance} ended after its recorded end"
    for one in rows.attempts:
        row = rows.instances[one.task_instance_id]
        if row.state == "removed":
            continue
        name, task = rows.name(row), rows.task(row)
        if task["operator"] in SILENT_OPERATORS or (name[0], name[2]) in SILENT_TASKS:
            continue
        found = by_claim.get(one.claim)
        done = (len(found.begins), len(found.ends)) if found else (0, 0)
        if one.outcome == "success" and done != (1, 1):
            yield f"attempt {one.attempt} of {name} succeeded; it began {done[0]} times and ended {done[1]}"


def order(rows: Rows, journals: Iterable[Journal], upgraded: set[tuple[str, str]]) -> Iterator[str]:
    """Nothing began before what its trigger rule and its own past wait for had ended."""
    by_claim = {entry.claim: entry for entry in journals}
    for one in rows.attempts:
        entry = by_claim.get(one.claim)
        row = rows.instances[one.task_instance_id]
        name = rows.name(row)
        if entry is None or not entry.begins or name[:2] in upgraded or row.state == "removed":
            continue
        began, task = entry.begins[0], rows.task(row)
        above = [rows.of_run[row.dag_run_id][up] for up in task["upstream"] if up in rows.of_run[row.dag_run_id]]
        ended = [up for up in above if up.ended_at is not None and _time(up.ended_at) <= began + SLACK]
        late = [up.task_id for up in above if up not in ended]
        rule = task["trigger_rule"]
        if rule in PATIENT and late:
            yield f"attempt {one.attempt} of {name} ({rule}) began before {late} ended"
        if rule in EARLY and above and not any(up.state in EARLY[rule] for up in ended):
            yield f"attempt {one.attempt} of {name} ({rule}) began before any upstream ended so"
        if rule == "one_done" and above and not any(up.state != "skipped" for up in ended):
            yield f"attempt {one.attempt} of {name} ({rule}) began before any upstream was done"
        for other in rows.past(row):
            if other.ended_at is None or _time(other.ended_at) > began + SLACK:
                yield f"attempt {one.attempt} of {name} began before {rows.name(other)} ended"


def active_runs(rows: Rows, apart: set[tuple[str, str]]) -> Iterator[str]:
    """At no moment more runs were running than max_active_runs allows."""
    moves: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for run in rows.runs.values():
        if run.started_at is None or (rows.dags[run.dag_row].dag_id, run.run_id) in apart:
            continue
        moves[run.dag_row].append((_time(run.started_at), 1))
        if run.ended_at is not None:
            moves[run.dag_row].append((_time(run.ended_at), -1))
    for number, changes in moves.items():
        count = 0
        for at, change in sorted(changes):
            count += change
            if count > rows.dags[number].max_active_runs:
                yield f"DAG {rows.dags[number].dag_id} had {count} runs running at {at}"
                break


def told(rows: Rows, day: Day) -> Iterator[str]:
    """The listener was told of every end, and of the end of a run last."""
    if day.deeds.provider_gone:
        return
    path = day.home / "told"
    last: dict[tuple[Any, ...], str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        dag_id, run_id, task_id, _, state = json.loads(line)
        last[dag_id, run_id, task_id] = state
    for run in rows.runs.values():
        key = (rows.dags[run.dag_row].dag_id, run.run_id, None)
        if last.get(key) != run.state and run.state != "queued":
            yield f"run {key[:2]} is {run.state}, the listener was last told {last.get(key)}"
    for row in rows.instances.values():
        name = rows.name(row)
        if row.state in TERMINAL and last.get(name) != row.state:
            yield f"{name} is {row.state}, the listener was last told {last.get(name)}"


# --- files and processes ---------------------------------------------------------------------------------------------


def logs(rows: Rows, day: Day) -> Iterator[str]:
    """Every attempt that began has its log, with the line of its beginning and that of its end; deleted runs none."""
    runs = {(rows.dags[run.dag_row].dag_id, run.run_id) for run in rows.runs.values()}
    for path in day.home.glob("logs/*/*"):
        if (path.parent.name, path.name) not in runs:
            yield f"logs of a run that is not there: {[str(file) for file in path.rglob('*.log')]}"
    for one in rows.attempts:
        row = rows.instances[one.task_instance_id]
        name = f"attempt {one.attempt} of {rows.name(row)} ({one.outcome})"
        if row.state == "removed":
            continue
        task = rows.task(row)
        # The log of a sensor holds what its pokes print, and nothing else.
        if one.outcome == "never_launched" or task["operator"] == "EmptyOperator" or task.get("sensor"):
            continue
        if one.log is None:
            if one.pid is not None:
                yield f"{name} has a pid and no log"
            continue
        path = day.home / "logs" / one.log
        data = path.read_bytes() if path.exists() else None
        if data is None:
            if one.pid is not None:
                yield f"{name} has no log {one.log}"
            continue
        if b"ResourceWarning" in data:
            yield f"{name} printed a ResourceWarning: {data[-600:]!r}"
        if one.outcome in ("lost", "interrupted") or _near(_time(one.ended_at), day.deeds.log_ends_lost):
            continue
        if f"claim {one.claim}".encode() not in data[:2000]:
            yield f"{name}: its log has no beginning: {data[:200]!r}"
        if f"--- flux: attempt {one.attempt} ended".encode() not in data[-2000:]:
            yield f"{name}: its log has no end: {data[-200:]!r}"


def leftovers(day: Day) -> Iterator[str]:
    """No process and no result is left."""
    if left := day.system.processes():
        yield f"processes are left: {left}"
    if results := sorted(path.name for path in (day.home / "run" / "results").glob("*")):
        yield f"results are left: {results}"


#: What the components say of what is done to them.
ANNOUNCED = re.compile(
    r"the launcher died; another one is there"
    r"|folder: |scheduler: DAG .* made$"
    r"|ended, but nobody holds it any more"
)


#: What they never say, with the lines after it.
TROUBLE = re.compile(r"^(?:Traceback|Fatal Python|.*Warning|sweep: ).*(?:\n[ \w].*)*", re.MULTILINE)


def components(day: Day) -> Iterator[str]:
    """No component died by itself, showed a traceback or a warning, or had something to repair."""
    said = day.system.said()
    for kind, pid, how in re.findall(r"The (\w+) \(pid (\d+)\) ended(.*)is started again in", said):
        is_ended = kind == "listener" and day.deeds.provider_gone and "SIGTERM" in how
        if int(pid) not in day.deeds.harmed and not is_ended:
            yield f"component {pid} died by itself: {said[max(said.find(f'(pid {pid})') - 100, 0) :][:600]}"
    for line in said.splitlines():
        if re.search(r"given up|cannot be killed|Warning|^Traceback", line):
            yield f"flux up: {line}"
    for kind in ("supervisor", "launcher", "listener"):
        text = day.system.component_log(kind)
        for match in TROUBLE.finditer(text):
            if "Fatal Python error: Aborted" not in match[0]:  # a component that was stopped too long
                yield f"{kind}: {match[0][-1500:]}"


def unknown_lines(day: Day) -> Counter[str]:
    """Lines of the components' logs that nothing above knows, numbers left out, for people to look at."""
    lines = [
        line for kind in ("supervisor", "launcher", "listener") for line in day.system.component_log(kind).splitlines()
    ]
    return Counter(re.sub(r"\d+", "N", line)[:200] for line in lines if not ANNOUNCED.search(line))


def _near(at: float, moments: Iterable[float]) -> bool:
    return any(abs(at - moment) < NEAR for moment in moments)


def _time(value: Any) -> float:
    """Seconds since 1970 of a moment as the database gives it: UTC without a zone."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return float(moment.replace(tzinfo=UTC).timestamp())

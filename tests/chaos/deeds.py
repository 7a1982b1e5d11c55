"""What is done to a system on a chaos day: one function for each deed, and how often each is done beside the others."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from pathlib import Path

from flux import process
from flux.running import home
from tests.acceptance.system import NOISE
from tests.chaos.database import LOCKED
from tests.chaos.day import BY_HAND, COMMAND, DAGS, FILES, POOLS, STUCK, Day, Deed, NothingThere
from tests.waiting import until

#: Seconds of life before which a death counts as early, and how many such deaths of a kind the driver causes.
YOUNG, MOST_EARLY = 8, 6
_EXTRA = """
from chaos_journal import work as _work
from flux.operators import PythonOperator as _Python
_others = list(dag.tasks.values())
_extra = _Python(task_id="extra{number}", python_callable=_work(), dag=dag, trigger_rule="all_done")
_others[0] >> _extra >> _others[-1]
"""


_NEWEST_INSTANCES = """
    SELECT dag_id, run_id, task_id
    FROM task_instance JOIN dag_run ON dag_run.id = dag_run_id JOIN dag ON dag.id = dag_row
    ORDER BY task_instance.id DESC LIMIT 60
"""


def component(day: Day, *kinds: str) -> tuple[str, int]:
    """Pick a running component of one of these kinds."""
    kind = day.dice.choice(kinds)
    for part in home.running(day.home / "run"):
        if part.kind == kind:
            return kind, part.pid
    raise NothingThere


def pick(day: Day, pids: list[int]) -> int:
    if not pids:
        raise NothingThere
    return day.dice.choice(sorted(pids))


def attempts(day: Day, *, below: bool = False) -> list[int]:
    """Pids of the first processes of attempts; with `below`, of those that they started."""
    entries = {entry.pid: entry for entry in process.table() if not entry.is_zombie}
    ours = f"\0FLUX_HOME={day.home}\0".encode()
    claims = {pid: process.carried_claim(pid) for pid in entries if ours in _environ(pid)}
    return [
        pid
        for pid, claim in claims.items()
        if claim is not None and (claims.get(entries[pid].parent) == claim) == below
    ]


def freeze(day: Day, pid: int, seconds: float) -> None:
    """Stop a process, and let it go on later."""
    if process.send(pid, signal.SIGSTOP):
        timer = threading.Timer(seconds, process.send, (pid, signal.SIGCONT))
        timer.daemon = True
        timer.start()
        day.frozen.append((pid, timer))


def edit(day: Day) -> None:
    """Change a DAG file: another version, another structure, broken, gone, or as it was."""
    name = day.dice.choice([*FILES, "chaos_journal"]) + ".py"
    text = (DAGS / name).read_text()
    day.edits += 1
    kind = day.dice.choice(("touched", "touched", "changed", "whole", "broken", "syntax", "gone"))
    if name == "chaos_journal.py" and kind in ("gone", "changed"):
        kind = "touched"
    day.did(f"file {kind}", name)
    match kind:
        case "touched":
            day.write(name, f"{text}\n# {day.edits}\n")
        case "changed":
            day.write(name, text + _EXTRA.format(number=day.edits % 3))
        case "whole":
            day.write(name, text)
        case "broken":
            day.write(name, text.replace("\n\n", "\n\nraise RuntimeError('broken')\n", 1))
        case "syntax":
            day.write(name, text[: len(text) // 2] + "(((")
        case "gone":
            (day.home / "dags" / name).unlink(missing_ok=True)


def trigger(day: Day) -> None:
    day.command("dag", "trigger", day.dice.choice(BY_HAND))


def pause_or_not(day: Day) -> None:
    day.command("dag", day.dice.choice(("pause", "unpause", "unpause")), day.dice.choice(FILES))


def delete_run(day: Day) -> None:
    dag_id, run_id = _a_run(day, "dag_run.state IN ('success', 'failed')")
    day.deeds.deleted.add((dag_id, run_id))
    day.command("run", "delete", dag_id, run_id, "--yes")


def upgrade_run(day: Day) -> None:
    dag_id, run_id = _a_run(day, "dag_run.dag_version_id <> dag.dag_version_id AND state IN ('queued', 'running')")
    day.deeds.upgraded.add((dag_id, run_id))
    day.command("run", "upgrade", dag_id, run_id, "--yes")


def change_and_upgrade(day: Day) -> None:
    """Give a DAG another structure, and move a run of it there."""
    dag_id, run_id = _a_run(day, "state IN ('queued', 'running')")
    day.edits += 1
    day.did("file changed", f"{dag_id}.py")
    day.write(f"{dag_id}.py", (DAGS / f"{dag_id}.py").read_text() + _EXTRA.format(number=day.edits % 3))
    day.deeds.upgraded.add((dag_id, run_id))
    day.command("run", "upgrade", dag_id, run_id, "--yes")


def _a_run(day: Day, condition: str) -> tuple[str, str]:
    sql = f"SELECT dag_id, run_id FROM dag_run JOIN dag ON dag.id = dag_row WHERE {condition} ORDER BY dag_run.id"
    found = day.database.rows(sql)
    if not found:
        raise NothingThere
    row = day.dice.choice(found)
    return row.dag_id, row.run_id


def resize_pool(day: Day) -> None:
    """Make a pool smaller for a while; never larger than the journals take it for."""
    name, most = day.dice.choice(list(POOLS.items()))
    day.command("pool", "set", name, str(day.dice.choice((most, most, day.dice.randrange(most + 1)))))


def kill_component(day: Day) -> None:
    _kill(day, "supervisor", "supervisor", "launcher", "listener")


def kill_several(day: Day) -> None:
    """Kill a supervisor and a launcher within a moment."""
    kinds = ["supervisor", "launcher"]
    day.dice.shuffle(kinds)
    for kind in kinds:
        _kill(day, kind)
        day.pause.wait(day.dice.choice((0, 0.01, 0.3)))


def _kill(day: Day, *kinds: str) -> None:
    kind, pid = component(day, *kinds)
    if time.monotonic() - day.seen.setdefault(pid, time.monotonic()) < YOUNG:
        # Ten early deaths in five minutes and the hypervisor gives up, rightly.
        if day.early[kind] >= MOST_EARLY:
            raise NothingThere
        day.early[kind] += 1
    day.did(f"kill {kind}", str(pid))
    day.deeds.harmed.add(pid)
    if kind == "launcher":
        day.deeds.log_ends_lost.append(time.time())
    process.send(pid, signal.SIGKILL)


def kill_hypervisor(day: Day) -> None:
    """Kill the parent of all, and start again at once or when its children have noticed."""
    _, pid = component(day, "hypervisor")
    day.did("kill hypervisor", str(pid))
    day.deeds.harmed |= {part.pid for part in home.running(day.home / "run")}
    day.deeds.log_ends_lost.append(time.time())
    process.send(pid, signal.SIGKILL)
    until(lambda: not day.system.is_up, 10, "the end of the hypervisor")
    day.pause.wait(day.dice.choice((0, 0, 1, 3)))
    day.up()


def kill_host(day: Day) -> None:
    _, launcher = component(day, "launcher")
    pid = pick(day, [entry.pid for entry in process.table() if entry.parent == launcher and not entry.is_zombie])
    day.did("kill DAG host", str(pid))
    day.deeds.log_ends_lost.append(time.time())
    process.send(pid, signal.SIGKILL)


def kill_attempt(day: Day) -> None:
    pid = pick(day, attempts(day))
    day.did("kill attempt", f"{pid} claim {process.carried_claim(pid)}")
    process.send(pid, signal.SIGKILL)


def kill_grandchild(day: Day) -> None:
    pid = pick(day, attempts(day, below=True))
    day.did("kill grandchild", f"{pid} claim {process.carried_claim(pid)}")
    process.send(pid, signal.SIGKILL)


def freeze_component(day: Day) -> None:
    kind, pid = component(day, "supervisor", "launcher", "hypervisor", "listener")
    seconds = day.dice.choice((0.3, 1, 2, STUCK + 3))
    day.did(f"stop {kind}", f"{pid} for {seconds} s")
    day.deeds.harmed.add(pid)
    if seconds > STUCK and kind == "launcher":
        day.deeds.log_ends_lost.append(time.time() + STUCK + 2)
    freeze(day, pid, seconds)


def freeze_host_or_attempt(day: Day) -> None:
    _, launcher = component(day, "launcher")
    hosts = [entry.pid for entry in process.table() if entry.parent == launcher and not entry.is_zombie]
    pid = pick(day, [*hosts, *attempts(day)])
    day.did("stop attempt or DAG host", str(pid))
    freeze(day, pid, day.dice.choice((0.3, 1, 4)))


def interrupt(day: Day) -> None:
    """Ctrl-C, twice perhaps, or a service's or a terminal's end; and start again."""
    signum = day.dice.choice((signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    twice = signum == signal.SIGINT and day.dice.random() < 0.4
    day.did("Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name, "twice" if twice else "")
    _, hypervisor = component(day, "hypervisor")
    process.send(hypervisor, signal.SIGCONT)
    began = time.monotonic()
    day.deeds.log_ends_lost.append(time.time())
    day.system.send(signum)
    if twice:
        day.pause.wait(day.dice.random() * 0.5)
        with contextlib.suppress(ProcessLookupError):
            day.system.send(signum)
    until(lambda: not day.system.is_up, 6 * NOISE, "the end of flux up")
    day.slowest_end = max(day.slowest_end, time.monotonic() - began)
    day.deeds.log_ends_lost.append(time.time())
    # Commands that still run are processes of this home as well.
    until(lambda: not day.collect(), COMMAND, "the end of all commands")
    code = day.system.wait_down()
    if code != (130 if signum == signal.SIGINT else 0):
        day.findings.append(f"flux up ended with {code} after {signal.Signals(signum).name}")
    day.up()


def second_up(day: Day) -> None:
    """Start a second system in the same home, which is refused."""
    day.did("second flux up")
    done = day.system.flux("up", "--no-ui")
    if done.code != 1 or "already" not in done.err:
        day.findings.append(f"a second flux up was not refused: {done}")


def ask(day: Day) -> None:
    """Ask something by the command line, which must answer whatever the state of the system."""
    dag_id, run_id, task_id = _an_instance(day)
    questions = (
        ("status",),
        ("doctor",),
        ("dag", "list", "--json"),
        ("dag", "errors"),
        ("run", "list", "--json"),
        ("run", "show", dag_id, run_id),
        ("task", "attempts", dag_id, run_id, task_id),
        ("task", "log", dag_id, run_id, task_id),
        ("why", dag_id, run_id, task_id),
    )
    day.command(*day.dice.choice(questions), asks=True)


def _an_instance(day: Day) -> tuple[str, str, str]:
    found = day.database.rows(_NEWEST_INSTANCES)
    if not found:
        raise NothingThere
    row = day.dice.choice(found)
    return row.dag_id, row.run_id, row.task_id


def kill_command(day: Day) -> None:
    """Kill a command of the command line in the midst of what it does."""
    if not day.commands:
        raise NothingThere
    command = day.dice.choice(day.commands)
    day.did("kill command", " ".join(command.words))
    day.killed.add(command.process.pid)
    command.process.kill()


def replace_folder(day: Day) -> None:
    """Put another folder in place of the DAGs folder."""
    day.did("folder replaced")
    day.deeds.provider_gone = True
    folder, new, old = (day.home / name for name in ("dags", "dags.new", "dags.old"))
    shutil.copytree(folder, new)
    folder.rename(old)
    day.pause.wait(day.dice.choice((0, 0, 0.5)))
    new.rename(folder)
    shutil.rmtree(old)


def keep_database_busy(day: Day) -> None:
    if any(thread.is_alive() for _, thread in day.busy):
        raise NothingThere
    seconds = day.dice.choice((0.5, 2, STUCK - 2))
    table, row = day.dice.choice(LOCKED), day.dice.random()
    day.did("database busy", f"{table if day.database.is_server else ''} {seconds} s")
    free = threading.Event()
    thread = threading.Thread(target=_hold, args=(day, free, table, row), daemon=True)
    thread.start()
    timer = threading.Timer(seconds, free.set)
    timer.daemon = True
    timer.start()
    day.busy.append((free, thread))


def _hold(day: Day, free: threading.Event, table: str, row: float) -> None:
    try:
        day.database.keep_busy(free, table, row)
    except Exception as error:  # cut by `cut_connections`, or the row is gone
        day.say(f"the database was not kept busy: {str(error).splitlines()[0]}")


def cut_connections(day: Day) -> None:
    if not day.database.is_server:
        raise NothingThere
    day.did("connections cut", str(day.database.cut_connections()))


#: What is done, and how often beside the others.
DEEDS: dict[Deed, float] = {
    trigger: 30,
    kill_attempt: 8,
    kill_grandchild: 3,
    kill_component: 8,
    kill_several: 3,
    kill_host: 5,
    kill_hypervisor: 3,
    freeze_component: 5,
    freeze_host_or_attempt: 5,
    interrupt: 3,
    second_up: 1,
    ask: 8,
    kill_command: 3,
    replace_folder: 0.3,
    edit: 12,
    pause_or_not: 6,
    delete_run: 3,
    upgrade_run: 4,
    change_and_upgrade: 4,
    resize_pool: 3,
    keep_database_busy: 4,
    cut_connections: 3,
}


def _environ(pid: int) -> bytes:
    try:
        return b"\0" + Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
    except OSError:
        return b""

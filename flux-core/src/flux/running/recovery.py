"""What becomes of the attempts that a supervisor left open: the next one takes stock, or any command reaps them.

Three facts decide about each: whether the launcher still has its process or its exit, whether its result file is there,
and whether the launcher is the one it was given to. The launcher has its process: adopted. It ended: recorded as it
ended. The same launcher never heard of it: it was never launched, which costs no attempt. Another launcher: what
carries its claim is ended, then its result file counts; without one it is lost.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux import process
from flux.config import Config
from flux.loop import Loop
from flux.running import home
from flux.running.agents import is_agent
from flux.running.open_attempts import end_of_lost, result_file
from flux.running.versions import shelve
from flux.states import Outcome, State
from flux.store import held, jobs, runs, transitions
from flux.store.advance import Advance
from flux.store.attempts import Claimed, End
from flux.store.held import Held
from flux.store.runs import DagRun, Structures
from flux.store.structures import StructureCache
from flux.times import utc_now

if TYPE_CHECKING:
    import sqlalchemy as sa

    from flux.app import Flux

_GRACE = 2.0
_DEADLINE = 20.0


@dataclass(slots=True)
class Stock:
    """What there is to take over."""

    #: (attempt, hash of its version, pid) whose process runs or whose exit the launcher keeps.
    running: list[tuple[Claimed, str, int | None]] = field(default_factory=list)
    #: (attempt, hash of its version) that was given to an executor, or was about to be, and has not begun.
    queued: list[tuple[Claimed, str]] = field(default_factory=list)
    #: (attempt, hash of its version, its agent, the agent's host and pid) that an executor began somewhere.
    remote: list[tuple[Claimed, str, str, str | None, int | None]] = field(default_factory=list)
    #: (sensor, hash of its version).
    waiting: list[tuple[Claimed, str]] = field(default_factory=list)
    #: Ends that are known now.
    ends: list[End] = field(default_factory=list)
    #: Attempts whose processes, if any are left, are to be ended before they are recorded as lost: (attempt, log).
    lost: list[tuple[Claimed, str]] = field(default_factory=list)
    retrying: list[tuple[int, datetime]] = field(default_factory=list)
    #: Running runs with a dagrun_timeout.
    deadlines: list[DagRun] = field(default_factory=list)


def take_stock(
    connection: sa.Connection, config: Config, structures: Structures, job_id: int, launcher: Mapping[str, Any]
) -> Stock:
    """Become the holder of every open attempt of jobs that have ended, and say what is to be done with each.

    Args:
        launcher: its state message.
    """
    now = utc_now()
    stock = Stock(retrying=held.retrying(connection), deadlines=runs.with_deadline(connection))
    processes = {item["claim"]: item.get("pid") for item in launcher["claims"]}
    processes |= {item["claim"]: item.get("pid") for item in launcher["exits"]}
    everything = held.everything(connection, structures)
    _forget_results(config, {item.claimed.claim for item in everything})
    orphans = [item for item in everything if item.job_id != job_id]
    for item in orphans:
        _sort(connection, config, item, launcher["launcher"], processes, stock, now)
    transitions.adopt(connection, [item.claimed.claim for item in orphans], job_id)
    for job in jobs.running(connection, ["supervisor"]):
        if job.id != job_id:
            jobs.end(connection, job.id, "lost", now)
    return stock


def _forget_results(config: Config, held_claims: Container[int]) -> None:
    """Remove the result files of attempts whose end is in the store already, as of one that was interrupted."""
    for file in (config.run_folder / "results").glob("*.json"):
        if file.stem.isdigit() and int(file.stem) not in held_claims:
            file.unlink(missing_ok=True)


def _sort(
    connection: sa.Connection,
    config: Config,
    item: Held,
    launcher: str,
    processes: Mapping[int, int | None],
    stock: Stock,
    now: datetime,
) -> None:
    claimed = item.claimed
    if item.state is State.DEFERRED:
        stock.waiting.append((claimed, shelve(connection, config, claimed.version_id).hash))
    elif item.state is State.QUEUED:
        stock.queued.append((claimed, shelve(connection, config, claimed.version_id).hash))
    elif item.launcher is not None and is_agent(item.launcher):
        version = shelve(connection, config, claimed.version_id).hash
        stock.remote.append((claimed, version, item.launcher, item.host, item.pid))
    elif claimed.claim in processes:
        version = shelve(connection, config, claimed.version_id).hash
        stock.running.append((claimed, version, processes[claimed.claim]))
    elif item.launcher == launcher and not result_file(config, claimed.claim).exists():
        stock.ends.append(End(claimed.claim, Outcome.NEVER_LAUNCHED, "never launched: its supervisor died", now))
    else:
        stock.lost.append((claimed, str(config.logs_folder / item.log)))


def clean_up(
    config: Config, loop: Loop, lost: Sequence[tuple[Claimed, str]], done: Callable[[Sequence[End]], object]
) -> None:
    """End what is left of lost attempts, in a thread of its own, then give their ends to `done` in the loop."""
    if not lost:
        return

    def clean() -> None:
        ends = _clean(config, lost)
        loop.call_soon_threadsafe(lambda: done(ends))

    threading.Thread(target=clean, name="leftovers", daemon=True).start()


def _clean(config: Config, lost: Sequence[tuple[Claimed, str]]) -> list[End]:
    owners = [process.Owner(claimed.claim, None, log) for claimed, log in lost]
    process.end_now(owners, grace=_GRACE, deadline=_DEADLINE)
    return [end_of_lost(config, claimed, log, None, utc_now()) for claimed, log in lost]


def reap(flux: Flux) -> int:
    """Record what supervisors that died on this host left as started, if no system runs in this home; return how much.

    Commands call it, so that they never show as running what nothing runs. Safe beside others: ends are fenced.
    """
    if any(part.kind in ("hypervisor", "supervisor") for part in home.running(flux.config.run_folder)):
        return 0
    dead = {job.id for job in flux.store.read(held.holders) if _is_dead(job)}
    if not dead:
        return 0

    def left(connection: sa.Connection) -> list[Held]:
        found = held.everything(connection, StructureCache().through(connection))
        return [item for item in found if item.job_id in dead and item.state is not State.DEFERRED]

    items = flux.store.read(left)
    ends = _clean(flux.config, [(item.claimed, str(flux.config.logs_folder / item.log)) for item in items])
    remote = {item.claimed.claim for item in items if is_agent(item.launcher)}
    # Whether such an agent had begun to print is no matter: it has begun.
    reason = "lost: its supervisor died, and no other was there for its agent"
    ends = [replace(end, outcome=Outcome.LOST, reason=reason) if end.claim in remote else end for end in ends]

    def record(connection: sa.Connection) -> None:
        now = utc_now()
        advance = Advance(connection, StructureCache().through(connection), now)
        advance.finish(ends)
        advance.write()
        for job in dead:
            jobs.end(connection, job, "lost", now)

    flux.store.write(record)
    return len(ends)


def _is_dead(job: jobs.Job) -> bool:
    """Whether the process of a job of this host is gone; of other hosts nothing is known here."""
    if job.host != socket.gethostname():
        return False
    return job.boot_id != boot_id() or not process.is_alive(job.pid)


def boot_id() -> str | None:
    """Return what names this boot of the machine; None where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None

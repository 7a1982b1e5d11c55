"""Starting, finding, ending and reaping processes: the only module that uses subprocess, fork and kill.

Theory. An attempt is a *tree* of processes that must be gone when the attempt is over. It begins as one process that
leads its own session and process group, so most of the tree is reached by one signal to the group. What left the group
(`setsid`, daemons) is found in `/proc`, by any of

- its environment at its last exec, which carries `FLUX_CLAIM=<claim>`;
- its session, which is the attempt's first process;
- its standard output or error, which is the attempt's log;
- its parent, which is one of these.

Flux's own parents are subreapers: a process whose parent ended becomes their child, so "children I did not start" is a
cheap test for leftovers. A process id is only signalled while it is known to be ours: unreaped, or just found.
"""

# ruff: noqa: PTH115, PTH123, PTH208

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flux import linux

#: Value of FLUX_CLAIM in a process that belongs to no attempt; claims are written with as many digits.
NO_CLAIM = "0" * 19
_CLAIM_KEY = b"FLUX_CLAIM="

_FORK_MAY_WARN = sys.version_info >= (3, 12)


def claim_text(claim: int) -> str:
    """Return a claim as FLUX_CLAIM carries it: 19 digits."""
    return f"{claim:019d}"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended."""

    pid: int
    #: None when a signal ended it.
    exit_status: int | None
    #: None when it exited by itself.
    signal: int | None
    #: The largest resident set of it and of the children it waited for.
    max_rss_bytes: int

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit status {self.exit_status}"
        return f"killed by {signal_name(self.signal)}"


def signal_name(signum: int) -> str:
    """Return "SIGKILL" for 9; "signal 64" for one without a name."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
    new_session: bool = False,
    new_group: bool = False,
) -> int:
    """Start a program and return its pid. The caller reaps it, by `reap` or `wait`.

    Args:
        env: the whole environment; None: ours.
        stdin, stdout, stderr: descriptors; None: ours, but /dev/null for stdin.
        pass_fds: descriptors that stay open in it under their numbers.

    Raises:
        OSError: the program does not exist or may not be run; no process was left behind.
    """
    child = subprocess.Popen(
        list(argv),
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=new_session,
        process_group=0 if new_group and not new_session else None,
    )
    child.returncode = 0  # we reap it ourselves; keeps Popen from polling for it when it is collected
    return child.pid


def fork() -> int:
    """Fork this process: 0 in the child. Only for processes without other Python threads.

    Native thread pools (OpenBLAS, Arrow) may exist; Python would warn about them.
    """
    if not _FORK_MAY_WARN:
        return os.fork()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def go_on_in_child(*close: int) -> None:
    """Fork, and return in the child alone: what kills its parent from here on kills a process that only waits for it.

    This process waits for the child's end and ends in the same way; the child does not outlive it. Costs 0.6 ms.

    Args:
        close: descriptors that the child alone keeps, so that its end can be seen there.
    """
    here = os.getpid()
    pid = fork()
    if pid == 0:
        linux.die_with_parent()
        if os.getppid() != here:
            os._exit(0)
        return
    for descriptor in close:
        os.close(descriptor)
    ended = wait(pid)
    if ended.signal is not None:
        linux.forbid_inspection()  # a second core dump would say nothing
        if ended.signal != signal.SIGKILL:
            signal.signal(ended.signal, signal.SIG_DFL)
        os.kill(here, ended.signal)
    os._exit(ended.exit_status or 0)


def user_name() -> str:
    """Return the name of the user this process runs as; the number of one without a name."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def send(pid: int, signum: int) -> bool:
    """Send a signal to one process. False: it is gone, or no longer ours."""
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send_group(group: int, signum: int) -> bool:
    """Send a signal to a process group; 0 only asks. False: nobody is in it. Zombies count as members."""
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    except PermissionError:  # members exist, none of them ours (setuid programs)
        return True
    return True


def group(pid: int) -> int | None:
    """Return the process group of a process; None: it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def reap() -> Iterator[Exit]:
    """Yield every child that has ended and was not reaped yet. Does not block."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield _exit(pid, status, usage.ru_maxrss)


def wait(pid: int) -> Exit:
    """Block until the child `pid` has ended and reap it."""
    _, status, usage = os.wait4(pid, 0)
    return _exit(pid, status, usage.ru_maxrss)


def _exit(pid: int, status: int, max_rss_kilobytes: int) -> Exit:
    code = os.waitstatus_to_exitcode(status)
    return Exit(pid, code if code >= 0 else None, -code if code < 0 else None, max_rss_kilobytes * 1024)


def children() -> list[int]:
    """Return the pids of this process's children, zombies included. For processes with one thread."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb", buffering=0) as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [entry.pid for entry in table() if entry.parent == me]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the process table."""

    pid: int
    parent: int
    group: int
    session: int
    is_zombie: bool


def table() -> Iterator[Entry]:
    """Yield every process there is, in no order. Processes that end meanwhile are left out."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            entry = _entry(int(name))
            if entry is not None:
                yield entry


def _entry(pid: int) -> Entry | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Entry(pid, int(fields[1]), int(fields[2]), int(fields[3]), fields[0] in (b"Z", b"X"))


def carried_claim(pid: int) -> int | None:
    """Return the claim in a process's environment; None: none, it is gone, or not ours to read."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            data = b"\0" + file.read()
    except OSError:
        return None
    start = data.find(b"\0" + _CLAIM_KEY)
    if start < 0:
        return None
    value = data[start + 1 + len(_CLAIM_KEY) :].partition(b"\0")[0]
    return int(value) or None if value.isdigit() else None


def _writes_to(pid: int, logs: frozenset[str]) -> str | None:
    """The one of `logs` that a process's standard output or error is."""
    for number in (1, 2):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue
        if target in logs:
            return target
    return None


@dataclass(frozen=True, slots=True)
class Owner:
    """What ties processes to one attempt."""

    claim: int
    #: Pid of the attempt's first process; None when unknown.
    session: int | None = None
    #: Absolute path of its log; None when unknown.
    log: str | None = None


def find(owners: Iterable[Owner]) -> dict[int, set[int]]:
    """Map each owner's claim to its living processes; an empty set when it has none.

    This process is left out, and so are those it is below: what started an agent may carry its claim too.

    Reads the whole of /proc: about 50 microseconds for each process of the machine.
    """
    owners = list(owners)
    found: dict[int, set[int]] = {owner.claim: set() for owner in owners}
    by_session = {owner.session: owner.claim for owner in owners if owner.session}
    by_log = {os.path.realpath(owner.log): owner.claim for owner in owners if owner.log}
    logs = frozenset(by_log)
    entries = {entry.pid: entry for entry in table() if not entry.is_zombie}
    direct: dict[int, int] = {}
    for pid, entry in entries.items():
        claim = carried_claim(pid)
        if claim not in found:
            claim = by_session.get(entry.session)
        if claim is None and logs:
            log = _writes_to(pid, logs)
            claim = by_log[log] if log else None
        if claim is not None:
            direct[pid] = claim
    spared = _with_ancestors(os.getpid(), entries)
    for pid in entries:
        ancestor: int | None = pid
        seen: set[int] = set()
        while ancestor in entries and ancestor not in direct and ancestor not in seen:
            seen.add(ancestor)
            ancestor = entries[ancestor].parent
        if ancestor in direct and pid not in spared:
            found[direct[ancestor]].add(pid)
    return found


def _with_ancestors(pid: int, entries: Mapping[int, Entry]) -> set[int]:
    found: set[int] = set()
    while pid in entries and pid not in found:
        found.add(pid)
        pid = entries[pid].parent
    return found


def descendants(of: int, *, without: Iterable[int] = ()) -> set[int]:
    """Return the living processes below `of`, except the trees that begin with one of `without`."""
    below: dict[int, list[Entry]] = {}
    for entry in table():
        below.setdefault(entry.parent, []).append(entry)
    barred = set(without)
    found: set[int] = set()
    to_visit = [of]
    while to_visit:
        for entry in below.get(to_visit.pop(), ()):
            if entry.pid in barred:
                continue
            to_visit.append(entry.pid)
            if not entry.is_zombie:
                found.add(entry.pid)
    return found


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    entry = _entry(pid)
    return entry is not None and not entry.is_zombie


def end_now(owners: Iterable[Owner], *, grace: float, deadline: float) -> bool:
    """End every process of the attempts: SIGTERM, after `grace` seconds SIGKILL. Blocks until none is left.

    For attempts whose launcher died. Returns False when some were still there `deadline` seconds after the start
    (stuck in the kernel, or not ours).
    """
    owners = list(owners)
    began = time.monotonic()
    signum = signal.SIGTERM
    signalled: set[int] = set()
    while pids := set().union(*find(owners).values()):
        waited = time.monotonic() - began
        if waited > deadline:
            return False
        if waited >= grace and signum != signal.SIGKILL:
            signum, signalled = signal.SIGKILL, set()
        for pid in pids - signalled:
            send(pid, signum)
        signalled |= pids
        time.sleep(0.02)
    return True

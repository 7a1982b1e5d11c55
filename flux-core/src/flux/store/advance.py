"""The transaction that moves runs forward: finish, resolve, free and promote, claim next.

One `Advance` is the work of one write transaction. It ends attempts, lets what lies below them take its verdict
(`trigger_rules`), gives freed slots to what waited for them, and claims what may run now (`dependencies`), so that
a chain costs one commit for each step. Its cost follows what changed: no statement here reads a run as a whole, but for
the one that closes it.

    finish(ends) ─> resolve ─> ready ─┐
    wake(ids) ────────────────────────┼─> claim(room) ─> blocked on a key, or an attempt is open
    release(keys) ────────────────────┘

A ready task instance whose `blocked_on` is empty has not been asked yet, or may run as soon as an executor has room.
Asking it (`_ask`) either opens an attempt or stores the first unmet condition. For every limit with room, either
nothing waits for it or something that wants it has not been asked: whoever is asked and blocked, or gives up, passes
the room on.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.dependencies import unmet
from flux.errors import DamagedVersion
from flux.states import TERMINAL, TRANSITIONS, Event, Outcome, RunState, State
from flux.store import ending, resolving, runs, transitions
from flux.store.attempts import Claimed, End, Holder, log_path
from flux.store.keyed import Keyed
from flux.store.limits import key_text, parse_key
from flux.store.prepared import Prepared
from flux.store.resolving import Ended
from flux.store.runs import DagRun, Structures
from flux.store.schema import dag_run, task_instance
from flux.store.scope import ROWS, Row, Scope
from flux.store.structures import StructureCache
from flux.structure import TaskStructure

_BATCH = 64
#: Batches asked in one transaction; what is left is for the next, so that others get their turn.
_MOST_BATCHES = 16


@dataclass(slots=True)
class Outcomes:
    """What a transaction did, for its caller to act upon after the commit."""

    claimed: list[Claimed] = field(default_factory=list)
    #: Claims that nobody holds any more: their end was dropped.
    fenced: list[int] = field(default_factory=list)
    #: (task instance row, when it wakes)
    retrying: list[tuple[int, datetime]] = field(default_factory=list)
    #: Task instances and runs that ended.
    ended: int = 0
    runs_ended: list[DagRun] = field(default_factory=list)
    runs_started: list[DagRun] = field(default_factory=list)
    #: Of what could not be asked, for people: texts by DAG version.
    damaged: dict[int, str] = field(default_factory=dict)
    #: There is more to ask than one transaction should.
    more: bool = False


_HELD_BY_CLAIM = Keyed(ROWS.with_for_update(), task_instance.c.claim)
_LOCK_BY_ID = Keyed(ROWS.with_for_update(key_share=True), task_instance.c.id)
_DUE = Keyed(ROWS.where(transitions.state_is(State.RETRYING)), task_instance.c.id)
_UNASKED = Prepared(
    ROWS.where(
        task_instance.c.state == State.READY,
        task_instance.c.needs_slot == bindparam("needs_slot"),
        task_instance.c.blocked_on == "",
    )
    .order_by(task_instance.c.priority_weight.desc(), task_instance.c.id)
    .limit(bindparam("most"))
)
_BLOCKED_ON_KEY = ROWS.where(task_instance.c.blocked_on == bindparam("key"), task_instance.c.state == State.READY)
_BLOCKED = Prepared(_BLOCKED_ON_KEY)
_BLOCKED_THAT_FIT = Prepared(
    _BLOCKED_ON_KEY.where(task_instance.c.pool_slots <= bindparam("room"))
    .order_by(task_instance.c.priority_weight.desc(), task_instance.c.id)
    .limit(bindparam("most"))
)
_BLOCKED_BEST = Prepared(
    _BLOCKED_ON_KEY.order_by(task_instance.c.priority_weight.desc(), task_instance.c.id).limit(bindparam("most"))
)
_BLOCKED_ON_ANY = Keyed(ROWS.where(transitions.state_is(State.READY)), task_instance.c.blocked_on)
_COUNT_OPEN = (
    sa.update(dag_run)
    .where(dag_run.c.id == bindparam("b_id"))
    .values(open_tasks=dag_run.c.open_tasks - bindparam("b_n"))
)
_COUNT_OPEN_RETURNING = Prepared(_COUNT_OPEN.returning(dag_run.c.open_tasks))
_OPEN_TASKS = sa.select(dag_run.c.open_tasks).where(dag_run.c.id == bindparam("id"))
_STOP_RUN = (
    sa.update(dag_run)
    .where(
        dag_run.c.id == bindparam("b_id"),
        dag_run.c.state == RunState.RUNNING,
        dag_run.c.reason.is_(None),
        dag_run.c.deadline_at <= bindparam("b_now"),
    )
    .values(reason=bindparam("b_reason"))
)
_OPEN_OF_RUN = sa.select(task_instance.c.id, task_instance.c.claim).where(
    task_instance.c.dag_run_id == bindparam("run"), task_instance.c.state.not_in(sorted(TERMINAL))
)
_STATES = sa.select(task_instance.c.task_index, task_instance.c.state).where(
    task_instance.c.dag_run_id == bindparam("run"), task_instance.c.state != State.REMOVED
)


class Advance:
    """The work of one write transaction; `outcomes` says what it did. Call `write` last.

    Args:
        structures: gives the structure of a DAG version by its row number.
        holder: who opens attempts; None in processes that only release or resolve.
    """

    def __init__(
        self, connection: sa.Connection, structures: Structures, now: datetime, holder: Holder | None = None
    ) -> None:
        self.outcomes = Outcomes()
        self._connection = connection
        self._now = now
        self._holder = holder
        self._scope = Scope(connection, structures, now, locks=True)
        self._ended_in: dict[int, int] = {}
        #: Keys that became true, or whose limit has room again.
        self._released: set[str] = set()
        #: Something that needs no slot may be ready.
        self._look_for_slotless = False
        #: Something became ready or was unblocked since `claim` last looked.
        self._is_unasked = False

    # --- what happened ---------------------------------------------------------------------------------------------

    def finish(self, ends: Iterable[End]) -> None:
        """End attempts and resolve what lies below them. Ends whose claim nobody holds any more are dropped."""
        by_claim = {end.claim: end for end in ends}
        rows = self._scope.rows_of(_HELD_BY_CLAIM, list(by_claim))
        held = {row.claim for row in rows}
        self.outcomes.fenced += [claim for claim in by_claim if claim not in held]
        self._scope.load_limits(row for row in rows if row.holds)
        endings = ending.write(self._scope, rows, by_claim)
        for row in rows:
            self._give_back(row)
        self.outcomes.retrying += endings.retrying
        self._note_ready(endings.again)
        self._resolve(endings.terminal)

    def wake(self, ids: Sequence[int]) -> None:
        """Make retrying task instances ready; those that are no longer retrying are left alone."""
        rows = self._scope.rows_of(_DUE, ids)
        transitions.make_ready(self._connection, Event.WAKE, [row.id for row in rows], self._now)
        self._note_ready(rows)

    def release(self, keys: Iterable[str]) -> None:
        """Ask again, in this transaction, what waits for these keys."""
        self._released.update(keys)
        self._promote()

    def mark(self, ids: Sequence[int], event: Event, reason: str | None) -> None:
        """Set open task instances that no attempt holds to a terminal state, and resolve what lies below them."""
        found = self._scope.rows_of(_LOCK_BY_ID, ids)
        rows = [row for row in found if not State(row.state).is_terminal]
        transitions.mark(self._connection, event, [row.id for row in rows], reason, self._now)
        promised = [row for row in rows if row.state == State.READY and not row.blocked_on]
        self._scope.load_limits(promised)
        for row in promised:
            self._pass_on(row)
        self._resolve([Ended(row, TRANSITIONS[event].target) for row in rows])

    def judge_again(self, dag_run_row: int, indices: Sequence[int]) -> None:
        """Let waiting task instances of a run take their verdict by the counters there are, and close it if done."""
        ready, ended = resolving.judge(self._scope, dag_run_row, indices)
        self._make_ready(ready)
        self._resolve(ended)
        self._scope.load_runs([dag_run_row])
        self._ended_in.setdefault(dag_run_row, 0)

    def look(self) -> None:
        """Have `claim` also look for sensors and inline tasks that others made ready."""
        self._look_for_slotless = True

    # --- what comes next -------------------------------------------------------------------------------------------

    def claim(self, room: int) -> None:
        """Open attempts for what may run: at most `room` that need a slot of the executor, all that need none."""
        many = False
        for _ in range(_MOST_BATCHES):
            self._close_runs()
            self._promote()
            self._is_unasked = False
            slotless, asked = [], []
            if self._look_for_slotless:
                slotless = self._scope.rows(_UNASKED, needs_slot=False, most=_BATCH)
                self._look_for_slotless = len(slotless) == _BATCH
            most = _BATCH if many else min(room, _BATCH)
            if most > 0:
                asked = self._scope.rows(_UNASKED, needs_slot=True, most=most)
            if slotless or asked:
                taken = self._ask([*slotless, *asked], room)
                room -= taken
                # Where some were blocked, many may be: a large run whose pool is full.
                many = room > 0 and taken < len(asked)
            is_drained = not self._look_for_slotless and (room <= 0 or len(asked) < most)
            if is_drained and not (self._released or self._ended_in or self._is_unasked):
                return
        self.outcomes.more = True

    def write(self) -> None:
        """Write the counters and close the runs whose last task instance ended."""
        self._close_runs()
        self._promote()
        self._scope.ledger.write()
        self.outcomes.more = self.outcomes.more or self._is_unasked

    # --- ending ----------------------------------------------------------------------------------------------------

    def _give_back(self, row: Row) -> None:
        if not row.holds:
            return
        for key in self._scope.keys(row):
            self._scope.ledger.change(key, -(row.pool_slots if key[0] == "pool" else 1))
        self._pass_on(row)

    def _pass_on(self, row: Row) -> None:
        """Let others have the room that this one does not take, or no longer; its limits must be loaded."""
        ledger = self._scope.ledger
        self._released.update(key_text(key) for key in self._scope.keys(row) if ledger.is_limited(key))

    # --- resolving -------------------------------------------------------------------------------------------------

    def _resolve(self, ended: Sequence[Ended]) -> None:
        """Let what lies below ended task instances take its verdict, level by level."""
        while ended:
            for item in ended:
                run = item.row.dag_run_id
                self._ended_in[run] = self._ended_in.get(run, 0) + 1
                self.outcomes.ended += 1
                self._released.add(f"past:{item.row.id}")
            ready, ended = resolving.level(self._scope, ended)
            self._make_ready(ready)

    def _make_ready(self, rows: Sequence[Row]) -> None:
        transitions.make_ready(self._connection, Event.READY, [row.id for row in rows], self._now)
        self._note_ready(rows)

    def _close_runs(self) -> None:
        """Close the runs that have no open task instance left, and start what max_active_runs held back."""
        while self._ended_in:
            counts, self._ended_in = self._ended_in, {}
            for run_id in [run for run, number in sorted(counts.items()) if self._count_open(run, number) == 0]:
                run = self._scope.runs[run_id]
                if run.state is not RunState.RUNNING:
                    continue
                runs.ended(self._connection, run, self._run_state(run), self._now)
                self.outcomes.runs_ended.append(run)
                self._start_queued(run.dag_row)

    def _count_open(self, run: int, ended: int) -> int:
        """Take `ended` from a run's open task instances and return how many are left."""
        values = {"b_id": run, "b_n": ended}
        if self._connection.dialect.update_returning:
            return int(_COUNT_OPEN_RETURNING.rows(self._connection, values)[0][0])
        self._connection.execute(_COUNT_OPEN, values)
        return int(self._connection.execute(_OPEN_TASKS, {"id": run}).scalar_one())

    def _start_queued(self, dag_row: int) -> None:
        started = runs.start_queued(self._connection, dag_row, self._scope.structures, self._now)
        self.outcomes.runs_started += started
        self.outcomes.runs_ended += [run for run in started if run.state.is_terminal]  # those without any task instance
        self._is_unasked = self._is_unasked or bool(started)
        self._look_for_slotless = self._look_for_slotless or bool(started)

    def _run_state(self, run: DagRun) -> RunState:
        """A run fails when one of its leaves failed, or when it was stopped for its dagrun_timeout."""
        if run.reason is not None:
            return RunState.FAILED
        states = dict(self._connection.execute(_STATES, {"run": run.id}).all())
        tasks = self._scope.structures(run.dag_version_id).tasks
        bad = {State.FAILED.value, State.UPSTREAM_FAILED.value}
        leaves = (
            state for index, state in states.items() if not any(down in states for down in tasks[index].downstream)
        )
        return RunState.FAILED if any(state in bad for state in leaves) else RunState.SUCCESS

    # --- asking ----------------------------------------------------------------------------------------------------

    def _note_ready(self, rows: Sequence[Row]) -> None:
        self._is_unasked = self._is_unasked or bool(rows)
        if any(not row.needs_slot for row in rows):
            self._look_for_slotless = True

    def _ask(self, rows: Sequence[Row], room: int) -> int:
        """Open attempts for those of `rows` that may run, block the others; return how many took an executor slot.

        Once `room` slots are taken, what else needs one is left unasked.
        """
        self._scope.load_limits(rows)
        blocked: dict[int, str] = {}
        taken: list[Row] = []
        slots = 0
        for row in rows:
            if row.needs_slot and slots == room:
                continue
            key = self._unmet_key(row)
            if key is None:
                self._take(row)
                taken.append(row)
                slots += row.needs_slot
            else:
                blocked[row.id] = key
                self._pass_on(row)
        transitions.block(self._connection, blocked)
        self._open(taken)
        return slots

    def _unmet_key(self, row: Row) -> str | None:
        """The first unmet condition. What cannot be asked must not keep others from it: it waits for its version."""
        try:
            reason = next(unmet(self._scope.facts(row)), None)
        except DamagedVersion as error:
            version_id = self._scope.runs[row.dag_run_id].dag_version_id
            self.outcomes.damaged[version_id] = str(error)
            return f"version:{version_id}"
        return None if reason is None else reason.key

    def _take(self, row: Row) -> None:
        for key in self._scope.keys(row):
            self._scope.ledger.change(key, row.pool_slots if key[0] == "pool" else 1)

    def _open(self, rows: Sequence[Row]) -> None:
        """Open an attempt for each row; inline ones end in the same transaction."""
        if not rows:
            return
        if self._holder is None:
            raise ValueError("Only the holder of a job may claim task instances.")
        moves: dict[Event, list[dict[str, Any]]] = {}
        attempts: dict[Event, list[dict[str, Any]]] = {}
        inline = []
        for row in rows:
            run, task = self._scope.runs[row.dag_run_id], self._scope.task(row)
            claim = random.getrandbits(62) | 1
            deadline = None if task.sensor is None else self._now + timedelta(seconds=task.sensor.timeout)
            event = Event.DEFER if task.sensor is not None else self._event_of_opening(task)
            begins = {} if event is Event.ENQUEUE else {"b_now": self._now}
            moves.setdefault(event, []).append(
                {
                    "b_id": row.id, "b_attempt": row.attempt + 1, "b_claim": claim, "b_job_id": self._holder.job_id,
                    "b_deadline_at": deadline, **begins,
                }
            )  # fmt: skip
            attempts.setdefault(event, []).append(
                {
                    "task_instance_id": row.id, "attempt": row.attempt + 1, "claim": claim,
                    "job_id": self._holder.job_id,
                    "launcher": None if event is Event.ENQUEUE else self._holder.launcher,
                    "host": None if event is Event.ENQUEUE else self._holder.host,
                    "started_at": self._now, "log": log_path(run, row.task_id, row.map_index, row.attempt + 1),
                }
            )  # fmt: skip
            if task.inline:
                inline.append(End(claim, Outcome.SUCCESS, None, self._now, started_at=self._now))
            else:
                self.outcomes.claimed.append(
                    Claimed(
                        claim, row.id, run, run.dag_version_id, task, row.map_index, row.attempt + 1,
                        row.max_attempts, self._now, deadline, self._scope.structure(row).on_interrupt,
                    )
                )  # fmt: skip
        for event, values in moves.items():
            transitions.open_attempts(self._connection, event, values, attempts[event])
        if inline:
            self.finish(inline)

    def _event_of_opening(self, task: TaskStructure) -> Event:
        """What happens to a task that is no sensor; one that ends in the same transaction goes nowhere."""
        assert self._holder is not None
        return Event.ENQUEUE if self._holder.queues and not task.inline else Event.CLAIM

    def _promote(self) -> None:
        """Let what waits for released keys be asked, best first, while their limits have room."""
        while self._released:
            keys, self._released = self._released, set()
            exact = [key for key in keys if key.startswith(("paused:", "past:"))]
            self._unblock(self._scope.rows_of(_BLOCKED_ON_ANY, exact))
            for key in sorted(keys.difference(exact)):
                kind, number = parse_key(key)
                if kind == "runs":
                    self._start_queued(number)
                else:
                    self._promote_limited(kind, number)

    def _promote_limited(self, kind: str, number: int) -> None:
        key, room = key_text((kind, number)), self._scope.ledger.room((kind, number))
        if room is None:
            self._unblock(self._scope.rows(_BLOCKED, key=key))
        elif room > 0 and kind == "pool":
            self._unblock(self._scope.rows(_BLOCKED_THAT_FIT, key=key, room=room, most=room))
        elif room > 0:
            self._unblock(self._scope.rows(_BLOCKED_BEST, key=key, most=room))

    def _unblock(self, rows: Sequence[Row]) -> None:
        transitions.block(self._connection, {row.id: "" for row in rows})
        self._note_ready(rows)


def time_out(
    connection: sa.Connection, structures: Structures, dag_run_row: int, now: datetime
) -> tuple[list[int], Outcomes]:
    """Fail a run whose dagrun_timeout has passed: what has not begun is skipped.

    Returns the claims of its open attempts, which are to be killed, the run closes when they are gone; and what else
    came of it. Does nothing to a run that is over.
    """
    reason = "dagrun_timeout has passed"
    marked = connection.execute(_STOP_RUN, {"b_id": dag_run_row, "b_reason": reason, "b_now": now})
    advance = Advance(connection, structures, now)
    if marked.rowcount != 1:
        return [], advance.outcomes
    open_rows = connection.execute(_OPEN_OF_RUN, {"run": dag_run_row}).all()
    held = [row.claim for row in open_rows if row.claim is not None]
    advance.mark([row.id for row in open_rows if row.claim is None], Event.MARK_SKIPPED, reason)
    advance.write()
    return held, advance.outcomes


def release(connection: sa.Connection, keys: Iterable[str], now: datetime) -> None:
    """Ask again what waits for `keys` ("paused:3", "pool:2" ...), from a process that claims nothing itself."""
    advance = Advance(connection, StructureCache().through(connection), now)
    advance.release(keys)
    advance.write()

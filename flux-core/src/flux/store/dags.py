"""DAG files, DAGs and their versions: what reading a file changes, and the questions about it.

A DAG belongs to at most one file. A file that cannot be read keeps its DAGs and their last good versions. A version is
the structure of one DAG together with the hashes of every source it was read from; equal ones are one row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from flux.errors import NotFound
from flux.store import schema
from flux.store.engine import insert_missing, insert_row
from flux.structure import DagStructure

if TYPE_CHECKING:
    from flux.schedule import DataInterval


@dataclass(frozen=True, slots=True)
class Dag:
    """A row of table `dag`."""

    id: int
    dag_id: str
    #: None: no file defines it any more.
    dag_file_id: int | None
    #: The newest version; None only inside the transaction that makes the DAG.
    dag_version_id: int | None
    paused: bool
    first_seen_at: datetime
    next_interval_start: datetime | None
    next_interval_end: datetime | None
    next_due_at: datetime | None
    active_runs: int
    max_active_runs: int
    active_tasks: int
    max_active_tasks: int | None
    manual_runs: int


@dataclass(frozen=True, slots=True)
class DagVersion:
    """One version of a DAG, its structure parsed."""

    id: int
    dag_row: int
    hash: str
    #: From 1, shown to people.
    number: int
    structure: DagStructure
    #: {path relative to the DAGs folder: SHA-256}
    sources: dict[str, str]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DagFile:
    """One file below the DAGs folder, as it was last read."""

    id: int
    path: str
    #: SHA-256 of the file itself; None: gone; "": to be read again though it did not change.
    hash: str | None
    #: {"message", "line", "traceback"}, None when its last reading was good.
    error: dict[str, Any] | None
    sources: dict[str, str]
    warnings: list[str]
    checked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading one DAG file gave.

    Args:
        hash: SHA-256 of the file; None: it is gone.
        structures: JSON of `DagStructure`, one for each DAG.
        sources: {path: SHA-256} of everything it was read from.
        contents: {SHA-256: bytes} of those sources; what the store has already may be absent.
        error: {"message", "line", "traceback"} when it could not be read; `structures` is then not looked at.
    """

    hash: str | None
    structures: Sequence[str] = ()
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    contents: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    warnings: Sequence[str] = ()
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A DAG after its file was registered."""

    dag: Dag
    version_id: int
    #: The DAG's newest version is another than before.
    is_new_version: bool
    is_new_dag: bool
    #: Keys of limits that are now another number ("dag:3", "task:9"), for `advance.release`.
    changed_limits: tuple[str, ...] = ()


_dag, _file, _version, _source = schema.dag, schema.dag_file, schema.dag_version, schema.source
_pool, _limit = schema.pool, schema.task_limit

_DAGS = sa.select(*(_dag.c[field.name] for field in dataclasses.fields(Dag)))
_FILES = sa.select(*(_file.c[field.name] for field in dataclasses.fields(DagFile)))
_VERSIONS = sa.select(*(_version.c[field.name] for field in dataclasses.fields(DagVersion)))

_BY_ID = _DAGS.where(_dag.c.dag_id == bindparam("dag_id"))
_BY_ROW = _DAGS.where(_dag.c.id == bindparam("dag_row"))
_EVERY = _DAGS.order_by(_dag.c.dag_id)
_ACTIVE = _EVERY.where(_dag.c.dag_file_id.is_not(None))
_OF_IDS = _DAGS.where(_dag.c.dag_id.in_(bindparam("dag_ids", expanding=True)))
_LOCK_BY_IDS = _OF_IDS.order_by(_dag.c.id).with_for_update()
_NAMES = sa.select(_dag.c.dag_id)
_VERSION = _VERSIONS.where(_version.c.id == bindparam("version_id"))
_VERSION_BY_HASH = sa.select(_version.c.id).where(
    _version.c.dag_row == bindparam("dag_row"), _version.c.hash == bindparam("hash")
)
_NEXT_NUMBER = sa.select(sa.func.coalesce(sa.func.max(_version.c.number), 0) + 1).where(
    _version.c.dag_row == bindparam("dag_row")
)
_FILE_LOCK = _FILES.where(_file.c.path == bindparam("path")).with_for_update()
_FILE_UPDATE = _file.update().where(_file.c.id == bindparam("file_row"))
_ALL_FILES = _FILES.order_by(_file.c.path)
_PATHS = sa.select(_file.c.id, _file.c.path).where(_file.c.id.in_(bindparam("files", expanding=True)))
_ORPHANS = (
    sa.select(_dag.c.id, _dag.c.dag_id)
    .where(_dag.c.dag_file_id == bindparam("file_row"))
    .where(_dag.c.dag_id.not_in(bindparam("dag_ids", expanding=True)))
    .order_by(_dag.c.id)
)
_RELEASE = _dag.update().where(_dag.c.id.in_(bindparam("dag_rows", expanding=True))).values(dag_file_id=sa.null())
_UPDATE = _dag.update().where(_dag.c.id == bindparam("dag_row"))
_PLAN = _UPDATE.values(
    next_interval_start=bindparam("new_start"), next_interval_end=bindparam("new_end"), next_due_at=bindparam("new_due")
)
_PLAN_FIRST = _PLAN.where(_dag.c.next_due_at.is_(None))
_PLAN_NEXT = _PLAN.where(_dag.c.next_due_at == bindparam("seen_due"))
_KNOWN_SOURCES = sa.select(_source.c.hash).where(_source.c.hash.in_(bindparam("hashes", expanding=True)))
_CONTENTS = sa.select(_source.c.hash, _source.c.content).where(_source.c.hash.in_(bindparam("hashes", expanding=True)))
_KNOWN_POOLS = sa.select(_pool.c.name).where(_pool.c.name.in_(bindparam("names", expanding=True)))
_LIMITS = sa.select(_limit.c.id, _limit.c.task_id, _limit.c.slots).where(_limit.c.dag_row == bindparam("dag_row"))
_SET_LIMIT = _limit.update().where(_limit.c.id == bindparam("limit_row"))


def register(connection: sa.Connection, path: str, reading: Reading, now: datetime) -> list[Registered]:
    """Store what reading the file at `path` gave, and return its DAGs; empty when there are none or it has an error.

    A reading with an error keeps the DAGs and their versions as they were. A dag_id that another existing file defines
    makes the reading an error. DAGs that the file no longer defines stay, without a file; a file that was refused
    because of one of them is to be read again. Safe to repeat.
    """
    if reading.hash is not None:
        insert_missing(connection, _file, [{"path": path}])
    row = connection.execute(_FILE_LOCK, {"path": path}).first()
    if row is None:
        return []
    file = _dag_file(row)
    if reading.hash is None:
        _write_file(connection, file.id, Reading(hash=None), now)
        _release(connection, file.id, keep=[])
        return []
    if reading.error is not None:
        _write_file(connection, file.id, reading, now)
        return []
    structures = {text: DagStructure.from_json(text) for text in map(_storable, reading.structures)}
    before = _lock_dags(connection, structures.values(), now)
    if refusal := _refusal(connection, file, list(structures.values()), len(reading.structures), before):
        _write_file(connection, file.id, dataclasses.replace(reading, error=refusal), now)
        _forget_new(connection, before)
        return []
    _write_file(connection, file.id, reading, now)
    _add_sources(connection, reading.contents)
    _add_pools(connection, structures.values())
    _release(connection, file.id, keep=[structure.dag_id for structure in structures.values()])
    return [
        _register_dag(connection, before[structure.dag_id], file.id, structure, text, reading.sources, now)
        for text, structure in structures.items()
    ]


def by_id(connection: sa.Connection, dag_id: str) -> Dag:
    """Return the DAG of that dag_id; NotFound names the nearest ones."""
    row = connection.execute(_BY_ID, {"dag_id": dag_id}).first()
    if row is None:
        raise NotFound.named("DAG", dag_id, connection.scalars(_NAMES))
    return Dag(*row)


def by_row(connection: sa.Connection, dag_row: int) -> Dag:
    """Return the DAG of that row number, which must exist."""
    return Dag(*connection.execute(_BY_ROW, {"dag_row": dag_row}).one())


def every(connection: sa.Connection, *, active: bool = True) -> list[Dag]:
    """Return the DAGs that a file defines, or all ever seen, by dag_id."""
    return [Dag(*row) for row in connection.execute(_ACTIVE if active else _EVERY)]


def version(connection: sa.Connection, version_id: int) -> DagVersion:
    """Return a DAG version, which must exist. Parses its structure: callers keep what they use often."""
    row = connection.execute(_VERSION, {"version_id": version_id}).one()
    return DagVersion(
        row.id,
        row.dag_row,
        row.hash,
        row.number,
        DagStructure.from_json(row.structure),
        json.loads(row.sources),
        row.created_at,
    )


def contents(connection: sa.Connection, hashes: Iterable[str]) -> dict[str, bytes]:
    """Return {SHA-256: bytes} of stored sources; hashes that are not stored are absent."""
    return {row.hash: row.content for row in connection.execute(_CONTENTS, {"hashes": sorted(set(hashes))})}


def set_paused(connection: sa.Connection, dag_row: int, paused: bool) -> bool:
    """Pause or unpause; return whether that changed anything."""
    changed = connection.execute(_UPDATE.where(_dag.c.paused != paused).values(paused=paused), {"dag_row": dag_row})
    return changed.rowcount == 1


def files(connection: sa.Connection) -> list[DagFile]:
    """Return every file that is or was below the DAGs folder, by path."""
    return [_dag_file(row) for row in connection.execute(_ALL_FILES)]


def errors(connection: sa.Connection) -> list[DagFile]:
    """Return the files whose last reading failed, by path."""
    return [_dag_file(row) for row in connection.execute(_ALL_FILES.where(_file.c.error.is_not(None)))]


def plan(
    connection: sa.Connection,
    dag_row: int,
    *,
    seen_due: datetime | None,
    interval: DataInterval | None,
    due_at: datetime | None,
) -> bool:
    """Set which run is made next and when, if the next one was due at `seen_due`; return False if it was not.

    `interval=None` and `due_at=None`: no further run is to be made.
    """
    values = {
        "dag_row": dag_row,
        "new_start": interval.start if interval else None,
        "new_end": interval.end if interval else None,
        "new_due": due_at,
    }
    if seen_due is None:
        return connection.execute(_PLAN_FIRST, values).rowcount == 1
    return connection.execute(_PLAN_NEXT, {**values, "seen_due": seen_due}).rowcount == 1


def _register_dag(
    connection: sa.Connection,
    before: Dag,
    file_row: int,
    structure: DagStructure,
    text: str,
    sources: Mapping[str, str],
    now: datetime,
) -> Registered:
    version_id = _add_version(connection, before.id, text, _json(sources), now)
    after = dataclasses.replace(
        before,
        dag_file_id=file_row,
        dag_version_id=version_id,
        max_active_runs=structure.max_active_runs,
        max_active_tasks=structure.max_active_tasks,
    )
    if after != before:
        values = {
            name: getattr(after, name)
            for name in ("dag_file_id", "dag_version_id", "max_active_runs", "max_active_tasks")
        }
        connection.execute(_UPDATE.values(values), {"dag_row": before.id})
    is_new = before.dag_version_id is None
    changed = _set_limits(connection, before.id, structure)
    if not is_new and after.max_active_tasks != before.max_active_tasks:
        changed.insert(0, f"dag:{before.id}")
    if not is_new and after.max_active_runs > before.max_active_runs:
        changed.insert(0, f"runs:{before.id}")
    return Registered(after, version_id, version_id != before.dag_version_id, is_new, tuple(changed))


def _add_version(connection: sa.Connection, dag_row: int, structure: str, sources: str, now: datetime) -> int:
    """Return the row of the version with this content, made if there is none."""
    digest = hashlib.sha256(f"{sources}\n{structure}".encode()).hexdigest()
    known: int | None = connection.scalar(_VERSION_BY_HASH, {"dag_row": dag_row, "hash": digest})
    if known is not None:
        return known
    values = {
        "dag_row": dag_row,
        "hash": digest,
        "number": connection.scalar(_NEXT_NUMBER, {"dag_row": dag_row}),
        "structure": structure,
        "sources": sources,
        "created_at": now,
    }
    return insert_row(connection, _version, values)


def _lock_dags(connection: sa.Connection, structures: Iterable[DagStructure], now: datetime) -> dict[str, Dag]:
    """Return {dag_id: DAG} of the structures, rows made where there were none, locked until the end."""
    names = sorted({structure.dag_id for structure in structures})
    insert_missing(connection, _dag, [{"dag_id": name, "paused": False, "first_seen_at": now} for name in names])
    return {row.dag_id: Dag(*row) for row in connection.execute(_LOCK_BY_IDS, {"dag_ids": names})}


def _forget_new(connection: sa.Connection, before: Mapping[str, Dag]) -> None:
    """Delete the rows that `_lock_dags` made for a reading that was refused."""
    new = [dag.id for dag in before.values() if dag.dag_version_id is None]
    connection.execute(_dag.delete().where(_dag.c.id.in_(new)))


def _refusal(
    connection: sa.Connection,
    file: DagFile,
    structures: Sequence[DagStructure],
    count: int,
    before: Mapping[str, Dag],
) -> dict[str, Any] | None:
    """Return the error of a reading whose dag_ids are not its own, or None."""
    if len({structure.dag_id for structure in structures}) != count:
        names = [structure.dag_id for structure in structures]
        twice = next((item for item in structures if names.count(item.dag_id) > 1), structures[0])
        message = f"DAG {twice.dag_id!r} is defined twice in {file.path!r}. Give one of them another dag_id."
        return {"message": message, "line": twice.line, "traceback": ""}
    owners = {dag.dag_file_id for dag in before.values()} - {None, file.id}
    paths = {row.id: row.path for row in connection.execute(_PATHS, {"files": sorted(filter(None, owners))})}
    for structure in structures:
        owner = before[structure.dag_id].dag_file_id
        if owner in paths:
            message = (
                f"DAG {structure.dag_id!r} is already defined in {paths[owner]!r}. "
                "Give this one another dag_id, or remove the other."
            )
            return {"message": message, "line": structure.line, "traceback": "", "dag_id": structure.dag_id}
    return None


def _release(connection: sa.Connection, file_row: int, *, keep: Sequence[str]) -> None:
    """Take the file's DAGs from it, but for those it keeps; files that were refused for them are to be read again."""
    lost = connection.execute(_ORPHANS, {"file_row": file_row, "dag_ids": list(keep)}).all()
    if not lost:
        return
    connection.execute(_RELEASE, {"dag_rows": [row.id for row in lost]})
    free = {row.dag_id for row in lost}
    for file in errors(connection):
        if file.hash and file.error and file.error.get("dag_id") in free:
            connection.execute(_FILE_UPDATE.values(hash=""), {"file_row": file.id})


def _write_file(connection: sa.Connection, file_row: int, reading: Reading, now: datetime) -> None:
    values = {
        "hash": reading.hash,
        "error": None if reading.error is None else _json(reading.error),
        "sources": _json(reading.sources),
        "warnings": _json(list(reading.warnings)) if reading.warnings else None,
        "checked_at": now,
    }
    connection.execute(_FILE_UPDATE.values(values), {"file_row": file_row})


def _add_sources(connection: sa.Connection, found: Mapping[str, bytes]) -> None:
    known = set(connection.scalars(_KNOWN_SOURCES, {"hashes": sorted(found)}))
    new = [{"hash": digest, "content": found[digest]} for digest in sorted(found) if digest not in known]
    insert_missing(connection, _source, new)


def _add_pools(connection: sa.Connection, structures: Iterable[DagStructure]) -> None:
    """Make a row, without slots, for every pool that is named and has none."""
    named = sorted({task.pool for structure in structures for task in structure.tasks if task.pool is not None})
    if named:
        known = set(connection.scalars(_KNOWN_POOLS, {"names": named}))
        insert_missing(connection, _pool, [{"name": name, "used": 0} for name in named if name not in known])


def _set_limits(connection: sa.Connection, dag_row: int, structure: DagStructure) -> list[str]:
    """Write the tasks' own limits and return the keys of those that changed; a dropped one stays for older runs."""
    wanted = {
        task.task_id: task.max_active_tis_per_dag for task in structure.tasks if task.max_active_tis_per_dag is not None
    }
    if not wanted:
        return []
    known = {row.task_id: row for row in connection.execute(_LIMITS, {"dag_row": dag_row})}
    new = [{"dag_row": dag_row, "task_id": name, "slots": slots} for name, slots in wanted.items() if name not in known]
    insert_missing(connection, _limit, new)
    changed = []
    for name, slots in wanted.items():
        if name in known and known[name].slots != slots:
            connection.execute(_SET_LIMIT.values(slots=slots), {"limit_row": known[name].id})
            changed.append(f"task:{known[name].id}")
    return changed


def _dag_file(row: Any) -> DagFile:
    return DagFile(
        row.id,
        row.path,
        row.hash,
        json.loads(row.error) if row.error else None,
        json.loads(row.sources) if row.sources else {},
        json.loads(row.warnings) if row.warnings else [],
        row.checked_at,
    )


def _json(value: Any) -> str:
    return json.dumps(value if isinstance(value, list) else dict(value), sort_keys=True, separators=(",", ":"))


def _storable(text: str) -> str:
    """JSON with lone surrogates (undecodable bytes in an author's text) as escapes, which every server takes."""
    return text.encode("utf-8", "backslashreplace").decode()

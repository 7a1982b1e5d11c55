"""The tables of the metadata database, as SQLAlchemy Core. No statement is built here and no connection is opened.

Times are UTC without zone in the database and aware UTC in Python. Ids that people choose are compared by bytes on
every server. `id` columns are row numbers; `dag_id`, `run_id` and `task_id` are what people wrote. Nothing is NOT NULL
with a default that a later migration would have to rewrite; columns are only ever added.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

#: Names of constraints, so that migrations can name them on every server.
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Utc(sa.types.TypeDecorator[datetime]):
    """An aware datetime in UTC, kept to the microsecond without a zone."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class _MySqlText(sa.types.TypeDecorator[str]):
    """Text on MySQL and MariaDB, compared byte by byte with its trailing spaces; by default both ignore case and these.

    Each has a collation of its own for it, and what kind of server it is may be known only once it is connected.

    Args:
        length: None: without a bound.
    """

    impl = sa.Text
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        self.length = length

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        how = {"charset": "utf8mb4", "collation": collation(is_mariadb=getattr(dialect, "is_mariadb", False))}
        text = mysql.LONGTEXT(**how) if self.length is None else mysql.VARCHAR(self.length, **how)
        return dialect.type_descriptor(text)


def collation(*, is_mariadb: bool) -> str:
    """Return the collation of every text on MariaDB or MySQL: by bytes, and trailing spaces count."""
    return "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"


def _name(length: int = 250) -> sa.types.TypeEngine[str]:
    """Text of a bounded length, compared by bytes."""
    return sa.String(length).with_variant(_MySqlText(length), "mysql", "mariadb")


def _text() -> sa.types.TypeEngine[str]:
    """Text without a bound worth naming."""
    return sa.Text().with_variant(_MySqlText(), "mysql", "mariadb")


def _bytes() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def _row_number() -> sa.Column[int]:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("id", number, primary_key=True, autoincrement=True)


def _reference(name: str, target: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), sa.ForeignKey(f"{target}.id"), nullable=nullable)


#: One row for each file below the DAGs folder that is or was read.
dag_file = sa.Table(
    "dag_file",
    metadata,
    _row_number(),
    sa.Column("path", _name(700), nullable=False, unique=True),  # relative to the DAGs folder, with "/"
    sa.Column("hash", _name(64)),  # of the file itself, SHA-256; None: gone
    sa.Column("error", _text()),  # None, or JSON {"message", "line", "traceback"}
    sa.Column("sources", _text()),  # JSON {path: hash}: everything its last reading depended on
    sa.Column("warnings", _text()),  # None, or JSON [text]
    sa.Column("checked_at", Utc()),
)

#: One row for each dag_id ever seen.
dag = sa.Table(
    "dag",
    metadata,
    _row_number(),
    sa.Column("dag_id", _name(), nullable=False, unique=True),
    _reference("dag_file_id", "dag_file", nullable=True),  # None: no file defines it any more
    sa.Column("dag_version_id", sa.BigInteger()),  # the newest; no foreign key, the tables refer to each other
    sa.Column("paused", sa.Boolean(), nullable=False, default=False),
    sa.Column("first_seen_at", Utc(), nullable=False),
    sa.Column("next_interval_start", Utc()),  # of the next scheduled run; None: no further one
    sa.Column("next_interval_end", Utc()),
    sa.Column("next_due_at", Utc()),  # when that run is made; only moves forward
    sa.Column("active_runs", sa.Integer(), nullable=False, default=0),  # runs in state running
    sa.Column("max_active_runs", sa.Integer(), nullable=False, default=16),
    sa.Column("active_tasks", sa.Integer(), nullable=False, default=0),  # task instances that count against the limit
    sa.Column("max_active_tasks", sa.Integer()),  # None: no limit
    sa.Column("manual_runs", sa.Integer(), nullable=False, default=0),  # counter for the run_id of manual runs
    sa.Index("ix_dag_due", "paused", "next_due_at"),
)

#: The structure of a DAG as one reading of its file gave it, with the sources it was read from.
dag_version = sa.Table(
    "dag_version",
    metadata,
    _row_number(),
    _reference("dag_row", "dag"),
    sa.Column("hash", _name(64), nullable=False),  # of sources and structure
    sa.Column("number", sa.Integer(), nullable=False),  # from 1, shown to people
    sa.Column("structure", _text(), nullable=False),  # JSON of structure.DagStructure
    sa.Column("sources", _text(), nullable=False),  # JSON {path: hash}
    sa.Column("created_at", Utc(), nullable=False),
    sa.UniqueConstraint("dag_row", "hash"),
    sa.UniqueConstraint("dag_row", "number"),
)

#: The bytes of source files, once per content.
source = sa.Table(
    "source",
    metadata,
    sa.Column("hash", _name(64), primary_key=True),
    sa.Column("content", _bytes(), nullable=False),
)

dag_run = sa.Table(
    "dag_run",
    metadata,
    _row_number(),
    _reference("dag_row", "dag"),
    _reference("dag_version_id", "dag_version"),
    sa.Column("run_id", _name(), nullable=False),
    sa.Column("kind", _name(16), nullable=False),
    sa.Column("state", _name(16), nullable=False),
    sa.Column("logical_date", Utc(), nullable=False),
    sa.Column("interval_start", Utc(), nullable=False),
    sa.Column("interval_end", Utc(), nullable=False),
    sa.Column("interval_key", _name(32)),  # logical date of a scheduled or backfilled run; None: manual
    sa.Column("open_tasks", sa.Integer(), nullable=False, default=0),  # task instances that are not terminal
    sa.Column("conf", _text()),  # JSON
    sa.Column("created_at", Utc(), nullable=False),
    sa.Column("started_at", Utc()),
    sa.Column("ended_at", Utc()),
    sa.Column("deadline_at", Utc()),  # by dagrun_timeout
    sa.Column("reason", _text()),
    _reference("backfill_id", "backfill", nullable=True),
    sa.UniqueConstraint("dag_row", "run_id"),
    sa.UniqueConstraint("dag_row", "interval_key"),
    sa.Index("ix_dag_run_state", "state", "dag_row", "logical_date"),
    sa.Index("ix_dag_run_date", "dag_row", "logical_date"),
    sa.Index("ix_dag_run_created", "created_at"),
)

task_instance = sa.Table(
    "task_instance",
    metadata,
    _row_number(),
    _reference("dag_run_id", "dag_run"),
    sa.Column("task_id", _name(), nullable=False),
    sa.Column("task_index", sa.Integer(), nullable=False),  # in the structure of the run's version
    sa.Column("map_index", sa.Integer(), nullable=False, default=-1),  # -1: not mapped
    sa.Column("state", _name(16), nullable=False),
    sa.Column("wish", _name(16)),  # what to become once its processes are gone; None, clear, success, failed ...
    sa.Column("attempt", sa.Integer(), nullable=False, default=0),  # of the latest attempt; 0: none yet
    sa.Column("max_attempts", sa.Integer(), nullable=False, default=1),
    sa.Column("losses", sa.Integer(), nullable=False, default=0),  # attempts lost in a row
    sa.Column("claim", sa.BigInteger(), unique=True),  # of the open attempt
    sa.Column("job_id", sa.BigInteger()),  # holder of the claim
    sa.Column("upstream_total", sa.Integer(), nullable=False, default=0),
    sa.Column("upstream_ok", sa.Integer(), nullable=False, default=0),
    sa.Column("upstream_bad", sa.Integer(), nullable=False, default=0),
    sa.Column("upstream_skipped", sa.Integer(), nullable=False, default=0),
    sa.Column("gates_open", sa.Integer(), nullable=False, default=0),  # branches and short-circuits still to end
    sa.Column("gates_closed", sa.Integer(), nullable=False, default=0),  # those that ended and closed this one
    sa.Column("closes", _text()),  # of an ended gate: JSON list of task indices it closed
    sa.Column("priority_weight", sa.Integer(), nullable=False, default=1),
    sa.Column("queue", _name(), nullable=False, default="default"),
    sa.Column(
        "needs_slot", sa.Boolean(), nullable=False, default=True
    ),  # False: a sensor, or recorded without a process
    sa.Column("pool_id", sa.BigInteger()),
    sa.Column("pool_slots", sa.Integer(), nullable=False, default=1),
    sa.Column("task_limit_id", sa.BigInteger()),
    sa.Column("holds", sa.Integer(), nullable=False, default=0),  # 1: it is counted in pool, DAG and task limits
    sa.Column("blocked_on", _name(64), nullable=False, default=""),  # of a ready one: first unmet condition
    sa.Column("ready_at", Utc()),
    sa.Column("wake_at", Utc()),  # of a retrying one
    sa.Column("deadline_at", Utc()),  # of a deferred one
    sa.Column("started_at", Utc()),  # of the latest attempt
    sa.Column("ended_at", Utc()),
    sa.Column("reason", _text()),
    sa.UniqueConstraint("dag_run_id", "task_index", "map_index"),
    # One plain index each: a partial one makes SQLite's planner choose badly.
    sa.Index("ix_task_instance_claimable", "state", "needs_slot", "blocked_on", sa.text("priority_weight DESC"), "id"),
    sa.Index("ix_task_instance_blocked", "blocked_on", "state", sa.text("priority_weight DESC"), "id"),
    sa.Index("ix_task_instance_wake", "state", "wake_at"),
    sa.Index("ix_task_instance_holder", "job_id", "state"),
)

#: One try of a task instance.
attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("task_instance_id", sa.BigInteger(), sa.ForeignKey("task_instance.id"), primary_key=True),
    sa.Column("attempt", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("claim", sa.BigInteger(), nullable=False, unique=True),
    sa.Column("job_id", sa.BigInteger()),
    sa.Column("launcher", _name(32)),  # the launcher's own id, new at each of its starts
    sa.Column("host", _name(255)),
    sa.Column("pid", sa.Integer()),
    sa.Column("started_at", Utc()),
    sa.Column("ended_at", Utc()),
    sa.Column("outcome", _name(16)),
    sa.Column("reason", _text()),
    sa.Column("exit_status", sa.Integer()),
    sa.Column("signal", sa.Integer()),
    sa.Column("max_rss_bytes", sa.BigInteger()),
    sa.Column("log", _text()),  # path of the log file, relative to the logs folder
)

#: A long-lived process of Flux. Rows are never used again by another process.
job = sa.Table(
    "job",
    metadata,
    _row_number(),
    sa.Column("kind", _name(16), nullable=False),
    sa.Column("host", _name(255), nullable=False),
    sa.Column("boot_id", _name(64)),
    sa.Column("pid", sa.Integer(), nullable=False),
    sa.Column("state", _name(16), nullable=False),  # starting, running, stopping, stopped, lost
    sa.Column("beat", sa.BigInteger(), nullable=False, default=0),
    sa.Column("started_at", Utc(), nullable=False),
    sa.Column("last_beat_at", Utc()),
    sa.Column("ended_at", Utc()),
    sa.Index("ix_job_state", "state", "kind"),
)

pool = sa.Table(
    "pool",
    metadata,
    _row_number(),
    sa.Column("name", _name(), nullable=False, unique=True),
    sa.Column("slots", sa.Integer()),  # None: a task names it, but nobody made it yet
    sa.Column("used", sa.Integer(), nullable=False, default=0),
    sa.Column("description", _text()),
)

#: Counts the task instances of a task that has max_active_tis_per_dag.
task_limit = sa.Table(
    "task_limit",
    metadata,
    _row_number(),
    _reference("dag_row", "dag"),
    sa.Column("task_id", _name(), nullable=False),
    sa.Column("slots", sa.Integer(), nullable=False),
    sa.Column("used", sa.Integer(), nullable=False, default=0),
    sa.UniqueConstraint("dag_row", "task_id"),
)

task_result = sa.Table(
    "task_result",
    metadata,
    sa.Column("task_instance_id", sa.BigInteger(), sa.ForeignKey("task_instance.id"), primary_key=True),
    sa.Column("attempt", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("key", _name(), primary_key=True),
    sa.Column("value", _text()),  # typed JSON; None when it is in a file
    sa.Column("path", _text()),  # of that file, relative to the logs folder
)

rendered_fields = sa.Table(
    "rendered_fields",
    metadata,
    sa.Column("task_instance_id", sa.BigInteger(), sa.ForeignKey("task_instance.id"), primary_key=True),
    sa.Column("attempt", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("fields", _text(), nullable=False),  # JSON {field: text}
)

#: What is to be told to others after a commit, in order of id.
outbox = sa.Table(
    "outbox",
    metadata,
    _row_number(),
    sa.Column("kind", _name(32), nullable=False),
    sa.Column("dedupe_key", _name(250), unique=True),
    sa.Column("dag_run_id", sa.BigInteger()),
    sa.Column("payload", _text(), nullable=False),  # JSON
    sa.Column("state", _name(16), nullable=False, default="waiting"),
    sa.Column("tries", sa.Integer(), nullable=False, default=0),
    sa.Column("created_at", Utc(), nullable=False),
    sa.Column("wake_at", Utc()),
    sa.Index("ix_outbox_state", "state", "wake_at"),
)

#: Who did what.
audit_log = sa.Table(
    "audit_log",
    metadata,
    _row_number(),
    sa.Column("at", Utc(), nullable=False),
    sa.Column("who", _name(), nullable=False),
    sa.Column("action", _name(64), nullable=False),
    sa.Column("object", _text(), nullable=False),
    sa.Column("detail", _text()),  # JSON
    sa.Index("ix_audit_log_at", "at"),
)

backfill = sa.Table(
    "backfill",
    metadata,
    _row_number(),
    _reference("dag_row", "dag"),
    sa.Column("state", _name(16), nullable=False),
    sa.Column("spec", _text(), nullable=False),  # JSON
    sa.Column("plan", _text()),  # JSON
    sa.Column("job_id", sa.BigInteger()),
    sa.Column("total_runs", sa.Integer(), nullable=False, default=0),
    sa.Column("done_runs", sa.Integer(), nullable=False, default=0),
    sa.Column("failed_runs", sa.Integer(), nullable=False, default=0),
    sa.Column("created_by", _name(), nullable=False),
    sa.Column("created_at", Utc(), nullable=False),
    sa.Column("ended_at", Utc()),
)

variable = sa.Table(
    "variable",
    metadata,
    sa.Column("name", _name(), primary_key=True),
    sa.Column("value", _text(), nullable=False),
)

connection = sa.Table(
    "connection",
    metadata,
    sa.Column("conn_id", _name(), primary_key=True),
    sa.Column("type", _name(64), nullable=False),
    sa.Column("host", _text()),
    sa.Column("port", sa.Integer()),
    sa.Column("login", _text()),
    sa.Column("schema", _text()),
    sa.Column("extra", _text()),  # JSON of the fields that are not secret
    sa.Column("secrets", _bytes()),  # encrypted JSON of the password and the secret fields
)

"""The first schema."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_SERVERS = ("mysql", "mariadb")


def _bytewise() -> dict[str, str]:
    """Compared byte by byte with its trailing spaces, for which each server has a collation of its own."""
    is_mariadb = getattr(op.get_bind().dialect, "is_mariadb", False)
    return {"charset": "utf8mb4", "collation": "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"}


def _name(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, **_bytewise()), *_SERVERS)


def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(mysql.LONGTEXT(**_bytewise()), *_SERVERS)


def _bytes() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), *_SERVERS)


def _utc() -> sa.types.TypeEngine[datetime]:
    return sa.DateTime().with_variant(mysql.DATETIME(fsp=6), *_SERVERS)


def _row_number() -> sa.Column[Any]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=True)


def upgrade() -> None:
    op.create_table(
        "audit_log",
        _row_number(),
        sa.Column("at", _utc(), nullable=False),
        sa.Column("who", _name(250), nullable=False),
        sa.Column("action", _name(64), nullable=False),
        sa.Column("object", _text(), nullable=False),
        sa.Column("detail", _text()),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"])
    op.create_table(
        "connection",
        sa.Column("conn_id", _name(250), nullable=False),
        sa.Column("type", _name(64), nullable=False),
        sa.Column("host", _text()),
        sa.Column("port", sa.Integer()),
        sa.Column("login", _text()),
        sa.Column("schema", _text()),
        sa.Column("extra", _text()),
        sa.Column("secrets", _bytes()),
        sa.PrimaryKeyConstraint("conn_id", name="pk_connection"),
    )
    op.create_table(
        "dag_file",
        _row_number(),
        sa.Column("path", _name(700), nullable=False),
        sa.Column("hash", _name(64)),
        sa.Column("error", _text()),
        sa.Column("sources", _text()),
        sa.Column("warnings", _text()),
        sa.Column("checked_at", _utc()),
        sa.PrimaryKeyConstraint("id", name="pk_dag_file"),
        sa.UniqueConstraint("path", name="uq_dag_file_path"),
    )
    op.create_table(
        "job",
        _row_number(),
        sa.Column("kind", _name(16), nullable=False),
        sa.Column("host", _name(255), nullable=False),
        sa.Column("boot_id", _name(64)),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("state", _name(16), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("started_at", _utc(), nullable=False),
        sa.Column("last_beat_at", _utc()),
        sa.Column("ended_at", _utc()),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
    )
    op.create_index("ix_job_state", "job", ["state", "kind"])
    op.create_table(
        "outbox",
        _row_number(),
        sa.Column("kind", _name(32), nullable=False),
        sa.Column("dedupe_key", _name(250)),
        sa.Column("dag_run_id", sa.BigInteger()),
        sa.Column("payload", _text(), nullable=False),
        sa.Column("state", _name(16), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("created_at", _utc(), nullable=False),
        sa.Column("wake_at", _utc()),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("dedupe_key", name="uq_outbox_dedupe_key"),
    )
    op.create_index("ix_outbox_state", "outbox", ["state", "wake_at"])
    op.create_table(
        "pool",
        _row_number(),
        sa.Column("name", _name(250), nullable=False),
        sa.Column("slots", sa.Integer()),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("description", _text()),
        sa.PrimaryKeyConstraint("id", name="pk_pool"),
        sa.UniqueConstraint("name", name="uq_pool_name"),
    )
    op.create_table(
        "source",
        sa.Column("hash", _name(64), nullable=False),
        sa.Column("content", _bytes(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_source"),
    )
    op.create_table(
        "variable",
        sa.Column("name", _name(250), nullable=False),
        sa.Column("value", _text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_variable"),
    )
    op.create_table(
        "dag",
        _row_number(),
        sa.Column("dag_id", _name(250), nullable=False),
        sa.Column("dag_file_id", sa.BigInteger()),
        sa.Column("dag_version_id", sa.BigInteger()),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("first_seen_at", _utc(), nullable=False),
        sa.Column("next_interval_start", _utc()),
        sa.Column("next_interval_end", _utc()),
        sa.Column("next_due_at", _utc()),
        sa.Column("active_runs", sa.Integer(), nullable=False),
        sa.Column("max_active_runs", sa.Integer(), nullable=False),
        sa.Column("active_tasks", sa.Integer(), nullable=False),
        sa.Column("max_active_tasks", sa.Integer()),
        sa.Column("manual_runs", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dag"),
        sa.ForeignKeyConstraint(["dag_file_id"], ["dag_file.id"], name="fk_dag_dag_file_id"),
        sa.UniqueConstraint("dag_id", name="uq_dag_dag_id"),
    )
    op.create_index("ix_dag_due", "dag", ["paused", "next_due_at"])
    op.create_table(
        "backfill",
        _row_number(),
        sa.Column("dag_row", sa.BigInteger(), nullable=False),
        sa.Column("state", _name(16), nullable=False),
        sa.Column("spec", _text(), nullable=False),
        sa.Column("plan", _text()),
        sa.Column("job_id", sa.BigInteger()),
        sa.Column("total_runs", sa.Integer(), nullable=False),
        sa.Column("done_runs", sa.Integer(), nullable=False),
        sa.Column("failed_runs", sa.Integer(), nullable=False),
        sa.Column("created_by", _name(250), nullable=False),
        sa.Column("created_at", _utc(), nullable=False),
        sa.Column("ended_at", _utc()),
        sa.PrimaryKeyConstraint("id", name="pk_backfill"),
        sa.ForeignKeyConstraint(["dag_row"], ["dag.id"], name="fk_backfill_dag_row"),
    )
    op.create_table(
        "dag_version",
        _row_number(),
        sa.Column("dag_row", sa.BigInteger(), nullable=False),
        sa.Column("hash", _name(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("structure", _text(), nullable=False),
        sa.Column("sources", _text(), nullable=False),
        sa.Column("created_at", _utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dag_version"),
        sa.ForeignKeyConstraint(["dag_row"], ["dag.id"], name="fk_dag_version_dag_row"),
        sa.UniqueConstraint("dag_row", "hash", name="uq_dag_version_dag_row_hash"),
        sa.UniqueConstraint("dag_row", "number", name="uq_dag_version_dag_row_number"),
    )
    op.create_table(
        "task_limit",
        _row_number(),
        sa.Column("dag_row", sa.BigInteger(), nullable=False),
        sa.Column("task_id", _name(250), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_task_limit"),
        sa.ForeignKeyConstraint(["dag_row"], ["dag.id"], name="fk_task_limit_dag_row"),
        sa.UniqueConstraint("dag_row", "task_id", name="uq_task_limit_dag_row_task_id"),
    )
    op.create_table(
        "dag_run",
        _row_number(),
        sa.Column("dag_row", sa.BigInteger(), nullable=False),
        sa.Column("dag_version_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", _name(250), nullable=False),
        sa.Column("kind", _name(16), nullable=False),
        sa.Column("state", _name(16), nullable=False),
        sa.Column("logical_date", _utc(), nullable=False),
        sa.Column("interval_start", _utc(), nullable=False),
        sa.Column("interval_end", _utc(), nullable=False),
        sa.Column("interval_key", _name(32)),
        sa.Column("open_tasks", sa.Integer(), nullable=False),
        sa.Column("conf", _text()),
        sa.Column("created_at", _utc(), nullable=False),
        sa.Column("started_at", _utc()),
        sa.Column("ended_at", _utc()),
        sa.Column("deadline_at", _utc()),
        sa.Column("reason", _text()),
        sa.Column("backfill_id", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_dag_run"),
        sa.ForeignKeyConstraint(["backfill_id"], ["backfill.id"], name="fk_dag_run_backfill_id"),
        sa.ForeignKeyConstraint(["dag_row"], ["dag.id"], name="fk_dag_run_dag_row"),
        sa.ForeignKeyConstraint(["dag_version_id"], ["dag_version.id"], name="fk_dag_run_dag_version_id"),
        sa.UniqueConstraint("dag_row", "interval_key", name="uq_dag_run_dag_row_interval_key"),
        sa.UniqueConstraint("dag_row", "run_id", name="uq_dag_run_dag_row_run_id"),
    )
    op.create_index("ix_dag_run_created", "dag_run", ["created_at"])
    op.create_index("ix_dag_run_date", "dag_run", ["dag_row", "logical_date"])
    op.create_index("ix_dag_run_state", "dag_run", ["state", "dag_row", "logical_date"])
    op.create_table(
        "task_instance",
        _row_number(),
        sa.Column("dag_run_id", sa.BigInteger(), nullable=False),
        sa.Column("task_id", _name(250), nullable=False),
        sa.Column("task_index", sa.Integer(), nullable=False),
        sa.Column("map_index", sa.Integer(), nullable=False),
        sa.Column("state", _name(16), nullable=False),
        sa.Column("wish", _name(16)),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("claim", sa.BigInteger()),
        sa.Column("job_id", sa.BigInteger()),
        sa.Column("upstream_total", sa.Integer(), nullable=False),
        sa.Column("upstream_ok", sa.Integer(), nullable=False),
        sa.Column("upstream_bad", sa.Integer(), nullable=False),
        sa.Column("upstream_skipped", sa.Integer(), nullable=False),
        sa.Column("gates_open", sa.Integer(), nullable=False),
        sa.Column("gates_closed", sa.Integer(), nullable=False),
        sa.Column("closes", _text()),
        sa.Column("priority_weight", sa.Integer(), nullable=False),
        sa.Column("queue", _name(250), nullable=False),
        sa.Column("needs_slot", sa.Boolean(), nullable=False),
        sa.Column("pool_id", sa.BigInteger()),
        sa.Column("pool_slots", sa.Integer(), nullable=False),
        sa.Column("task_limit_id", sa.BigInteger()),
        sa.Column("holds", sa.Integer(), nullable=False),
        sa.Column("blocked_on", _name(64), nullable=False),
        sa.Column("ready_at", _utc()),
        sa.Column("wake_at", _utc()),
        sa.Column("deadline_at", _utc()),
        sa.Column("started_at", _utc()),
        sa.Column("ended_at", _utc()),
        sa.Column("reason", _text()),
        sa.PrimaryKeyConstraint("id", name="pk_task_instance"),
        sa.ForeignKeyConstraint(["dag_run_id"], ["dag_run.id"], name="fk_task_instance_dag_run_id"),
        sa.UniqueConstraint("claim", name="uq_task_instance_claim"),
        sa.UniqueConstraint(
            "dag_run_id", "task_index", "map_index", name="uq_task_instance_dag_run_id_task_index_map_index"
        ),
    )
    op.create_index(
        "ix_task_instance_blocked", "task_instance", ["blocked_on", "state", sa.text("priority_weight DESC"), "id"]
    )
    op.create_index(
        "ix_task_instance_claimable",
        "task_instance",
        ["state", "needs_slot", "blocked_on", sa.text("priority_weight DESC"), "id"],
    )
    op.create_index("ix_task_instance_holder", "task_instance", ["job_id", "state"])
    op.create_index("ix_task_instance_wake", "task_instance", ["state", "wake_at"])
    op.create_table(
        "attempt",
        sa.Column("task_instance_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("claim", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.BigInteger()),
        sa.Column("launcher", _name(32)),
        sa.Column("host", _name(255)),
        sa.Column("pid", sa.Integer()),
        sa.Column("started_at", _utc()),
        sa.Column("ended_at", _utc()),
        sa.Column("outcome", _name(16)),
        sa.Column("reason", _text()),
        sa.Column("exit_status", sa.Integer()),
        sa.Column("signal", sa.Integer()),
        sa.Column("max_rss_bytes", sa.BigInteger()),
        sa.Column("log", _text()),
        sa.PrimaryKeyConstraint("task_instance_id", "attempt", name="pk_attempt"),
        sa.ForeignKeyConstraint(["task_instance_id"], ["task_instance.id"], name="fk_attempt_task_instance_id"),
        sa.UniqueConstraint("claim", name="uq_attempt_claim"),
    )
    op.create_table(
        "rendered_fields",
        sa.Column("task_instance_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("fields", _text(), nullable=False),
        sa.PrimaryKeyConstraint("task_instance_id", "attempt", name="pk_rendered_fields"),
        sa.ForeignKeyConstraint(["task_instance_id"], ["task_instance.id"], name="fk_rendered_fields_task_instance_id"),
    )
    op.create_table(
        "task_result",
        sa.Column("task_instance_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("key", _name(250), nullable=False),
        sa.Column("value", _text()),
        sa.Column("path", _text()),
        sa.PrimaryKeyConstraint("task_instance_id", "attempt", "key", name="pk_task_result"),
        sa.ForeignKeyConstraint(["task_instance_id"], ["task_instance.id"], name="fk_task_result_task_instance_id"),
    )

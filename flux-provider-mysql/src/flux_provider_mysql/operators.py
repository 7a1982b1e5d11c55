"""The operator that runs SQL statements on MySQL or MariaDB."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from flux import BaseOperator, Context, get_connection
from flux_provider_mysql.client import MySqlClient, MySqlError, Outcome
from flux_provider_mysql.statements import Statement, split

__all__ = ["MySqlOperator"]

#: The rows that become the result may have about this much typed JSON; Flux keeps results of 10 MB.
_RESULT_BYTES = 8_000_000
#: A statement in the log, a line of it in an error.
_SHOWN = 200

log = logging.getLogger(__name__)


class MySqlOperator(BaseOperator):
    """Run SQL statements, one after the other, in one transaction.

    The rows of the last statement that gives any are the result: a list with a dict for each row, by the names of the
    columns; a name that comes again is `name__1`. Of each statement the log has the number of rows, the time it took
    and the server's warnings. When the task is killed or its time is over, what it runs is ended on the server too, and
    rolled back.

    Args:
        sql: statements with `;` between them, as the `mysql` client reads them (quotes, comments, DELIMITER lines), or
            a list of such texts, or the name of a template file that ends in .sql.
        parameters: values that the driver binds to `%s` (a list, for one statement) or `%(name)s` (a dict, for all
            statements). With them, a percent sign in the SQL is written `%%`.
        mysql_conn_id: the connection, of type mysql.
        database: the database to use; None: the connection's schema.
        autocommit: keep what each statement does as soon as it has ended.
    """

    template_fields: Sequence[str] = ("sql", "parameters", "database")
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: Mapping[str, str] = {"sql": "sql"}
    ui_color = "#e4ecf7"

    def __init__(
        self,
        *,
        sql: str | Sequence[str],
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        mysql_conn_id: str = "mysql_default",
        database: str | None = None,
        autocommit: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.parameters = parameters
        self.mysql_conn_id = mysql_conn_id
        self.database = database
        self.autocommit = autocommit
        self._client: MySqlClient | None = None

    def execute(self, context: Context) -> list[dict[str, Any]] | None:
        """Run the statements and commit; None when none of them gives rows, or no result is kept."""
        statements = self._statements()
        self._client = client = MySqlClient(get_connection(self.mysql_conn_id), schema=self.database)
        try:
            if self.autocommit:
                client.autocommit()
            last = self._run(client, statements)
            rows = None if last is None or not self.store_result else _as_dicts(last)
            client.commit()
        # Not in `finally`: a kill goes on to on_kill, which ends the session on the server without waiting for it.
        except Exception:
            client.close()
            raise
        client.close()
        return rows

    def on_kill(self) -> None:
        """End on the server what runs there."""
        if self._client is not None:
            self._client.cancel(limit_seconds=2)

    def _statements(self) -> list[Statement]:
        texts: Sequence[Any] = self.sql if isinstance(self.sql, (list, tuple)) else [self.sql]
        statements = [statement for text in texts for statement in split(text)]
        if not statements:
            raise MySqlError(f"Task {self.task_id!r}: its sql holds no statement.")
        if len(statements) > 1 and self.parameters and not isinstance(self.parameters, Mapping):
            raise MySqlError(
                f"Task {self.task_id!r}: {len(statements)} statements cannot share a list of parameters. "
                "Give a dict and write %(name)s, or make several tasks."
            )
        return statements

    def _run(self, client: MySqlClient, statements: Sequence[Statement]) -> Outcome | None:
        """Run them; return what the last one that gave rows did."""
        last = None
        ended = 0  # the number of the last statement after which no transaction was open
        keep_bytes = _RESULT_BYTES if self.store_result else 0
        for number, statement in enumerate(statements, 1):
            which = f"Statement {number} of {len(statements)}"
            log.info("%s: %s", which, _shown(statement.text))
            try:
                outcome = client.execute(statement.text, self.parameters, keep_bytes=keep_bytes)
            except MySqlError as error:
                kept = self._kept(ended, client.has_ended_transaction(error))
                raise MySqlError(f"{which} (line {statement.line}) failed. {error} {kept}") from error
            _report(which, outcome)
            ended = ended if outcome.is_open else number
            last = outcome if outcome.columns is not None else last
        if last is not None and last.is_cut and self.store_result:
            raise MySqlError(
                f"Task {self.task_id!r}: its last result, {_rows(last.row_count)}, is more than "
                f"{_RESULT_BYTES // 1_000_000} MB. Write them to a table with INSERT ... SELECT, ask for fewer, or set "
                "store_result=False."
            )
        return last

    def _kept(self, ended: int, has_ended_it: bool) -> str:
        """What is kept when a statement fails. See `_run` for `ended`; `has_ended_it`: the failing one ended one."""
        if self.autocommit:
            return "What ended before it is kept."
        if has_ended_it:
            return "It ended the transaction first: what came before it may be kept."
        return f"Nothing after statement {ended} is kept." if ended else "Nothing of this transaction is kept."


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _report(which: str, outcome: Outcome) -> None:
    rows = _rows(outcome.row_count)
    log.info("%s: %s %s, %.2f s", which, rows, "changed" if outcome.columns is None else "read", outcome.seconds)
    for warning in outcome.warnings:
        level = logging.INFO if warning.level == "Note" else logging.WARNING
        log.log(level, "%s: %s %d: %s", which, warning.level, warning.code, warning.message)
    if outcome.warning_count > len(outcome.warnings):
        log.warning("%s: %d warnings in all", which, outcome.warning_count)
    if outcome.committed:
        log.warning("%s ended the transaction: what came before it cannot be rolled back any more", which)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _as_dicts(outcome: Outcome) -> list[dict[str, Any]]:
    names: dict[str, None] = {}
    for name in outcome.columns or ():
        free, again = name, 0
        while free in names:
            again += 1
            free = f"{name}__{again}"
        names[free] = None
    return [dict(zip(names, row, strict=True)) for row in outcome.rows]

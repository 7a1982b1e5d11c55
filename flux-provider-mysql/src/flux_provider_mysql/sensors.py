"""The sensor that waits for a query on MySQL or MariaDB."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from flux import BaseSensor, Context, get_connection
from flux_provider_mysql.client import MySqlClient, MySqlError
from flux_provider_mysql.statements import split

__all__ = ["MySqlSensor"]

_ZERO_DATE = re.compile(r"0000-00-00( 00:00:00(\.0+)?)?")


class MySqlSensor(BaseSensor):
    """Wait until the first cell of the first row of a query is true.

    It waits while there is no row, or the cell is NULL, a number or length of time equal to 0, an empty text, the text
    "0", a zero date, or bytes that are all zero (BIT, BINARY). Everything else is true, the text "false" too. An error
    fails the task. The query may only read, and the server ends it soon after poke_timeout, when the poke is over.

    Args:
        sql: one query, or the name of a template file that ends in .sql.
        parameters: values that the driver binds to `%s` (a list) or `%(name)s` (a dict) of the query. With them, a
            percent sign in the query is written `%%`.
        mysql_conn_id: the connection, of type mysql.
        database: the database to use; None: the connection's schema.
    """

    template_fields: Sequence[str] = ("sql", "parameters", "database")
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: Mapping[str, str] = {"sql": "sql"}

    def __init__(
        self,
        *,
        sql: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        mysql_conn_id: str = "mysql_default",
        database: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.parameters = parameters
        self.mysql_conn_id = mysql_conn_id
        self.database = database

    def poke(self, context: Context) -> bool:
        """Ask once."""
        statements = split(self.sql)
        if len(statements) != 1:
            raise MySqlError(f"Task {self.task_id!r}: its sql holds {len(statements)} statements. Give one query.")
        client = MySqlClient(get_connection(self.mysql_conn_id), schema=self.database)
        try:
            client.read_only(self._limit_seconds())
            outcome = client.execute(statements[0].text, self.parameters, keep_bytes=1)
        finally:
            client.close()
        if outcome.columns is None:
            raise MySqlError(f"Task {self.task_id!r}: its sql gives no rows at all. Give a query.")
        return bool(outcome.rows) and is_true(outcome.rows[0][0])

    def _limit_seconds(self) -> float:
        """When the server ends the query: after Flux has given up the poke, whose rules for that hold."""
        timeout = self.poke_timeout
        return 1 + 1.1 * (timeout.total_seconds() if isinstance(timeout, timedelta) else timeout)


def is_true(cell: Any) -> bool:
    """Whether a cell ends the waiting; the class says which do."""
    if isinstance(cell, bytes):
        return any(cell)
    if isinstance(cell, str):
        return cell not in ("", "0") and _ZERO_DATE.fullmatch(cell) is None
    return bool(cell)

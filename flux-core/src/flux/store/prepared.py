"""Statements that are compiled once and run on the driver's own cursor, for the transaction that moves runs forward.

SQLAlchemy builds each of them, gives it the dialect's SQL and converts its values; what it does besides at every
execution costs several times what the database needs for the statement, and from one task to the next there are a
dozen. Where the same statement is not run again and again, `connection.execute` is the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

Values = Mapping[str, Any]
Record = tuple[Any, ...]

_NOTHING: Values = {}
_Convert = Callable[[Any], Any]


class _Parameter(NamedTuple):
    """Where one value of a statement comes from."""

    name: str
    #: None: as it is.
    convert: _Convert | None
    #: What the statement itself holds; only where `is_constant`, in the driver's form.
    constant: Any
    is_constant: bool


class Prepared:
    """A statement, its SQL for each dialect that was met, and how its values go in and come out.

    Its parameters are those of the `bindparam`s in it; each must be given. A list for an `expanding` one makes another
    SQL each time: such a statement goes through SQLAlchemy.

    Args:
        statement: of SQLAlchemy's Core; an INSERT names its columns by `values`.

    Raises:
        DBAPIError: every method, as `connection.execute` does.
        KeyError: every method, when a parameter was not given.
    """

    def __init__(self, statement: sa.Select[Any] | sa.Update | sa.Insert) -> None:
        self.statement = statement
        self._forms: dict[str, _Form | None] = {}

    def __str__(self) -> str:
        return str(self.statement)

    def rows(self, connection: sa.Connection, values: Values = _NOTHING) -> list[Record]:
        """Return the rows that it selects or returns, as tuples in the order of its columns."""
        form = self._form(connection)
        if form is None:
            return [tuple(row) for row in connection.execute(self.statement, dict(values))]
        cursor = _cursor(connection)
        try:
            cursor.execute(form.sql, form.parameters(values))
            return form.converted(cursor.fetchall())
        except connection.dialect.loaded_dbapi.Error as error:
            raise _failure(connection, form.sql, error) from error
        finally:
            cursor.close()

    def run(self, connection: sa.Connection, *rows: Values) -> int:
        """Execute it once for each of `rows`, and return how many rows of its table that changed."""
        form = self._form(connection)
        if form is None:
            return sum(connection.execute(self.statement, dict(values)).rowcount for values in rows)
        cursor = _cursor(connection)
        try:
            if len(rows) == 1:
                cursor.execute(form.sql, form.parameters(rows[0]))
            else:
                cursor.executemany(form.sql, [form.parameters(values) for values in rows])
            return cursor.rowcount
        except connection.dialect.loaded_dbapi.Error as error:
            raise _failure(connection, form.sql, error) from error
        finally:
            cursor.close()

    def _form(self, connection: sa.Connection) -> _Form | None:
        name = connection.dialect.name
        if name not in self._forms:
            compiled = self.statement.compile(dialect=connection.dialect)
            assert isinstance(compiled, SQLCompiler)
            self._forms[name] = None if compiled.post_compile_params else _Form(compiled, connection.dialect)
        return self._forms[name]


class _Form:
    """What a statement is for one dialect."""

    def __init__(self, compiled: SQLCompiler, dialect: sa.Dialect) -> None:
        self.sql = str(compiled)
        self._is_positional = compiled.positional
        names = compiled.positiontup if compiled.positional else list(compiled.binds)
        self._parameters = [_parameter(name, compiled.binds[name], dialect) for name in names or ()]
        types = [column["type"] for column in _columns(compiled.statement)]
        converts = [kind.dialect_impl(dialect).result_processor(dialect, None) for kind in types]
        self._converts = [(index, convert) for index, convert in enumerate(converts) if convert is not None]

    def parameters(self, values: Values) -> Any:
        """Return what the driver takes: a list, or a dict where its parameters have names."""
        found = [
            constant if is_constant else values[name] if convert is None else convert(values[name])
            for name, convert, constant, is_constant in self._parameters
        ]
        if self._is_positional:
            return found
        return {parameter.name: value for parameter, value in zip(self._parameters, found, strict=True)}

    def converted(self, rows: Sequence[Sequence[Any]]) -> list[Record]:
        if not self._converts:
            return [tuple(row) for row in rows]
        found = []
        for row in rows:
            record = list(row)
            for index, convert in self._converts:
                record[index] = convert(record[index])
            found.append(tuple(record))
        return found


def _parameter(name: str, bind: sa.BindParameter[Any], dialect: sa.Dialect) -> _Parameter:
    convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
    if bind.required:
        return _Parameter(name, convert, None, False)
    value = bind.effective_value
    return _Parameter(name, None, value if convert is None else convert(value), True)


def _columns(statement: Any) -> Sequence[Any]:
    """Describe what a statement gives back."""
    descriptions: Sequence[Any] = (
        statement.column_descriptions if isinstance(statement, sa.Select) else statement.returning_column_descriptions
    )
    return descriptions


def _cursor(connection: sa.Connection) -> DBAPICursor:
    raw = connection.connection.dbapi_connection
    assert raw is not None
    return raw.cursor()


def _failure(connection: sa.Connection, sql: str, error: Exception) -> BaseException:
    """The error that `connection.execute` would raise; the connection is given up if it is broken."""
    dialect = connection.dialect
    is_lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)  # type: ignore[arg-type]
    if is_lost:
        connection.invalidate(error)
    return DBAPIError.instance(
        sql, None, error, dialect.loaded_dbapi.Error, connection_invalidated=is_lost, dialect=dialect
    )

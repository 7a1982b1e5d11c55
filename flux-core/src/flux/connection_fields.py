"""What a connection type makes of a connection: checks its settings, adds defaults, and says which are secret.

Whoever edits a connection is not whoever writes the pipeline: a setting that the type does not declare is refused, so
that nobody steers a client by one that its author never meant to offer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flux.connection import Connection
from flux.errors import ConfigError, NotFound
from flux.plugins import ConnectionType, Field
from flux.secret import Secret

if TYPE_CHECKING:
    from flux.plugins.catalogue import Catalogue

#: The settings that every type may declare by name.
STANDARD = ("host", "port", "login", "password", "schema")


def own_fields(kind: ConnectionType) -> dict[str, Field]:
    """Return the settings that only this type has, by name, in the order of a form."""
    return {field.name: field for field in kind.fields if isinstance(field, Field)}


def type_of(catalogue: Catalogue | None, name: str) -> ConnectionType | None:
    """Return the connection type of that name; None when no provider that is there offers it.

    Raises:
        PluginError: two providers offer it.
    """
    if catalogue is None:
        return None
    try:
        return catalogue.connection_type(name)
    except NotFound:
        return None


def with_secrets(
    connection: Connection, kind: ConnectionType, password: str | None, secrets: Mapping[str, str]
) -> Connection:
    """Return the connection with these secrets in it, and what its type calls secret as `Secret`.

    Args:
        password: None: as it is.

    Raises:
        ConfigError: the type has no secret field of that name.
    """
    fields = own_fields(kind)
    secret = [name for name, field in fields.items() if field.secret]
    unknown = sorted(secrets.keys() - set(secret))
    if unknown:
        raise ConfigError(
            f"Type {kind.name!r} has no secret field {unknown[0]!r}. "
            f"Its secret fields are: {', '.join(secret) or 'none'}."
        )
    extra = {**connection.extra, **secrets}
    marked = {name: Secret(text) if name in secret and isinstance(text, str) else text for name, text in extra.items()}
    return dataclasses.replace(
        connection, password=connection.password if password is None else Secret(password), extra=marked
    )


def complete(connection: Connection, kind: ConnectionType) -> Connection:
    """Return the connection as the client gets it: defaults applied, secret fields as `Secret`.

    Raises:
        ConfigError: it has a setting that its type does not declare, or lacks a required one. No value is shown.
    """
    fields = own_fields(kind)
    known = [field if isinstance(field, str) else field.name for field in kind.fields]
    if kind.default_port is not None and "port" not in known:
        known.append("port")
    given = [name for name in STANDARD if getattr(connection, name) is not None]
    given += (name for name in connection.extra if name not in given)
    unknown = sorted({name for name in given if name not in known} | (connection.extra.keys() - fields.keys()))
    if unknown:
        raise ConfigError(
            f"Connection {connection.conn_id!r} sets {_names(unknown)}, which type {kind.name!r} does not have. "
            f"Its fields are: {', '.join(known) or 'none'}."
        )
    missing = [name for name, field in fields.items() if field.required and not connection.extra.get(name)]
    if missing:
        raise ConfigError(
            f"Connection {connection.conn_id!r} lacks {_names(missing)}, which type {kind.name!r} requires. Add it."
        )
    port = kind.default_port if connection.port is None else connection.port
    return dataclasses.replace(connection, port=port, extra=_extra(connection.extra, fields))


def _extra(given: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    extra = {}
    for name, field in fields.items():
        value = given.get(name, field.default)
        if value is not None:
            extra[name] = Secret(value) if field.secret and isinstance(value, str) else value
    return extra


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))

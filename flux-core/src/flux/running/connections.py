"""Stored connections: sealed and opened, and what people do to them.

A connection's password and secret fields are encrypted together, so that which of them there are does not show. A
stored connection without any needs no key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flux import encryption
from flux.connection import Connection
from flux.encryption import Keys
from flux.errors import EncryptionError, Refused
from flux.secret import Secret
from flux.store import audit
from flux.store import connections as stored_connections
from flux.store.connections import StoredConnection
from flux.store.engine import check_text
from flux.times import utc_now

if TYPE_CHECKING:
    import sqlalchemy as sa

    from flux.app import Flux

#: Name of the password among the secrets; no field of a type can be called so.
_PASSWORD = "password"
#: Characters of all secrets of a connection. Every line of output is searched for every line of a secret.
MOST_SECRET = 65_536


def seal(connection: Connection, keys: Callable[[], Keys]) -> StoredConnection:
    """Return a connection as it is stored.

    Args:
        keys: called only when something is to be encrypted.

    Raises:
        EncryptionError: what `keys` raises. Refused: a text cannot be stored, or the secrets are too long.
    """
    secrets = {name: value.reveal() for name, value in connection.extra.items() if isinstance(value, Secret)}
    extra = {name: value for name, value in connection.extra.items() if name not in secrets}
    if connection.password is not None:
        secrets[_PASSWORD] = connection.password.reveal()
    parts = {name: getattr(connection, name) or "" for name in ("host", "login", "schema")}
    for name, text in {**parts, **extra, **secrets}.items():
        check_text(f"Connection {connection.conn_id!r}: {name}", str(text))
    length = sum(map(len, secrets.values()))
    if length > MOST_SECRET:
        raise Refused(
            f"Connection {connection.conn_id!r}: {length} characters of secrets are more than {MOST_SECRET}. "
            "Keep so much in a file, and the file's path in the connection."
        )
    return StoredConnection(
        conn_id=connection.conn_id,
        type=connection.type,
        host=connection.host,
        port=connection.port,
        login=connection.login,
        schema=connection.schema,
        extra=extra,
        secrets=keys().encrypt(secrets) if secrets else None,
    )


def open_sealed(stored: StoredConnection, keys: Callable[[], Keys]) -> Connection:
    """Return a stored connection with its secrets; `keys` is called only when it has any.

    Raises:
        EncryptionError: it cannot be decrypted; names the connection.
    """
    secrets: dict[str, str] = {}
    if stored.secrets is not None:
        try:
            secrets = keys().decrypt(stored.secrets)
        except EncryptionError as error:
            raise EncryptionError(f"Connection {stored.conn_id!r}: {error}") from None
    password = secrets.pop(_PASSWORD, None)
    return Connection(
        stored.conn_id,
        stored.type,
        stored.host,
        stored.port,
        stored.login,
        None if password is None else Secret(password),
        stored.schema,
        {**stored.extra, **{name: Secret(text) for name, text in secrets.items()}},
    )


def put(flux: Flux, connection: Connection, *, who: str) -> bool:
    """Store a connection; return True when one of that id was replaced.

    Raises:
        EncryptionError: it has secrets and there is no key. Refused: it cannot be stored.
    """
    path = flux.config.secret_key_file

    def work(opened: sa.Connection) -> bool:
        replaced = stored_connections.put(opened, stored)
        action = "connection.replace" if replaced else "connection.add"
        audit.add(opened, who, action, f"connection {stored.conn_id}", {"type": stored.type}, utc_now())
        return replaced

    with encryption.held(path, changing=False):
        stored = seal(connection, lambda: encryption.read(path))
        return flux.store.write(work)


def delete(flux: Flux, conn_id: str, *, who: str) -> None:
    """Delete a stored connection; NotFound names the nearest ones."""

    def work(opened: sa.Connection) -> None:
        stored_connections.delete(opened, conn_id)
        audit.add(opened, who, "connection.delete", f"connection {conn_id}", None, utc_now())

    flux.store.write(work)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a change of the key did."""

    #: Connections that were encrypted anew.
    count: int
    #: Keys that were dropped from the file.
    dropped: int


def rotate_key(flux: Flux, *, who: str) -> Rotation:
    """Put a new key first and encrypt every stored connection anew with it, in one transaction.

    The old keys stay in the file until `drop_old_keys`, for other machines and for backups. When this fails midway,
    nothing is lost: the file has all keys, and the database the old or the new form.

    Raises:
        EncryptionError: there is no key file; a connection cannot be decrypted, and nothing was changed.
    """
    path = flux.config.secret_key_file

    def work(opened: sa.Connection) -> int:
        count = _encrypt_anew(opened, keys)
        audit.add(opened, who, "connection.rotate_key", "connections", {"count": count}, utc_now())
        return count

    with encryption.held(path, changing=True):
        flux.store.read(lambda opened: _check(opened, encryption.read(path)))
        keys = encryption.put_new_first(path)
        return Rotation(flux.store.write(work), 0)


def drop_old_keys(flux: Flux, *, who: str) -> Rotation:
    """Keep the first key only, after everything that another one encrypted was encrypted anew."""
    path = flux.config.secret_key_file

    def work(opened: sa.Connection) -> int:
        count = _encrypt_anew(opened, keys)
        detail = {"count": count, "dropped": len(keys.lines) - 1}
        audit.add(opened, who, "connection.drop_old_keys", "connections", detail, utc_now())
        return count

    with encryption.held(path, changing=True):
        keys = encryption.read(path)
        count = flux.store.write(work)
        return Rotation(count, encryption.keep_first(path))


def _check(opened: sa.Connection, keys: Keys) -> None:
    for stored in stored_connections.every(opened):
        open_sealed(stored, lambda: keys)


def _encrypt_anew(opened: sa.Connection, keys: Keys) -> int:
    """Encrypt with the first key what another one encrypted; all or nothing. Return how many connections that were."""
    count = 0
    for stored in stored_connections.every(opened):
        if stored.secrets is not None and not keys.is_newest(stored.secrets):
            sealed = seal(open_sealed(stored, lambda: keys), lambda: keys)
            assert sealed.secrets is not None
            count += stored_connections.set_secrets(opened, stored.conn_id, stored.secrets, sealed.secrets)
    return count


def shown(connection: Connection | StoredConnection) -> dict[str, Any]:
    """Return what people may see of a connection: nothing that is secret, and no value of `extra`, which may be."""
    return {name: getattr(connection, name) for name in ("conn_id", "type", "host", "port", "login", "schema")}

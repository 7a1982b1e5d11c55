"""Connections: the address and credentials of an outside system, their URI form, and those the environment defines.

A connection holds no client and opens nothing. The password is a `Secret`, and so are the values in `extra` that its
type calls secret; no message and no repr shows them, or any other value in `extra`. What a type makes of a connection
is in `connection_fields`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from flux.errors import ConfigError
from flux.secret import Secret, mask_also

#: A connection `hive_default` is defined by the environment variable FLUX_CONN_HIVE_DEFAULT, a URI.
ENVIRONMENT_PREFIX = "FLUX_CONN_"

_FORM = "<type>://login:password@host:port/schema?key=value"
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]*")


@dataclass(frozen=True, slots=True)
class Connection:
    """Where an outside system is and how to log in to it."""

    conn_id: str
    #: Name of a connection type, such as "mysql"; a provider says which client it gets.
    type: str
    host: str | None = None
    port: int | None = None
    login: str | None = None
    password: Secret | None = None
    #: The part after the host: a database, a schema, a path; as its type reads it.
    schema: str | None = None
    #: Further settings by name: texts, and a Secret where the type says so.
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.password and self.login:
            # What a client writes into an Authorization header, and with it into its debug log.
            pair = f"{self.login}:{self.password.reveal()}".encode("utf-8", "surrogatepass")
            mask_also(base64.b64encode(pair).decode())

    @classmethod
    def from_uri(cls, conn_id: str, uri: str, *, source: str = "") -> Connection:
        """Read a URI, percent-decoded part by part; `source` says in errors where it came from.

        Raises:
            ConfigError: the URI is malformed. The message does not show it, as it holds the password.
        """
        where = f"Connection {conn_id!r}" + (f" (from {source})" if source else "")
        uri = uri.strip()
        if any(character in uri for character in "\t\r\n"):  # urlsplit would drop them without a word
            raise ConfigError(f"{where} has a tab or a line's end in it. Write them as %09, %0D and %0A.")
        kind, separator, rest = uri.partition("://")
        if not separator or not _TYPE.fullmatch(kind):
            raise ConfigError(f"{where} is not a URI. Write it as {_FORM}.")
        try:
            parts = urlsplit(f"//{rest}")
            port = parts.port
        except ValueError as error:
            raise ConfigError(
                f"{where} has a host or port that cannot be read. Write it as {_FORM}; "
                "a port is a number up to 65535, and : / ? # @ within a part are percent-encoded (%3A %2F %3F %23 %40)."
            ) from error
        if parts.fragment:
            raise ConfigError(f"{where} has an unencoded '#'. Write it as %23 within a login, password or value.")
        try:
            settings = parse_qsl(parts.query, keep_blank_values=True, errors="strict")
            found = cls(
                conn_id=conn_id,
                type=kind.lower(),
                host=_host(parts),
                port=port,
                login=_decoded(parts.username),
                password=None if parts.password is None else Secret(unquote(parts.password, errors="strict")),
                schema=_decoded(parts.path.removeprefix("/")),
                extra=dict(settings),
            )
        except UnicodeDecodeError:
            # Not `from error`, which shows the bytes.
            raise ConfigError(f"{where} has percent-encoded bytes that are no UTF-8. Encode its texts anew.") from None
        names = [name for name, _ in settings]
        if len(found.extra) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"{where} sets {twice!r} twice. Leave one.")
        return found

    def to_uri(self) -> str:
        """Return the URI with its secrets in it. For handing over, never for showing."""
        login = quote(self.login or "", safe="")
        if self.password is not None:
            login += f":{quote(self.password.reveal(), safe='')}"
        host = self.host or ""
        host = f"[{host}]" if ":" in host else quote(host, safe="")
        netloc = (f"{login}@" if login else "") + host + (f":{self.port}" if self.port is not None else "")
        path = f"/{quote(self.schema, safe='/')}" if self.schema else ""
        extra = {name: value.reveal() if isinstance(value, Secret) else value for name, value in self.extra.items()}
        query = f"?{urlencode(extra)}" if extra else ""
        return f"{self.type}://{netloc}{path}{query}"

    def to_message(self) -> dict[str, Any]:
        """Return the connection as JSON-ready data with its secrets revealed, for the attempt that may have them."""
        extra = {name: value for name, value in self.extra.items() if not isinstance(value, Secret)}
        return {
            "conn_id": self.conn_id,
            "type": self.type,
            "host": self.host,
            "port": self.port,
            "login": self.login,
            "password": None if self.password is None else self.password.reveal(),
            "schema": self.schema,
            "extra": extra,
            "secret_extra": {name: value.reveal() for name, value in self.extra.items() if isinstance(value, Secret)},
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Connection:
        """Read what `to_message` wrote; what was a Secret is one again."""
        fields = dict(message)
        password = fields.pop("password", None)
        secret = {name: Secret(text) for name, text in fields.pop("secret_extra", {}).items()}
        extra = {**fields.pop("extra", {}), **secret}
        return cls(**fields, password=None if password is None else Secret(password), extra=extra)


class Client(Protocol):
    """What talks to an outside system: the class that a connection type names.

    Nothing is opened before it is needed. Whatever else a client can do is between it and its provider's operators.
    """

    def __init__(self, connection: Connection) -> None: ...

    def check(self) -> str:
        """Talk to the system and return one line about it, such as "MariaDB 10.11.6"; raise what went wrong.

        `flux connection test` calls it, in a process of its own and under a time limit.
        """

    def close(self) -> None:
        """Close what is open. Safe to repeat."""


def from_environment(conn_id: str, environ: Mapping[str, str]) -> Connection | None:
    """Return the connection that `environ` defines for `conn_id`, or None.

    Raises:
        ConfigError: the variable is there but holds no URI.
    """
    name = variable_name(conn_id)
    uri = environ.get(name)
    return None if uri is None else Connection.from_uri(conn_id, uri, source=name)


def variable_name(conn_id: str) -> str:
    """Return the name of the environment variable for `conn_id`: upper case, what is no letter or digit is `_`."""
    return ENVIRONMENT_PREFIX + re.sub(r"[^A-Z0-9]", "_", conn_id.upper())


def environment_ids(environ: Mapping[str, str]) -> list[str]:
    """Return the conn_ids that `environ` defines, sorted, in lower case."""
    return sorted(
        name.removeprefix(ENVIRONMENT_PREFIX).lower()
        for name in environ
        if name.startswith(ENVIRONMENT_PREFIX) and len(name) > len(ENVIRONMENT_PREFIX)
    )


def _host(parts: SplitResult) -> str | None:
    """The host with its case kept (`SplitResult.hostname` lowers it: wrong for a socket's path)."""
    address = parts.netloc.rpartition("@")[2]
    if address.startswith("["):
        return address[1 : address.index("]")]
    return _decoded(address.partition(":")[0])


def _decoded(text: str | None) -> str | None:
    return unquote(text, errors="strict") if text else None

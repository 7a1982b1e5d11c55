"""`flux connection …`: addresses and credentials of outside systems. What is secret is never shown and no argument."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flux.cli import output, session, time_limit
from flux.cli.group import Noun
from flux.errors import ConfigError, Refused

if TYPE_CHECKING:
    from flux.app import Flux
    from flux.config import Config
    from flux.connection import Connection
    from flux.plugins import ConnectionType
    from flux.plugins.catalogue import Catalogue
    from flux.running.lookups import Places, Stored

_T = TypeVar("_T")
#: What secrets backends may take together, as in `flux.running.lookups`.
_ASKING_SECONDS = 10.0
#: What stands for something that is not shown.
_HIDDEN = "***"


@click.group(cls=Noun)
def connection() -> None:
    """Add, list, show and test connections: addresses and credentials of outside systems.

    \b
    Example:
      flux connection add warehouse --type mysql --host db.example --login etl
    """


@connection.command("list")
@output.json_option
def list_connections(as_json: bool) -> None:
    """List the connections of the environment and of the store. What secrets backends have is not listed.

    \b
    Example:
      flux connection list --json
    """
    from flux import connection as connections

    with ExitStack() as stack:
        flux = _store(stack)
        rows = _stored_rows(flux)
    for conn_id in connections.environment_ids(os.environ):
        # The environment wins over the stored connection of the same variable, whatever its case.
        name = connections.variable_name(conn_id)
        known = [each for each in rows if connections.variable_name(each) == name]
        try:
            found = connections.from_environment(conn_id, os.environ)
        except ConfigError as error:
            output.note(f"Left out: {error}")
            for each in known:
                del rows[each]
            continue
        assert found is not None
        rows |= {each: _row(replace(found, conn_id=each), name) for each in known or [conn_id]}
    listed = [rows[conn_id] for conn_id in sorted(rows)]
    if as_json:
        output.document(listed)
        return
    cells = [[row[key] for key in ("conn_id", "type", "host", "port", "login", "schema", "source")] for row in listed]
    output.table(
        ("CONNECTION", "TYPE", "HOST", "PORT", "LOGIN", "SCHEMA", "SOURCE"), cells,
        empty="No connections. Add one with `flux connection add`, or define it as FLUX_CONN_<ID>=<type>://….",
    )  # fmt: skip


@connection.command()
@click.argument("conn_id", metavar="ID")
@output.json_option
def show(conn_id: str, as_json: bool) -> None:
    """Show one connection and where it comes from. Its secrets are stars.

    \b
    Example:
      flux connection show warehouse
    """
    from flux import connection_fields
    from flux.connection import environment_ids
    from flux.running import lookups

    config = session.configuration()
    with ExitStack() as stack:
        stored = _stored(_store(stack), conn_id)
    # Without a catalogue, so that one that does not fit its type can be looked at.
    outside = _looked_up(config, None, conn_id, lambda places, asking: places.outside(conn_id, asking))
    if outside is not None:
        row, extra = _row(outside.connection, outside.source), outside.connection.extra
        has_secrets = outside.connection.password is not None
    elif stored.connection is not None:
        row, extra = _row(stored.connection, lookups.STORE), stored.connection.extra
        has_secrets = stored.connection.secrets is not None
    else:
        raise lookups.not_found(conn_id, {*environment_ids(os.environ), *stored.conn_ids})
    kind = connection_fields.type_of(_catalogue(config), row["type"])
    fields = {} if kind is None else connection_fields.own_fields(kind)
    public = {name for name, field in fields.items() if not field.secret}
    row["extra"] = {name: value if name in public else _HIDDEN for name, value in extra.items()}
    row["has_secrets"] = has_secrets or any(name not in public for name in extra)
    if as_json:
        output.document(row)
        return
    extra = row.pop("extra")
    secrets = _HIDDEN if row.pop("has_secrets") else None
    output.details([*row.items(), *extra.items(), ("secrets", secrets)])


@connection.command()
@click.argument("conn_id", metavar="ID")
@click.option(
    "--uri", metavar="URI", help='TYPE://LOGIN@HOST:PORT/SCHEMA?KEY=VALUE without a password; "-": stdin, with.'
)
@click.option("--type", "kind_name", metavar="T", help="Connection type, as providers offer them.")
@click.option("--host")
@click.option("--port", type=click.IntRange(1, 65535))
@click.option("--login")
@click.option("--schema", help="Database, schema or path.")
@click.option("--field", "fields", metavar="KEY=VALUE", multiple=True, help="A field that the type has of its own.")
@click.option("--password-file", metavar="F", help='File with the password; "-": stdin. Else a terminal is asked.')
@click.option(
    "--secret-file", "secret_files", metavar="KEY=F", multiple=True, help='File with a secret field; "-": stdin.'
)
@click.option("--replace", "replaces", is_flag=True, help="Replace the stored connection of this ID.")
def add(
    conn_id: str,
    uri: str | None,
    kind_name: str | None,
    host: str | None,
    port: int | None,
    login: str | None,
    schema: str | None,
    fields: Sequence[str],
    password_file: str | None,
    secret_files: Sequence[str],
    replaces: bool,
) -> None:
    """Store a connection, its password and secret fields encrypted.

    Secrets come from files, from stdin, or from the terminal, which is asked for those that are missing; an argument
    can be read by every user of the machine. Before the first secret, `flux connection key` makes the key.

    \b
    Example:
      flux connection add warehouse --type mysql --host db.example --login etl --password-file /run/secrets/warehouse
    """
    from flux import connection_fields
    from flux.arguments import check_id
    from flux.connection import variable_name
    from flux.running import connections

    check_id(conn_id, "conn_id")
    by_parts = {"host": host, "port": port, "login": login, "schema": schema}
    if (uri is None) == (kind_name is None) or (uri is not None and (fields or any(by_parts.values()))):
        raise click.UsageError("Give either --uri, or --type with --host, --port, --login, --schema and --field.")
    secret_file_of = _pairs(secret_files, "--secret-file")
    if [uri, password_file, *secret_file_of.values()].count("-") > 1:
        raise click.UsageError("Only one of --uri, --password-file and --secret-file can be read from stdin.")
    given = _given(conn_id, uri, kind_name or "", by_parts, _pairs(fields, "--field"))
    config = session.configuration()
    kind = _catalogue(config).connection_type(given.type)
    if uri != "-":
        _refuse_secrets_of_arguments(given, kind)
    secrets = {name: _text_of(file) for name, file in secret_file_of.items()}
    password = None if password_file is None else _text_of(password_file)
    found = connection_fields.with_secrets(given, kind, password, secrets)
    if uri != "-" and sys.stdin.isatty():
        found = _asked(found, kind)
        missing = []
    else:
        missing = [] if uri == "-" else _missing(found, kind)
    connection_fields.complete(found, kind)
    with session.opened() as flux:
        if not replaces and _stored(flux, conn_id).connection is not None:
            raise Refused(f"Connection {conn_id!r} is stored already. Give it another ID, or add --replace.")
        replaced = connections.put(flux, found, who=session.person())
    output.note(f"Connection {conn_id!r} was {'replaced' if replaced else 'added'}.")
    if missing:
        option = "--password-file " if missing[0] == "password" else f"--secret-file {missing[0]}="
        output.note(
            f"No {' and no '.join(missing)} was stored: there is no terminal to ask, and standard input is read only "
            f"when an option says so. To give it, add the connection again with --replace and {option}FILE, or "
            f"{option}- for standard input."
        )
    if variable_name(conn_id) in os.environ:
        output.note(f"{variable_name(conn_id)} of this environment hides it where that is set.")


@connection.command()
@click.argument("conn_id", metavar="ID")
def delete(conn_id: str) -> None:
    """Delete a stored connection.

    \b
    Example:
      flux connection delete warehouse
    """
    from flux.running import connections

    with session.opened() as flux:
        connections.delete(flux, conn_id, who=session.person())


@connection.command()
@click.argument("conn_id", metavar="ID")
@time_limit.timeout_option("What the system may take to answer.")
def test(conn_id: str, timeout: float) -> None:
    """Let the connection's client talk to the system, in a process of its own, and print what it found.

    \b
    Example:
      flux connection test warehouse
    """
    from flux.running import client_check

    config = session.configuration()
    catalogue = _catalogue(config)
    with ExitStack() as stack:
        stored = _stored(_store(stack), conn_id)
    found = _looked_up(
        config,
        catalogue,
        conn_id,
        lambda places, asking: places.connection(conn_id, stored, asking),
        min(timeout, _ASKING_SECONDS),
    )
    kind = catalogue.connection_type(found.connection.type)
    output.note(f"Connection {conn_id!r} comes from {found.source}.")
    line = client_check.check(
        found.connection, kind.client, folder=config.dags_folder, seconds=timeout, environ=os.environ
    )
    click.echo(line)


@connection.command()
@click.option("--rotate", is_flag=True, help="Put a new key first, and encrypt everything anew with it.")
@click.option("--drop-old", is_flag=True, help="Drop all keys but the first, when nothing needs them any more.")
def key(rotate: bool, drop_old: bool) -> None:
    """Make the key file that encrypts stored secrets, or change its key.

    Keep a copy of the file where the database's backups are not: without it, stored secrets are lost.

    \b
    Example:
      flux connection key
      flux connection key --rotate
    """
    from flux import encryption
    from flux.running import connections

    if rotate and drop_old:
        raise click.UsageError("Rotate first; drop the old keys when every machine has the new file.")
    config = session.configuration()
    if not rotate and not drop_old:
        encryption.make(config.secret_key_file)
        output.note(f"Key file {str(config.secret_key_file)!r} was made. Keep a copy of it in a safe place.")
        return
    with session.opened() as flux:
        change = connections.rotate_key if rotate else connections.drop_old_keys
        done = change(flux, who=session.person())
    anew = f"{done.count} connections were encrypted anew"
    if rotate:
        output.note(
            f"A new key is the first of {str(config.secret_key_file)!r}; {anew}. The old ones stay in the file."
        )
    else:
        output.note(f"{done.dropped} old keys were dropped from {str(config.secret_key_file)!r}; {anew}.")


# --- where they are --------------------------------------------------------------------------------------------------


def _catalogue(config: Config) -> Catalogue:
    from flux import providers

    return providers.find(config, os.environ, lenient=True)


def _looked_up(
    config: Config,
    catalogue: Catalogue | None,
    conn_id: str,
    ask: Callable[[Places, Callable[[str], object]], _T],
    seconds: float = _ASKING_SECONDS,
) -> _T:
    """What `ask` returns, called with the places and with what it tells the name of each backend; under a time limit.

    Raises:
        PluginError: a secrets backend cannot be made, failed, or did not answer in time.
    """
    from flux import drivers
    from flux.running.lookups import Places

    asked = list(config.secrets_backends[:1])

    def work() -> _T:
        backends = drivers.secrets_backends(config.secrets_backends)
        return ask(Places(os.environ, backends, config.secret_key_file, lambda: catalogue), asked.append)

    return time_limit.within(
        seconds,
        work,
        lambda: f"Secrets backend {asked[-1]!r} did not answer for connection {conn_id!r} within {seconds:g} s.",
    )


def _store(stack: ExitStack) -> Flux | None:
    """The open system; None when nobody has made the home's database, so that nothing can be stored in it."""
    file = session.configuration().database_file
    if file is not None and not file.exists():
        return None
    return stack.enter_context(session.opened())


def _stored(flux: Flux | None, conn_id: str) -> Stored:
    from flux.running.lookups import Stored
    from flux.store import connections

    if flux is None:
        return Stored()
    found = flux.store.read(lambda opened: connections.get(opened, conn_id))
    return Stored(found, conn_ids=() if found else flux.store.read(connections.ids))


def _stored_rows(flux: Flux | None) -> dict[str, dict[str, Any]]:
    from flux.running.lookups import STORE
    from flux.store import connections

    rows = [] if flux is None else flux.store.read(connections.every)
    return {stored.conn_id: _row(stored, STORE) for stored in rows}


def _row(found: Any, source: str) -> dict[str, Any]:
    from flux.running.connections import shown

    return {**shown(found), "source": source}


# --- what is added ---------------------------------------------------------------------------------------------------


def _given(conn_id: str, uri: str | None, kind: str, parts: dict[str, Any], fields: dict[str, str]) -> Connection:
    from flux.connection import Connection

    if uri is None:
        return Connection(conn_id, kind.lower(), extra=fields, **{name: part or None for name, part in parts.items()})
    text = _text_of("-") if uri == "-" else uri
    return Connection.from_uri(conn_id, text, source="stdin" if uri == "-" else "--uri")


def _refuse_secrets_of_arguments(given: Connection, kind: ConnectionType) -> None:
    """Every user of a machine sees the arguments of every process, and a shell keeps them."""
    from flux.connection_fields import own_fields

    secret = [name for name, field in own_fields(kind).items() if field.secret and name in given.extra]
    if given.password is not None:
        raise Refused(
            "A password is no part of an argument, where every user of this machine can read it. Give the URI on stdin "
            "(`--uri -`), or without it and the password by --password-file. Change the one you have just shown."
        )
    if secret:
        raise Refused(f"Field {secret[0]!r} is secret and no argument. Use `--secret-file {secret[0]}=FILE`.")


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{option} needs KEY=VALUE.")
        if name in pairs:
            raise click.UsageError(f"{option} sets {name!r} twice.")
        pairs[name] = value
    return pairs


def _text_of(file: str) -> str:
    """A secret from a file or stdin, without the newline at its end."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        text.encode()  # in some locales stdin lets other bytes pass, as halves of surrogate pairs
    except (OSError, UnicodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise Refused(f"{'Stdin' if file == '-' else f'File {file!r}'} cannot be read: {cause}.") from None
    return text.removesuffix("\n").removesuffix("\r")


def _asked(found: Connection, kind: ConnectionType) -> Connection:
    """The connection with those secrets that the terminal gives; an empty answer means none."""
    from flux.connection_fields import with_secrets

    def ask(name: str) -> str | None:
        try:
            text: str = click.prompt(f"{name} (empty: none)", default="", hide_input=True, show_default=False, err=True)
        except UnicodeError:  # not `from error`, which shows what was typed
            raise Refused(f"The answer for {name} is no UTF-8. Give it by a file.") from None
        return text or None

    answers = {name: ask(name) for name in _missing(found, kind)}
    password = answers.pop("password", None)
    return with_secrets(found, kind, password, {name: text for name, text in answers.items() if text is not None})


def _missing(found: Connection, kind: ConnectionType) -> list[str]:
    """What the type can have of secrets and the connection has not: the password first, then fields of its own."""
    from flux.connection_fields import own_fields

    password = ["password"] if "password" in kind.fields and found.password is None else []
    own = own_fields(kind).items()
    return [*password, *(name for name, field in own if field.secret and name not in found.extra)]

"""The standard tests of connection types and their clients."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from flux.connection import Connection
from flux.connection_fields import complete, own_fields
from flux.errors import FluxError
from flux.plugins import ConnectionType, Field
from flux.secret import Secret
from flux.testing import given
from flux.testing.children import Answer, call_in_child
from flux.testing.conformance import Conformance, Outside, fail, not_applicable, standard
from flux.testing.effects import Effects
from flux.testing.tasks import HOSTILE, block_library, closed_port

__all__ = ["ConnectionConformance"]

_WRONG = "wrong-password-of-the-kit"
_CANARY = "secret-of-the-kit"
#: Every character that means something in a URI.
_TRICKY = "a:b@c/d?e=f&g#h%20i +j\N{SNOWMAN}'\""
#: Nobody has a longer one.
_LONGEST_PASSWORD = 100_000
#: A field whose name has one of these holds a secret.
_SECRET_WORDS = ("password", "passwd", "secret", "token", "private_key", "api_key")


class ConnectionConformance(Conformance):
    """The standard tests of a connection type: set `connection_type`, and a connection of it in `connections`.

    The connection may come from a fixture `world` instead; the first one of the type is used.
    """

    _under_test = "connection_type"
    #: Its name.
    connection_type: ClassVar[str]
    #: The module of the client library, which a user may lack; None: there is none.
    library: ClassVar[str | None] = None

    @property
    def kind(self) -> ConnectionType:
        """The type as its provider declares it."""
        try:
            return given.catalogue().connection_type(self.connection_type)
        except FluxError as error:
            fail(f"{error} Return it from flux_connection_types() of the manifest; is the package installed?")

    @property
    def client(self) -> Callable[[Connection], Any]:
        """The class of its client."""
        loaded: Callable[[Connection], Any] = self.kind.client.load()
        return loaded

    @standard("package")
    def test_one_provider_offers_it(self) -> None:
        kind = self.kind
        if kind.name != self.connection_type.lower():
            fail(f"Connection type {kind.name!r} is not in lower case, but the scheme of a URI is read in lower case.")

    @standard("package")
    def test_its_client_is_a_class_with_check_and_close(self) -> None:
        try:
            client = self.client
        except FluxError as error:
            fail(f"The client of connection type {self.connection_type!r} does not load: {error}")
        if not inspect.isclass(client):
            fail(f"{self.kind.client.path} is no class. A client is a class that takes one argument, the connection.")
        for method in ("check", "close"):
            if not callable(getattr(client, method, None)):
                fail(f"{client.__name__} has no method {method}(). See flux.connection.Client.")
        try:
            inspect.signature(client).bind(None)
        except TypeError as error:
            fail(f"{client.__name__}(connection) is no call it takes: {error}. Let it take the connection alone.")

    @standard("package")
    def test_its_fields_are_well_formed(self) -> None:
        names = [field if isinstance(field, str) else field.name for field in self.kind.fields]
        for field in self.kind.fields:
            name = field if isinstance(field, str) else field.name
            if names.count(name) > 1:
                fail(f"Connection type {self.connection_type!r} declares {name!r} twice.")
            if not isinstance(field, Field):
                continue
            if not name.isidentifier() or name != name.lower():
                fail(f"Field {name!r} is not in lower case with letters, digits and _, as a URI's query has it.")
            if not field.secret and any(word in name for word in _SECRET_WORDS):
                fail(f"Field {name!r} sounds like a secret and is not marked so. Write Field({name!r}, secret=True).")
            if not field.help.strip():
                fail(f"Field {name!r} has no help. Say in a sentence what it is for.")

    @standard("contract")
    def test_a_uri_gives_the_connection_back(self) -> None:
        tricky = self._tricky()
        again = complete(Connection.from_uri("kit", tricky.to_uri()), self.kind)
        if again != tricky:
            fail(f"A connection is another after its way through a URI: {tricky!r} becomes {again!r}.")

    @standard("contract")
    def test_its_secrets_are_not_shown(self) -> None:
        tricky = self._tricky()

        def show() -> str:
            client = self.client(tricky)
            return f"{tricky!r}\n{client!r}\n{client}"

        answer = self._call(show)
        if answer.error:
            fail(f"The client cannot be made or shown: {answer.error}.{answer.tail}")
        if _CANARY in answer.value:
            fail("The client shows a secret in its repr() or str(). Leave the password in the Secret that it came in.")

    @standard("contract")
    def test_making_a_client_opens_nothing(self) -> None:
        tricky = self._tricky()

        def make() -> list[str]:
            with Effects() as effects:
                self.client(tricky)
            return effects.found

        answer = self._call(make)
        if answer.error:
            fail(f"The client cannot be made: {answer.error}.{answer.tail}")
        if answer.value:
            fail(f"Making a client has effects: it {'; it '.join(answer.value)}. Open what it needs when it is needed.")

    @standard("contract")
    def test_a_client_that_opened_nothing_can_be_closed_twice(self) -> None:
        tricky = self._tricky()

        def close() -> None:
            client = self.client(tricky)
            client.close()
            client.close()

        answer = self._call(close)
        if answer.error:
            fail(f"close() of a client that opened nothing fails: {answer.error}. Let it do nothing then.{answer.tail}")

    @standard("execution", "check")
    def test_check_tells_one_line_about_the_system(self, outside: Outside) -> None:
        connection = self._connection(outside)
        answer = self._checked(connection)
        if answer.error:
            fail(f"check() fails with {answer.error}. Is connection {connection.conn_id!r} right?{answer.tail}")
        line = answer.value
        if not isinstance(line, str) or not line.strip() or "\n" in line:
            fail(f"check() returns {line!r}. Return one line, such as the name and version of the system.")
        if connection.password and connection.password.reveal() in line:
            fail("check() returns the password in its line.")

    @standard("robustness", "wrong_password")
    def test_a_wrong_password_is_told(self, outside: Outside) -> None:
        connection = self._connection(outside)
        if connection.password is None:
            not_applicable(f"connection {connection.conn_id!r} has no password")
        answer = self._checked(dataclasses.replace(connection, password=Secret(_WRONG)))
        self._must_name(answer, connection.conn_id, "with a wrong password")
        if _WRONG in (answer.error or ""):
            fail("The error for a wrong password shows the password.")

    @standard("robustness", "server_away")
    def test_a_server_that_is_away_is_told(self, outside: Outside) -> None:
        connection = self._connection(outside)
        if connection.host is None:
            not_applicable(f"connection {connection.conn_id!r} names no host")
        with closed_port() as port:
            answer = self._checked(dataclasses.replace(connection, host="127.0.0.1", port=port))
        self._must_name(answer, connection.conn_id, f"while nothing listens on 127.0.0.1:{port}")
        if "127.0.0.1" not in (answer.error or ""):
            fail(f"check() does not say which host is away: {answer.error!r}. Name host and port.")

    @standard("robustness", "missing_library")
    def test_a_missing_library_is_told_with_what_to_install(self) -> None:
        library, tricky = self.library, self._tricky()
        if library is None:
            not_applicable(f"{type(self).__name__}.library is None: no client library that could be missing")

        def check() -> None:
            block_library(library)
            self.client(tricky).check()

        answer = self._call(check)
        if answer.error is None:
            fail(f"check() succeeds without {library!r}. Is this the module that the client imports?")
        if "pip install" not in answer.error:
            fail(
                f"Without {library!r} check() fails with {answer.error!r}. Catch the ImportError and raise a FluxError "
                "that says what to install: `pip install …`."
            )

    @pytest.mark.parametrize("text", HOSTILE)
    @standard("robustness", "hostile_values")
    def test_hostile_values_are_only_values(self, outside: Outside, text: str) -> None:
        canary = outside.tmp / "interpreted"
        value = HOSTILE[text].replace("{canary}", str(canary))
        connection = self._connection(outside)
        declared = [field for field in ("login", "password", "schema") if field in self.kind.fields]
        for field in declared:
            if field == "password" and len(value) > _LONGEST_PASSWORD:
                continue
            answer = self._call(functools.partial(self._check_with, connection, field, value))
            what = f"{text} as {field}"
            if answer.error and answer.error.startswith(("did not end", "the process ended")):
                fail(f"check() with {what}: {answer.error}. Refuse the value, or pass it on whole.{answer.tail}")
            if canary.exists():
                fail(f"check() with {what} ran it. Never build a command out of a connection's fields.")
            if field == "password" and value in (answer.error or ""):
                fail(f"The error of check() with {what} shows the password.")

    def _tricky(self) -> Connection:
        """A connection with every declared field, full of characters that mean something."""
        declared = {field for field in self.kind.fields if isinstance(field, str)}
        connection = Connection(
            "kit",
            self.kind.name,
            host="host.example.com" if "host" in declared else None,
            port=4711 if "port" in declared or self.kind.default_port is not None else None,
            login=_TRICKY if "login" in declared else None,
            password=Secret(_CANARY + _TRICKY) if "password" in declared else None,
            schema=_TRICKY if "schema" in declared else None,
            extra={name: (_CANARY if f.secret else "") + _TRICKY for name, f in own_fields(self.kind).items()},
        )
        return complete(connection, self.kind)

    def _connection(self, outside: Outside) -> Connection:
        known = given.connections({**self.connections, **outside.connections})
        fitting = [connection for connection in known.values() if connection.type == self.connection_type]
        if not fitting:
            fail(
                f"There is no connection of type {self.connection_type!r} to try. Set `connections`, here or in the "
                f"fixture `world`: {{'{self.connection_type}_default': '{self.connection_type}://…'}}."
            )
        return fitting[0]

    def _checked(self, connection: Connection) -> Answer:
        return self._call(functools.partial(self._check, connection))

    def _check(self, connection: Connection) -> str:
        client = self.client(connection)
        try:
            line: str = client.check()
        finally:
            client.close()
            client.close()
        return line

    def _check_with(self, connection: Connection, field: str, value: str) -> str:
        """Check with another value of one field. In a child, whose secrets are not masked in all that follows here."""
        given_value: Any = Secret(value) if field == "password" else value
        return self._check(dataclasses.replace(connection, **{field: given_value}))

    def _call(self, function: Callable[[], Any]) -> Answer:
        return call_in_child(function, limit_seconds=self.limit_seconds)

    def _must_name(self, answer: Answer, conn_id: str, when: str) -> None:
        if answer.error is None:
            fail(f"check() returns {answer.value!r} {when}. Let it talk to the system, and its error pass.")
        if answer.error.startswith("did not end"):
            fail(f"check() hangs {when}: it {answer.error}. Give the client a time-out.{answer.tail}")
        if conn_id not in answer.error:
            fail(
                f"check() {when} says {answer.error!r}. Raise a FluxError that names the connection, {conn_id!r}, its "
                f"host, and what to do.{answer.tail}"
            )

"""Where connections and variables come from, and asking there: the environment, secrets backends, the store.

The first place that has one gives it, and a place that fails is an error, never passed over: a task must not get the
stored password because the vault was away. What was found is completed by its connection type (`connection_fields`).

`Places` asks and blocks. `Lookups` asks for attempts, from the supervisor's loop: whatever may block is in a thread of
its own under a time limit, so that a backend that hangs fails the attempts that need it and holds up nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux import connection as connections
from flux import connection_fields, encryption, providers
from flux.connection import Connection
from flux.context import environment_name
from flux.errors import FluxError, NotFound, PluginError
from flux.loop import Loop, Timer
from flux.running.connections import MOST_SECRET, open_sealed
from flux.secret import mask

if TYPE_CHECKING:
    from flux.config import Config
    from flux.drivers import SecretsBackend
    from flux.plugins.catalogue import Catalogue
    from flux.store.connections import StoredConnection

#: What the store is called as a source.
STORE = "store"
#: How long an attempt waits for what is not in the environment.
LIMIT_SECONDS = 10.0
#: Threads at once; beyond them questions wait, within their time.
THREADS = 32


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store has on one question."""

    connection: StoredConnection | None = None
    variable: str | None = None
    #: Stored conn_ids, for the message when there is none; empty when it is not needed.
    conn_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A connection and where it came from: the name of a variable, `secrets backend NAME`, or `store`."""

    connection: Connection
    source: str


def not_found(conn_id: str, known: Iterable[str]) -> NotFound:
    """Return the error for a connection that no place has."""
    hint = f"Run `flux connection add {conn_id} …`, or set {connections.variable_name(conn_id)} to its URI."
    return NotFound.named("Connection", conn_id, known, hint=hint)


class SavedCatalogue:
    """The catalogue that a supervisor saved last: read again when there is another one. For any thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._read: tuple[object, Catalogue | None] = (None, None)

    def __call__(self) -> Catalogue | None:
        at = providers.saved_at(self._config)
        if at != self._read[0]:
            self._read = at, providers.saved(self._config)
        return self._read[1]


class Places:
    """Everything that is asked, in order. For any thread; blocks as long as a secrets backend does.

    Args:
        backends: the configured ones by name, in order.
        catalogue: of the moment, for connection types; None: not known.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        backends: Mapping[str, SecretsBackend],
        key_file: Path,
        catalogue: Callable[[], Catalogue | None],
    ) -> None:
        self.environ = environ
        self.backends = backends
        self._key_file = key_file
        self._catalogue = catalogue

    def connection(self, conn_id: str, stored: Stored, asking: Callable[[str], object] = str) -> Found:
        """Return a connection, complete.

        Args:
            asking: called with the name of each backend before it is asked.

        Raises:
            NotFound: no place has it. ConfigError: it is malformed, or does not fit its type.
            PluginError: a backend failed. EncryptionError: it cannot be decrypted.
        """
        found = self.outside(conn_id, asking)
        if found is not None:
            return found
        if stored.connection is not None:
            opened = open_sealed(stored.connection, lambda: encryption.read(self._key_file))
            return Found(self._complete(opened), STORE)
        raise not_found(conn_id, {*connections.environment_ids(self.environ), *stored.conn_ids})

    def outside(self, conn_id: str, asking: Callable[[str], object] = str) -> Found | None:
        """Return a connection that environment or backends have, complete; None if they have none."""
        found = self.of_environment(conn_id)
        if found is not None:
            return found
        uri, backend = self._ask(f"connection {conn_id!r}", lambda each: each.connection(conn_id), asking)
        if uri is None:
            return None
        if len(uri) > MOST_SECRET:  # before it is parsed, which makes each of its lines one to look for
            raise PluginError(
                f"Secrets backend {backend!r} returned {len(uri)} characters for connection {conn_id!r}, more than "
                f"{MOST_SECRET}. Keep so much in a file, and the file's path in the connection."
            )
        source = f"secrets backend {backend}"
        return Found(self._complete(Connection.from_uri(conn_id, uri, source=source)), source)

    def of_environment(self, conn_id: str) -> Found | None:
        """Return the connection that the environment defines, complete; None if it defines none."""
        found = connections.from_environment(conn_id, self.environ)
        return None if found is None else Found(self._complete(found), connections.variable_name(conn_id))

    def variable(self, name: str, stored: Stored, asking: Callable[[str], object] = str) -> str | None:
        """Return the text of a variable; None when no place has it.

        Raises:
            PluginError: a backend failed.
        """
        text = self.variable_of_environment(name)
        if text is None:
            text, _ = self._ask(f"variable {name!r}", lambda each: each.variable(name), asking)
        return stored.variable if text is None else text

    def variable_of_environment(self, name: str) -> str | None:
        """Return the text of a variable that the environment defines; None if it defines none."""
        return self.environ.get(environment_name(name))

    def _complete(self, found: Connection) -> Connection:
        kind = connection_fields.type_of(self._catalogue(), found.type)
        return found if kind is None else connection_fields.complete(found, kind)

    def _ask(
        self, what: str, ask: Callable[[SecretsBackend], str | None], asking: Callable[[str], object]
    ) -> tuple[str | None, str]:
        """The first text that a backend has, and its name."""
        for name, backend in self.backends.items():
            asking(name)
            try:
                text = ask(backend)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a backend that calls sys.exit must not end its thread without a word
                cause = mask(f"{type(error).__name__}: {error}")
                raise PluginError(f"Secrets backend {name!r} failed on {what}: {cause}.") from error
            if text is not None and not isinstance(text, str):
                raise PluginError(
                    f"Secrets backend {name!r} returned a {type(text).__name__} for {what}. It must be a text or None."
                )
            if text is not None:
                return text, name
        return None, ""


@dataclass(slots=True)
class _Call:
    """A question that a thread is to answer."""

    work: Callable[[Callable[[str], object]], Any]
    answer: Callable[[Any], object]
    failed: Callable[[Exception], object]
    #: What is asked for, in words.
    what: str
    #: The backend that is being asked; set by the thread.
    backend: str = ""
    #: It was answered, or its time is over.
    is_over: bool = False
    timer: Timer | None = None


class Lookups:
    """Answers attempts from `places`, without ever blocking the loop.

    Args:
        limit_seconds: time for a question that the environment does not answer.
    """

    def __init__(self, loop: Loop, places: Places, *, limit_seconds: float = LIMIT_SECONDS) -> None:
        self._loop = loop
        self._places = places
        self._limit_seconds = limit_seconds
        #: Threads that have not come back; some may hang for ever.
        self._threads = 0
        self._waiting: deque[_Call] = deque()

    def connection(
        self, conn_id: str, stored: Stored, answer: Callable[[Any], object], failed: Callable[[Exception], object]
    ) -> None:
        """Answer with what `Connection.from_message` reads."""
        found = self._places.of_environment(conn_id)
        if found is not None:
            answer(found.connection.to_message())
            return

        def work(asking: Callable[[str], object]) -> dict[str, Any]:
            return self._places.connection(conn_id, stored, asking).connection.to_message()

        self._call(_Call(work, answer, failed, f"connection {conn_id!r}"))

    def variable(
        self, name: str, stored: Stored, answer: Callable[[Any], object], failed: Callable[[Exception], object]
    ) -> None:
        """Answer with the text, None when there is none."""
        if not self._places.backends or self._places.variable_of_environment(name) is not None:
            answer(self._places.variable(name, stored))
            return
        self._call(
            _Call(lambda asking: self._places.variable(name, stored, asking), answer, failed, f"variable {name!r}")
        )

    def _call(self, call: _Call) -> None:
        call.timer = self._loop.call_later(self._limit_seconds, lambda: self._time_is_over(call))
        self._waiting.append(call)
        self._begin_next()

    def _begin_next(self) -> None:
        while self._waiting and self._threads < THREADS:
            call = self._waiting.popleft()
            if not call.is_over:
                self._threads += 1
                threading.Thread(target=self._run, args=(call,), name="lookup", daemon=True).start()

    def _run(self, call: _Call) -> None:
        """The thread's body."""

        def asking(backend: str) -> None:
            call.backend = backend

        try:
            value = call.work(asking)
        except Exception as error:
            problem = error
            self._loop.call_soon_threadsafe(lambda: self._end(call, lambda: call.failed(problem)))
        else:
            self._loop.call_soon_threadsafe(lambda: self._end(call, lambda: call.answer(value)))

    def _end(self, call: _Call, tell: Callable[[], object]) -> None:
        self._threads -= 1
        if not call.is_over:
            call.is_over = True
            if call.timer is not None:
                call.timer.cancel()
            tell()
        self._begin_next()

    def _time_is_over(self, call: _Call) -> None:
        call.is_over = True
        after = f"within {self._limit_seconds:g} s"
        if call.backend:
            call.failed(PluginError(f"Secrets backend {call.backend!r} did not answer for {call.what} {after}."))
        else:
            busy = f"{THREADS} questions to secrets backends have no answer yet"
            call.failed(FluxError(f"The {call.what} was not looked up {after}: {busy}. Look at the backends."))

"""The supervisor's socket: what attempts ask for by their claim, and what commands ask for.

Every question is answered from the store by the database thread, so nothing here blocks the loop; what the store knows
of connections and variables goes on to `lookups`. An attempt may ask only while it holds its claim.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flux import connection as connections
from flux import wire
from flux.config import Config
from flux.errors import FluxError, Refused
from flux.loop import Loop
from flux.running import actions
from flux.running.lookups import Lookups, Places, Stored
from flux.store import audit, held, runs, variables
from flux.store import connections as stored_connections
from flux.store.runs import DagRun
from flux.times import Clock, iso

if TYPE_CHECKING:
    import sqlalchemy as sa

    from flux.running.agents import Agents
    from flux.running.writer import Writer

Answer = Callable[[Any], None]
#: Says something to a client that has not asked.
Say = Callable[[dict[str, Any]], None]
#: Verbs of attempts that change the store.
_WRITING = frozenset({"trigger", "progress"})
#: Those that the store answers only in part.
_LOOKED_UP = frozenset({"connection", "variable"})


class Server:
    """Listens on the run folder's socket and writes its path into `endpoint`.

    Attributes:
        listener: takes the connection of a listener process, and returns what takes its messages; None: takes none.
        agents: answers what agents ask; None: there are none.

    Args:
        commands: what commands may ask for: verb -> function of the question and of where its answer goes.
        places: where attempts' connections and variables come from; None: the environment and the store.
    """

    def __init__(
        self,
        config: Config,
        loop: Loop,
        clock: Clock,
        writer: Writer,
        environ: Mapping[str, str],
        commands: Mapping[str, Callable[[Mapping[str, Any], Answer], None]],
        places: Places | None = None,
    ) -> None:
        self._config = config
        self._loop = loop
        self._clock = clock
        self._writer = writer
        self._environ = environ
        self._lookups = Lookups(loop, places or Places(environ, {}, config.secret_key_file, lambda: None))
        self._commands = commands
        self.listener: Callable[[wire.Wire], Callable[[wire.Message], object]] | None = None
        self.agents: Agents | None = None
        self._socket: socket.socket | None = None
        self._clients: set[_Client] = set()

    def start(self) -> None:
        """Serve from now on.

        Raises:
            OSError: the run folder cannot be written.
        """
        sock, path = wire.listen(self._config.run_folder / "supervisor.sock")
        self._socket = sock
        wire.write_file(str(self._config.run_folder / "endpoint"), path.encode())
        self._loop.add_reader(sock.fileno(), self._accept)

    def stop(self) -> None:
        """Serve no more; the endpoint disappears."""
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            (self._config.run_folder / "endpoint").unlink(missing_ok=True)
        for client in list(self._clients):
            client.close()

    def _accept(self) -> None:
        assert self._socket is not None
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            client = _Client(self, sock, self._loop)
            self._clients.add(client)

    def closed(self, client: _Client) -> None:
        self._clients.discard(client)

    def command(self, question: Mapping[str, Any], answer: Answer) -> None:
        """Answer a command."""
        handler = self._commands.get(str(question.get("verb")))
        if handler is None:
            raise Refused(f"The supervisor knows no verb {question.get('verb')!r}.")
        handler(question, answer)

    # --- attempts --------------------------------------------------------------------------------------------------

    def ask(
        self,
        claim: int,
        question: Mapping[str, Any],
        answer: Answer,
        failed: Callable[[Exception], None],
        say: Say = lambda _: None,
    ) -> None:
        """Answer an attempt that holds `claim`, or its agent."""
        if self.agents is not None and question.get("verb") in self.agents.VERBS:
            self.agents.ask(claim, question, answer, failed, say)
            return
        work = getattr(self, f"_verb_{question.get('verb')}", None)
        if work is None:
            raise Refused(f"The supervisor knows no verb {question.get('verb')!r}.")

        def run(connection: sa.Connection) -> Any:
            found = held.run_of(connection, claim)
            if found is None:
                raise Refused("This attempt no longer holds its claim: it was ended, and another may run instead.")
            return work(connection, found[0], {**question, "claim": claim})

        def done(value: Any) -> None:
            if question["verb"] in _LOOKED_UP:
                self._look_up(question, value, answer, failed)
                return
            answer(value)
            if question["verb"] == "trigger":
                self._writer.look()

        self._writer.call(run, done, failed=failed, reads_only=question["verb"] not in _WRITING)

    def _verb_result(self, connection: sa.Connection, run: DagRun, question: Mapping[str, Any]) -> str | None:
        found = held.result(connection, run.id, question["task_id"], question["key"], question["map_index"])
        if found is None:
            return None
        value, path = found
        return value if path is None else (self._config.logs_folder / path).read_text(encoding="utf-8")

    def _verb_connection(self, connection: sa.Connection, run: DagRun, question: Mapping[str, Any]) -> Stored:
        conn_id = question["conn_id"]
        if connections.variable_name(conn_id) in self._environ:
            return Stored()
        stored = stored_connections.get(connection, conn_id)
        return Stored(connection=stored, conn_ids=stored_connections.ids(connection) if stored is None else ())

    def _verb_variable(self, connection: sa.Connection, run: DagRun, question: Mapping[str, Any]) -> Stored:
        return Stored(variable=variables.get(connection, question["name"]))

    def _look_up(
        self, question: Mapping[str, Any], stored: Stored, answer: Answer, failed: Callable[[Exception], object]
    ) -> None:
        """Go on with what the store has, in the loop."""
        try:
            if question["verb"] == "connection":
                self._lookups.connection(question["conn_id"], stored, answer, failed)
            else:
                self._lookups.variable(question["name"], stored, answer, failed)
        except Exception as error:  # whatever was asked, there is an answer
            failed(error)

    def _verb_task_state(self, connection: sa.Connection, run: DagRun, question: Mapping[str, Any]) -> str | None:
        return runs.task_state(connection, question["dag_id"], question["run_id"], question["task_id"])

    def _verb_previous_run(
        self, connection: sa.Connection, run: DagRun, question: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        found = runs.previous(connection, run.dag_row, run.logical_date, successful=question["successful"])
        if found is None:
            return None
        return {
            "logical_date": iso(found.logical_date),
            "interval_start": iso(found.interval_start),
            "interval_end": iso(found.interval_end),
        }

    def _verb_trigger(self, connection: sa.Connection, run: DagRun, question: Mapping[str, Any]) -> str:
        now = self._clock.now()
        made = actions.make_manual_run(
            connection,
            question["dag_id"],
            logical_date=question.get("logical_date"),
            conf=question.get("conf"),
            now=now,
        )
        detail = {"run_id": made.run_id}
        audit.add(connection, f"task of {run.dag_id}", "run.trigger", f"dag {made.dag_id}", detail, now)
        return made.run_id

    def _verb_progress(self, connection: sa.Connection, run: DagRun, question: Mapping[str, Any]) -> None:
        held.set_progress(connection, question["claim"], question["text"])


class _Client:
    """One connection: an attempt or a command, as its first line says."""

    def __init__(self, server: Server, sock: socket.socket, loop: Loop) -> None:
        self._server = server
        self._claim: int | None = None
        self._is_known = False
        #: Takes the messages of a listener process.
        self._take: Callable[[wire.Message], object] | None = None
        self._wire = wire.Wire(sock, loop, self._message, self._ended)

    def close(self) -> None:
        self._wire.close()
        self._server.closed(self)

    def _ended(self) -> None:
        self._server.closed(self)

    def _message(self, message: dict[str, Any]) -> None:
        if not self._is_known:
            self._is_known = True
            claim = message.get("claim")
            self._claim = claim if isinstance(claim, int) else None
            if self._claim is None and message.get("client") == "listener" and self._server.listener is not None:
                self._take = self._server.listener(self._wire)
            elif self._claim is None and message.get("client") != "cli":
                self.close()
            return
        if self._take is not None:
            self._take(message)
            return
        number = message.get("id")

        def answer(value: Any) -> None:
            self._wire.send({"id": number, "value": value})

        def failed(error: Exception) -> None:
            self._wire.send({"id": number, "error": _told(error)})

        try:
            if self._claim is None:
                self._server.command(message, answer)
            else:
                self._server.ask(self._claim, message, answer, failed, self._wire.send)
        except Exception as error:  # whatever was asked, there is an answer
            failed(error)


def _told(error: Exception) -> dict[str, str]:
    if isinstance(error, FluxError):
        return {"code": error.code, "message": str(error)}
    if isinstance(error, OSError):
        return {"code": FluxError.code, "message": f"{os.strerror(error.errno or 0)}: {error.filename}"}
    return {"code": FluxError.code, "message": f"{type(error).__name__}: {error}"}

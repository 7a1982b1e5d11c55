"""The client of Acme."""

from typing import Any

from flux import FluxError
from flux.connection import Connection


class AcmeClient:
    """Talks to an Acme server."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.session: Any = None

    def ask(self, **question: Any) -> Any:
        """Ask the server, which is connected to first."""
        if self.session is None:
            self.session = self.connect()
        return self.session.ask(**question)

    def connect(self) -> Any:
        """Open a session."""
        try:
            from acmelib import Session
        except ImportError as error:
            raise FluxError("The library acmelib is missing. Install it: `pip install flux-provider-acme`.") from error
        one = self.connection
        where = f"Connection {one.conn_id!r} ({one.host}:{one.port})"
        password = one.password.reveal() if one.password else ""
        try:
            return Session(one.host, one.port, password)
        except PermissionError as error:
            raise FluxError(f"{where}: the server refuses the password. Set another.") from error
        except OSError as error:
            raise FluxError(f"{where} cannot be reached: {error}. Is the server up?") from error

    def check(self) -> str:
        """Return the server's name and version."""
        return str(self.ask(version=True))

    def close(self) -> None:
        """Close the session, if there is one."""
        if self.session is not None:
            self.session.close()
            self.session = None

"""The sensors of Acme."""

from collections.abc import Sequence
from typing import Any

from flux_provider_acme.client import AcmeClient

from flux import BaseSensor, Context, get_connection


class AcmeTableSensor(BaseSensor):
    """Wait for a table of Acme to have rows.

    Args:
        table: its name.
        acme_conn_id: where Acme is.
    """

    template_fields: Sequence[str] = ("table",)

    def __init__(self, *, table: str, acme_conn_id: str = "acme_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.acme_conn_id = acme_conn_id

    def poke(self, context: Context) -> bool:
        """Return whether it has."""
        client = AcmeClient(get_connection(self.acme_conn_id))
        try:
            return bool(client.ask(count=self.table))
        finally:
            client.close()

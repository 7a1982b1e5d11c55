"""The operators of Acme."""

from collections.abc import Sequence
from typing import Any

from flux_provider_acme.client import AcmeClient

from flux import BaseOperator, Context, get_connection


class AcmeLoadOperator(BaseOperator):
    """Load rows into a table of Acme, in place of those that are there.

    Args:
        table: its name.
        rows: how many.
        job: the name of a job to run for ever in place of loading.
        acme_conn_id: where Acme is.
    """

    template_fields: Sequence[str] = ("table", "job")

    def __init__(
        self, *, table: str, rows: int = 3, job: str = "", acme_conn_id: str = "acme_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.rows = rows
        self.job = job
        self.acme_conn_id = acme_conn_id

    def execute(self, context: Context) -> int:
        """Load them and return how many there are."""
        self.client = AcmeClient(get_connection(self.acme_conn_id))
        try:
            if self.job:
                self.client.ask(start=self.job)
                self.client.ask(wait=self.job)
            return int(self.client.ask(replace=self.table, rows=self.rows))
        finally:
            self.client.close()

    def on_kill(self) -> None:
        """Stop the job."""
        if self.job:
            client = AcmeClient(self.client.connection)
            client.ask(stop=self.job)
            client.close()

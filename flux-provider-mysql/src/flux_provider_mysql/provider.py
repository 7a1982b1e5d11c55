"""What this provider offers to Flux, by name. Imports no client library."""

from __future__ import annotations

from flux.plugins import ConnectionType, Field, Ref, hookimpl

FLUX_API = ">=1.0,<2"


@hookimpl
def flux_operators() -> list[Ref]:
    return [
        Ref(
            "MySqlOperator",
            "flux_provider_mysql.operators:MySqlOperator",
            summary="Run SQL statements on MySQL or MariaDB, in one transaction.",
        )
    ]


@hookimpl
def flux_sensors() -> list[Ref]:
    return [
        Ref(
            "MySqlSensor",
            "flux_provider_mysql.sensors:MySqlSensor",
            summary="Wait until a query on MySQL or MariaDB gives something true.",
        )
    ]


@hookimpl
def flux_connection_types() -> list[ConnectionType]:
    # Whoever edits a connection is not whoever writes the pipeline: nothing here names a file to send, a statement to
    # run on connecting, or a file of further options.
    return [
        ConnectionType(
            "mysql",
            client=Ref(
                "MySqlClient", "flux_provider_mysql.client:MySqlClient", summary="A session with MySQL or MariaDB."
            ),
            fields=(
                "host",
                "port",
                "login",
                "password",
                "schema",
                Field("unix_socket", help="Path of the server's socket on this machine, in place of host and port."),
                Field(
                    "ssl_ca",
                    help="Path of the PEM file with the certificates to trust. With it TLS is required and the "
                    "server's certificate and host name are checked; without it TLS is used where the server offers "
                    "it, unchecked.",
                ),
                Field("connect_timeout", default="10", help="Seconds to wait for the server when connecting."),
            ),
            default_port=3306,
        )
    ]

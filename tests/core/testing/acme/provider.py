"""The manifest of the provider acme."""

from collections.abc import Iterable

from flux.plugins import ConnectionType, Field, Ref, hookimpl

FLUX_API = ">=1.0,<2"


@hookimpl
def flux_operators() -> Iterable[Ref]:
    return [Ref("AcmeLoadOperator", "flux_provider_acme.operators:AcmeLoadOperator")]


@hookimpl
def flux_sensors() -> Iterable[Ref]:
    return [Ref("AcmeTableSensor", "flux_provider_acme.sensors:AcmeTableSensor")]


@hookimpl
def flux_executors() -> Iterable[Ref]:
    return [Ref("acme", "flux_provider_acme.executors:AcmeExecutor", summary="Attempts in processes of Acme.")]


@hookimpl
def flux_macros() -> Iterable[Ref]:
    return [Ref("latest", "flux_provider_acme.macros:latest")]


@hookimpl
def flux_connection_types() -> Iterable[ConnectionType]:
    client = Ref("AcmeClient", "flux_provider_acme.client:AcmeClient")
    fields = ("host", "port", "password", Field("ticket", secret=True, help="A ticket, in place of the password."))
    return [ConnectionType("acme", client=client, fields=fields, default_port=4711)]

"""The hooks a provider may implement, in the order in which a person meets what they offer.

Each docstring answers four questions: what to return, when it is called and in which process, how the answers of
several providers are combined, and what happens if it raises. An implementation may take fewer arguments.
"""

from __future__ import annotations

from collections.abc import Iterable

from flux.plugins import ConnectionType, Ref, hookspec


@hookspec
def flux_operators() -> Iterable[Ref]:  # type: ignore[empty-body]
    """Return a reference to each operator class; a transfer's names `source` and `target`.

    When: at the first use of the catalogue, in the CLI or the UI; never to read or run a DAG file, which imports
        the classes it uses.
    Combined: joined, in order of registration. A name that two providers offer is found as `provider.Name` only.
    If it raises: recorded with the provider's name; this provider offers no operators, the others are not touched.
    """


@hookspec
def flux_sensors() -> Iterable[Ref]:  # type: ignore[empty-body]
    """Return a reference to each sensor class.

    When: at the first use of the catalogue, in the CLI or the UI; never to read or run a DAG file.
    Combined: joined, in order of registration. A name that two providers offer is found as `provider.Name` only.
    If it raises: recorded with the provider's name; this provider offers no sensors, the others are not touched.
    """


@hookspec
def flux_executors() -> Iterable[Ref]:  # type: ignore[empty-body]
    """Return a reference to each executor class; its name is what `FLUX_EXECUTOR` picks.

    When: at the start of a supervisor, in its process; and at the first use of the catalogue.
    Combined: joined. A name that two providers offer is refused, save core's own, which nobody can take over.
    If it raises: recorded with the provider's name; a supervisor whose configured executor is missing does not start.
    """


@hookspec
def flux_macros() -> Iterable[Ref]:  # type: ignore[empty-body]
    """Return a reference to each function that templates find as `macros.<provider>.<name>`.

    When: at the first `macros.<provider>` in a template, in the attempt's process.
    Combined: by provider, so that two never clash; core's own are also found as `macros.<name>`.
    If it raises: recorded with the provider's name; the template that asks for the macro fails with the cause.
    """


@hookspec
def flux_connection_types() -> Iterable[ConnectionType]:  # type: ignore[empty-body]
    """Return the kinds of outside system that the provider's clients talk to.

    When: when a connection's client is looked for, in the attempt's process; and where forms and lists show types.
    Combined: joined. A name that two providers offer is refused for that name.
    If it raises: recorded with the provider's name; connections of its types have no client.
    """

"""Core's own operators, sensors, executors and macros, offered through the hooks any provider uses."""

from __future__ import annotations

from flux.plugins import Ref, hookimpl
from flux.plugins.catalogue import CORE
from flux.plugins.scan import version
from flux.plugins.verdict import ProviderState, Verdict

__all__ = ["core_verdict"]


def core_verdict() -> Verdict:
    """Return the verdict on the provider `core`, which needs no judging."""
    return Verdict(
        CORE,
        "flux-core",
        version("flux-core"),
        ProviderState.OK,
        module=__name__,
        hooks=("flux_executors", "flux_macros", "flux_operators", "flux_sensors"),
        operators=tuple(flux_operators()),
        sensors=tuple(flux_sensors()),
        executors=tuple(flux_executors()),
        macros=tuple(flux_macros()),
    )


@hookimpl
def flux_operators() -> list[Ref]:
    return [
        Ref("EmptyOperator", "flux.operators:EmptyOperator", summary="Do nothing; a joint between other tasks."),
        Ref("BashOperator", "flux.operators:BashOperator", summary="Run a Bash command."),
        Ref("PythonOperator", "flux.operators:PythonOperator", summary="Call a Python function."),
        Ref(
            "BranchPythonOperator", "flux.operators:BranchPythonOperator", summary="Choose which downstream tasks run."
        ),
        Ref(
            "ShortCircuitOperator",
            "flux.operators:ShortCircuitOperator",
            summary="Skip what follows unless a function says otherwise.",
        ),
        Ref(
            "LatestOnlyOperator",
            "flux.operators:LatestOnlyOperator",
            summary="Skip what follows in all but the latest run.",
        ),
    ]


@hookimpl
def flux_sensors() -> list[Ref]:
    return [
        Ref("FileSensor", "flux.sensors:FileSensor", summary="Wait for a file or folder to exist."),
        Ref("PythonSensor", "flux.sensors:PythonSensor", summary="Wait until a Python function returns true."),
        Ref("TimeSensor", "flux.sensors:TimeSensor", summary="Wait for a time of day."),
        Ref(
            "TimeDeltaSensor",
            "flux.sensors:TimeDeltaSensor",
            summary="Wait for a time after the end of the data interval.",
        ),
        Ref("DateTimeSensor", "flux.sensors:DateTimeSensor", summary="Wait for a moment."),
    ]


@hookimpl
def flux_executors() -> list[Ref]:
    return [
        Ref("local", "flux.executors.local:LocalExecutor", summary="Attempts on this machine, several at once."),
        Ref(
            "sequential", "flux.executors.local:SequentialExecutor", summary="Attempts on this machine, one at a time."
        ),
    ]


@hookimpl
def flux_macros() -> list[Ref]:
    return [
        Ref("ds_add", "flux.macros:ds_add", summary="A date some days later or earlier."),
        Ref("ds_format", "flux.macros:ds_format", summary="A date in another format."),
        Ref("datetime", "flux.macros:datetime", summary="The class datetime.datetime."),
        Ref("timedelta", "flux.macros:timedelta", summary="The class datetime.timedelta."),
        Ref("random", "flux.macros:random", summary="The function random.random."),
        Ref("uuid", "flux.macros:uuid", summary="The module uuid."),
    ]

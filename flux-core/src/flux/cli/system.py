"""`flux init`, `flux up`, `flux status`, `flux version`."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from flux.cli import output, session, time_limit
from flux.cli.exit_codes import FAILED

if TYPE_CHECKING:
    from flux.app import Flux
    from flux.running.home import Running

#: Parts without which there is no system.
_NEEDED = frozenset({"hypervisor", "launcher", "supervisor"})


@click.command()
def init() -> None:
    """Make the home folder and bring the database to the newest schema. Safe to repeat.

    \b
    Example:
      FLUX_HOME=~/pipelines flux init
    """
    from flux.app import Flux

    configuration = session.configuration()
    Flux.init(configuration)
    output.note(f"{configuration.home} is ready. Put DAG files into {configuration.dags_folder}, then run `flux up`.")


@click.command()
@click.option("--no-ui", is_flag=True, help="Do not start the web UI, although it is installed.")
@click.option("--host", metavar="H", help="Address on which the web UI listens.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Port of the web UI.")
@click.option(
    "--drain", type=time_limit.Seconds(0), default=0.0, metavar="SECONDS", help="On SIGTERM, let tasks go on this long."
)
def up(no_ui: bool, host: str | None, port: int | None, drain: float) -> None:
    """Run the whole system in the foreground, and make what is missing first.

    Ctrl-C ends it: running tasks become failed (interrupted), and every process is gone within six seconds.

    \b
    Example:
      flux up
      flux up --no-ui --drain 60
    """
    from flux.app import Flux

    Flux.init(session.configuration())
    arguments = [sys.executable, "-P", "-m", "flux.running.hypervisor", "--drain", f"{drain:g}"]
    arguments += ["--no-ui"] if no_ui else []
    arguments += ["--host", host] if host is not None else []
    arguments += ["--port", str(port)] if port is not None else []
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, arguments)


@click.command()
@output.json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Say whether the system is up, degraded or down, and list its processes. Exit code 0 only when it is up.

    \b
    Example:
      flux status --json
    """
    with session.opened() as flux:
        answer = _status(flux)
        if as_json:
            output.document(answer)
        else:
            _print_status(flux, answer)
    if answer["state"] != "up":
        ctx.exit(FAILED)


def _status(flux: Flux) -> dict[str, Any]:
    from flux.running import actions, home
    from flux.store import jobs

    found = home.running(flux.config.run_folder)
    beats = {job.pid: job.last_beat_at for job in flux.store.read(lambda c: jobs.running(c, ["supervisor"]))}
    try:
        trouble = actions.ask_system(flux, {"verb": "status"}).get("trouble")
    except actions.NotRunning:
        trouble = "The supervisor does not answer." if found else None
    running = {part.kind for part in found if part.state == "running"}
    is_well = trouble is None and running >= _NEEDED and all(part.state == "running" for part in found)
    return {
        "state": "down" if not found else "up" if is_well else "degraded",
        "components": [_component(part, beats.get(part.pid)) for part in found],
        "trouble": trouble,
        "version": _version(),
        "database": flux.store.url,
    }


def _component(part: Running, last_beat_at: datetime | None) -> dict[str, Any]:
    """What people see of a process; only those that write to the store leave their beat there."""
    import socket

    shown = {key: getattr(part, key) for key in ("kind", "pid", "state", "started_at")}
    return {**shown, "host": socket.gethostname(), "last_beat_at": output.plain(last_beat_at)}


def _print_status(flux: Flux, answer: dict[str, Any]) -> None:
    zone = session.display_zone(flux)
    output.details(
        [
            ("state", answer["state"]),
            ("trouble", answer["trouble"]),
            ("version", answer["version"]),
            ("database", answer["database"]),
        ]
    )
    rows = [
        (part["kind"], part["pid"], part["host"], part["state"], *(_time(part[key], zone) for key in _TIMES))
        for part in answer["components"]
    ]
    output.table(("KIND", "PID", "HOST", "STATE", "STARTED", "LAST BEAT"), rows, empty="Start it with `flux up`.")


_TIMES = ("started_at", "last_beat_at")


def _time(text: str | None, zone: Any) -> str:
    return output.local(datetime.fromisoformat(text) if text else None, zone)


@click.command()
def version() -> None:
    """Print the version of Flux.

    \b
    Example:
      flux version
    """
    click.echo(_version())


def _version() -> str:
    from importlib.metadata import version as installed

    return installed("flux-core")

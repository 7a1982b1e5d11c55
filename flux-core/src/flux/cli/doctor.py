"""`flux doctor`: what is wrong with this installation, and how to mend it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flux.cli import output, session
from flux.cli.exit_codes import FAILED
from flux.errors import FluxError

if TYPE_CHECKING:
    from flux.app import Flux
    from flux.config import Config


#: Clocks of machines that share a database may differ so much.
_CLOCK_SECONDS = 60.0
#: What making a driver may take.
_DRIVER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look at the installation found."""

    check: str
    #: ok, warning or error.
    state: str
    message: str
    #: Empty when nothing is to be done.
    remedy: str = ""


@click.command()
@output.json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what is wrong with this installation and how to mend it. Exit code 1 when something is.

    \b
    Example:
      flux doctor
    """
    findings = list(examine())
    if as_json:
        output.document(findings)
    else:
        output.table(
            ("CHECK", "STATE", "WHAT IT IS", "WHAT TO DO"),
            [(each.check, each.state, each.message, each.remedy) for each in findings],
            empty="",
        )
    if any(finding.state == "error" for finding in findings):
        ctx.exit(FAILED)


def examine() -> Iterator[Finding]:
    """Look at everything, from the ground up; what needs something that is broken is not looked at."""
    from flux.app import Flux

    yield from _package()
    yield from _zones()
    try:
        config = session.configuration()
    except FluxError as error:
        yield Finding("configuration", "error", str(error), "Mend the option that the message names.")
        return
    yield from _folders(config)
    yield from _space(config)
    yield from _drivers(config)
    yield from _providers(config)
    try:
        flux = Flux.open(config)
    except FluxError as error:
        yield Finding("database", "error", str(error), "Do what the message says, then run this again.")
        return
    with flux:
        yield Finding("database", "ok", f"{flux.store.url} has the newest schema.")
        for look in (_system, _clock, _import_errors, _file_warnings, _pools, _connections):
            yield from _guarded(look, flux)


def _guarded(look: Callable[[Flux], Iterator[Finding]], flux: Flux) -> Iterator[Finding]:
    try:
        yield from look(flux)
    except FluxError as error:
        yield Finding(look.__name__.strip("_").replace("_", " "), "error", str(error), "Do what the message says.")


def _package() -> Iterator[Finding]:
    """The import name `flux` is also that of other distributions, which may lie over ours."""
    from importlib.metadata import packages_distributions

    owners = set(packages_distributions().get("flux", [])) - {"flux-core"}
    if owners:
        names = ", ".join(sorted(owners))
        yield Finding(
            "package", "error", f"{names} installs another package named flux.", f"Run `pip uninstall {names}`, "
            "then `pip install --force-reinstall flux-core`, or use an environment of its own.",
        )  # fmt: skip
    else:
        yield Finding("package", "ok", f"flux-core in {Path(__file__).parents[1]}, {sys.executable}")


def _zones() -> Iterator[Finding]:
    from flux.errors import BadDate
    from flux.times import zone

    try:
        zone("America/Los_Angeles")
    except BadDate:
        yield Finding("time zones", "error", "The data of time zones is missing.", "Run `pip install tzdata`.")
    else:
        yield Finding("time zones", "ok", "The data of time zones is there.")


def _folders(config: Config) -> Iterator[Finding]:
    for name, folder in (
        ("home", config.home),
        ("dags folder", config.dags_folder),
        ("logs folder", config.logs_folder),
        ("run folder", config.run_folder),
    ):
        if not folder.is_dir():
            yield Finding(name, "error", f"{folder} does not exist.", "Run `flux init`.")
        elif not os.access(folder, os.R_OK | os.X_OK | (0 if name == "dags folder" else os.W_OK)):
            yield Finding(
                name, "error", f"{folder} cannot be used by this user.", f"Run `chown -R {os.getuid()} {folder}`."
            )
        else:
            yield Finding(name, "ok", str(folder))


def _space(config: Config) -> Iterator[Finding]:
    import shutil

    if not config.logs_folder.is_dir():
        return
    free = shutil.disk_usage(config.logs_folder).free
    if free < config.min_free_bytes:
        message = f"{free // 1_000_000} MB are free for logs, fewer than min_free_bytes; nothing new starts."
        yield Finding("disk", "error", message, f"Make space on the disk of {config.logs_folder}.")
    else:
        yield Finding("disk", "ok", f"{free // 1_000_000} MB are free for logs.")


def _drivers(config: Config) -> Iterator[Finding]:
    from flux import drivers
    from flux.cli import time_limit

    for option, load in (("secrets_backends", drivers.secrets_backends), ("log_handlers", drivers.log_handlers)):
        for name in getattr(config, option):
            check = option.replace("_", " ")
            too_late = f"{name!r} was not made within {_DRIVER_SECONDS:g} s."
            try:
                time_limit.within(_DRIVER_SECONDS, partial(load, [name]), partial(str, too_late))
            except FluxError as error:
                yield Finding(check, "error", str(error), f"Mend it, or take {name!r} out of the option {option}.")
            else:
                yield Finding(check, "ok", f"{name!r} can be loaded.")


def _providers(config: Config) -> Iterator[Finding]:
    """Providers that take no part against anybody's will, names that lead nowhere, and listeners that keep failing."""
    from flux import providers
    from flux.plugins.verdict import ProviderState
    from flux.running import listeners

    catalogue = providers.find(config, os.environ, lenient=True)
    well = True
    names = {verdict.name for verdict in catalogue.verdicts}
    for name in config.providers_required:
        if name not in names:
            well = False
            message = f"Provider {name!r} is required (by providers_required) and not installed: Flux does not start."
            yield Finding("providers", "error", message, f"Run `pip install flux-provider-{name}`, or mend the option.")
    for verdict in catalogue.verdicts:
        is_off = verdict.state is ProviderState.DISABLED
        is_wanted = not is_off or verdict.name in config.providers_required
        if not verdict.is_ok and is_wanted:
            well = False
            remedy = f"Mend or upgrade it, or disable it; `flux provider show {verdict.name}` tells more."
            if verdict.name in config.providers_required:
                what = "Take it out of the option that switches it off" if is_off else "Mend or upgrade it"
                remedy = f"{what}, or out of providers_required: Flux does not start."
            yield Finding("providers", "error", providers.problem(verdict), remedy)
    if config.executor not in {offer.ref.name for offer in catalogue.executors()}:
        named = f"Executor {config.executor!r}, named by {config.sources['executor']}, does not exist"
        yield Finding("executor", "error", f"{named}: Flux does not start.", "Mend the option, or its provider.")
    for warning in catalogue.warnings:
        well = False
        yield Finding("providers", "warning", warning, "Mend the option that the message names.")
    for state in listeners.states(config.run_folder):
        if state.is_off:
            well = False
            message = f"Provider {state.provider!r} is told of no changes any more: {state.reason}"
            yield Finding("providers", "warning", message, "Mend its listener, then start Flux anew.")
    if well:
        yield Finding("providers", "ok", f"{len(names)} providers, with core: all that are to take part do.")


def _system(flux: Flux) -> Iterator[Finding]:
    from flux.running import actions

    try:
        trouble = actions.ask_system(flux, {"verb": "status"}).get("trouble")
    except actions.NotRunning:
        yield Finding("system", "warning", "No system runs on this home: nothing is scheduled.", "Run `flux up`.")
        return
    if trouble is None:
        yield Finding("system", "ok", "It runs.")
    else:
        yield Finding("system", "error", trouble, "See what that says; `flux why` names what keeps a task.")


def _clock(flux: Flux) -> Iterator[Finding]:
    """Schedules, retries and deadlines go by the clock; one that was set back makes all of them late."""
    from flux.store import jobs
    from flux.times import utc_now

    beats = [job.last_beat_at or job.started_at for job in flux.store.read(jobs.every)]
    ahead = max(((beat - utc_now()).total_seconds() for beat in beats), default=0.0)
    if ahead > _CLOCK_SECONDS:
        message = f"The clock of this machine is {ahead:.0f} s behind the last sign of life in the database."
        yield Finding("clock", "error", message, "Set the clock, for example by NTP.")
    else:
        yield Finding("clock", "ok", f"{utc_now():%Y-%m-%d %H:%M:%S} UTC")


def _import_errors(flux: Flux) -> Iterator[Finding]:
    from flux.store import dags

    broken = flux.store.read(dags.errors)
    for file in broken:
        message = (file.error or {}).get("message", "")
        yield Finding("import errors", "error", f"{file.path}: {message}", "See `flux dag errors`; mend the file.")
    if not broken:
        yield Finding("import errors", "ok", "Every DAG file could be read.")


def _file_warnings(flux: Flux) -> Iterator[Finding]:
    from flux.store import dags

    files = [file for file in flux.store.read(dags.files) if file.hash is not None and file.warnings]
    for file in files:
        for warning in file.warnings:
            yield Finding("DAG files", "warning", f"{file.path}: {warning}", "Attempts are right, but slower to start.")
    if not files:
        yield Finding("DAG files", "ok", "None gives a warning.")


def _pools(flux: Flux) -> Iterator[Finding]:
    from flux.store import pools

    missing, small = flux.store.read(pools.missing), flux.store.read(pools.too_small)
    for name, slots, asked in small:
        message = f"Pool {name!r} has {slots} slots; a task that is ready asks for {asked} and waits for ever."
        yield Finding("pools", "warning", message, f"Run `flux pool set {name} {asked}`.")
    for pool in missing:
        message = f"Tasks name pool {pool.name!r}, which nobody has made: they wait."
        yield Finding("pools", "warning", message, f"Run `flux pool set {pool.name} SLOTS`.")
    if not missing and not small:
        yield Finding("pools", "ok", "Every pool that tasks name is there and large enough.")


def _connections(flux: Flux) -> Iterator[Finding]:
    """Whether what is stored can be decrypted and what the environment has be read, and who offers the types."""
    from flux import connection, connection_fields, encryption, providers
    from flux.running.connections import open_sealed
    from flux.store import connections

    stored = flux.store.read(connections.every)
    key_file = flux.config.secret_key_file
    is_readable = False
    if key_file.exists() or any(each.secrets for each in stored):
        try:
            keys = encryption.read(key_file)
        except FluxError as error:
            yield Finding("key file", "error", str(error), "Do what the message says; stored secrets wait for it.")
        else:
            is_readable = True
            yield Finding("key file", "ok", f"{key_file} has {len(keys.lines)} keys.")
    outside = connection.environment_ids(os.environ)
    catalogue = providers.find(flux.config, os.environ, lenient=True) if stored or outside else None
    for conn_id in outside:
        try:
            found = connection.from_environment(conn_id, os.environ)
            kind = None if found is None else connection_fields.type_of(catalogue, found.type)
            if found is not None and kind is not None:
                connection_fields.complete(found, kind)
        except FluxError as error:
            remedy = f"Mend {connection.variable_name(conn_id)}, or unset it."
            yield Finding("connections", "error", str(error), remedy)
    for each in stored:
        if is_readable:
            try:
                open_sealed(each, lambda: encryption.read(key_file))
            except FluxError as error:
                yield Finding("connections", "error", str(error), f"Put its key back, or add {each.conn_id!r} again.")
        if catalogue is not None and connection_fields.type_of(catalogue, each.type) is None:
            message = f"Connection {each.conn_id!r} has type {each.type!r}, which no provider here offers."
            remedy = f"Install the provider of {each.type!r}; `flux provider list` shows those that are there."
            yield Finding("connections", "warning", message, remedy)
    if stored:
        yield Finding("connections", "ok", f"{len(stored)} connections are stored.")

"""`flux provider …`: what is installed and what it offers. Works on verdicts: imports nothing of a provider."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flux.cli import output, session, time_limit
from flux.cli.exit_codes import FAILED
from flux.cli.group import Noun

if TYPE_CHECKING:
    from flux.plugins.catalogue import Catalogue
    from flux.plugins.verdict import Verdict

#: What a provider can offer, in the order of lists, with the word for one.
_KINDS = {
    "operators": "operator",
    "sensors": "sensor",
    "executors": "executor",
    "macros": "macro",
    "connection_types": "connection type",
}


@click.group(cls=Noun)
def provider() -> None:
    """List, check and search providers, and begin a new one: packages that bring operators and what else Flux uses.

    \b
    Example:
      flux provider list
    """


@provider.command("list")
@output.json_option
def list_providers(as_json: bool) -> None:
    """List the providers: core, the installed ones and the one-file provider, with what is wrong with them.

    \b
    Example:
      flux provider list --json
    """
    catalogue = _catalogue()
    if as_json:
        silent = _silent()
        rows = [_row(verdict) for verdict in catalogue.verdicts]
        output.document([{**row, "reason": row["reason"] or silent.get(row["name"])} for row in rows])
        return
    output.table(
        ("PROVIDER", "DISTRIBUTION", "VERSION", "STATE", "OFFERS"),
        [(each.name, each.distribution, each.version, str(each.state), _counts(each)) for each in catalogue.verdicts],
        empty="",
    )


@provider.command()
@click.argument("name")
@output.json_option
def show(name: str, as_json: bool) -> None:
    """Show one provider: what it offers, and how each is used.

    \b
    Example:
      flux provider show core
    """
    from flux.cli import provider_offers

    verdict = _catalogue(name).provider(name)
    offers = list(provider_offers.of(verdict))
    if as_json:
        kinds: dict[str, Any] = {
            kind: [
                {"name": each.name, "summary": each.summary, "use": each.use} for each in offers if each.kind == word
            ]
            for kind, word in _KINDS.items()
        }
        for row, kind in zip(kinds["connection_types"], verdict.connection_types, strict=True):
            row |= {"default_port": kind.default_port, "fields": provider_offers.fields(kind)}
        for row, ref in zip(kinds["operators"], verdict.operators, strict=True):
            row |= {"source": ref.source, "target": ref.target}
        more = {"notes": verdict.notes, "module": verdict.module, "hooks": verdict.hooks}
        output.document({**_row(verdict), **kinds, **more})
        return
    output.details(
        (key, getattr(verdict, key)) for key in ("name", "distribution", "version", "state", "reason", "module")
    )
    for word in _KINDS.values():
        rows = [(each.name, each.summary, each.use) for each in offers if each.kind == word]
        if rows:
            click.echo()
            output.table((word.upper(), "WHAT IT IS FOR", "HOW TO USE IT"), rows, empty="")
    for kind in verdict.connection_types:
        click.echo()
        output.table(
            (f"FIELD OF {kind.name}", "DEFAULT", "REQUIRED", "SECRET", "WHAT IT IS"),
            [
                (each.name, each.default, _yes(each.required), _yes(each.secret), each.help)
                for each in provider_offers.fields(kind)
            ],
            empty=f"Connection type {kind.name!r} has no fields.",
        )


@provider.command()
@click.argument("words", metavar="WORD...", nargs=-1, required=True)
@output.json_option
def search(words: Sequence[str], as_json: bool) -> None:
    """Look for a word in the names and summaries of what providers offer, also of well-known ones not installed.

    \b
    Example:
      flux provider search mysql
    """
    from flux.cli import provider_offers

    found = provider_offers.search(_catalogue(), words)
    if as_json:
        output.document(found)
        return
    there = [each for each in found if each.install is None]
    output.table(
        ("NAME", "KIND", "PROVIDER", "WHAT IT IS FOR", "HOW TO USE IT"),
        [(each.name, each.kind, each.provider, each.summary, each.use) for each in there],
        empty=f"No provider that is installed offers anything with {' '.join(words)!r}.",
    )
    for distribution in sorted({each.install for each in found if each.install is not None}):
        names = ", ".join(each.name for each in found if each.install == distribution)
        click.echo(f"{names}: not installed. Install it with `pip install {distribution}`.")


_timeout_option = time_limit.timeout_option("What loading one provider's modules may take.")


@provider.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@_timeout_option
@output.json_option
@click.pass_context
def check(ctx: click.Context, names: Sequence[str], timeout: float, as_json: bool) -> None:
    """Load everything that providers offer, and say what is wrong. Exit code 1 when anything is: for CI and images.

    A warning counts as well. A provider that is switched off is left out, unless it is named.

    \b
    Example:
      flux provider check
      flux provider check mysql --json
    """
    from flux.cli import main, provider_check

    config = session.configuration()
    checked = []
    for each in provider_check.check(_judged(), config, names, seconds=timeout, taken=[*main.COMMANDS]):
        checked.append(each)
        if not as_json:
            state = "not ok" if each.problems and each.state == "ok" else each.state
            click.echo(f"{each.name}: {output.styled(state)}")
            for problem in each.problems:
                click.echo(f"  {problem}")
    if as_json:
        output.document(checked)
    problems = sum(len(each.problems) for each in checked)
    if problems:
        output.note(f"{problems} problem{'' if problems == 1 else 's'}.")
        ctx.exit(FAILED)


@provider.command()
@click.argument("name")
@click.option("--format", "form", type=click.Choice(["md", "rst"]), default="md", show_default=True)
@_timeout_option
def docs(name: str, form: str, timeout: float) -> None:
    """Write a provider's page: its operators with their arguments, connection types with their fields, and the rest.

    Imports the provider's modules.

    \b
    Example:
      flux provider docs core --format md
    """
    from flux.cli import markup, provider_docs
    from flux.errors import PluginError
    from flux.providers import problem

    verdict = _judged().provider(name)
    if not verdict.is_ok:
        raise PluginError(problem(verdict))
    if verdict.distribution is None:  # the one-file provider, or a module beside it
        sys.path.insert(0, str(session.configuration().dags_folder))
    page = markup.Markdown() if form == "md" else markup.Rst()
    too_late = f"Loading what provider {name!r} offers took longer than {timeout:g} s."
    with (
        time_limit.ending_after(timeout, lambda _: too_late),
        redirect_stdout(sys.stderr),  # a module that prints when it is imported is not to spoil the page
    ):
        provider_docs.write(verdict, page)
    click.echo(page.text, nl=False)


@provider.command()
@click.argument("name")
@click.option("--operator", "operators", metavar="CLASS", multiple=True, help="An operator to begin with.")
@click.option("--sensor", "sensors", metavar="CLASS", multiple=True, help="A sensor to begin with.")
@click.option("--executor", metavar="NAME", help="An executor to begin with.")
@click.option("--macro", "macros", metavar="NAME", multiple=True, help="A macro to begin with.")
@click.option("--connection", is_flag=True, help="Begin with a connection type and the client that talks to it.")
@click.option(
    "--into", default=".", show_default=True, metavar="DIR", type=click.Path(path_type=Path),
    help="The folder in which the package's folder is made.",
)  # fmt: skip
def new(
    name: str,
    operators: Sequence[str],
    sensors: Sequence[str],
    executor: str | None,
    macros: Sequence[str],
    connection: bool,
    into: Path,
) -> None:
    """Write a package for a new provider: flux-provider-NAME/, which installs and passes its tests as it is.

    Without --operator, --sensor, --executor and --macro it begins with one operator.

    \b
    Example:
      flux provider new acme --operator AcmeOperator --sensor AcmeSensor
    """
    from flux.cli.scaffold import package
    from flux.cli.scaffold.plan import Plan

    plan = Plan.of(name, operators=operators, sensors=sensors, executor=executor, macros=macros, connection=connection)
    folder = package.write(plan, into)
    click.echo(f"Wrote {folder}. What to do next:\n")
    for line in (f"cd {shlex.quote(str(folder))}", "python -m pip install -e '.[test]'", "pytest"):
        click.echo(f"  {line}")


def _catalogue(name: str | None = None) -> Catalogue:
    """Every provider; what is wrong with any, or with those of one name, is told on stderr."""
    from flux import providers

    catalogue = _judged()
    shown = catalogue if name is None else type(catalogue)(each for each in catalogue.verdicts if each.name == name)
    for line in providers.remarks(shown):
        output.note(line)
    for provider_name, reason in _silent().items():
        if name in (None, provider_name):
            output.note(f"Provider {provider_name!r}: {reason}")
    return catalogue


def _silent() -> dict[str, str]:
    """Maps the providers whose listener was switched off to the reason."""
    from flux.running import listeners

    states = listeners.states(session.configuration().run_folder)
    return {each.provider: f"It is told of no changes any more: {each.reason}" for each in states if each.is_off}


def _judged() -> Catalogue:
    from flux import providers

    return providers.find(session.configuration(), os.environ, lenient=True)


def _row(verdict: Verdict) -> dict[str, Any]:
    row = {key: getattr(verdict, key) for key in ("name", "distribution", "version", "state", "reason")}
    return row | {kind: [item.name for item in getattr(verdict, kind)] for kind in _KINDS}


def _counts(verdict: Verdict) -> str:
    """As "2 operators, 1 connection type"."""
    counts = [(len(getattr(verdict, kind)), word) for kind, word in _KINDS.items()]
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count)


def _yes(value: bool) -> str:
    return "yes" if value else ""

"""The providers of this installation: found, chosen by configuration, judged, and gathered into a catalogue.

Found are the entry points of group `flux.providers`, the modules of the option `plugins`, and `flux_provider.py` in the
DAGs folder. Configuration switches off by name, before anything is imported. The rest is judged in a child process;
with nothing to judge there is no child. What is wrong with a provider is a verdict; an error is raised only for what
configuration insists on (`providers_required`, `strict`).
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flux.builtin import core_verdict
from flux.config import Config
from flux.dag_folder import PROVIDER_FILE
from flux.dag_providers import POLICY_HOOK
from flux.errors import PluginError
from flux.plugins import clashes, judgement, scan
from flux.plugins.catalogue import CORE, LOCAL, Catalogue
from flux.plugins.judgement import Candidate
from flux.plugins.scan import Found
from flux.plugins.verdict import ProviderState, Verdict

_LOG = logging.getLogger(__name__)
#: What `report` has said in this process.
_said: set[str] = set()


def find(
    config: Config, environ: Mapping[str, str] | None = None, *, lenient: bool = False, limit_seconds: float = 2.0
) -> Catalogue:
    """Find and judge every provider. Blocks while the judging process works, if there is anything to judge.

    Args:
        environ: of the judging process, less what is Flux's; None: ours.
        lenient: return the catalogue also where configuration insists on what is not there, for lists.
        limit_seconds: what the import and the hooks of one provider may take.

    Raises:
        PluginError: a provider of `providers_required` is missing or not ok; with `strict`, any that is not ok.
    """
    places = [*_installed(config), *_named(config)]
    candidates = [place for place in places if isinstance(place, Candidate)]
    judged = iter(judgement.judge(candidates, limit_seconds=limit_seconds, environ=environ) if candidates else ())
    verdicts = [next(judged) if isinstance(place, Candidate) else place for place in places]
    catalogue = Catalogue(clashes.settle([core_verdict(), *verdicts]), _odd(config, {each.name for each in verdicts}))
    if not lenient:
        _insist(catalogue, config)
    return catalogue


def save(catalogue: Catalogue, config: Config) -> None:
    """Keep the catalogue in the home's run folder, for whoever needs names without judging."""
    catalogue.write(_file(config))


def saved(config: Config) -> Catalogue | None:
    """Return what a supervisor kept last; None: none has, or another version of Flux."""
    return Catalogue.read(_file(config))


def saved_at(config: Config) -> tuple[int, int] | None:
    """Return what tells one saved catalogue from the next; None: there is none. Cheap enough for each write."""
    try:
        status = _file(config).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def rules(catalogue: Catalogue, config: Config) -> dict[str, Any]:
    """Return what a process that reads DAG files must know of providers, small and JSON-ready.

    {"refused": {module or package: why it must not be imported}, "policies": [[provider, module, version]] in their
    order, "macros": {provider: {name: "package.module:name"}}, "file": path of the saved catalogue}.
    """
    return {
        "refused": _refused(catalogue),
        "policies": [[each.name, each.module, each.version] for each in catalogue.listeners(POLICY_HOOK)],
        "macros": {
            provider: {name: ref.path for name, ref in offered.items()}
            for provider, offered in catalogue.macros().items()
        },
        "file": str(_file(config)),
    }


def report(catalogue: Catalogue) -> list[str]:
    """Log what `remarks` says, and return it: each line once in a process."""
    fresh = [line for line in remarks(catalogue) if line not in _said]
    _said.update(fresh)
    for line in fresh:
        _LOG.warning("%s", line)
    return fresh


def remarks(catalogue: Catalogue) -> list[str]:
    """Return what is wrong with providers and their configuration, or worth a warning, a line each."""
    lines = [problem(verdict) for verdict in catalogue.verdicts if is_problem(verdict)]
    lines += [f"Provider {each.name!r}: {note}" for each in catalogue.verdicts if each.is_ok for note in each.notes]
    return [*catalogue.warnings, *lines]


def problem(verdict: Verdict) -> str:
    """Return one line that says which provider is in what state, and why."""
    owner = " ".join(part for part in (verdict.distribution, verdict.version) if part and part != verdict.name)
    state = "in conflict" if verdict.state is ProviderState.CONFLICT else verdict.state
    return f"Provider {verdict.name!r}{f' ({owner})' if owner else ''} is {state}: {verdict.reason}"


def _installed(config: Config) -> list[Candidate | Verdict]:
    """What distributions bring, sorted by name; a verdict where there is nothing to judge."""
    scanned = scan.entry_points(scan.PROVIDERS)
    places: list[tuple[tuple[str, str], Candidate | Verdict]] = []
    for found in scanned.found:
        others = [other for other in scanned.found if other.name == found.name]
        places.append(((found.name, found.owner), _place(Candidate(found), others, config)))
    for each in scanned.unreadable:
        verdict = Verdict(each.distribution, each.distribution, each.version, ProviderState.BROKEN, each.reason)
        places.append(((each.distribution, ""), verdict))
    return [place for _, place in sorted(places, key=lambda pair: pair[0])]


def _named(config: Config) -> Iterator[Candidate | Verdict]:
    """The modules of the option `plugins`, in its order, then the one-file provider; the DAGs folder is searched."""
    folder = str(config.dags_folder)
    for module in dict.fromkeys(config.plugins):
        found = Found(module, None, None, module, scan.PROVIDERS)
        installed = [other for other in scan.entry_points(scan.PROVIDERS).found if other.name == module]
        yield _place(Candidate(found, folder, needs_api=False), [found, *installed], config)
    if (config.dags_folder / PROVIDER_FILE).is_file():
        found = Found(LOCAL, None, None, PROVIDER_FILE.removesuffix(".py"), scan.PROVIDERS)
        yield _switched_off(found, config) or Candidate(found, folder, needs_api=False)


def _place(candidate: Candidate, same: list[Found], config: Config) -> Candidate | Verdict:
    """The candidate, or the verdict that is clear before its manifest is imported."""
    return _switched_off(candidate.found, config) or clashes.over_name(candidate.found, same) or candidate


def _switched_off(found: Found, config: Config) -> Verdict | None:
    if found.name in config.providers_disabled:
        why = f"Switched off by providers_disabled (from {config.sources['providers_disabled']})."
    elif config.providers_only and found.name not in config.providers_only:
        why = f"Not in providers_only (from {config.sources['providers_only']})."
    else:
        return None
    return Verdict(found.name, found.distribution, found.version, ProviderState.DISABLED, why, module=found.module)


def _odd(config: Config, names: set[str]) -> list[str]:
    """A line for each name in the configuration that no provider has."""
    lines = []
    if CORE in config.providers_disabled:
        lines.append(f"Option providers_disabled names {CORE!r}, which cannot be switched off.")
    for option in ("providers_disabled", "providers_only"):
        for name in getattr(config, option):
            if name != CORE and name not in names:
                near = difflib.get_close_matches(name, names, n=3)
                hint = f"Did you mean {' or '.join(near)}?" if near else "`flux provider list` shows all."
                source = config.sources[option]
                lines.append(f"Option {option} names {name!r} (from {source}), which is no provider. {hint}")
    return lines


def _insist(catalogue: Catalogue, config: Config) -> None:
    for name in config.providers_required:
        verdicts = [verdict for verdict in catalogue.verdicts if verdict.name == name]
        source = config.sources["providers_required"]
        if not verdicts:
            raise PluginError(
                f"Provider {name!r} is required (by providers_required, from {source}) and not installed. "
                f"Install it, for example with `pip install flux-provider-{name}`."
            )
        if not verdicts[0].is_ok:
            raise PluginError(f"{problem(verdicts[0])} It is required (by providers_required, from {source}).")
    if config.strict:
        for verdict in catalogue.verdicts:
            if is_problem(verdict):
                raise PluginError(
                    f"{problem(verdict)} Option strict (from {config.sources['strict']}) refuses to go on."
                )


def is_problem(verdict: Verdict) -> bool:
    """Whether a provider is neither good nor switched off."""
    return verdict.state not in (ProviderState.OK, ProviderState.DISABLED)


def _refused(catalogue: Catalogue) -> dict[str, str]:
    """Maps what must not be imported to the reason.

    That is the package around the manifest, unless a good provider lives there too, or the module was named by the
    option `plugins`: the rest of its package is no provider. An entry point that names a module of Python or of Flux
    takes it from nobody.
    """
    good = [verdict.module for verdict in catalogue.verdicts if verdict.is_ok]
    bad = [verdict for verdict in catalogue.verdicts if not verdict.is_ok and verdict.module]
    return {
        _own(verdict, good): problem(verdict)
        for verdict in reversed(bad)
        if (top := verdict.module.partition(".")[0]) != "flux" and top not in sys.stdlib_module_names
    }


def _own(verdict: Verdict, good: Iterable[str]) -> str:
    """The package around a manifest, or the manifest alone where the package is not the provider's own."""
    package = verdict.module.rpartition(".")[0]
    is_shared = any(module == package or module.startswith(f"{package}.") for module in good)
    return verdict.module if is_shared or verdict.distribution is None or not package else package


def _file(config: Config) -> Path:
    return config.run_folder / "providers.json"

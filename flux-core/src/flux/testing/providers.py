"""The standard tests of a provider as a package: its metadata, its manifest, and what that offers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from flux.errors import FluxError
from flux.plugins import Ref, references
from flux.plugins.catalogue import CORE
from flux.plugins.verdict import Verdict
from flux.testing import given
from flux.testing.children import call_in_child
from flux.testing.conformance import Conformance, fail, not_applicable, standard
from flux.testing.probe import Probe, probe
from flux.testing.public_names import private_imports

__all__ = ["ProviderConformance"]

_CORE_DISTRIBUTION = "flux-core"
#: What is loaded before the modules of a provider are, wherever they are imported.
_BASE_MODULES = ("flux.operator", "flux.sensor", "flux.executor", "flux.connection", "flux.context", "flux.dag")
#: What a manifest may pull in of Flux.
_LIGHT = re.compile(r"flux(\.errors|\.plugins(\..+)?|\.testing(\.effects)?)?")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class ProviderConformance(Conformance):
    """The standard tests of a provider as a package: set `provider`, the name of its entry point.

    The package must be installed, an editable install will do.
    """

    _under_test = "provider"
    #: Its name, as in `flux provider list`.
    provider: ClassVar[str]

    @property
    def verdict(self) -> Verdict:
        """What judging the provider has found."""
        try:
            return given.catalogue().provider(self.provider)
        except FluxError as error:
            broken = [
                f"{each.name}: {each.reason}" for each in given.catalogue().verdicts if each.name == each.distribution
            ]
            fail(
                f"{error} {' '.join(broken)} Install the package (`pip install -e .`); its pyproject.toml needs "
                f'[project.entry-points."flux.providers"] with {self.provider} = "package.provider".'
            )

    @property
    def package(self) -> str:
        """The top-level package of the manifest."""
        return self.verdict.module.partition(".")[0]

    @standard("package")
    def test_it_is_judged_ok(self) -> None:
        verdict = self.verdict
        if not verdict.is_ok:
            fail(f"Provider {self.provider!r} is {verdict.state}: {verdict.reason}")

    @standard("package")
    def test_judging_it_leaves_nothing_to_remark(self) -> None:
        if self.verdict.notes:
            fail(f"Provider {self.provider!r}: {' '.join(self.verdict.notes)}")

    @standard("package")
    def test_its_name_is_in_lower_case(self) -> None:
        if not _NAME.fullmatch(self.provider):
            fail(f"Provider name {self.provider!r} is none for macros.<provider>.<name>. Use a-z, digits and _.")

    @standard("package")
    def test_its_manifest_says_which_hooks_it_was_made_for(self) -> None:
        """The range itself is judged; here it is only whether there is one, and an upper bound."""
        self._skip_core()
        source = self._manifest_source()
        found = re.search(r"^FLUX_API\s*(?::[^=]*)?=\s*[\"']([^\"']+)[\"']", source, re.MULTILINE)
        if found is None:
            fail(f'Manifest {self.verdict.module} has no FLUX_API. Write FLUX_API = ">=1.0,<2".')
        if "<" not in found[1] and "==" not in found[1] and "~" not in found[1]:
            fail(
                f'FLUX_API = "{found[1]}" admits every later version of the hooks. Add an upper bound: "{found[1]},<2".'
            )

    @standard("package")
    def test_its_manifest_is_light(self) -> None:
        found = self._imported((self.verdict.module,), ())
        own = f"{self.package}."
        heavy = list(found.foreign)
        heavy += [n for n in found.modules if n.startswith("flux.") and not _LIGHT.fullmatch(n) and own != "flux."]
        if heavy:
            fail(
                f"Importing manifest {self.verdict.module} imports {', '.join(heavy[:8])}. Every process that needs "
                "the catalogue pays for it. Import flux.plugins alone, and name everything else by Ref."
            )

    @standard("package")
    def test_importing_its_manifest_has_no_effects(self) -> None:
        self._must_be_quiet(self._imported((self.verdict.module,), ()), f"manifest {self.verdict.module}")

    @standard("package", "light_modules")
    def test_importing_its_modules_loads_no_client_library(self) -> None:
        """A DAG file imports operators each time it is read, on machines that never run their tasks."""
        modules = self._offered_modules()
        found = self._imported(modules, _BASE_MODULES)
        if found.foreign:
            fail(
                f"Importing {', '.join(modules)} imports {', '.join(found.foreign)}. Import a client library inside "
                "the function that uses it."
            )

    @standard("package", "light_modules")
    def test_importing_its_modules_has_no_effects(self) -> None:
        modules = self._offered_modules()
        self._must_be_quiet(self._imported(modules, _BASE_MODULES), ", ".join(modules))

    @standard("package")
    def test_every_reference_loads_as_what_it_is_offered_as(self) -> None:
        problems = self._in_child(lambda: list(references.problems(self.verdict)))
        if problems:
            fail(" ".join(problems))

    @standard("package", "documentation")
    def test_everything_it_offers_has_a_summary(self) -> None:
        missing = self._in_child(lambda: [ref.name for _, ref in references.offered(self.verdict) if not _summary(ref)])
        if missing:
            fail(f"Nothing says what {', '.join(missing)} is for. Give its class a docstring, or its Ref a summary.")

    @standard("package")
    def test_its_names_are_well_formed_and_its_own(self) -> None:
        verdict = self.verdict
        for kind, suffix, refs in (("operator", "Operator", verdict.operators), ("sensor", "Sensor", verdict.sensors)):
            for ref in refs:
                if not ref.name.endswith(suffix):
                    fail(f"{kind.capitalize()} {ref.name!r} is not named like one. Let its name end in {suffix}.")
        for kind, names in (
            ("Macro", [ref.name for ref in verdict.macros]),
            ("Executor", [ref.name for ref in verdict.executors]),
            ("Connection type", [each.name for each in verdict.connection_types]),
        ):
            for name in names:
                if not _NAME.fullmatch(name):
                    fail(f"{kind} {name!r} is not in lower case. Use a-z, digits and _.")
        for ref in (*verdict.operators, *verdict.sensors):
            others = [o.provider for o in given.catalogue().find(ref.name) if o.provider != verdict.name]
            if others:
                fail(f"Provider {others[0]!r} offers {ref.name!r} too. Name yours for your system.")

    @standard("package")
    def test_it_imports_only_public_names_of_flux(self) -> None:
        self._skip_core()
        found = list(private_imports(self._place()))
        if found:
            fail(
                f"Private names of Flux may change in any release: {'; '.join(found[:8])}. Public are the names of "
                "flux, flux.operators, flux.sensors, flux.plugins, flux.executor, flux.connection, flux.drivers and "
                "flux.testing."
            )

    @standard("package")
    def test_it_ships_its_types(self) -> None:
        place = self._place()
        if place.is_dir() and not (place / "py.typed").exists():
            fail(f"Package {self.package} has no file py.typed, so type checkers ignore its types. Add an empty one.")

    @standard("package")
    def test_its_metadata_is_complete(self) -> None:
        self._skip_core()
        name = self.verdict.distribution
        if name is None:
            not_applicable(f"provider {self.provider!r} belongs to no distribution")
        metadata = importlib.metadata.distribution(name)
        if metadata.version in ("", "0.0.0"):
            fail(f"Distribution {name} has no version. Set version in pyproject.toml.")
        needs = [re.split(r"[\s<>=!~;\[(]", each, maxsplit=1) for each in metadata.requires or ()]
        if not any(re.sub(r"[-_.]+", "-", need[0]).lower() == _CORE_DISTRIBUTION for need in needs):
            fail(f"Distribution {name} does not require {_CORE_DISTRIBUTION}. Add it to dependencies, with a range.")
        owners = importlib.metadata.packages_distributions().get(self.package, [name])
        if name not in owners:
            fail(
                f"Entry point {self.provider!r} of {name} names {self.package}, which is from {owners[0]}. Name yours."
            )

    def _skip_core(self) -> None:
        if self.provider == CORE:
            not_applicable("core is no package of its own")

    def _place(self) -> Path:
        """The folder of the package, or the file of a single module."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            fail(f"Package {self.package} has no __init__.py: type checkers and wheels lose it. Add one.")
        path = Path(spec.origin)
        return path.parent if path.name == "__init__.py" else path

    def _manifest_source(self) -> str:
        spec = importlib.util.find_spec(self.verdict.module)
        if spec is None or spec.origin is None:
            fail(f"Manifest {self.verdict.module} cannot be found. Does the entry point name a module?")
        return Path(spec.origin).read_text(encoding="utf-8")

    def _offered_modules(self) -> tuple[str, ...]:
        """The modules that its references name, the manifest left out."""
        found = dict.fromkeys(ref.path.partition(":")[0] for _, ref in references.offered(self.verdict))
        if not found:
            not_applicable(f"provider {self.provider!r} offers nothing by reference")
        return tuple(found)

    def _imported(self, modules: tuple[str, ...], after: tuple[str, ...]) -> Probe:
        found = probe(modules, after=after, limit_seconds=self.limit_seconds)
        if found.error:
            fail(f"{', '.join(modules)} cannot be imported: {found.error}")
        return found

    def _must_be_quiet(self, found: Probe, what: str) -> None:
        effects = list(found.found) + ([f"prints {found.output.strip()!r:.80}"] if found.output.strip() else [])
        if effects:
            fail(f"Importing {what} has effects: it {'; it '.join(effects)}. Do this when a task runs, not on import.")

    def _in_child(self, function: Callable[[], list[str]]) -> list[str]:
        answer = call_in_child(function, limit_seconds=self.limit_seconds)
        if answer.error:
            fail(f"What provider {self.provider!r} offers cannot be loaded: {answer.error}.{answer.tail}")
        found: list[str] = answer.value
        return found


def _summary(ref: Ref) -> str:
    if ref.summary.strip():
        return ref.summary
    loaded = ref.load()
    own = vars(loaded).get("__doc__") if inspect.isclass(loaded) else loaded.__doc__
    return (own or "").strip()

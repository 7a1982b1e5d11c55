"""The names of a provider that is about to be written. Bad ones are refused, with the one that is probably meant."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flux import builtin
from flux.errors import Refused
from flux.plugins.catalogue import CORE, LOCAL

#: With longer names, lines of what is written would be too long.
_LONGEST_NAME = 30
_LONGEST_CLASS = 50
_NAME = re.compile(r"[a-z]([a-z0-9_]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Plan:
    """A provider to be written; every name in it is good."""

    #: As in `flux provider list`.
    name: str
    #: Class names.
    operators: tuple[str, ...]
    sensors: tuple[str, ...]
    #: By which configuration picks it; None: there is none.
    executor: str | None
    #: Names of functions.
    macros: tuple[str, ...]
    #: Whether it talks to a system through connections of a type of its own, which has the provider's name.
    connection: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        *,
        operators: Sequence[str] = (),
        sensors: Sequence[str] = (),
        executor: str | None = None,
        macros: Sequence[str] = (),
        connection: bool = False,
    ) -> Plan:
        """Check the names. Without anything to write, one operator is.

        Raises:
            Refused: a name is none, is taken by Flux, or comes twice; says which other one would do.
        """
        short = name.removeprefix("flux-provider-").removeprefix("flux_provider_")
        if short != name:
            raise Refused(f"Provider name {name!r} is that of a package. Give the name of what it is for: {short!r}.")
        _check_name("Provider", name)
        if name in (CORE, LOCAL):
            raise Refused(f"Provider name {name!r} belongs to Flux. Name it for the system it is for.")
        if not (operators or sensors or executor or macros):
            operators = (class_of(name) + "Operator",)
        for suffix, classes in (("Operator", operators), ("Sensor", sensors)):
            for each in classes:
                _check_class(suffix, each)
        if executor is not None:
            _check_name("Executor", executor)
            if executor in {ref.name for ref in builtin.flux_executors()}:
                raise Refused(f"Executor {executor!r} is one of Flux's own. Name it for where it runs attempts.")
        for macro in macros:
            _check_name("Macro", macro)
            if macro.startswith("test"):
                raise Refused(f"Macro {macro!r} is named like a test, and pytest takes it for one. Choose another.")
        for names in (operators, sensors, macros):
            twice = sorted({each for each in names if names.count(each) > 1})
            if twice:
                raise Refused(f"{twice[0]!r} is given twice. Give each name once.")
        return cls(name, tuple(operators), tuple(sensors), executor, tuple(macros), connection)

    @property
    def package(self) -> str:
        """The name of the Python package."""
        return f"flux_provider_{self.name}"

    @property
    def distribution(self) -> str:
        """The name to install, and of the folder."""
        return f"flux-provider-{self.name.replace('_', '-')}"

    @property
    def title(self) -> str:
        """The name as names of classes begin."""
        return class_of(self.name)

    @property
    def executor_class(self) -> str:
        """The name of the executor's class; of no use without an executor."""
        return f"{class_of(self.executor or '')}Executor"


def class_of(text: str) -> str:
    """Return the name of a class for something in lower case: `month_start` becomes `MonthStart`."""
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", text))


def variable_of(name: str) -> str:
    """Return the name of a variable for a class: `AcmeLoadOperator` becomes `acme_load_operator`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _check_name(kind: str, name: str) -> None:
    better = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        if keyword.iskeyword(better) or keyword.issoftkeyword(better):
            better = f"my_{better}"
        hint = f", as {better!r}" if better else ""
        raise Refused(f"{kind} name {name!r} is no name in lower case of letters, digits and _. Choose another{hint}.")
    if len(name) > _LONGEST_NAME:
        raise Refused(f"{kind} name {name!r} is longer than {_LONGEST_NAME} characters. Choose a shorter one.")


def _check_class(suffix: str, name: str) -> None:
    stem = class_of(re.sub(rf"_?{suffix}$", "", name, flags=re.IGNORECASE))
    better = f"{stem}{suffix}" if stem[:1].isalpha() else f"Acme{suffix}"
    if not re.fullmatch(rf"[A-Z][A-Za-z0-9]*{suffix}", name):
        raise Refused(f"{suffix} {name!r} is not named like one. Call it {better}.")
    if name == f"Base{suffix}" or name in {ref.name for ref in (*builtin.flux_operators(), *builtin.flux_sensors())}:
        raise Refused(f"{suffix} {name!r} is one of Flux's own. Name it for the system it is for.")
    if len(name) > _LONGEST_CLASS:
        raise Refused(f"{suffix} name {name!r} is longer than {_LONGEST_CLASS} characters. Choose a shorter one.")

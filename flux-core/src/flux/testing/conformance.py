"""What all conformance classes share: levels, declarations, and that no standard test gets lost.

An author's class declares what it does not support; it never removes or replaces a standard test. One that does gets a
failing test in its place, which says how to declare instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import pytest

from flux.connection import Connection
from flux.testing.worlds import FolderWorld

__all__ = ["LEVELS", "Conformance", "Outside", "Standard", "fail", "not_applicable", "standard"]

#: The level of each standard test; each is a mark of pytest, `flux_<level>`.
LEVELS = ("package", "contract", "execution", "robustness")

_Test = TypeVar("_Test", bound=Callable[..., None])
_STANDARD = "flux_standard"


@dataclass(frozen=True, slots=True)
class Standard:
    """What a standard test is."""

    level: str
    #: The name by which `unsupported` declares that it does not apply; None: it cannot be declared away.
    feature: str | None


def standard(level: str, feature: str | None = None) -> Callable[[_Test], _Test]:
    """Make a method of a conformance class a standard test."""

    def mark(test: _Test) -> _Test:
        setattr(test, _STANDARD, Standard(level, feature))
        marked: _Test = getattr(pytest.mark, f"flux_{level}")(test)
        return marked

    return mark


def fail(message: str) -> NoReturn:
    """Fail the running test with a message that says it all: no traceback into the kit."""
    raise pytest.fail.Exception(message, pytrace=False) from None


def not_applicable(reason: str) -> NoReturn:
    """Skip the running test: what it is about does not exist here."""
    pytest.skip(reason)


class Conformance:
    """Base of the conformance classes; their texts say what to set."""

    # Name of the attribute that says what is under test; empty: none does.
    _under_test = ""
    #: Maps a feature to the reason why it is not there; its standard tests are skipped with that reason.
    unsupported: ClassVar[Mapping[str, str]] = {}
    #: Seconds after which anything that a test runs is killed and the test fails.
    limit_seconds: ClassVar[float] = 60
    #: conn_id to URI or Connection: what the work under test needs. A world's `connections` come on top.
    connections: ClassVar[Mapping[str, str | Connection]] = {}
    #: Variables likewise.
    variables: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, test in standard_tests(cls).items():
            found = inspect.getattr_static(cls, name, None)
            if found is not test and not getattr(found, "flux_in_place", False):
                setattr(cls, name, _in_place_of(cls.__name__, name, test))

    @pytest.fixture(autouse=True)
    def _flux_declared(self, request: pytest.FixtureRequest) -> None:
        """Fail when what is under test is not set; skip a standard test that `unsupported` names."""
        if self._under_test and not hasattr(self, self._under_test):
            fail(f"{type(self).__name__} does not set {self._under_test!r}, which says what is under test.")
        found: Standard | None = getattr(request.function, _STANDARD, None)
        if found is not None and found.feature is not None and found.feature in self.unsupported:
            pytest.skip(f"unsupported: {self.unsupported[found.feature]}")

    @pytest.fixture
    def outside(self, world: Any, tmp_path: Path) -> Outside:
        """The author's `world`, or that of the pytest plugin."""
        return Outside(world, tmp_path)

    @standard("package")
    def test_what_is_declared_as_unsupported_is_known_and_has_a_reason(self) -> None:
        known = sorted({test_feature for test_feature in _features(type(self)) if test_feature})
        for feature, reason in self.unsupported.items():
            if feature not in known:
                fail(
                    f"{type(self).__name__}.unsupported names {feature!r}, which no standard test is about. "
                    f"Known: {', '.join(known) or 'none'}."
                )
            if not str(reason).strip():
                fail(
                    f"{type(self).__name__}.unsupported[{feature!r}] gives no reason. Write one, for whoever reads it."
                )

    @standard("package")
    def test_every_standard_test_is_there(self) -> None:
        """Also one that was taken away after the class was made."""
        for name, test in standard_tests(type(self)).items():
            found = inspect.getattr_static(type(self), name, None)
            if found is not test:
                fail(_lost(type(self).__name__, name, test))


class Outside:
    """The author's world with what it does not define filled in.

    Args:
        world: has some of `tmp`, `snapshot`, `running`, `make_true`, `connections`, `variables`.
        tmp: the folder where the world has none.
    """

    def __init__(self, world: Any, tmp: Path) -> None:
        self._world = world
        self.tmp: Path = Path(getattr(world, "tmp", tmp))
        self._default = FolderWorld(self.tmp)

    @property
    def connections(self) -> Mapping[str, str | Connection]:
        return getattr(self._world, "connections", self._default.connections)

    @property
    def variables(self) -> Mapping[str, str]:
        return getattr(self._world, "variables", self._default.variables)

    @property
    def can_show_running(self) -> bool:
        """Whether the world knows of work elsewhere; a folder knows of none."""
        running = getattr(type(self._world), "running", None) or getattr(self._world, "running", None)
        return running is not None and running is not FolderWorld.running

    def snapshot(self) -> Any:
        return getattr(self._world, "snapshot", self._default.snapshot)()

    def running(self) -> Any:
        return getattr(self._world, "running", self._default.running)()

    def make_true(self) -> None:
        """Do what a sensor waits for."""
        make_true = getattr(self._world, "make_true", None)
        if make_true is None:
            fail("There is no way to make the condition true. Give a fixture `world` with a method make_true().")
        make_true()

    def filled(self, value: Any) -> Any:
        """Return an argument with `{tmp}` in its texts replaced by the folder; containers are gone through."""
        if isinstance(value, str):
            return value.replace("{tmp}", str(self.tmp))
        if isinstance(value, Mapping):
            return {key: self.filled(each) for key, each in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.filled(each) for each in value)
        return value


def standard_tests(kind: type) -> dict[str, Callable[..., None]]:
    """Return the standard tests of a conformance class by name: those of the kit's own classes below it."""
    found: dict[str, Callable[..., None]] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("flux.testing."):
            found.update((name, value) for name, value in vars(base).items() if hasattr(value, _STANDARD))
    return found


def _features(kind: type) -> set[str | None]:
    return {getattr(test, _STANDARD).feature for test in standard_tests(kind).values()}


def _in_place_of(owner: str, name: str, test: Callable[..., None]) -> Callable[..., None]:
    """A failing test for a standard test that an author's class has removed or replaced."""

    def in_place(self: Conformance) -> None:
        fail(_lost(owner, name, test))

    in_place.__name__ = name
    in_place.flux_in_place = True  # type: ignore[attr-defined]
    marked: Callable[..., None] = getattr(pytest.mark, f"flux_{getattr(test, _STANDARD).level}")(in_place)
    return marked


def _lost(owner: str, name: str, test: Callable[..., None]) -> str:
    feature = getattr(test, _STANDARD).feature
    if feature is None:
        remedy = "It holds for every provider and cannot be declared away."
    else:
        remedy = f"If it does not apply, declare unsupported = {{{feature!r}: 'why'}}."
    return f"{owner} removes or replaces the standard test {name!r}. Give a test of your own another name. {remedy}"

from __future__ import annotations

import sys
from typing import Any

import pytest

from flux.arguments import AuthoringType, accepted, call_site, check_texts, located, refuse_unknown, shown
from flux.errors import AuthoringError, UnknownArgument


class Base(metaclass=AuthoringType):
    def __init__(self, *, name: str = "", size: int = 0) -> None:
        self.name = name


class Open(Base):
    def __init__(self, colour: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Mixin:
    def __init__(self, *, loud: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Mixed(Mixin, Open):
    pass


class Closed(Open):
    def __init__(self) -> None:
        super().__init__(name="x")


class Anything(metaclass=AuthoringType):
    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Base, {"name", "size"}),
        (Open, {"colour", "name", "size"}),
        (Mixed, {"loud", "colour", "name", "size"}),
        (Closed, set()),
    ],
)
def test_a_class_takes_what_its_inits_name_as_far_as_they_pass_on(kind: type, names: set[str]) -> None:
    assert accepted(kind) == names
    assert accepted(kind) == names


def test_a_class_whose_last_init_passes_on_to_object_takes_no_more_names() -> None:
    assert accepted(Anything) == frozenset()


def test_an_init_that_is_wrapped_is_read_through() -> None:
    import functools

    def traced(init: Any) -> Any:
        @functools.wraps(init)
        def wrapper(self: Any, **kwargs: Any) -> None:
            init(self, **kwargs)

        return wrapper

    class Traced(Base):
        @traced
        def __init__(self, *, depth: int = 0) -> None:
            super().__init__()

    assert accepted(Traced) == {"depth"}


def test_the_call_site_is_the_line_outside_flux() -> None:
    assert call_site() == (__file__, sys._getframe().f_lineno)
    with pytest.raises(UnknownArgument) as caught:
        Mixed(loud=True, size_of=3)
    assert (caught.value.file, caught.value.line) == (__file__, sys._getframe().f_lineno - 1)


def test_an_error_keeps_the_place_that_it_has() -> None:
    error = AuthoringError("wrong", file="sales.py", line=3)
    assert located(error, ("other.py", 5)) is error
    assert (str(error), error.file, error.line) == ("wrong", "sales.py", 3)


def test_an_error_without_a_place_gets_it_in_front() -> None:
    error = located(AuthoringError("wrong"), ("<stdin>", 5))
    assert (str(error), error.file, error.line) == ("<stdin>:5: wrong", "<stdin>", 5)


def test_files_are_shown_relative_to_the_nearest_module_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/srv", "/srv/dags", "/", *sys.path])
    assert shown(("/srv/dags/eu/sales.py", 4)) == "eu/sales.py:4"
    assert shown(("/opt-x/sales.py", 4)) == "/opt-x/sales.py:4"
    assert shown(None) == "?"


def test_all_unknown_names_are_listed_and_near_ones_offered() -> None:
    refuse_unknown("Load takes no argument", ["a"], ["a", "b"])
    with pytest.raises(UnknownArgument, match=r"no argument 'retires' \(nor 'zzz'\)\. Did you mean retries\?"):
        refuse_unknown("Load takes no argument", ["zzz", "retires", "pool"], ["retries", "pool"])


def test_texts_are_a_tuple_and_one_text_is_no_list() -> None:
    assert check_texts(["b", "a"], "tags") == ("b", "a")
    assert check_texts({"b", "a"}, "tags") == ("a", "b")
    with pytest.raises(AuthoringError, match=r"tags = 'etl'.*\['etl'\]"):
        check_texts("etl", "tags")

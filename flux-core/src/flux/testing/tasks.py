"""The standard tests that operators and sensors share. Authors subclass OperatorConformance or SensorConformance."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NoReturn

import pytest

from flux.connection import Connection
from flux.dag import DAG
from flux.operator import BaseOperator
from flux.secret import Secret
from flux.sensor import BaseSensor
from flux.structure import DagStructure
from flux.testing import given
from flux.testing.attempts import RunningTask, TaskOutcome, order
from flux.testing.children import call_in_child, tail
from flux.testing.conformance import Conformance, Outside, fail, not_applicable, standard
from flux.testing.effects import Effects, foreign_modules

__all__ = ["HOSTILE", "TaskConformance", "block_library", "closed_port"]

#: Texts that come out of data sooner or later, by what they are.
HOSTILE: Mapping[str, str] = {
    "a megabyte": "x" * 1_000_000,
    "quotes": "'\"`\\'\"",
    "NUL": "a\0b",
    "emoji": "\N{SLIGHTLY SMILING FACE}\u202e\N{COMBINING ACUTE ACCENT}",
    "line ends": "a\r\nb\u2028c\td",
    "percent and braces": "%s %d %(x)s {0} {x}",
    "a statement": "'; DROP TABLE t; --",
    "a template": "{{ 7 * 7 }}{% for %}",
    "a shell command": "$(touch {canary}); `touch {canary}` ; touch {canary} | touch {canary} #",
    "a path": "../../../../../../nonsuch/of-the-kit",
}
_BASES = (BaseSensor, BaseOperator)
#: Base arguments that every operator must take and hand on, with values to see that it does.
_FURTHER: Mapping[str, Any] = {"retries": 3, "retry_delay": 7, "pool": "kit", "doc_md": "kit", "priority_weight": 5}
_WRONG = "wrong-password-of-the-kit"


class TaskConformance(Conformance):
    """What every class of tasks is held to. `subject` is the class, `arguments` what a task of it takes."""

    #: The arguments of a task that works, task_id and base arguments left out; `{tmp}` stands for the world's folder.
    arguments: ClassVar[Mapping[str, Any]] = {}
    #: Template fields that hold code by design (sql, bash_command): hostile texts in them may run.
    code_fields: ClassVar[Sequence[str]] = ()
    #: The module of the client library, which a user may lack; None: there is none.
    library: ClassVar[str | None] = None

    @property
    def subject(self) -> type[BaseOperator]:
        """The class under test."""
        raise AttributeError("subject")

    # What the tests are made of

    def task(self, outside: Outside, **changes: Any) -> BaseOperator:
        """Return a task of no DAG with the arguments of this class, and `changes` to them."""
        return self.subject(**{"task_id": "subject", **outside.filled(dict(self.arguments)), **changes})

    def given_connections(self, outside: Outside) -> dict[str, Connection]:
        """Return what the task may ask for, by conn_id."""
        return given.connections({**self.connections, **outside.connections})

    def start(
        self,
        outside: Outside,
        task: BaseOperator,
        *,
        connections: Mapping[str, Connection] | None = None,
        params: Mapping[str, Any] | None = None,
        prepare: Callable[[], object] | None = None,
        instead: Callable[[Any, Any], Any] | None = None,
    ) -> RunningTask:
        """Start an attempt of `task` with the connections and variables of this class, or with those given."""
        what = order(
            task,
            connections=self.given_connections(outside) if connections is None else connections,
            variables={**self.variables, **outside.variables},
            params=params,
        )
        return RunningTask(what, prepare=prepare, instead=instead)

    def run(self, outside: Outside, task: BaseOperator, **arguments: Any) -> TaskOutcome:
        """Run an attempt to its end, at most `limit_seconds`."""
        return self.start(outside, task, **arguments).wait(self.limit_seconds)

    @property
    def name(self) -> str:
        return self.subject.__name__

    def unexpected(self, outcome: TaskOutcome, wanted: str) -> NoReturn:
        """Fail: the attempt did not end in the state that was wanted."""
        why = f": {outcome.error}" if outcome.error else ""
        fail(f"{self.name} was to end as {wanted} and is {outcome.state}{why}.{tail(outcome.log)}")

    # Contract

    @standard("contract")
    def test_it_is_a_class_of_its_kind(self) -> None:
        subject: object = self.subject  # whatever the author's type checker let pass
        if not isinstance(subject, type) or not issubclass(subject, BaseOperator):
            fail(f"{subject!r} is no BaseOperator. Derive it from flux.BaseOperator or flux.BaseSensor.")
        wanted = "BaseSensor" if issubclass(self.subject, BaseSensor) else "BaseOperator"
        missing = sorted(getattr(self.subject, "__abstractmethods__", ()))
        if missing:
            fail(f"{self.name} does not define {', '.join(missing)}(), which {wanted} leaves to it.")
        suffix = wanted.removeprefix("Base")
        if not self.name.endswith(suffix):
            fail(f"{self.name} is a {wanted} and is not named like one. Let its name end in {suffix}.")

    @standard("contract")
    def test_it_hands_further_arguments_on_to_its_base(self, outside: Outside) -> None:
        try:
            task = self.task(outside, **_FURTHER)
        except Exception as error:
            fail(
                f"{self.name}(task_id=…, retries=3, …) raises {type(error).__name__}: {error} "
                f"Take **kwargs in __init__ and call super().__init__(**kwargs); give `arguments` that it takes."
            )
        for argument, value in _FURTHER.items():
            if getattr(task, argument) != value:
                fail(f"{self.name} drops {argument} = {value!r}. Hand it on: super().__init__(**kwargs).")

    @standard("contract")
    def test_its_template_fields_are_arguments_of_its_own(self) -> None:
        known = self.own_parameters()
        for field in self.subject.template_fields:
            if field not in known:
                fail(
                    f"Template field {field!r} of {self.name} is no argument of its __init__. "
                    f"Name the argument and the attribute alike; its own arguments: {', '.join(known) or 'none'}."
                )

    @standard("contract")
    def test_it_keeps_template_fields_as_they_were_given(self, outside: Outside) -> None:
        """A template is rendered after the task was made: what is read from a field before is wrong."""
        for field, value in self.text_fields(outside).items():
            template = "{{ params.of_the_kit }}" + _extension(self.subject, value)
            try:
                task = self.task(outside, **{field: template})
            except Exception as error:
                fail(
                    f"{self.name}({field}={template!r}) raises {type(error).__name__}: {error} "
                    "Check a template field in execute(), when it is rendered, not in __init__."
                )
            if getattr(task, field) != template:
                fail(
                    f"{self.name} changes {field} = {template!r} into {getattr(task, field)!r}. Keep it as it is given."
                )

    @standard("contract")
    def test_its_connection_arguments_are_named_for_their_type(self) -> None:
        for name, parameter in self.own_parameters().items():
            if name == "conn_id":
                fail(f"{self.name} takes conn_id. Name it for the connection's type: <type>_conn_id.")
            if not name.endswith("_conn_id"):
                continue
            kind = name.removesuffix("_conn_id")
            if kind in ("source", "target"):
                if parameter.default is not inspect.Parameter.empty:
                    fail(f"{self.name}: {name} has a default, and both ends could be of one type. Make it required.")
            elif parameter.default != f"{kind}_default":
                fail(f"{self.name}: {name} has the default {_default(parameter)}. Let it be '{kind}_default'.")

    @standard("contract")
    def test_making_a_task_has_no_effects(self, outside: Outside) -> None:
        def make() -> dict[str, list[str]]:
            if self.library is not None:
                _forget(self.library)  # the tests themselves may have imported it
            with DAG("conformance") as dag, Effects() as effects:
                self.task(outside)
                dag.structure()
            return {"found": effects.found, "foreign": foreign_modules(effects.imported, self.subject.__module__)}

        answer = call_in_child(make, limit_seconds=self.limit_seconds)
        if answer.error:
            fail(f"A task of {self.name} cannot be made: {answer.error}.{answer.tail}")
        found = answer.value["found"] + [f"imports {name}" for name in answer.value["foreign"]]
        if found:
            fail(
                f"Making a task of {self.name} has effects: it {'; it '.join(found)}. A DAG file makes its tasks each "
                "time it is read. Do this in execute() or poke(), and import a client library there."
            )

    @standard("contract")
    def test_two_tasks_share_nothing_that_changes(self, outside: Outside) -> None:
        one, other = self.task(outside), self.task(outside)
        for name, value in vars(one).items():
            is_shared = isinstance(value, list | dict | set) and vars(other).get(name) is value
            if is_shared and not any(value is argument for argument in self.arguments.values()):
                fail(
                    f"All tasks of {self.name} share one {type(value).__name__} as {name}. Make a new one in __init__."
                )

    @standard("contract")
    def test_it_can_be_stored_as_structure(self, outside: Outside) -> None:
        with DAG("conformance") as dag:
            task = self.task(outside)
        structure = dag.structure()
        if DagStructure.from_json(structure.to_json()) != structure:
            fail(
                f"The structure of a task of {self.name} changes on its way through JSON: {structure.tasks[0]!r:.500}."
            )
        if copy.copy(task).task_id != task.task_id:
            fail(f"A copy of a task of {self.name} is another task. An attempt runs a copy: leave __copy__ alone.")

    @standard("contract", "documentation")
    def test_every_argument_is_documented(self) -> None:
        texts = [inspect.getdoc(kind) or "" for kind in self._own_classes()]
        texts += [
            inspect.getdoc(vars(kind)["__init__"]) or "" for kind in self._own_classes() if "__init__" in vars(kind)
        ]
        if not texts[0].strip():
            fail(f"{self.name} has no docstring. Say in one sentence what a task of it does.")
        missing = [name for name in self.own_parameters() if not any(_describes(t, name) for t in texts)]
        if missing:
            fail(f"The docstring of {self.name} does not name {', '.join(missing)}. Describe each under 'Args:'.")

    @standard("contract", "documentation")
    def test_every_argument_has_a_type(self) -> None:
        missing = [
            name for name, parameter in self.own_parameters().items() if parameter.annotation is inspect.Parameter.empty
        ]
        if missing:
            fail(f"{self.name}: {', '.join(missing)} has no type. Annotate it, for whoever writes DAG files.")

    # Robustness

    @standard("robustness", "missing_library")
    def test_a_missing_library_is_told_with_what_to_install(self, outside: Outside) -> None:
        library = self.library
        if library is None:
            not_applicable(f"{type(self).__name__}.library is None: no client library that could be missing")
        outcome = self.run(outside, self.task(outside), prepare=lambda: block_library(library))
        if outcome.state != "failed":
            fail(f"{self.name} is {outcome.state} without {library!r}. Is this the module that its client imports?")
        if "pip install" not in (outcome.error or ""):
            fail(
                f"Without {library!r}, {self.name} fails with {outcome.error!r}. Catch the ImportError and raise a "
                "FluxError that says what to install: `pip install …`."
            )

    @standard("robustness", "missing_connection")
    def test_a_connection_that_does_not_exist_is_told(self, outside: Outside) -> None:
        for conn_id in self._conn_ids():
            known = {name: each for name, each in self.given_connections(outside).items() if name != conn_id}
            outcome = self.run(outside, self.task(outside), connections=known)
            self._must_name(outcome, conn_id, f"without connection {conn_id!r}")

    @standard("robustness", "wrong_password")
    def test_a_wrong_password_is_told(self, outside: Outside) -> None:
        for conn_id, connection in self._used(outside).items():
            if connection.password is None:
                not_applicable(f"connection {conn_id!r} has no password")
            password = connection.password.reveal()
            changed = dataclasses.replace(connection, password=Secret(_WRONG))
            running = self.start(
                outside, self.task(outside), connections={**self.given_connections(outside), conn_id: changed}
            )
            outcome = running.wait(self.limit_seconds)
            self._must_name(outcome, conn_id, "with a wrong password")
            self._must_not_show(running.raw_log + (outcome.error or ""), _WRONG, password)

    @standard("robustness", "server_away")
    def test_a_server_that_is_away_is_told(self, outside: Outside) -> None:
        for conn_id, connection in self._used(outside).items():
            if connection.host is None:
                not_applicable(f"connection {conn_id!r} names no host")
            with closed_port() as port:
                changed = dataclasses.replace(connection, host="127.0.0.1", port=port)
                running = self.start(
                    outside, self.task(outside), connections={**self.given_connections(outside), conn_id: changed}
                )
                outcome = running.wait(self.limit_seconds)
            self._must_name(outcome, conn_id, f"while nothing listens on 127.0.0.1:{port}")
            if "127.0.0.1" not in (outcome.error or ""):
                fail(f"{self.name} does not say which host is away: {outcome.error!r}. Name host and port.")
            if connection.password is not None:
                self._must_not_show(running.raw_log + (outcome.error or ""), connection.password.reveal())

    @pytest.mark.parametrize("text", HOSTILE)
    @standard("robustness", "hostile_values")
    def test_hostile_values_are_only_values(self, outside: Outside, text: str) -> None:
        canary = outside.tmp / "interpreted"
        value = HOSTILE[text].replace("{canary}", str(canary))
        for field in self.text_fields(outside):
            task = self.task(outside, **{field: "{{ params.hostile }}"})
            outcome = self.run(outside, task, params={"hostile": value})
            what = f"{text} in {field}"
            if (outcome.error or "").startswith("the process ended without"):
                fail(f"{self.name} with {what}: {outcome.error}. Refuse the value, or pass it on.{tail(outcome.log)}")
            if "did not end within" in (outcome.error or ""):
                fail(f"{self.name} with {what} hangs: {outcome.error}.{tail(outcome.log)}")
            if canary.exists() and field not in self.code_fields:
                fail(
                    f"{self.name} with {what} ran it. Pass values as arguments of a list or as bound parameters, never "
                    f"in a text that something interprets. If {field} is code by design, add it to `code_fields`."
                )
            canary.unlink(missing_ok=True)

    # What is known of the class

    def own_parameters(self) -> dict[str, inspect.Parameter]:
        """Return the named arguments that the class and its bases below Flux's own bases take, by name."""
        found: dict[str, inspect.Parameter] = {}
        for kind in self._own_classes():
            if "__init__" in vars(kind):
                for name, parameter in list(inspect.signature(vars(kind)["__init__"]).parameters.items())[1:]:
                    if parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
                        found.setdefault(name, parameter)
        base = set(inspect.signature(BaseOperator.__init__).parameters)
        base |= set(inspect.signature(BaseSensor.__init__).parameters)
        return {name: parameter for name, parameter in found.items() if name not in base}

    def text_fields(self, outside: Outside) -> dict[str, str]:
        """Return the template fields that are given as a text, with it."""
        given_values = outside.filled(dict(self.arguments))
        return {f: given_values[f] for f in self.subject.template_fields if isinstance(given_values.get(f), str)}

    def _own_classes(self) -> list[type]:
        return [kind for kind in self.subject.__mro__[: self.subject.__mro__.index(BaseOperator)] if kind not in _BASES]

    def _conn_ids(self) -> list[str]:
        """What the connection arguments of the task are, given or by default."""
        parameters = {name: each for name, each in self.own_parameters().items() if name.endswith("_conn_id")}
        if not parameters:
            not_applicable(f"{self.name} takes no connection")
        values = [self.arguments.get(name, each.default) for name, each in parameters.items()]
        return [value for value in values if isinstance(value, str)]

    def _used(self, outside: Outside) -> dict[str, Connection]:
        known = self.given_connections(outside)
        missing = [conn_id for conn_id in self._conn_ids() if conn_id not in known]
        if missing:
            fail(
                f"{type(self).__name__} gives no connection {missing[0]!r}. Set `connections`, here or in the fixture "
                "`world`: conn_id to URI."
            )
        return {conn_id: known[conn_id] for conn_id in self._conn_ids()}

    def _must_name(self, outcome: TaskOutcome, conn_id: str, when: str) -> None:
        """Fail unless the attempt failed with an error that names the connection."""
        if "did not end within" in (outcome.error or ""):
            fail(f"{self.name} hangs {when}: {outcome.error}. Give its client a time-out.{tail(outcome.log)}")
        if outcome.state != "failed":
            fail(f"{self.name} is {outcome.state} {when}. Let the error of the client pass.{tail(outcome.log)}")
        if conn_id not in (outcome.error or ""):
            fail(
                f"{self.name} {when} says {outcome.error!r}. Raise a FluxError that names the connection, "
                f"{conn_id!r}, its host, and what to do.{tail(outcome.log)}"
            )

    def _must_not_show(self, text: str, *passwords: str) -> None:
        for password in passwords:
            if len(password) > 3 and password in text:
                fail(f"{self.name} writes a password into its log or its error. Keep it in the Secret that it came in.")


def block_library(name: str) -> None:
    """Make the imports of a module fail in this process as if it was not installed."""

    class Missing:
        def find_spec(self, full_name: str, path: object = None, target: object = None) -> None:
            if full_name == name or full_name.startswith(f"{name}."):
                raise ModuleNotFoundError(f"No module named {full_name!r}", name=full_name)

    _forget(name)
    sys.meta_path.insert(0, Missing())


def _forget(library: str) -> None:
    for loaded in [each for each in sys.modules if each == library or each.startswith(f"{library}.")]:
        del sys.modules[loaded]


@contextmanager
def closed_port() -> Iterator[int]:
    """Give a port of this machine on which nothing listens and nothing else can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def _describes(docstring: str, argument: str) -> bool:
    """Whether a docstring says something about an argument: as "rows:" at the start of a line, or as `rows`."""
    listed = rf"^\s*(?::param )?(?:[\w*`]+,\s*)*[*`]*{argument}[*`]*(?:,\s*[\w*`]+)*\s*(?:\([^)]*\))?\s*:"
    return bool(re.search(listed, docstring, re.MULTILINE)) or f"`{argument}`" in docstring


def _extension(subject: type[BaseOperator], value: str) -> str:
    """The ending that makes a value the name of a template file: a template in its place keeps it."""
    return next((ending for ending in subject.template_ext if value.endswith(ending)), "")


def _default(parameter: inspect.Parameter) -> str:
    return "none" if parameter.default is inspect.Parameter.empty else repr(parameter.default)

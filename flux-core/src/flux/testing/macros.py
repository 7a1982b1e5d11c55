"""The standard tests of macros."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from flux.operators.python import PythonOperator
from flux.plugins import Ref
from flux.testing import given
from flux.testing.attempts import RunningTask, TaskOutcome, order
from flux.testing.children import tail
from flux.testing.conformance import Conformance, Outside, fail, not_applicable, standard
from flux.testing.probe import probe

__all__ = ["MacroConformance"]


class MacroConformance(Conformance):
    """The standard tests of a macro: set `macro`, a `staticmethod`, and `cases`."""

    _under_test = "macro"
    #: The function.
    macro: ClassVar[Callable[..., Any]]
    #: Maps arguments, a tuple (or a single argument), to the result.
    cases: ClassVar[Mapping[Any, Any]] = {}
    #: The provider that offers it; None: it is not looked up.
    provider: ClassVar[str | None] = None

    @property
    def name(self) -> str:
        return str(getattr(self.macro, "__name__", self.macro))

    @standard("package")
    def test_its_provider_offers_it(self) -> None:
        if self.provider is None:
            not_applicable(f"{type(self).__name__}.provider is None")
        refs: Mapping[str, Ref] = given.catalogue().macros().get(self.provider, {})
        offered = [ref.load() for ref in refs.values()]
        if not any(each is self.macro for each in offered):
            fail(
                f"Provider {self.provider!r} does not offer {self.name}. Return a Ref to it from flux_macros(). "
                f"It offers: {', '.join(sorted(refs)) or 'no macros'}."
            )

    @standard("package")
    def test_its_module_is_light(self) -> None:
        """A template that uses it pays for the import."""
        module = inspect.getmodule(self.macro)
        if module is None or module.__name__ == "__main__":
            not_applicable(f"{self.name} is in no module that could be imported")
        found = probe([module.__name__], limit_seconds=self.limit_seconds)
        if found.foreign:
            fail(f"Importing {module.__name__} imports {', '.join(found.foreign)}. Import it inside {self.name}().")

    @standard("contract")
    def test_it_is_a_function_with_a_name_for_templates(self) -> None:
        if not callable(self.macro):
            fail(f"{self.macro!r} cannot be called. Give macro = staticmethod(function).")
        if not self.name.isidentifier() or self.name != self.name.lower():
            fail(f"{self.name!r} is no name for templates. Write it in lower case: letters, digits and _.")

    @standard("contract", "documentation")
    def test_it_is_documented(self) -> None:
        if not (inspect.getdoc(self.macro) or "").strip():
            fail(f"{self.name} has no docstring. Say in one sentence what it returns.")

    @standard("execution")
    def test_it_gives_what_its_cases_say(self, outside: Outside) -> None:
        if not self.cases:
            fail(f"{type(self).__name__} has no cases. Set cases = {{(argument, …): result}}.")
        for arguments, wanted in self._cases():
            outcome = self._called(outside, arguments)
            if outcome.state != "success":
                fail(f"{self._call(arguments)} fails: {outcome.error}.{tail(outcome.log)}")
            if outcome.result != wanted:
                fail(f"{self._call(arguments)} is {outcome.result!r:.300}, not {wanted!r:.300}.")

    @standard("execution", "repeatable")
    def test_it_gives_the_same_when_asked_again(self, outside: Outside) -> None:
        for arguments, _ in self._cases():
            one, other = (self._called(outside, arguments) for _ in range(2))
            if one.result != other.result:
                fail(
                    f"{self._call(arguments)} is {one.result!r:.300}, then {other.result!r:.300}. A retry must render "
                    "what the first attempt rendered: let it depend on its arguments."
                )

    @standard("execution")
    def test_templates_find_it(self, outside: Outside) -> None:
        for arguments, wanted in self._cases():
            names = ", ".join(f"params.a{number}" for number in range(len(arguments)))
            task = PythonOperator(
                task_id="subject",
                python_callable=lambda text: text,
                op_args=[f"{{{{ macros.kit.{self.name}({names}) }}}}"],
            )
            outcome = self._run(outside, task, {f"a{number}": value for number, value in enumerate(arguments)})
            if outcome.state != "success" or outcome.result != str(wanted):
                fail(
                    f"In a template, {self._call(arguments)} gives {outcome.result!r:.300}, not {str(wanted)!r:.300}."
                    f"{tail(outcome.log)}"
                )

    def _cases(self) -> list[tuple[tuple[Any, ...], Any]]:
        return [(key if isinstance(key, tuple) else (key,), value) for key, value in self.cases.items()]

    def _call(self, arguments: tuple[Any, ...]) -> str:
        return f"{self.name}({', '.join(f'{each!r:.80}' for each in arguments)})"

    def _called(self, outside: Outside, arguments: tuple[Any, ...]) -> TaskOutcome:
        """Call it where templates do: in an attempt, where connections can be asked for."""
        task = PythonOperator(task_id="subject", python_callable=lambda: self.macro(*arguments))
        return self._run(outside, task, None)

    def _run(self, outside: Outside, task: PythonOperator, params: Mapping[str, Any] | None) -> TaskOutcome:
        what = order(
            task,
            connections=given.connections({**self.connections, **outside.connections}),
            variables={**self.variables, **outside.variables},
            params=params,
        )
        return RunningTask(what, macro_source=lambda provider, name: self.macro).wait(self.limit_seconds)

"""The plugin host: registers manifests and calls their hooks. The only module that imports pluggy.

pluggy holds the specifications, checks the signatures and keeps the order; the calls are our own, because pluggy stops
at the first implementation that raises, and runs a generator after the guard. Here every provider is called by itself:
what it raises or wrongly returns is a `Fault`, and the next one is called. Only the decision `task_policy` is not
isolated.

A host is for the processes that call functions of manifests: the judging process, the listener process, and DAG hosts
with policies. Who only needs names has them from the catalogue.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from flux.errors import PluginError, PolicyViolation, shown, told
from flux.plugins import IMPLEMENTS, SPECIFIES, ConnectionType, Ref, specs
from flux.plugins.catalogue import Offer
from flux.plugins.snapshots import Component, DagRun, TaskInstance

if TYPE_CHECKING:
    from flux.operator import BaseOperator

#: Items that one hook of one provider may return: a generator may never end.
_MOST_OFFERS = 10_000
#: Beginnings of hooks that another distribution specifies; without it they wait, and are no mistake.
FOREIGN = ("flux_ui_",)

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Fault:
    """A hook of a provider that raised or returned something it must not."""

    provider: str
    hook: str
    message: str
    #: What an event raised, with its traceback.
    error: BaseException | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class _Implementation:
    provider: str
    function: Callable[..., Any]
    #: The arguments that it takes, in its order.
    arguments: tuple[str, ...]


class Host:
    """The registered providers, and one typed method for each hook.

    Args:
        specifications: the modules of hook specifications; another distribution may bring its own.
        before_event: called with provider and hook before each call of an event, so that whoever watches from outside
            knows whose call it is that lasts.
    """

    def __init__(
        self,
        *,
        specifications: Iterable[ModuleType | type] = (specs,),
        before_event: Callable[[str, str], None] | None = None,
    ) -> None:
        self._plugins = _PluginManager("flux")
        for each in specifications:
            self._plugins.add_hookspecs(each)
        self._before_event = before_event
        self._implementations: dict[str, tuple[_Implementation, ...]] = {}
        self._answers: dict[str, list[tuple[str, Any]]] = {}
        self._faults: dict[tuple[str, str], Fault] = {}
        #: What started and did not stop, for those who come later.
        self._running: list[Component] = []

    def register(self, name: str, plugin: object) -> None:
        """Add a provider under `name`: a manifest module, or any object with marked functions.

        It is told at once which components have started before.

        Raises:
            PluginError: the name is taken, a marked function is no hook, takes an argument the hook does not give, or
                would be called in vain. Nothing of the provider stays registered.
        """
        if self._plugins.has_plugin(name):
            raise PluginError(f"Provider {name!r} is already registered. Give one of the two another name.")
        known = self.hooks
        for function in implemented(plugin):
            if function not in known and not function.startswith(FOREIGN):
                raise PluginError(
                    f"Provider {name!r} implements {function!r}, which is no hook. {_near(function, known)}"
                )
            caller = getattr(self._plugins.hook, function, None)
            given = caller.spec.argnames if caller is not None and caller.spec is not None else ()
            never = _why_in_vain(getattr(plugin, function), given)
            if never is not None:
                raise PluginError(f"Provider {name!r}: {function} {never}")
        try:
            self._plugins.register(plugin, name)
        except (ValueError, pluggy.PluginValidationError) as error:
            if self._plugins.has_plugin(name):
                self._plugins.unregister(name=name)
            raise PluginError(self._refusal(name, plugin) or f"Provider {name!r}: {error}") from error
        self._forget()
        for component in self._running:
            self._tell("flux_component_started", {"component": component}, only=name)

    def unregister(self, name: str) -> None:
        """Take a provider out; one that is not there is none of its business."""
        if self._plugins.has_plugin(name):
            self._plugins.unregister(name=name)
            self._forget()

    @property
    def hooks(self) -> tuple[str, ...]:
        """Names of the hooks, sorted."""
        callers = vars(self._plugins.hook).items()
        return tuple(sorted(name for name, caller in callers if caller.has_spec()))

    @property
    def providers(self) -> tuple[str, ...]:
        """Names of the registered providers, in order of registration."""
        return tuple(name for name, _ in self._plugins.list_name_plugin())

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What went wrong since the last registration; of several faults of one hook and provider the last."""
        return tuple(self._faults.values())

    # --- contributions ---

    def operators(self) -> tuple[Offer, ...]:
        """Return every operator and who offers it, in order of registration."""
        return self._offers("flux_operators")

    def sensors(self) -> tuple[Offer, ...]:
        """Return every sensor and who offers it, in order of registration."""
        return self._offers("flux_sensors")

    def executors(self) -> tuple[Offer, ...]:
        """Return every executor and who offers it, in order of registration."""
        return self._offers("flux_executors")

    def macros(self) -> tuple[Offer, ...]:
        """Return every macro and who offers it, in order of registration."""
        return self._offers("flux_macros")

    def connection_types(self) -> tuple[tuple[str, ConnectionType], ...]:
        """Return (provider, connection type), in order of registration."""
        return tuple(self._ask("flux_connection_types", ConnectionType))

    # --- events ---

    def task_state_changed(self, task_instance: TaskInstance, previous: str, state: str) -> tuple[Fault, ...]:
        """Tell every provider, and return what the calls raised, in order of registration."""
        arguments = {"task_instance": task_instance, "previous": previous, "state": state}
        return self._tell("flux_task_state_changed", arguments)

    def dag_run_state_changed(self, dag_run: DagRun, previous: str, state: str) -> tuple[Fault, ...]:
        """Tell every provider, and return what the calls raised, in order of registration."""
        return self._tell("flux_dag_run_state_changed", {"dag_run": dag_run, "previous": previous, "state": state})

    def component_started(self, component: Component) -> tuple[Fault, ...]:
        """Tell every provider, and those that are registered later; return what the calls raised."""
        self._running.append(component)
        return self._tell("flux_component_started", {"component": component})

    def component_stopping(self, component: Component) -> tuple[Fault, ...]:
        """Tell every provider, and return what the calls raised, in order of registration."""
        self._running = [each for each in self._running if each != component]
        return self._tell("flux_component_stopping", {"component": component})

    # --- decision ---

    def task_policy(self, task: BaseOperator) -> None:
        """Let every provider change or refuse a task.

        Raises:
            PolicyViolation: one refused it.
            PluginError: a policy failed; the error is the cause.
        """
        for each in self._of("flux_task_policy"):
            try:
                each.function(*([task] if each.arguments else []))
            except KeyboardInterrupt:
                raise
            except PolicyViolation as error:
                raise PolicyViolation(
                    f"Task {task.task_id!r} is refused by provider {each.provider!r}: {error}"
                ) from error
            except BaseException as error:
                raise PluginError(
                    f"The policy of provider {each.provider!r} failed on task {task.task_id!r}: "
                    f"{told(error)}. Mend it, or disable the provider."
                ) from error

    # --- calling ---

    def _offers(self, hook: str) -> tuple[Offer, ...]:
        return tuple(Offer(provider, ref) for provider, ref in self._ask(hook, Ref))

    def _ask(self, hook: str, item_type: type[_Item]) -> list[tuple[str, _Item]]:
        """The answers to a contribution, asked once between two registrations."""
        if hook not in self._answers:
            self._answers[hook] = [pair for each in self._of(hook) for pair in self._answer(hook, each, item_type)]
        return self._answers[hook]

    def _answer(self, hook: str, each: _Implementation, item_type: type[_Item]) -> list[tuple[str, _Item]]:
        """Call one provider's hook; what it raises, also from a generator, becomes a fault."""
        try:
            answer = each.function()
            if isinstance(answer, item_type):
                raise TypeError(f"returned one {item_type.__name__}, not a list of them")
            items = [] if answer is None else list(islice(answer, _MOST_OFFERS + 1))
            if len(items) > _MOST_OFFERS:
                raise ValueError(f"returned more than {_MOST_OFFERS} items")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit and failed assertions of a provider must not end its host
            return self._fault(each.provider, hook, told(error))
        wrong = next((item for item in items if not isinstance(item, item_type)), None)
        if wrong is not None:
            return self._fault(each.provider, hook, f"returned {_told_value(wrong)}, which is no {item_type.__name__}")
        return [(each.provider, item) for item in items]

    def _tell(self, hook: str, values: Mapping[str, Any], *, only: str | None = None) -> tuple[Fault, ...]:
        """Call an event's listeners one by one."""
        faults: list[Fault] = []
        for each in self._of(hook):
            if only is not None and each.provider != only:
                continue
            if self._before_event is not None:
                self._before_event(each.provider, hook)
            try:
                each.function(*[values[name] for name in each.arguments])
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a listener cannot end its host, nor keep the others from being told
                message = told(error)
                self._fault(each.provider, hook, message)
                faults.append(Fault(each.provider, hook, message, error))
        return tuple(faults)

    def _of(self, hook: str) -> tuple[_Implementation, ...]:
        """The implementations of a hook, in order of registration; pluggy keeps the last registered last."""
        if hook not in self._implementations:
            self._implementations[hook] = tuple(
                _Implementation(each.plugin_name, each.function, tuple(each.argnames))
                for each in getattr(self._plugins.hook, hook).get_hookimpls()
            )
        return self._implementations[hook]

    def _fault(self, provider: str, hook: str, message: str) -> list[Any]:
        self._faults[provider, hook] = Fault(provider, hook, message)
        return []

    def _forget(self) -> None:
        self._implementations.clear()
        self._answers.clear()
        self._faults.clear()

    def _refusal(self, name: str, plugin: object) -> str | None:
        """What is wrong with the arguments of a provider's hooks, in words; None: something else is."""
        for hook in implemented(plugin):
            caller = getattr(self._plugins.hook, hook, None)
            if caller is None or caller.spec is None:
                continue
            parameters = inspect.signature(getattr(plugin, hook)).parameters
            wrong = [argument for argument in parameters if argument not in caller.spec.argnames]
            if wrong:
                given = f"It gives {', '.join(caller.spec.argnames)}" if caller.spec.argnames else "It gives none"
                return (
                    f"Provider {name!r}: {hook} takes the argument {wrong[0]!r}, which the hook does not give. {given}."
                )
        return None


def _why_in_vain(function: Callable[..., Any], given: Sequence[str]) -> str | None:
    """Why a call of a hook's function would do nothing, or tell it nothing; None: it would not be in vain.

    Args:
        given: the arguments that the hook gives; events and decisions have some, contributions none.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "is an async function, which nobody awaits. Write it without async."
    if given and inspect.isgeneratorfunction(function):
        return "has a yield, so that a call of it does nothing. Write it without yield."
    parameters = list(inspect.signature(function).parameters.values())
    named = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    unfit = [each for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    if given and not named:
        unfit += [each for each in parameters if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return f"takes {unfit[0]}, which is never given. Name the arguments that it wants, before any *." if unfit else None


def _told_value(value: object) -> str:
    try:
        return shown(repr(value), limit=200)
    except Exception:  # its own __repr__ raises
        return f"an object of type {type(value).__name__}"


def implemented(plugin: object) -> list[str]:
    """Return the names of a manifest's marked functions, sorted. Touches no property and no lazy name."""
    names = vars(plugin) if isinstance(plugin, ModuleType) else dir(plugin)
    return sorted(name for name in names if _is_marked(plugin, name, IMPLEMENTS))


class _PluginManager(pluggy.PluginManager):
    """pluggy with our own markers, read without touching properties or lazy names of a plugin."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> pluggy.HookimplOpts | None:
        if not _is_marked(plugin, name, IMPLEMENTS):
            return None
        return pluggy.HookimplOpts(
            wrapper=False, hookwrapper=False, optionalhook=False, tryfirst=False, trylast=False, specname=None
        )

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> pluggy.HookspecOpts | None:
        if not _is_marked(module_or_class, name, SPECIFIES):
            return None
        return pluggy.HookspecOpts(firstresult=False, historic=False, warn_on_impl=None, warn_on_impl_args=None)


def _is_marked(holder: object, name: str, marker: str) -> bool:
    if isinstance(holder, ModuleType):
        found = vars(holder).get(name)
    else:
        found = inspect.getattr_static(holder, name, None)
    function = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
    return inspect.isfunction(function) and getattr(function, marker, False) is True


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."

"""The plugin host: registration, contributions, events, the policy, and providers kept apart from each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from flux.errors import PluginError, PolicyViolation
from flux.operators import EmptyOperator
from flux.plugins import ConnectionType, Ref, hookimpl
from flux.plugins.host import Host, implemented
from flux.plugins.snapshots import Component, DagRun, TaskInstance

NOW = datetime(2026, 1, 5, tzinfo=UTC)
TASK_INSTANCE = TaskInstance("sales", "manual__1", "load", None, "success", 1, 1, "EmptyOperator", NOW, NOW, None)
DAG_RUN = DagRun("sales", "manual__1", "manual", "success", NOW, NOW, NOW, None, NOW, NOW)
SUPERVISOR = Component("supervisor", 4711, "here", NOW)


def provider(**hooks: Any) -> SimpleNamespace:
    """A manifest with these hook functions."""
    for name, function in hooks.items():
        function.__name__ = name
        hookimpl(function)
    return SimpleNamespace(**hooks)


def offering(hook: str, *names: str) -> SimpleNamespace:
    return provider(**{hook: lambda: [Ref(name, f"acme:{name.title()}") for name in names]})


# --- registration ---


def test_offers_come_in_order_of_registration() -> None:
    host = Host()
    host.register("zeta", offering("flux_operators", "Z"))
    host.register("alpha", offering("flux_operators", "A", "B"))
    assert [(o.provider, o.ref.name) for o in host.operators()] == [("zeta", "Z"), ("alpha", "A"), ("alpha", "B")]
    assert host.providers == ("zeta", "alpha")


def test_registering_later_is_seen_although_answers_are_kept() -> None:
    host = Host()
    assert host.sensors() == ()
    host.register("acme", offering("flux_sensors", "S"))
    assert [o.ref.name for o in host.sensors()] == ["S"]


def test_who_is_taken_out_offers_nothing_and_may_come_back() -> None:
    host = Host()
    manifest = offering("flux_macros", "latest")
    host.register("acme", manifest)
    host.unregister("acme")
    host.unregister("nobody")
    assert host.macros() == ()
    host.register("acme", manifest)
    assert [o.ref.name for o in host.macros()] == ["latest"]


def test_misspelt_hook_is_refused_and_nothing_stays_registered() -> None:
    host = Host()
    with pytest.raises(PluginError, match=r"flux_operator'.*Did you mean flux_operators"):
        host.register("acme", offering("flux_operator", "A"))
    host.register("acme", offering("flux_operators", "A"))
    assert host.providers == ("acme",)


def test_a_hook_of_the_user_interface_waits_for_its_specification() -> None:
    """A provider with pages must also work where flux-ui is not installed."""
    host = Host()
    host.register("acme", provider(flux_ui_blueprints=lambda app: [], flux_operators=lambda: None))
    assert host.providers == ("acme",)
    assert "flux_ui_blueprints" not in host.hooks


def test_argument_the_hook_does_not_give_is_refused_and_nothing_stays_registered() -> None:
    host = Host()
    with pytest.raises(PluginError, match=r"'colour', which the hook does not give\. It gives none"):
        host.register("acme", provider(flux_operators=lambda colour: []))
    with pytest.raises(PluginError, match="It gives dag_run, previous, state"):
        host.register("acme", provider(flux_dag_run_state_changed=lambda run: None))
    assert host.providers == ()
    assert host.operators() == ()


async def waits(component: object) -> None: ...


def yields(component: object) -> Iterator[None]:
    yield


def takes_anything(**values: object) -> None: ...


def takes_by_name(*, component: object) -> None: ...


@pytest.mark.parametrize(
    ("hook", "cause"),
    [
        (waits, "is an async function"),
        (yields, "has a yield"),
        (takes_anything, r"takes \*\*values"),
        (takes_by_name, "takes component"),
    ],
)
def test_a_listener_that_would_be_called_in_vain_is_refused(hook: Any, cause: str) -> None:
    host = Host()
    with pytest.raises(PluginError, match=f"flux_component_started {cause}"):
        host.register("acme", SimpleNamespace(flux_component_started=hookimpl(hook)))
    assert host.providers == ()


def test_a_listener_may_take_what_later_versions_give() -> None:
    told: list[str] = []

    def state_changed(state: str, **_: object) -> None:
        told.append(state)

    host = Host()
    host.register("acme", SimpleNamespace(flux_task_state_changed=hookimpl(state_changed)))
    assert host.task_state_changed(Any, "queued", "running") == ()  # type: ignore[arg-type]
    assert told == ["running"]


def test_second_provider_of_a_name_is_refused() -> None:
    host = Host()
    host.register("acme", offering("flux_operators", "A"))
    with pytest.raises(PluginError, match="already registered"):
        host.register("acme", offering("flux_sensors", "S"))


def test_unmarked_functions_and_properties_are_left_alone() -> None:
    touched: list[str] = []

    class Manifest:
        @property
        def lazy(self) -> str:
            touched.append("lazy")
            return ""

        def flux_operators(self) -> list[Ref]:
            return [Ref("A", "acme:A")]

    host = Host()
    host.register("acme", Manifest())
    assert host.operators() == ()
    assert touched == []


def test_lazy_names_of_a_module_are_not_loaded() -> None:
    manifest: Any = ModuleType("acme")
    touched: list[str] = []
    manifest.__getattr__ = touched.append
    manifest.__dir__ = lambda: ["Heavy", "flux_operators"]
    manifest.flux_operators = hookimpl(lambda: [Ref("A", "acme:A")])
    host = Host()
    host.register("acme", manifest)
    assert [o.ref.name for o in host.operators()] == ["A"]
    assert touched == []
    assert implemented(manifest) == ["flux_operators"]


def test_methods_of_an_object_can_be_hooks() -> None:
    class Manifest:
        @hookimpl
        def flux_operators(self) -> list[Ref]:
            return [Ref("A", "acme:A")]

    host = Host()
    host.register("acme", Manifest())
    assert [o.ref.name for o in host.operators()] == ["A"]


# --- contributions ---


@pytest.mark.parametrize("hook", ["flux_operators", "flux_sensors", "flux_executors", "flux_macros"])
def test_each_kind_of_offer_has_its_method(hook: str) -> None:
    host = Host()
    host.register("acme", offering(hook, "Name"))
    offers = getattr(host, hook.removeprefix("flux_"))()
    assert [(offer.provider, offer.ref.name) for offer in offers] == [("acme", "Name")]


def test_connection_types_are_returned_with_their_provider() -> None:
    kind = ConnectionType("acme", client=Ref("Client", "acme:Client"))
    host = Host()
    host.register("acme", provider(flux_connection_types=lambda: [kind]))
    assert host.connection_types() == (("acme", kind),)


def test_a_hook_is_asked_once() -> None:
    asked: list[int] = []

    def operators() -> list[Ref]:
        asked.append(1)
        return []

    host = Host()
    host.register("acme", provider(flux_operators=operators))
    host.operators(), host.operators()
    assert asked == [1]


def leaves() -> list[Ref]:
    raise SystemExit(3)


def asserts() -> list[Ref]:
    raise AssertionError("never")


def breaks_half_way() -> Iterator[Ref]:
    yield Ref("A", "acme:A")
    raise ZeroDivisionError("half way")


def returns_classes() -> list[Any]:
    return [Host]


def returns_one() -> Any:
    return Ref("A", "acme:A")


@pytest.mark.parametrize(
    ("hook", "cause"),
    [
        (leaves, "SystemExit: 3"),
        (asserts, "AssertionError: never"),
        (breaks_half_way, "ZeroDivisionError: half way"),
        (returns_classes, "which is no Ref"),
        (returns_one, "returned one Ref, not a list"),
    ],
)
def test_a_hook_that_misbehaves_is_recorded_and_the_others_go_on(hook: Any, cause: str) -> None:
    host = Host()
    host.register("bad", SimpleNamespace(flux_operators=hookimpl(hook)))
    host.register("good", offering("flux_operators", "A"))
    assert [o.provider for o in host.operators()] == ["good"]
    assert [(f.provider, f.hook) for f in host.faults] == [("bad", "flux_operators")]
    assert cause in host.faults[0].message


def test_a_generator_and_none_are_lists_too() -> None:
    def operators() -> Iterator[Ref]:
        yield Ref("A", "acme:A")

    host = Host()
    host.register("acme", provider(flux_operators=operators, flux_sensors=lambda: None))
    assert [o.ref.name for o in host.operators()] == ["A"]
    assert host.sensors() == ()
    assert host.faults == ()


# --- events ---


def told_of(host: Host) -> dict[str, Callable[[], Any]]:
    """Each event, told once."""
    return {
        "flux_task_state_changed": lambda: host.task_state_changed(TASK_INSTANCE, "started", "success"),
        "flux_dag_run_state_changed": lambda: host.dag_run_state_changed(DAG_RUN, "running", "success"),
        "flux_component_started": lambda: host.component_started(SUPERVISOR),
        "flux_component_stopping": lambda: host.component_stopping(SUPERVISOR),
    }


@pytest.mark.parametrize("event", told_of(Host()))
def test_a_listener_that_raises_does_not_keep_the_others_from_being_told(event: str) -> None:
    told: list[str] = []

    def listener(name: str, error: BaseException | None = None) -> Callable[[], None]:
        def hear() -> None:
            told.append(name)
            if error is not None:
                raise error

        return hear

    host = Host()
    host.register("first", provider(**{event: listener("first", SystemExit(3))}))
    host.register("second", provider(**{event: listener("second", ValueError("no"))}))
    host.register("third", provider(**{event: listener("third")}))
    faults = told_of(host)[event]()
    assert told == ["first", "second", "third"]
    assert [(f.provider, f.hook, f.message) for f in faults] == [
        ("first", event, "SystemExit: 3"),
        ("second", event, "ValueError: no"),
    ]


def test_a_listener_gets_the_arguments_it_names_in_its_own_order() -> None:
    heard: list[Any] = []
    host = Host()
    host.register(
        "one", provider(flux_task_state_changed=lambda state, task_instance: heard.append((state, task_instance)))
    )
    host.register("two", provider(flux_dag_run_state_changed=lambda previous: heard.append(previous)))
    host.task_state_changed(TASK_INSTANCE, "started", "success")
    host.dag_run_state_changed(DAG_RUN, "running", "success")
    assert heard == [("success", TASK_INSTANCE), "running"]


def test_a_later_listener_is_told_of_the_components_that_still_run() -> None:
    heard: list[Component] = []
    launcher = Component("launcher", 4712, "here", NOW)
    host = Host()
    host.component_started(SUPERVISOR)
    host.component_started(launcher)
    host.component_stopping(launcher)
    host.register("late", provider(flux_component_started=lambda component: heard.append(component)))
    assert heard == [SUPERVISOR]
    host.register("later", provider(flux_component_started=lambda component: heard.append(component)))
    assert heard == [SUPERVISOR, SUPERVISOR], "the first listener hears it once"


def test_a_later_listener_that_raises_is_registered_and_recorded() -> None:
    host = Host()
    host.component_started(SUPERVISOR)
    host.register("late", provider(flux_component_started=lambda: 1 / 0))
    assert [(f.provider, f.hook) for f in host.faults] == [("late", "flux_component_started")]


def test_who_watches_knows_whose_call_it_is() -> None:
    calls: list[tuple[str, str]] = []
    host = Host(before_event=lambda provider, hook: calls.append((provider, hook)))
    host.register("one", provider(flux_component_stopping=lambda: calls.append(("one", "called"))))
    host.register("two", provider(flux_component_stopping=lambda: calls.append(("two", "called"))))
    host.component_stopping(SUPERVISOR)
    assert calls == [
        ("one", "flux_component_stopping"),
        ("one", "called"),
        ("two", "flux_component_stopping"),
        ("two", "called"),
    ]


# --- decision ---


def test_each_policy_sees_what_the_one_before_changed() -> None:
    task = EmptyOperator(task_id="load")
    seen: list[str | None] = []

    def first(task: Any) -> None:
        task.pool = "small"

    host = Host()
    host.register("first", provider(flux_task_policy=first))
    host.register("second", provider(flux_task_policy=lambda task: seen.append(task.pool)))
    host.task_policy(task)
    assert seen == ["small"]


def test_a_policy_that_refuses_ends_the_asking_and_names_provider_and_task() -> None:
    def refuse(task: Any) -> None:
        raise PolicyViolation("Name an owner.")

    asked: list[str] = []
    host = Host()
    host.register("strict", provider(flux_task_policy=refuse))
    host.register("other", provider(flux_task_policy=lambda: asked.append("other")))
    with pytest.raises(PolicyViolation, match=r"Task 'load' is refused by provider 'strict': Name an owner\."):
        host.task_policy(EmptyOperator(task_id="load"))
    assert asked == []


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), AssertionError("no")])
def test_a_policy_that_fails_lets_no_task_pass(error: BaseException) -> None:
    def fail(task: Any) -> None:
        raise error

    host = Host()
    host.register("acme", provider(flux_task_policy=fail))
    with pytest.raises(PluginError, match=r"policy of provider 'acme' failed on task 'load'") as caught:
        host.task_policy(EmptyOperator(task_id="load"))
    assert caught.value.__cause__ is error

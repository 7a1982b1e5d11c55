"""Names that two providers want."""

from __future__ import annotations

from typing import Any

import pytest

from flux.plugins import ConnectionType, Ref
from flux.plugins.catalogue import CORE
from flux.plugins.clashes import over_name, settle
from flux.plugins.scan import Found
from flux.plugins.verdict import ProviderState, Verdict


def entry(name: str, distribution: str) -> Found:
    return Found(name, distribution, "0.3", "acme.provider", "flux.providers")


def verdict(name: str, **offers: Any) -> Verdict:
    return Verdict(name, f"flux-provider-{name}", "0.3", ProviderState.OK, **offers)


CORE_VERDICT = verdict(
    CORE,
    executors=(Ref("local", "a:B"),),
    operators=(Ref("BashOperator", "a:B"),),
    connection_types=(ConnectionType("file", client=Ref("C", "a:C")),),
)


def test_two_distributions_of_one_provider_name_are_both_in_conflict_and_name_each_other() -> None:
    one, two = entry("acme", "acme-a"), entry("acme", "acme-b")
    first, second = over_name(one, [one, two]), over_name(two, [one, two])
    assert first is not None
    assert second is not None
    assert (first.state, second.state) == (ProviderState.CONFLICT, ProviderState.CONFLICT)
    assert "acme-b 0.3" in str(first.reason)
    assert "acme-a 0.3" in str(second.reason)


def test_a_name_of_its_own_is_no_conflict() -> None:
    assert over_name(entry("acme", "acme-a"), [entry("acme", "acme-a")]) is None


@pytest.mark.parametrize("name", ["core", "local"])
def test_flux_keeps_its_own_provider_names(name: str) -> None:
    found = over_name(entry(name, "acme-a"), [entry(name, "acme-a")])
    assert found is not None
    assert "belongs to Flux" in str(found.reason)


@pytest.mark.parametrize(
    "offers",
    [
        {"executors": (Ref("local", "acme:Local"),)},
        {"connection_types": (ConnectionType("file", client=Ref("C", "acme:C")),)},
    ],
    ids=lambda offers: next(iter(offers)),
)
def test_who_takes_the_name_of_a_core_executor_or_connection_type_is_in_conflict(offers: dict[str, Any]) -> None:
    _, acme = settle([CORE_VERDICT, verdict("acme", **offers)])
    assert acme.state is ProviderState.CONFLICT
    assert "of one of Flux's own" in str(acme.reason)
    assert acme.executors == ()


def test_a_shared_operator_name_is_a_note_on_both() -> None:
    operators = (Ref("Load", "acme:Load"),)
    core, one, two = settle([CORE_VERDICT, verdict("one", operators=operators), verdict("two", operators=operators)])
    assert one.is_ok
    assert one.notes == ("Its operator 'Load' is also offered by two: find this one as one.Load.",)
    assert two.notes == ("Its operator 'Load' is also offered by one: find this one as two.Load.",)
    assert core.notes == ()


def test_a_shared_executor_name_is_a_note_that_neither_can_be_used() -> None:
    executors = (Ref("far", "acme:Far"),)
    _, one, _ = settle([CORE_VERDICT, verdict("one", executors=executors), verdict("two", executors=executors)])
    assert one.is_ok
    assert "neither can be used" in one.notes[0]


def test_what_is_not_ok_clashes_with_nobody() -> None:
    bad = Verdict("bad", None, None, ProviderState.BROKEN, "Why.", operators=(Ref("Load", "acme:Load"),))
    seen = settle([CORE_VERDICT, bad, verdict("one", operators=(Ref("Load", "acme:Load"),))])
    assert [each.notes for each in seen] == [(), (), ()]

"""What a reference must load as. Whole providers are tried by `flux provider check`, in tests/core/cli."""

from __future__ import annotations

import pytest

from flux.builtin import core_verdict
from flux.plugins import ConnectionType, Ref
from flux.plugins.references import offered, problems
from flux.plugins.verdict import ProviderState, Verdict

CLIENT = Ref("Pool", "concurrent.futures:ThreadPoolExecutor")


def verdict(**offers: tuple[object, ...]) -> Verdict:
    return Verdict("acme", None, None, ProviderState.OK, **offers)  # type: ignore[arg-type]


def test_core_has_no_problem() -> None:
    assert list(problems(core_verdict())) == []


def test_everything_is_offered_with_its_kind() -> None:
    found = verdict(operators=(Ref("A", "a:A"),), connection_types=(ConnectionType("c", client=CLIENT),))
    assert list(offered(found)) == [("operator", Ref("A", "a:A")), ("client", CLIENT)]


@pytest.mark.parametrize(
    ("offers", "words"),
    [
        ({"operators": (Ref("A", "no_such_module:A"),)}, "No module named 'no_such_module'"),
        ({"operators": (Ref("FileSensor", "flux.sensors:FileSensor"),)}, "is a sensor: offer it by flux_sensors()"),
        ({"sensors": (Ref("A", "flux.operators:BashOperator"),)}, "is no BaseSensor"),
        ({"executors": (Ref("a", "flux.executor:Assignment"),)}, "is no BaseExecutor"),
        ({"executors": (Ref("a", "flux.executor:BaseExecutor"),)}, "does not define cancel, start, stop()"),
        ({"macros": (Ref("a", "os:sep"),)}, "is no function"),
        ({"connection_types": (ConnectionType("c", client=CLIENT),)}, "has no method check()"),
    ],
)
def test_what_is_of_another_kind_is_a_problem(offers: dict[str, tuple[object, ...]], words: str) -> None:
    (problem,) = problems(verdict(**offers))
    assert words in problem

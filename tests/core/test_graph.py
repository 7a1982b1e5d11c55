from __future__ import annotations

import random

import pytest

from flux.errors import Cycle
from flux.graph import order, reach, reach_sums, reversed_edges


def names(count: int) -> list[str]:
    return [f"t{node}" for node in range(count)]


def test_order_keeps_the_authors_order_where_edges_leave_a_choice() -> None:
    assert order(4, [[], [0], [], []], names(4)) == [1, 0, 2, 3]


def test_an_empty_graph_has_an_empty_order() -> None:
    assert order(0, [], []) == []


def test_every_node_comes_after_its_upstream_in_random_graphs() -> None:
    source = random.Random(7)
    for _ in range(200):
        count = source.randrange(1, 30)
        label = list(range(count))
        source.shuffle(label)
        pairs = {tuple(sorted(source.sample(range(count), 2))) for _ in range(count * 2) if count > 1}
        downstream: list[list[int]] = [[] for _ in range(count)]
        for low, high in sorted(pairs):
            downstream[label[low]].append(label[high])
        found = order(count, downstream, names(count))
        place = {node: index for index, node in enumerate(found)}
        assert sorted(found) == list(range(count))
        assert all(place[node] < place[after] for node in range(count) for after in downstream[node])


@pytest.mark.parametrize(
    ("downstream", "shown"),
    [
        ([[1], [2], [1]], "t1 -> t2 -> t1"),
        ([[0]], "t0 -> t0"),
        ([[1, 3], [2], [0], []], "t0 -> t1 -> t2 -> t0"),
        ([[], [0, 2], [3], [2, 0]], "t2 -> t3 -> t2"),
    ],
)
def test_a_cycle_is_named_in_the_direction_of_its_edges(downstream: list[list[int]], shown: str) -> None:
    with pytest.raises(Cycle) as caught:
        order(len(downstream), downstream, names(len(downstream)))
    assert str(caught.value) == f"cycle: {shown}. Remove one of these dependencies."


def test_a_long_cycle_is_abridged() -> None:
    with pytest.raises(Cycle, match=r"t0 -> t1 .* … 981 more … .* t999 -> t0") as caught:
        order(1000, [[(node + 1) % 1000] for node in range(1000)], names(1000))
    assert len(str(caught.value)) < 400


def test_reach_is_everything_below_without_the_start() -> None:
    downstream = [[1, 2], [3], [3], [], [0]]
    assert reach([0], downstream) == {1, 2, 3}
    assert reach([1, 2], downstream) == {3}
    assert reach([3], downstream) == set()


def test_upstream_is_ascending() -> None:
    assert reversed_edges([[2], [2, 0], []]) == [[1], [], [0, 1]]


def test_sums_count_every_reached_node_once() -> None:
    """A diamond: the node below both sides counts once."""
    assert reach_sums([0, 1, 2, 3], [[1, 2], [3], [3], []], [1, 10, 100, 1000]) == [1111, 1010, 1100, 1000]


def test_sums_agree_with_plain_counting_for_any_weights() -> None:
    source = random.Random(11)
    for _ in range(100):
        count = source.randrange(1, 25)
        downstream = [
            sorted(source.sample(range(node + 1, count), source.randrange(0, min(4, count - node))))
            for node in range(count)
        ]
        weights = [source.choice([0, 1, 1, -7, 3, 12_345, 2**40]) for _ in range(count)]
        expected = [weights[n] + sum(weights[m] for m in reach([n], downstream)) for n in range(count)]
        assert reach_sums(range(count), downstream, weights) == expected


def test_sums_of_no_nodes_are_none() -> None:
    assert reach_sums([], [], []) == []


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["chain", "layers", "fan"])
def test_ten_thousand_nodes_are_normal(shape: str) -> None:
    count = 10_000
    if shape == "chain":
        downstream = [[node + 1] if node + 1 < count else [] for node in range(count)]
    elif shape == "layers":
        downstream = [list(range((node // 50 + 1) * 50, min(count, (node // 50 + 2) * 50))) for node in range(count)]
    else:
        downstream = [list(range(1, count)), *([] for _ in range(count - 1))]
    found = order(count, downstream, names(count))
    sums = reach_sums(found, downstream, [1 + node % 1000 for node in range(count)])
    assert found == list(range(count))
    assert sums[0] == sum(1 + node % 1000 for node in range(count)) - (0 if shape != "layers" else sum(range(2, 51)))

"""Directed graphs of numbered nodes: order, cycles, reach, sums. Iterative; a graph of 10,000 nodes is normal.

A graph is a sequence `downstream` in which `downstream[i]` holds the nodes that come after node `i`, each once.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from flux.errors import Cycle

#: A cycle longer than this is abridged in messages.
_SHOWN = 20


def order(count: int, downstream: Sequence[Sequence[int]], names: Sequence[str]) -> list[int]:
    """Return all nodes, each after everything upstream of it; where that leaves a choice, the smaller number first.

    Raises:
        Cycle: the message begins "cycle: a -> b -> a", in the direction of the edges.
    """
    open_edges = [0] * count
    for nodes in downstream:
        for node in nodes:
            open_edges[node] += 1
    free = [node for node in range(count) if not open_edges[node]]
    done: list[int] = []
    while free:
        node = heapq.heappop(free)
        done.append(node)
        for after in downstream[node]:
            open_edges[after] -= 1
            if not open_edges[after]:
                heapq.heappush(free, after)
    if len(done) < count:
        raise Cycle(f"cycle: {_shown(_cycle(open_edges, downstream), names)}. Remove one of these dependencies.")
    return done


def _cycle(open_edges: Sequence[int], downstream: Sequence[Sequence[int]]) -> list[int]:
    """One cycle among the nodes that have open edges, in edge order, its smallest node first and not repeated."""
    before: dict[int, int] = {}
    for node, left in enumerate(open_edges):
        if left:
            for after in downstream[node]:
                before.setdefault(after, node)
    # What is left has a predecessor that is left too, so walking back must come round.
    node = next(node for node, left in enumerate(open_edges) if left)
    seen: dict[int, int] = {}
    walk: list[int] = []
    while node not in seen:
        seen[node] = len(walk)
        walk.append(node)
        node = before[node]
    cycle = walk[seen[node] :][::-1]
    first = cycle.index(min(cycle))
    return cycle[first:] + cycle[:first]


def _shown(cycle: Sequence[int], names: Sequence[str]) -> str:
    shown = [names[node] for node in (*cycle, cycle[0])]
    if len(shown) > _SHOWN:
        shown[_SHOWN // 2 : -_SHOWN // 2] = [f"… {len(shown) - _SHOWN} more …"]
    return " -> ".join(shown)


def reach(starts: Iterable[int], edges: Sequence[Sequence[int]]) -> set[int]:
    """Return everything that can be reached from `starts`; a start itself only if an edge leads to it."""
    found: set[int] = set()
    todo = list(starts)
    while todo:
        for node in edges[todo.pop()]:
            if node not in found:
                found.add(node)
                todo.append(node)
    return found


def reversed_edges(downstream: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the upstream of every node, ascending."""
    upstream: list[list[int]] = [[] for _ in downstream]
    for node, nodes in enumerate(downstream):
        for after in nodes:
            upstream[after].append(node)
    return upstream


def reach_sums(sequence: Sequence[int], downstream: Sequence[Sequence[int]], weights: Sequence[int]) -> list[int]:
    """Return for every node its own weight and that of everything it reaches, each node counted once. Exact.

    `sequence` is a topological order. What a node reaches is a bit set (one int), so the cost is a fast OR per
    edge; the weights are added bit by bit, by counting the ones under a mask for each binary digit.
    """
    lowest = min(weights, default=0)
    masks: dict[int, int] = {}
    for node, weight in enumerate(weights):
        excess, digit = weight - lowest, 1
        while excess >= digit:
            if excess & digit:
                masks[digit] = masks.get(digit, 0) | 1 << node
            digit <<= 1
    upstream_left = [len(nodes) for nodes in reversed_edges(downstream)]
    reached: dict[int, int] = {}
    sums = [0] * len(weights)
    for node in reversed(sequence):
        bits = 1 << node
        for after in downstream[node]:
            bits |= reached[after]
            upstream_left[after] -= 1
            if not upstream_left[after]:
                del reached[after]
        reached[node] = bits
        sums[node] = lowest * bits.bit_count()
        sums[node] += sum(digit * (bits & mask).bit_count() for digit, mask in masks.items())
    return sums

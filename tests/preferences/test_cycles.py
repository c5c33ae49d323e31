"""Components and shortest cycles against brute force over small graphs."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from edit_r1.preferences.cycles import components, shortest_cycle


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, list[int]]:
    size = draw(st.integers(1, 6))
    edges = draw(st.sets(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=14))
    return {node: sorted(b for a, b in edges if a == node) for node in range(size)}


def reaches(graph: dict[int, list[int]], start: int) -> set[int]:
    """Nodes at the end of a path of at least one edge."""
    found: set[int] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph[node]
    return found


@given(graphs())
def test_components_are_the_nodes_that_reach_each_other(graph: dict[int, list[int]]) -> None:
    reach = {node: reaches(graph, node) for node in graph}
    expected = {
        frozenset({node, *(other for other in graph if other in reach[node] and node in reach[other])})
        for node in graph
    }
    assert {frozenset(component) for component in components(graph)} == expected
    assert sorted(node for component in components(graph) for node in component) == sorted(graph)


@given(graphs())
def test_no_cycle_is_shorter(graph: dict[int, list[int]]) -> None:
    for component in components(graph):
        found = shortest_cycle(graph, component)
        lengths = [
            length
            for length in range(1, len(component) + 1)
            if any(
                all(path[(n + 1) % length] in graph[path[n]] for n in range(length))
                for path in permutations(component, length)
            )
        ]
        assert len(found) == min(lengths, default=0)
        assert all(found[(n + 1) % len(found)] in graph[found[n]] for n in range(len(found)))
        assert len(set(found)) == len(found)


def test_a_long_chain_needs_no_recursion() -> None:
    chain = {node: [node + 1] for node in range(20_000)} | {20_000: [0]}
    (only,) = components(chain)
    assert len(only) == 20_001

"""Intransitive preferences: cycles in the graph of who beats whom."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)
Graph = Mapping[Node, Sequence[Node]]
"""Each node with those that it beats; every node is a key."""


def components(graph: Graph[Node]) -> list[list[Node]]:
    """Strongly connected components, by Tarjan's algorithm without recursion; nodes in the order of the graph."""
    order: dict[Node, int] = {}
    low: dict[Node, int] = {}
    stack: list[Node] = []
    on_stack: set[Node] = set()
    found: list[list[Node]] = []
    place = {node: number for number, node in enumerate(graph)}
    for root in graph:
        if root in order:
            continue
        order[root] = low[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        work = [(root, iter(graph[root]))]
        while work:
            node, beaten = work[-1]
            follower = next(beaten, None)
            if follower is None:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == order[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    found.append(sorted(component, key=place.__getitem__))
            elif follower not in order:
                order[follower] = low[follower] = len(order)
                stack.append(follower)
                on_stack.add(follower)
                work.append((follower, iter(graph[follower])))
            elif follower in on_stack:
                low[node] = min(low[node], order[follower])
    return found


def shortest_cycle(graph: Graph[Node], component: Sequence[Node]) -> list[Node]:
    """A shortest cycle among the nodes of a strongly connected component, each beating the next and the last the first.

    Empty for a component without one: a single node that does not beat itself.
    """
    inside = set(component)
    best: list[Node] = []
    for start in component:
        before: dict[Node, Node] = {}
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            if start in graph[node]:
                path = [node]
                while path[-1] != start:
                    path.append(before[path[-1]])
                if not best or len(path) < len(best):
                    best = path[::-1]
                break
            for follower in graph[node]:
                if follower in inside and follower not in before and follower != start:
                    before[follower] = node
                    waiting.append(follower)
    return best

"""The slow, obvious twins of the kernels in features/graph.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Edges = Sequence[tuple[int, int]]


def operands(edges: Edges, n_nodes: int) -> list[list[int]]:
    """Return what each node consumes, in the order of the edges."""
    return [[v for u, v in edges if u == node] for node in range(n_nodes)]


def users(edges: Edges, n_nodes: int) -> list[list[int]]:
    """Return what consumes each node, in the order of the edges."""
    return [[u for u, v in edges if v == node] for node in range(n_nodes)]


def longest_path(neighbours: Sequence[Sequence[int]], node: int) -> int:
    """Return the longest walk from ``node`` along ``neighbours``."""
    return max((1 + longest_path(neighbours, other) for other in neighbours[node]), default=0)


def hops(edges: Edges, n_nodes: int, seeds: Iterable[int], k: int) -> list[int]:
    """Return the undirected distance to the nearest seed, -1 beyond ``k``: one ring after the other."""
    ring = set(seeds)
    distance = dict.fromkeys(ring, 0)
    for step in range(1, k + 1):
        ring = {b for edge in edges for a, b in (edge, edge[::-1]) if a in ring and b not in distance}
        distance |= dict.fromkeys(ring, step)
    return [distance.get(node, -1) for node in range(n_nodes)]

"""A graph as arrays: adjacency in both directions, depth, k-hop sets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features._numba import kernel

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Csr:
    """Neighbour lists as one flat array: those of node ``i`` are ``items[indptr[i]:indptr[i + 1]]``."""

    indptr: IntArray
    items: IntArray

    def of(self, node: int) -> IntArray:
        """Neighbours of ``node``, in the order of the edges."""
        return self.items[self.indptr[node] : self.indptr[node + 1]]

    @property
    def counts(self) -> IntArray:
        """Neighbours per node, int64 (n,)."""
        return np.diff(self.indptr)


@kernel()
def _csr(keys, items, n_nodes):  # type: ignore[no-untyped-def]
    indptr = np.zeros(n_nodes + 1, np.int64)
    for key in keys:
        indptr[key + 1] += 1
    for node in range(n_nodes):
        indptr[node + 1] += indptr[node]
    place = indptr[:-1].copy()
    out = np.empty(len(keys), np.int64)
    for edge in range(len(keys)):
        key = keys[edge]
        out[place[key]] = items[edge]
        place[key] += 1
    return indptr, out


@kernel()
def _longest_path(indptr, items, forward):  # type: ignore[no-untyped-def]
    n_nodes = len(indptr) - 1
    length = np.zeros(n_nodes, np.int64)
    for step in range(n_nodes):
        node = step if forward else n_nodes - 1 - step
        for slot in range(indptr[node], indptr[node + 1]):
            length[node] = max(length[node], length[items[slot]] + 1)
    return length


@kernel()
def _hops(indptr_a, items_a, indptr_b, items_b, seeds, k):  # type: ignore[no-untyped-def]
    distance = np.full(len(indptr_a) - 1, -1, np.int64)
    queue = np.empty(len(indptr_a) - 1, np.int64)
    head, tail = 0, 0
    for seed in seeds:
        if distance[seed] < 0:
            distance[seed] = 0
            queue[tail] = seed
            tail += 1
    while head < tail:
        node = queue[head]
        head += 1
        if distance[node] == k:
            continue
        for slot in range(indptr_a[node], indptr_a[node + 1]):
            other = items_a[slot]
            if distance[other] < 0:
                distance[other] = distance[node] + 1
                queue[tail] = other
                tail += 1
        for slot in range(indptr_b[node], indptr_b[node + 1]):
            other = items_b[slot]
            if distance[other] < 0:
                distance[other] = distance[node] + 1
                queue[tail] = other
                tail += 1
    return distance


@dataclass(frozen=True)
class Program:
    """A tensor program as arrays, the common input of every extractor.

    Parameters
    ----------
    opcode : uint8 (n,)
        Opcode ids of :data:`features.hlo.OPCODES`.
    feat : float32 (n, 140)
        Columns of :data:`features.hlo.NODE_FEAT`.
    edges : int64 (m, 2)
        Row (u, v): u consumes the output of v; operands come first, so v < u.
    """

    opcode: NDArray[np.uint8]
    feat: NDArray[np.float32]
    edges: IntArray

    def __len__(self) -> int:
        return len(self.opcode)

    @cached_property
    def operands(self) -> Csr:
        """What each node consumes."""
        return Csr(*_csr(self.edges[:, 0], self.edges[:, 1], len(self)))

    @cached_property
    def users(self) -> Csr:
        """What consumes each node."""
        return Csr(*_csr(self.edges[:, 1], self.edges[:, 0], len(self)))

    @cached_property
    def depth(self) -> IntArray:
        """Longest path from a node without operands, in edges, int64 (n,)."""
        return np.asarray(_longest_path(self.operands.indptr, self.operands.items, True))

    @cached_property
    def height(self) -> IntArray:
        """Longest path to a node without users, in edges, int64 (n,)."""
        return np.asarray(_longest_path(self.users.indptr, self.users.items, False))

    def hops(self, seeds: ArrayLike, k: int) -> IntArray:
        """Undirected distance to the nearest of ``seeds`` in edges, int64 (n,); -1 beyond ``k``."""
        start = np.asarray(seeds, np.int64).reshape(-1)
        return np.asarray(_hops(*_flat(self.operands), *_flat(self.users), start, k))


def _flat(csr: Csr) -> tuple[IntArray, IntArray]:
    return csr.indptr, csr.items

"""A tensor program as arrays: adjacency in both directions, depth, distances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features._numba import kernel

IntArray = NDArray[np.int64]


class Csr(NamedTuple):
    """Neighbour lists in one flat array: node ``i`` has the neighbours ``items[indptr[i]:indptr[i + 1]]``."""

    indptr: IntArray
    items: IntArray

    def of(self, node: int) -> IntArray:
        """Neighbours of ``node``, in the order of the edges."""
        return self.items[self.indptr[node] : self.indptr[node + 1]]

    @property
    def counts(self) -> IntArray:
        """Neighbours per node, int64 (n,)."""
        return np.diff(self.indptr)


def _csr(keys: IntArray, items: IntArray, n_nodes: int) -> Csr:
    indptr = np.zeros(n_nodes + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=n_nodes), out=indptr[1:])
    return Csr(indptr, items[np.argsort(keys, kind="stable")])


@kernel()
def _depth(operands):  # type: ignore[no-untyped-def]
    depth = np.zeros(len(operands.indptr) - 1, np.int64)
    for node in range(len(depth)):
        for index in range(operands.indptr[node], operands.indptr[node + 1]):
            depth[node] = max(depth[node], depth[operands.items[index]] + 1)
    return depth


@dataclass(frozen=True)
class Program:
    """A tensor program as arrays, the common input of every extractor.

    Parameters
    ----------
    opcode : uint8 (n,)
        Opcode ids, see :data:`features.hlo.OPCODES`.
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
        """Nodes that each node consumes."""
        return _csr(self.edges[:, 0], self.edges[:, 1], len(self))

    @cached_property
    def users(self) -> Csr:
        """Nodes that consume each node."""
        return _csr(self.edges[:, 1], self.edges[:, 0], len(self))

    @cached_property
    def depth(self) -> IntArray:
        """Length of the longest path from a node without operands, in edges, int64 (n,)."""
        return np.asarray(_depth(self.operands))

    def hops(self, seeds: ArrayLike, k: int) -> IntArray:
        """Undirected distance to the nearest of ``seeds`` in edges, int64 (n,); -1 beyond ``k``."""
        distance = np.full(len(self), -1, np.int64)
        distance[np.asarray(seeds, np.int64).reshape(-1)] = 0
        ends, others = np.concatenate([self.edges, self.edges[:, ::-1]]).T
        for step in range(k):
            near = others[distance[ends] == step]
            distance[near[distance[near] < 0]] = step + 1
        return distance

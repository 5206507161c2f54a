"""A tensor program as arrays: adjacency in both directions, and depth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel

IntArray = NDArray[np.int64]


class Csr(NamedTuple):
    """Neighbour lists in one flat array: node ``i`` has the neighbours ``items[indptr[i]:indptr[i + 1]]``."""

    indptr: IntArray
    items: IntArray

    def of(self, node: int) -> IntArray:
        """Neighbours of ``node``, in the order of the edges."""
        return self.items[self.indptr[node] : self.indptr[node + 1]]


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
    """A tensor program as arrays, the common input of every extractor."""

    opcode: NDArray[np.uint8]  # (n,): ids, see features.hlo.OPCODES
    feat: NDArray[np.float32]  # (n, 140): columns of features.hlo.NODE_FEAT
    edges: IntArray  # (m, 2): row (u, v): u consumes the output of v; operands come first, so v < u

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

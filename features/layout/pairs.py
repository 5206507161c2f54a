"""Rows by their place among those of their node, and what is told of a link by the rows on its two sides.

Two connected nodes take few distinct rows each.  What a link asks of them is worked out once for every pair of rows
that they can take together, and looked up in every configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel

IntArray = NDArray[np.int64]

#: A place takes a byte; where nodes have more rows, or links more pairs together, nothing is tabulated.
_MOST_ROWS: Final = 256
_MOST_PAIRS: Final = 1 << 20
#: Nodes that are turned over at a time: as many codes as a line of cache holds.
_TILE: Final = 16


@kernel()
def _turn(codes, place, out):  # type: ignore[no-untyped-def]
    n_configs, n_nodes = codes.shape
    for first in range(0, n_nodes, _TILE):
        last = min(first + _TILE, n_nodes)
        for config in range(n_configs):
            for node in range(first, last):
                out[node, config] = place[codes[config, node]]


@dataclass(frozen=True)
class PairTable:
    """A word for every pair of rows that the two sides of a link can take.

    Parameters
    ----------
    first : int64 (links + 1,)
        Number of each link's first pair; those of one row of the first side follow one another.
    width : int64 (links,)
        Rows of the second side.
    words : int64 (pairs,)
    """

    first: IntArray
    width: IntArray
    words: IntArray


class Places:
    """Rows by number, node by node; grows as rows are discovered.

    Parameters
    ----------
    n_nodes : int

    Attributes
    ----------
    rows : int64 (rows,)
        Numbers of the rows, node by node, each node's in order of discovery.
    first : int64 (nodes + 1,)
        Where each node's begin.
    """

    def __init__(self, n_nodes: int) -> None:
        self._owner = np.zeros(0, np.int64)
        self._count = np.zeros(n_nodes, np.int64)
        self._place = np.zeros(0, np.uint8)
        self.add(self._owner)

    @property
    def told(self) -> bool:
        """Whether a byte tells the rows of every node apart."""
        return bool(self._count.max(initial=0) <= _MOST_ROWS)

    def add(self, owner: IntArray) -> None:
        """Take in the rows that come next, of the nodes ``owner``, int64 (new rows,)."""
        known = len(self._owner)
        self._owner = np.concatenate([self._owner, owner])
        self._count = np.bincount(self._owner, minlength=len(self._count))
        self.first = np.concatenate([[0], np.cumsum(self._count)])
        self.rows = np.argsort(self._owner, kind="stable")
        place = np.empty(len(self._owner), np.int64)
        place[self.rows] = np.arange(len(self._owner)) - self.first[self._owner[self.rows]]
        self._place = np.concatenate([self._place, place[known:].astype(np.uint8)])

    def turned(self, codes: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.uint8]:
        """Places of coded configurations (b, nodes), node by node: uint8 (nodes, b).  Only where :attr:`told`."""
        out = np.empty(codes.shape[::-1], np.uint8)
        _turn(codes, self._place, out)
        return out

    def pairs(self, links: IntArray) -> PairTable | None:
        """An empty table of the pairs of rows of every link, or ``None`` where they are too many.

        Parameters
        ----------
        links : int64 (links, 2)
            Nodes.
        """
        width = self._count[links[:, 1]]
        first = np.concatenate([[0], np.cumsum(self._count[links[:, 0]] * width)])
        if not self.told or first[-1] > _MOST_PAIRS:
            return None
        return PairTable(first, width, np.zeros(first[-1], np.int64))

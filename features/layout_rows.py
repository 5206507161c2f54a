"""Dictionary coding of layout configurations: a node takes few distinct rows, however many configurations there are.

A row is 18 slots of -1..5, three bits each, 54 bits: one integer.  Every node keeps the rows seen so far in order of
appearance; a configuration becomes one small number per node.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features._jit import kernel
from features.hlo import LAYOUT_CONFIG

IntArray = NDArray[np.int64]
Codes = NDArray[np.uint16]

_WIDTH = len(LAYOUT_CONFIG)
_FIRST_CAPACITY = 8
_MAX_CAPACITY = 1 << 16


@kernel()
def _encode(block, first, keys, counts, used, codes, digests):  # type: ignore[no-untyped-def]
    """Code configurations from ``first`` on; returns where a node's table is full, or the number of configurations."""
    n_configs, n_nodes, width = block.shape
    capacity = keys.shape[1]
    for config in range(first, n_configs):
        for node in range(n_nodes):  # a full table must be found before anything of this configuration is counted
            key = np.uint64(0)
            for slot in range(width):
                key = (key << np.uint64(3)) | np.uint64(block[config, node, slot] + 1)
            place = 0
            while place < used[node] and keys[node, place] != key:
                place += 1
            if place == used[node]:
                if place == capacity:
                    return config
                keys[node, place] = key
                used[node] += 1
            codes[config, node] = place
        low, high = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
        for node in range(n_nodes):
            place = codes[config, node]
            counts[node, place] += 1
            low = (low ^ np.uint64(place)) * np.uint64(0xFF51AFD7ED558CCD)
            low ^= low >> np.uint64(32)
            high = (high + np.uint64(place)) * np.uint64(0x9FB21C651E98DF25)
            high ^= high >> np.uint64(29)
        digests[config, 0], digests[config, 1] = low, high
    return n_configs


@kernel()
def _unpack(keys, width, out):  # type: ignore[no-untyped-def]
    for row in range(len(keys)):
        key = keys[row]
        for slot in range(width):
            shift = np.uint64(3 * (width - 1 - slot))
            out[row, slot] = np.int64((key >> shift) & np.uint64(7)) - 1


class RowTable:
    """The distinct rows of every configurable node and how often each was seen.

    Parameters
    ----------
    n_nodes : int
        Configurable nodes.
    """

    def __init__(self, n_nodes: int) -> None:
        self._keys = np.zeros((n_nodes, _FIRST_CAPACITY), np.uint64)
        self._counts = np.zeros((n_nodes, _FIRST_CAPACITY), np.int64)
        self._used = np.zeros(n_nodes, np.int64)
        self.n_configs = 0

    def encode(self, block: NDArray[np.int8]) -> tuple[Codes, NDArray[np.uint64]]:
        """Code a block of configurations.

        Parameters
        ----------
        block : int8 (b, nodes, 18)
            Values -1..5.

        Returns
        -------
        codes : uint16 (b, nodes)
            Number of the row in the node's table.
        digests : uint64 (b, 2)
            128 bits that are equal where the codes are.

        Raises
        ------
        ValueError
            If one node takes more than 65,536 distinct rows.
        """
        codes = np.zeros(block.shape[:2], np.uint16)
        digests = np.zeros((len(block), 2), np.uint64)
        done = 0
        while (done := _encode(block, done, self._keys, self._counts, self._used, codes, digests)) < len(block):
            capacity = self._keys.shape[1]
            if capacity == _MAX_CAPACITY:
                raise ValueError(f"a configurable node has more than {_MAX_CAPACITY} distinct layouts")
            self._keys = np.concatenate([self._keys, np.zeros_like(self._keys)], axis=1)
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)], axis=1)
        self.n_configs += len(block)
        return codes, digests

    @property
    def offsets(self) -> IntArray:
        """First row of every node when the tables stand one after the other, int64 (nodes + 1,)."""
        return np.concatenate([[0], np.cumsum(self._used)])

    @property
    def owner(self) -> IntArray:
        """Node of every row, int64 (rows,)."""
        return np.repeat(np.arange(len(self._used)), self._used)

    @property
    def rows(self) -> NDArray[np.int64]:
        """All distinct rows, int64 (rows, 18)."""
        keys = self._keys[self._taken()]
        out = np.empty((len(keys), _WIDTH), np.int64)
        _unpack(keys, _WIDTH, out)
        return out

    @property
    def counts(self) -> IntArray:
        """Configurations that hold each row, int64 (rows,)."""
        return self._counts[self._taken()]

    def _taken(self) -> NDArray[np.bool_]:
        return np.arange(self._keys.shape[1]) < self._used[:, None]

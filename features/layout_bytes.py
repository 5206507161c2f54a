"""Looking up rows of layouts that come as bytes: a quarter of what the same rows take in a file.

A search asks for the same rows again and again; a row that is known is found by its 18 bytes, without the float32 that
files hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features._jit import kernel
from features.hlo import LAYOUT_CONFIG

IntArray = NDArray[np.int64]

_WIDTH = len(LAYOUT_CONFIG)
_CHAIN_BITS = 6


@kernel()
def _lookup(pairs, first, second, heads, following, words, codes):  # type: ignore[no-untyped-def]
    """Code configurations, pairs of bytes (b, nodes, 9), up to the first that has an unknown row; returns its place."""
    shift = np.uint64(64 - _CHAIN_BITS)
    for config in range(len(pairs)):
        for node in range(pairs.shape[1]):
            low, high = np.uint64(0), np.uint64(0)
            for place in range(4):
                low |= np.uint64(pairs[config, node, place]) << np.uint64(16 * place)
                high |= np.uint64(pairs[config, node, 4 + place]) << np.uint64(16 * place)
            last = np.uint64(pairs[config, node, 8])
            row = heads[node, (low * first + (high ^ last) * second) >> shift]
            while row >= 0:
                if words[row, 0] == low and words[row, 1] == high and words[row, 2] == last:
                    break
                row = following[row]
            if row < 0:
                return config
            codes[config, node] = row
    return len(pairs)


@kernel()
def _enter(words, owner, known, first, second, heads, following):  # type: ignore[no-untyped-def]
    shift = np.uint64(64 - _CHAIN_BITS)
    for row in range(known, len(words)):
        place = (words[row, 0] * first + (words[row, 1] ^ words[row, 2]) * second) >> shift
        following[row] = heads[owner[row], place]
        heads[owner[row], place] = row


class ByteRows:
    """The rows that are known so far, by their bytes.

    Parameters
    ----------
    n_nodes : int
        Configurable nodes.
    factors : uint64 (2,)
        Odd random words.
    """

    def __init__(self, n_nodes: int, factors: NDArray[np.uint64]) -> None:
        self._first, self._second = factors
        self._heads = np.full((n_nodes, 1 << _CHAIN_BITS), -1, np.int32)
        self._following = np.zeros(0, np.int32)
        self._words = np.zeros((0, 3), np.uint64)

    def __len__(self) -> int:
        return len(self._words)

    def learn(self, rows: NDArray[np.integer[Any]], owner: IntArray) -> None:
        """Take in the rows that come next.

        Parameters
        ----------
        rows : integer (new rows, 18)
            In -1 … 5.
        owner : int64 (rows,)
            Nodes of all rows.
        """
        known = len(self)
        padded = np.zeros((len(rows), 24), np.int8)
        padded[:, :_WIDTH] = rows
        self._words = np.concatenate([self._words, padded.view("<u8")])
        self._following = np.concatenate([self._following, np.full(len(rows), -1, np.int32)])
        with np.errstate(over="ignore"):
            _enter(self._words, owner, known, self._first, self._second, self._heads, self._following)

    def lookup(self, block: NDArray[np.int8], codes: NDArray[np.uint32]) -> int:
        """Code configurations as far as all of their rows are known.

        Parameters
        ----------
        block : int8 (b, nodes, 18)
            C-contiguous.
        codes : uint32 (b, nodes)
            Where numbers of the rows go.

        Returns
        -------
        int
            Configurations that are coded; whatever the next ones' codes are, they have no meaning.
        """
        with np.errstate(over="ignore"):
            return int(
                _lookup(block.view("<u2"), self._first, self._second, self._heads, self._following, self._words, codes)
            )

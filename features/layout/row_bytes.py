"""Looking up rows of layouts by the 54 bits that their 18 slots hold.

A search asks for the same rows again and again.  A slot holds one of seven numbers, three bits of the float32 or the
byte that it comes as; a whole row fits one machine word, and rows are equal where these words are.  Nodes are taken a
few at a time, for all configurations of a block: what is known of them stays in the cache meanwhile.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hlo import LAYOUT_CONFIG, MAX_RANK

IntArray = NDArray[np.int64]

_WIDTH = len(LAYOUT_CONFIG)
_CHAIN_BITS = 6
#: Nodes that are taken at a time.
_TILE = 64
_LOW, _HIGH = np.float32(-1), np.float32(MAX_RANK)
#: Stands for what is no layout.
_NO_LAYOUT = np.float32(MAX_RANK + 0.5)
_BEYOND = np.uint32(0xFFFFFFF8)
#: Odd; the golden ratio's bits spread neighbours furthest (Knuth, TAOCP 6.4).
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)


@kernel()
def _of_floats(slots, out):  # type: ignore[no-untyped-def]
    """Write slots plus one as bytes; returns 0 if all of them are -1 … 5.  Free of branches: vector instructions."""
    wrong = np.uint32(0)
    for slot in range(len(slots)):
        value = slots[slot]
        value = value if (value >= _LOW) & (value < _HIGH) else _NO_LAYOUT
        number = np.int32(value)
        wrong = np.uint32(wrong | np.uint32(np.float32(number) != value))
        out[slot] = np.uint8(number + np.int32(1))
    return wrong


@kernel()
def _of_bytes(slots, out):  # type: ignore[no-untyped-def]
    wrong = np.uint32(0)
    for slot in range(len(slots)):
        number = np.uint32(np.int32(slots[slot]) + np.int32(1))
        wrong = np.uint32(wrong | np.uint32((number | np.uint32(number + np.uint32(1))) & _BEYOND))
        out[slot] = np.uint8(number & np.uint32(7))
    return wrong


@kernel()
def _key(pairs, node):  # type: ignore[no-untyped-def]
    """Pack 18 numbers of three bits, given as nine pairs of bytes."""
    low, high = np.uint64(0), np.uint64(0)
    for place in range(4):
        low |= np.uint64(pairs[node, place]) << np.uint64(16 * place)
        high |= np.uint64(pairs[node, 4 + place]) << np.uint64(16 * place)
    last = np.uint64(pairs[node, 8])
    last = (last | last >> np.uint64(5)) & np.uint64(63)
    key = low | high << np.uint64(3)  # leaves two bits of every byte to the last six
    key |= (last & np.uint64(3)) << np.uint64(6) | (last & np.uint64(12)) << np.uint64(12)
    return key | (last & np.uint64(48)) << np.uint64(18)


@kernel()
def _find(pairs, heads, following, keys, codes):  # type: ignore[no-untyped-def]
    """Number the rows of some nodes; returns something negative if one is unknown."""
    shift = np.uint64(64 - _CHAIN_BITS)
    all_of_them = np.int32(0)
    for node in range(len(codes)):
        key = _key(pairs, node)
        row = heads[node, (key * _FACTOR) >> shift]
        while row >= 0 and keys[row] != key:
            row = following[row]
        all_of_them |= row
        codes[node] = np.uint32(row & np.int32(0x7FFFFFFF))
    return all_of_them


@kernel()
def _lookup_floats(slots, heads, following, keys, codes, wrong):  # type: ignore[no-untyped-def]
    n_configs, n_nodes = codes.shape
    numbers = np.zeros((_TILE, _WIDTH), np.uint8)
    flat, pairs = numbers.reshape(-1), numbers.view(np.uint16)
    for first in range(0, n_nodes, _TILE):
        last = min(first + _TILE, n_nodes)
        of_nodes = heads[first:last]
        for config in range(n_configs):
            improper = _of_floats(slots[config, _WIDTH * first : _WIDTH * last], flat)
            found = _find(pairs, of_nodes, following, keys, codes[config, first:last])
            wrong[config] |= improper != 0 or found < 0


@kernel()
def _lookup_bytes(slots, heads, following, keys, codes, wrong):  # type: ignore[no-untyped-def]
    n_configs, n_nodes = codes.shape
    numbers = np.zeros((_TILE, _WIDTH), np.uint8)
    flat, pairs = numbers.reshape(-1), numbers.view(np.uint16)
    for first in range(0, n_nodes, _TILE):
        last = min(first + _TILE, n_nodes)
        of_nodes = heads[first:last]
        for config in range(n_configs):
            improper = _of_bytes(slots[config, _WIDTH * first : _WIDTH * last], flat)
            found = _find(pairs, of_nodes, following, keys, codes[config, first:last])
            wrong[config] |= improper != 0 or found < 0


@kernel()
def _enter(pairs, owner, known, heads, following, keys):  # type: ignore[no-untyped-def]
    shift = np.uint64(64 - _CHAIN_BITS)
    for place in range(len(pairs)):
        row = known + place
        key = _key(pairs, place)
        chain = (key * _FACTOR) >> shift
        keys[row] = key
        following[row] = heads[owner[row], chain]
        heads[owner[row], chain] = row


class KnownRows:
    """The rows that are known so far, by their slots.

    Parameters
    ----------
    n_nodes : int
        Configurable nodes.
    """

    def __init__(self, n_nodes: int) -> None:
        self._heads = np.full((n_nodes, 1 << _CHAIN_BITS), -1, np.int32)
        self._following = np.zeros(0, np.int32)
        self._keys = np.zeros(0, np.uint64)

    def __len__(self) -> int:
        return len(self._keys)

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
        self._keys = np.concatenate([self._keys, np.zeros(len(rows), np.uint64)])
        self._following = np.concatenate([self._following, np.full(len(rows), -1, np.int32)])
        pairs = np.ascontiguousarray(rows + 1, np.uint8).view(np.uint16)
        with np.errstate(over="ignore"):
            _enter(pairs, owner, known, self._heads, self._following, self._keys)

    def lookup(self, block: NDArray[np.float32] | NDArray[np.int8], codes: NDArray[np.uint32]) -> int:
        """Code configurations as far as all of their rows are known.

        Parameters
        ----------
        block : float32 or int8 (b, nodes, 18)
            C-contiguous.
        codes : uint32 (b, nodes)
            Where numbers of the rows go.

        Returns
        -------
        int
            Configurations that are coded; whatever the next ones' codes are, they have no meaning.
        """
        slots = block.reshape(len(block), -1).view()
        slots.flags.writeable = False  # as blocks of a file are: the kernel is compiled once
        wrong = np.zeros(len(block), np.bool_)
        # Hashes wrap round, and so does what is no layout; without the compiler NumPy would warn of it.
        with np.errstate(over="ignore", invalid="ignore"):
            if slots.dtype == np.int8:
                _lookup_bytes(slots, self._heads, self._following, self._keys, codes, wrong)
            else:
                _lookup_floats(slots, self._heads, self._following, self._keys, codes, wrong)
        return int(wrong.argmax()) if wrong.any() else len(block)

"""Dictionary coding of layout configurations.

A node takes few distinct rows, however many configurations there are.  Rows of all nodes are numbered together in order
of appearance, so that tables indexed by these numbers grow at their end; a configuration becomes one number per node.

A row has 18 slots with one of seven values each: three bits per slot, 54 bits per row.  Rows are equal where these keys
are.  Known rows are found for a few nodes at a time and for all configurations of a block, which keeps the chains of
these nodes in the cache; a configuration with a new row, and those behind it, are coded one by one.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hlo import LAYOUT_CONFIG, MAX_RANK

IntArray = NDArray[np.int64]
Codes = NDArray[np.uint32]
_Columns = TypeVar("_Columns", bound=tuple[Any, ...])

_WIDTH: Final = len(LAYOUT_CONFIG)
#: log2 of the chains per node: with two to nine rows, which are typical, most chains hold one.
_CHAIN_BITS: Final = 6
_FIRST_CAPACITY: Final = 1024
#: Rows, and at least so many configurations, that are looked up at a time.
_ROWS_AT_ONCE: Final = 1 << 15
_CONFIGS_AT_ONCE: Final = 32
#: Nodes that are looked up at a time.
_TILE: Final = 64
_LOW, _HIGH = np.float32(-1), np.float32(MAX_RANK)
#: Replaces a value out of range; not an integer, so that it is reported as invalid.
_INVALID: Final = np.float32(MAX_RANK + 0.5)
_OUT_OF_RANGE: Final = np.uint32(0xFFFFFFF8)
#: Odd; the golden ratio's bits spread neighbours furthest (Knuth, TAOCP 6.4).
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)


class _Table(NamedTuple):
    """Hash chains of rows by node, and what is stored per row."""

    heads: NDArray[np.int32]  # (nodes, 2**_CHAIN_BITS), number of a chain's first row or -1
    following: NDArray[np.int32]  # (capacity,), the next row of the chain
    keys: NDArray[np.uint64]
    slots: NDArray[np.int8]  # (capacity, 18)
    owner: IntArray  # the row's node
    counts: IntArray  # configurations with the row
    marks: NDArray[np.uint64]  # random words


@kernel()
def _to_bytes(slots, out):  # type: ignore[no-untyped-def]
    """Write slots plus one as bytes; return 0 if all are integers from -1 to 5.  Free of branches: it is vectorised."""
    wrong = np.uint32(0)
    if slots.itemsize == 1:
        for slot in range(len(slots)):
            number = np.uint32(np.int32(slots[slot]) + np.int32(1))
            wrong = np.uint32(wrong | np.uint32((number | np.uint32(number + np.uint32(1))) & _OUT_OF_RANGE))
            out[slot] = np.uint8(number & np.uint32(7))
    else:
        for slot in range(len(slots)):
            value = np.float32(slots[slot])
            value = value if (value >= _LOW) & (value < _HIGH) else _INVALID
            whole = np.int32(value)
            wrong = np.uint32(wrong | np.uint32(np.float32(whole) != value))
            out[slot] = np.uint8(whole + np.int32(1))
    return wrong


@kernel()
def _key(pairs, node):  # type: ignore[no-untyped-def]
    """Pack 18 numbers of three bits, given as nine pairs of bytes."""
    low, high = np.uint64(0), np.uint64(0)
    for pair in range(4):
        low |= np.uint64(pairs[node, pair]) << np.uint64(16 * pair)
        high |= np.uint64(pairs[node, 4 + pair]) << np.uint64(16 * pair)
    last = np.uint64(pairs[node, 8])
    last = (last | last >> np.uint64(5)) & np.uint64(63)
    key = low | high << np.uint64(3)  # leaves two bits of every byte to the last six
    key |= (last & np.uint64(3)) << np.uint64(6) | (last & np.uint64(12)) << np.uint64(12)
    return key | (last & np.uint64(48)) << np.uint64(18)


@kernel()
def _find(pairs, heads, following, keys, codes):  # type: ignore[no-untyped-def]
    """Write the numbers of the rows of some nodes; return something negative if a row is unknown."""
    shift = np.uint64(64 - _CHAIN_BITS)
    combined = np.int32(0)
    for node in range(len(codes)):
        key = _key(pairs, node)
        row = heads[node, (key * _FACTOR) >> shift]
        while row >= 0 and keys[row] != key:
            row = following[row]
        combined |= row
        codes[node] = np.uint32(row & np.int32(0x7FFFFFFF))
    return combined


@kernel()
def _lookup(slots, heads, following, keys, codes, stops):  # type: ignore[no-untyped-def]
    """Code configurations whose rows are all known; ``stops``, bool (b,), marks the others."""
    n_configs, n_nodes = codes.shape
    numbers = np.zeros((_TILE, _WIDTH), np.uint8)
    flat, pairs = numbers.reshape(-1), numbers.view(np.uint16)
    for first in range(0, n_nodes, _TILE):
        last = min(first + _TILE, n_nodes)
        tile = heads[first:last]
        for config in range(n_configs):
            wrong = _to_bytes(slots[config, _WIDTH * first : _WIDTH * last], flat)
            found = _find(pairs, tile, following, keys, codes[config, first:last])
            stops[config] |= wrong != 0 or found < 0


@kernel()
def _enter(row, node, key, numbers, table):  # type: ignore[no-untyped-def]
    chain = (key * _FACTOR) >> np.uint64(64 - _CHAIN_BITS)
    table.keys[row], table.owner[row] = key, node
    for slot in range(_WIDTH):
        table.slots[row, slot] = np.int8(numbers[slot]) - np.int8(1)
    table.following[row] = table.heads[node, chain]
    table.heads[node, chain] = row


@kernel()
def _insert(slots, used, table, codes):  # type: ignore[no-untyped-def]
    """Code configurations and enter new rows from number ``used`` on.

    Returns the number of rows after that, and of configurations that were coded: those before the first with an invalid
    value or for which the table has no room.
    """
    n_configs, n_nodes = codes.shape
    numbers = np.zeros((n_nodes, _WIDTH), np.uint8)
    flat, pairs = numbers.reshape(-1), numbers.view(np.uint16)
    for config in range(n_configs):
        if used + n_nodes > len(table.keys) or _to_bytes(slots[config], flat) != 0:
            return used, config
        if _find(pairs, table.heads, table.following, table.keys, codes[config]) >= 0:
            continue
        for node in range(n_nodes):
            if codes[config, node] == np.uint32(0x7FFFFFFF):
                _enter(used, node, _key(pairs, node), numbers[node], table)
                codes[config, node] = used
                used += 1
    return used, n_configs


@kernel()
def _enter_all(numbers, owner, table):  # type: ignore[no-untyped-def]
    pairs = numbers.view(np.uint16)
    for row in range(len(numbers)):
        _enter(row, owner[row], _key(pairs, row), numbers[row], table)


@kernel()
def _tally(codes, counts, marks, digests):  # type: ignore[no-untyped-def]
    for config in range(len(codes)):
        digest = np.uint64(0)
        for row in codes[config]:
            counts[row] += 1
            digest += marks[row]
        digests[config] = digest


class RowTable:
    """The distinct rows of ``n_nodes`` configurable nodes, and how often each was seen."""

    def __init__(self, n_nodes: int) -> None:
        self.n_nodes = n_nodes
        self._used = 0
        self._table = _Table(
            np.full((n_nodes, 1 << _CHAIN_BITS), -1, np.int32), np.zeros(0, np.int32), np.zeros(0, np.uint64),
            np.zeros((0, _WIDTH), np.int8), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64),
        )  # fmt: skip
        self._reserve(_FIRST_CAPACITY)

    def __len__(self) -> int:
        return self._used

    def encode(self, block: NDArray[np.float32] | NDArray[np.int8]) -> tuple[Codes, NDArray[np.uint64]]:
        """Code a block of configurations, float32 or int8 (b, nodes, 18).

        Returns
        -------
        codes : uint32 (b, nodes)
            Number of the row among the rows of all nodes.
        digests : uint64 (b,)
            Sums of random words, equal for equal configurations.

        Raises
        ------
        ValueError
            For a value that is not an integer from -1 to 5.
        """
        codes = np.empty(block.shape[:2], np.uint32)
        digests = np.empty(len(block), np.uint64)
        slots: NDArray[Any] = np.ascontiguousarray(block, np.int8 if block.dtype == np.int8 else np.float32)
        slots = slots.reshape(len(slots), -1).view()
        slots.flags.writeable = False  # like blocks of a file, so that the kernels are compiled once per dtype
        step = max(_CONFIGS_AT_ONCE, _ROWS_AT_ONCE // self.n_nodes)
        # Hashes overflow and invalid values are converted; without the compiler NumPy would warn.
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(0, len(slots), step):
                part = slice(first, first + step)
                stops = np.zeros(len(slots[part]), np.bool_)
                table = self._table
                _lookup(slots[part], table.heads, table.following, table.keys, codes[part], stops)
                if stops.any():
                    self._insert(slots[: first + step], codes[: first + step], first + int(stops.argmax()))
                digests[part] = self.tally(codes[part])
        return codes, digests

    def _insert(self, slots: NDArray[Any], codes: Codes, first: int) -> None:
        """Code configurations from ``first`` on, among which there are new rows."""
        while first < len(codes):
            self._reserve(self._used + self.n_nodes)
            self._used, coded = _insert(slots[first:], self._used, self._table, codes[first:])
            if coded == 0:
                raise ValueError(f"configuration {first}: expected integers from -1 to {MAX_RANK - 1}")
            first += coded

    def adopt(self, rows: NDArray[np.integer[Any]], owner: IntArray) -> None:
        """Number rows as another table did; this one must be empty.

        Parameters
        ----------
        rows : integer (rows, 18)
            Distinct within their node, in the order of the numbers; values from -1 to 5.
        owner : int64 (rows,)
        """
        self._reserve(len(rows))
        with np.errstate(over="ignore"):
            _enter_all(np.ascontiguousarray(rows + 1, np.uint8), owner, self._table)
        self._used = len(rows)

    def tally(self, codes: Codes) -> NDArray[np.uint64]:
        """Count the rows of coded configurations, uint32 (b, nodes); returns their digests as :meth:`encode` does."""
        digests = np.empty(len(codes), np.uint64)
        with np.errstate(over="ignore"):
            _tally(codes, self._table.counts, self._table.marks, digests)
        return digests

    @property
    def owner(self) -> IntArray:
        """Node of every row, int64 (rows,)."""
        return self._table.owner[: self._used]

    @property
    def rows(self) -> IntArray:
        """All distinct rows, int64 (rows, 18)."""
        return self._table.slots[: self._used].astype(np.int64)

    @property
    def counts(self) -> IntArray:
        """Configurations that hold each row, int64 (rows,)."""
        return self._table.counts[: self._used]

    def since(self, first: int) -> tuple[IntArray, IntArray]:
        """Rows from number ``first`` on, int64 (rows, 18), and their nodes, int64 (rows,).

        May run in another thread than :meth:`encode`: rows of a block are there once it has returned.
        """
        used, table = self._used, self._table  # in this order: the later table has all rows that were counted before
        return table.slots[first:used].astype(np.int64), table.owner[first:used].copy()

    def _reserve(self, capacity: int) -> None:
        """Make room for rows."""
        size = len(self._table.keys)
        if capacity <= size:
            return
        extra = max(capacity, 2 * size) - size
        columns: list[NDArray[Any]] = list(self._table[1:])
        fresh = [np.zeros((extra, *column.shape[1:]), column.dtype) for column in columns]
        fresh[-1] = np.random.default_rng(size).integers(0, 1 << 64, extra, np.uint64, endpoint=False)
        grown = (np.concatenate(parts) for parts in zip(columns, fresh, strict=True))
        self._table = _Table(self._table.heads, *grown)


def first_equal(digests: NDArray[np.uint64]) -> IntArray:
    """Index of the first configuration equal to each, int64 (c,), by the digests of :meth:`RowTable.encode`."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)].astype(np.int64)


def positions_within_nodes(owner: IntArray) -> IntArray:
    """Position of every row among those of its node, int64 (rows,)."""
    order, counts = np.argsort(owner, kind="stable"), np.bincount(owner)
    positions = np.empty(len(order), np.int64)
    positions[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return positions


def grown(known: _Columns | None, fresh: _Columns) -> _Columns:
    """Columns of known rows, followed by those of fresh ones."""
    return fresh if known is None else type(fresh)(*map(np.concatenate, zip(known, fresh, strict=True)))


def picked(columns: _Columns, index: Any) -> _Columns:
    """The columns of some rows."""
    return type(columns)(*(column[index] for column in columns))

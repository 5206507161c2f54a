"""Dictionary coding of layout configurations: a node takes few distinct rows, however many configurations there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
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


Codes = NDArray[np.uint32]

_WIDTH = len(LAYOUT_CONFIG)
_WORDS = _WIDTH // 2
#: Chains of rows per node: with the usual two to nine rows most chains hold one.
_CHAIN_BITS = 6
_FIRST_ROWS = 1024
#: Configurations that are looked up at once, at least, and rows; what follows an unknown row is taken for new.
_AT_ONCE = 32
_ROWS_AT_ONCE = 1 << 15
_WHOLE, _FULL, _INVALID = 0, 1, 2


@kernel()
def _encode(  # type: ignore[no-untyped-def]
    words, slots, first, factors, marks, heads, following, rows, counts, used, codes, digests
):
    """Code configurations from ``first`` on; returns the number of the one that stopped it, and why."""
    n_configs, n_nodes = words.shape[:2]
    shift = np.uint64(64 - _CHAIN_BITS)
    proper = np.empty(_WIDTH, np.float32)
    proper_words = proper.view(np.uint64)
    for config in range(first, n_configs):
        for node in range(n_nodes):
            state = np.uint64(0)
            for word in range(_WORDS):
                state += words[config, node, word] * factors[word]
            row = heads[node, state >> shift]
            while row >= 0:
                differs = np.uint64(0)
                for word in range(_WORDS):
                    differs |= words[config, node, word] ^ rows[row, word]
                if differs == 0:
                    break
                row = following[row]
            if row < 0:
                state = np.uint64(0)
                for slot in range(_WIDTH):
                    value = slots[config, node, slot]
                    if not (-1 <= value < MAX_RANK and value == np.floor(value)):
                        return config, _INVALID
                    proper[slot] = value + np.float32(0)  # -0.0 becomes 0.0, its equal
                for word in range(_WORDS):
                    state += proper_words[word] * factors[word]
                row, last = heads[node, state >> shift], -1
                while row >= 0:
                    differs = np.uint64(0)
                    for word in range(_WORDS):
                        differs |= proper_words[word] ^ rows[row, word]
                    if differs == 0:
                        break
                    row, last = following[row], row
                if row < 0:
                    row = used[0]
                    if row == len(rows):
                        return config, _FULL
                    rows[row] = proper_words
                    following[row] = -1
                    if last < 0:
                        heads[node, state >> shift] = row
                    else:
                        following[last] = row
                    used[0] += 1
            codes[config, node] = row
        low, high = np.uint64(0), np.uint64(0)
        for node in range(n_nodes):  # only now: a configuration that is begun again must not be counted twice
            row = codes[config, node]
            counts[row] += 1
            low += marks[row, 0]
            high += marks[row, 1]
        digests[config, 0], digests[config, 1] = low, high
    return n_configs, _WHOLE


@kernel()
def _chain(rows, owner, count, factors, heads, following):  # type: ignore[no-untyped-def]
    """Enter rows that are known to differ."""
    shift = np.uint64(64 - _CHAIN_BITS)
    for row in range(count - 1, -1, -1):  # each goes to the front of its chain, and the first seen shall be first
        state = np.uint64(0)
        for word in range(_WORDS):
            state += rows[row, word] * factors[word]
        following[row] = heads[owner[row], state >> shift]
        heads[owner[row], state >> shift] = row


@kernel()
def _tally(codes, marks, counts, digests):  # type: ignore[no-untyped-def]
    for config in range(len(codes)):
        low, high = np.uint64(0), np.uint64(0)
        for node in range(codes.shape[1]):
            row = codes[config, node]
            counts[row] += 1
            low += marks[row, 0]
            high += marks[row, 1]
        digests[config, 0], digests[config, 1] = low, high


@kernel()
def _numbered(places, first, numbers, codes):  # type: ignore[no-untyped-def]
    for config in range(len(codes)):
        for node in range(codes.shape[1]):
            codes[config, node] = numbers[first[node] + places[config, node]]


@kernel()
def _owners(codes, owner):  # type: ignore[no-untyped-def]
    for config in range(len(codes)):
        for node in range(codes.shape[1]):
            owner[codes[config, node]] = node


class RowTable:
    """The distinct rows of every configurable node and how often each was seen.

    Parameters
    ----------
    n_nodes : int
        Configurable nodes.
    """

    def __init__(self, n_nodes: int) -> None:
        self.n_nodes = n_nodes
        self._discovered: deque[tuple[IntArray, IntArray]] = deque()
        self._heads = np.full((n_nodes, 1 << _CHAIN_BITS), -1, np.int32)
        self._factors = random_words(_WORDS, 0) | np.uint64(1)
        self._used = np.zeros(1, np.int64)
        self._rows = np.zeros((0, _WORDS), np.uint64)
        self._owner = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)
        self._following = np.zeros(0, np.int32)
        self._marks = np.zeros((0, 2), np.uint64)
        self._known = KnownRows(n_nodes)
        self._grow(_FIRST_ROWS)

    def __len__(self) -> int:
        return int(self._used[0])

    def encode(self, block: NDArray[np.float32] | NDArray[np.int8]) -> tuple[Codes, NDArray[np.uint64]]:
        """Code a block of configurations.

        Parameters
        ----------
        block : float32 or int8 (b, nodes, 18)

        Returns
        -------
        codes : uint32 (b, nodes)
            Number of the row among the rows of all nodes.
        digests : uint64 (b, 2)
            128 bits that are equal where the codes are.

        Raises
        ------
        ValueError
            For a value that is no whole number in -1 … 5.
        """
        codes = np.empty(block.shape[:2], np.uint32)
        digests = np.empty((len(block), 2), np.uint64)
        rows: NDArray[Any] = np.ascontiguousarray(block, np.int8 if block.dtype == np.int8 else np.float32)
        step = max(_AT_ONCE, _ROWS_AT_ONCE // self.n_nodes)
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            if len(self._known) < len(self):
                self._known.learn(self._unpacked(len(self._known)), self.owner)
            done = first + self._known.lookup(rows[part], codes[part])
            digests[first:done] = self.tally(codes[first:done])
            if done < min(part.stop, len(rows)):
                rest = slice(done, part.stop)
                self._encode(rows[rest], codes[rest], digests[rest], done)
        return codes, digests

    def _encode(self, block: NDArray[Any], codes: Codes, digests: NDArray[np.uint64], first: int) -> None:
        slots = np.ascontiguousarray(block, np.float32).view()
        slots.flags.writeable = False  # as blocks of a file are: the kernel is compiled once
        words = slots.view(np.uint64)
        known, done, why = len(self), 0, _FULL
        while True:
            with np.errstate(over="ignore"):  # the hash wraps round; without the compiler NumPy would warn of it
                done, why = _encode(
                    words, slots, done, self._factors, self._marks, self._heads, self._following, self._rows,
                    self._counts, self._used, codes, digests,
                )  # fmt: skip
            if why != _FULL:
                break
            self._grow(2 * len(self._rows))
        if why == _INVALID:
            raise ValueError(
                f"configuration {first + done} has a value that is no whole number in -1 to {MAX_RANK - 1}"
            )
        if len(self) > known:
            _owners(codes, self._owner)
            self._discovered.append((self._unpacked(known), self._owner[known : len(self)].copy()))

    def adopt(self, rows: NDArray[np.integer[Any]], owner: IntArray) -> None:
        """Number rows as another table did; this one must be empty.

        Parameters
        ----------
        rows : integer (rows, 18)
            Distinct within their node, in the order of the numbers; values in -1 … 5.
        owner : int64 (rows,)
            Node of each.
        """
        count = len(rows)
        while len(self._rows) < count:
            self._grow(2 * len(self._rows))
        self._rows[:count] = np.ascontiguousarray(rows, np.float32).view(np.uint64)
        self._owner[:count] = owner
        with np.errstate(over="ignore"):
            _chain(self._rows, self._owner, count, self._factors, self._heads, self._following)
        self._used[0] = count
        self._discovered.append((rows.astype(np.int64), owner.copy()))

    def forget_counts(self) -> None:
        """Begin another slate: the rows stay known, and none of them has been seen."""
        self._counts[:] = 0

    def tally(self, codes: Codes) -> NDArray[np.uint64]:
        """Count configurations whose codes are known, and give their digests as :meth:`encode` does.

        Parameters
        ----------
        codes : uint32 (b, nodes)
            Below the number of rows.
        """
        digests = np.zeros((len(codes), 2), np.uint64)
        with np.errstate(over="ignore"):
            _tally(codes, self._marks, self._counts, digests)
        return digests

    @property
    def owner(self) -> IntArray:
        """Node of every row, int64 (rows,)."""
        return self._owner[: len(self)]

    @property
    def rows(self) -> IntArray:
        """All distinct rows, int64 (rows, 18)."""
        return self._unpacked(0)

    def discovered(self) -> Iterator[tuple[IntArray, IntArray]]:
        """Rows, int64 (rows, 18), and their nodes, int64 (rows,), not handed out yet, in order.

        May run in another thread than :meth:`encode`: the rows of a block are there when it returns.
        """
        while self._discovered:
            yield self._discovered.popleft()

    @property
    def counts(self) -> IntArray:
        """Configurations that hold each row, int64 (rows,)."""
        return self._counts[: len(self)]

    def _unpacked(self, first: int) -> IntArray:
        return self._rows[first : len(self)].view(np.float32).astype(np.int64)

    def _grow(self, capacity: int) -> None:
        extra = capacity - len(self._rows)
        self._rows = np.concatenate([self._rows, np.zeros((extra, _WORDS), np.uint64)])
        self._owner = np.concatenate([self._owner, np.zeros(extra, np.int64)])
        self._counts = np.concatenate([self._counts, np.zeros(extra, np.int64)])
        self._following = np.concatenate([self._following, np.full(extra, -1, np.int32)])
        self._marks = np.concatenate([self._marks, random_words(2 * extra, capacity).reshape(extra, 2)])


def numbered(
    places: NDArray[np.unsignedinteger[Any]], first: NDArray[np.integer[Any]], numbers: NDArray[np.integer[Any]]
) -> Codes:
    """Codes of configurations that name each row by its place among those of its node, uint32 (b, nodes).

    Parameters
    ----------
    places : unsigned integer (b, nodes)
        Below the number of the node's rows.
    first : integer (nodes + 1,)
        Where each node's rows begin.
    numbers : integer (rows,)
        Their numbers, node by node.
    """
    codes = np.empty(places.shape, np.uint32)
    # Unsigned as the places are: beside them a signed number would make a float.
    _numbered(places, first.astype(np.uint64), numbers.astype(np.uint32), codes)
    return codes


def first_equal(digests: NDArray[np.uint64]) -> IntArray:
    """Number of the first configuration equal to each, int64 (c,).

    Parameters
    ----------
    digests : uint64 (c, 2)
        Of :meth:`RowTable.encode`.

    Raises
    ------
    RuntimeError
        When two different configurations share half of a digest (one slate in 10^9 of the largest).
    """
    _, first, inverse = np.unique(digests[:, 0], return_index=True, return_inverse=True)
    equal = first[inverse.reshape(-1)].astype(np.int64)
    if (digests[equal, 1] != digests[:, 1]).any():
        raise RuntimeError("two different configurations share half of a digest")
    return equal


def random_words(count: int, seed: int) -> NDArray[np.uint64]:
    """The same ``count`` words for the same ``seed``."""
    return np.random.default_rng(seed).integers(0, 1 << 64, count, np.uint64, endpoint=False)

"""Copies that a configuration implies, and what they cost.

Where the layouts of two connected configurable nodes disagree, data is moved.  Disagreements are counted along every
edge of the meta-graph and between the two sides of a configurable reshape; partial layouts are compared in the
dimensions they name.  There are four kinds of copies: a result whose layout is set (*out*), an operand whose layout is
set although the operation computes in the graph's (*back*), such an operand that no configurable node produces
(*entry*), and a tensor that one configurable node produces in another layout than the next one expects (*edge*).

A copy reads along the dimension that used to be contiguous and writes it at a stride: the product of the extents that
come before that dimension in the new order.  With a short stride cache lines are still filled whole; the longer it is,
the more of every line, and then of every page, is wasted.  Dimensions of extent 1 are left out.

Orders are packed into one integer: three bits per dimension from the minor-most on (7 where unknown), and above them a
mask of the known positions.  A layout that agrees with the graph's own is packed like that.

Two connected nodes take few distinct rows each.  What a link contributes is therefore computed once per pair of rows,
as a word of small counters, and the words of a configuration are added up.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hlo import LAYOUT_CONFIG, MAX_RANK
from features.layout.metagraph import GROUPS, INSIDE, Links
from features.layout.nodes import NODE_CLASSES, ConfigurableNodes, RowValues
from features.layout.rows import grown, positions_within_nodes
from features.schema import Block, Column, Float32Array

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Bits of a packed order below its mask, all of them set, and "no dimension".
_ORDER_BITS: Final = 3 * MAX_RANK
_ORDER: Final = (1 << _ORDER_BITS) - 1
_NONE: Final = 7
#: A stride up to 2**_NEAR elements costs no more than a copy of whole runs, one of 2**(_NEAR + _REACH) the most; the
#: cheapest copy costs _LEAST of the most expensive.  Fitted to copies on server CPUs.
_NEAR: Final = 4.0
_REACH: Final = 3.5
_LEAST: Final = 0.2
#: Strides, in elements, above which copied bytes are counted separately.
STRIDES: Final = (1, 16, 100)
_N_LEVELS: Final = len(STRIDES) + 1
#: Kinds of copies that concern one node; a copy along an edge concerns two.
OWN_KINDS: Final = ("out", "back", "entry")
_N_KIND: Final = _N_LEVELS + 1
#: Per kind of copy: bytes, bytes above each stride, copies; then the weighted bytes of all kinds.
N_OWN_COPIES: Final = _N_KIND * len(OWN_KINDS) + 1

_N_CLASSES: Final = len(NODE_CLASSES)
_N_GROUPS: Final = len(GROUPS) - 1
#: A link's word: counters of 4 bits for the three kinds of disagreement and the levels of copies, and above them the
#: weight of the copy.  Weights from 0.2 to 1 in single precision are whole multiples of 2**-26, so that sums are exact.
_FIELD: Final = 4
_MOST: Final = (1 << _FIELD) - 1
_N_KINDS: Final = 3
_N_FIELDS: Final = _N_KINDS + _N_LEVELS
_WEIGHT_UNITS: Final = float(1 << 26)
#: What is added up per group: disagreements and their bytes, bytes and copies by level, weighted bytes.
_N_SUMS: Final = 2 * _N_KINDS + 2 * _N_LEVELS + 1
#: Words are tabulated for links whose nodes have few rows, and for so many pairs of rows together.
_MOST_ROWS: Final = 256
_MOST_PAIRS: Final = 1 << 20


def _columns() -> tuple[Column, ...]:
    tensors = {
        "convolution": "tensors that feed a configurable convolution",
        "dot": "tensors that feed a configurable dot",
        "reshape": "tensors that feed a configurable reshape",
        "inside": "configurable reshapes, between input and output,",
        "all": "tensors between configurable nodes",
    }
    disagreements = {
        "minor": "whose minor-most dimensions differ, both layouts set",
        "any": "whose layouts differ, both set",
        "soft": "whose minor-most dimensions differ, the graph's own layout standing in where none is set",
    }
    copies = {
        "out": "results, from the graph's layout to the one set",
        "back": "operands, from the layout set to the graph's",
        "entry": "operands that no configurable node feeds, from the graph's layout to the one set",
        "edge": "operands, from the layout of the configurable node that feeds them to the one set",
    }
    found = []
    for group in GROUPS:
        for kind, doc in disagreements.items():
            which = f"{tensors[group]} {doc}"
            found.append(Column(f"{group}.{kind}.count", "share", f"Share of the {which}"))
            found.append(Column(f"{group}.{kind}.share", "share", f"Share by bytes of the {which}"))
            found.append(Column(f"{group}.{kind}.bytes", "log2", f"Bytes of the {which}"))
    for group in (*NODE_CLASSES, "all"):
        cost = group != "all"  # whose amounts are the sums of the others'
        for kind, doc in copies.items():
            found.append(Column(f"{group}.{kind}.bytes", "log2", f"{group}: bytes copied of {doc}", cost))
            for stride in STRIDES:
                name = "strided" if stride == 1 else f"strided{stride}"
                doc_strided = f"{group}: bytes copied at strides above {stride} elements of {doc}"
                found.append(Column(f"{group}.{kind}.{name}", "log2", doc_strided, cost))
            found.append(Column(f"{group}.{kind}.copies", "count", f"{group}: copies of {doc}"))
        found.append(Column(f"{group}.cost", "log2", f"{group}: bytes of all copies, weighted by their stride"))
        doc_share = f"{group}: weighted bytes of all copies over the bytes of the configurable nodes"
        found.append(Column(f"{group}.cost_share", "share", doc_share))
    return tuple(found)


BLOCK: Final = Block(
    "copies",
    2,
    "Disagreements between the layouts of connected configurable nodes, and the copies that layouts cost.",
    _columns(),
    per_config=True,
)
#: Columns of disagreements, the first of the block; those of copies follow.
N_DISAGREEMENTS: Final = 3 * _N_KINDS * len(GROUPS)


class Orders(NamedTuple):
    """Layouts in effect, under rows or of the graph itself."""

    packed: IntArray  # (rows, 3); without a tensor, or with one of a single element, no position is known
    strides: IntArray  # (rows, 3, 8), elements between neighbours; if not named, the extent of all named dimensions


class _Rows(NamedTuple):
    """Facts of every distinct row."""

    slots: IntArray  # (rows, 18)
    states: NDArray[np.int32]  # (rows, 3), minor-most and second minor dimension, three bits each, and a bit: it is set
    packed: IntArray  # (rows, 3)
    level: NDArray[np.int8]  # (rows, 3, 8), of a copy whose contiguous dimension was the given one
    weight: Float32Array  # (rows, 3, 8), the same


class _Pairs(NamedTuple):
    """Words of pairs of rows."""

    position: NDArray[np.uint8]  # (rows,), among the rows of the node, modulo 256
    first: IntArray  # (links + 1,), each link's first pair; none where its words are not tabulated
    width: IntArray  # (links,), rows of the consumer
    words: IntArray  # (pairs,)


@kernel()
def _append(dim, order, count):  # type: ignore[no-untyped-def]
    """Append a dimension that is not in an order yet; returns the new length."""
    for position in range(count):
        if order[position] == dim:
            return count
    order[count] = dim
    return count + 1


@kernel()
def _n_named(slots, rank):  # type: ignore[no-untyped-def]
    """Leading slots that name a dimension."""
    count = 0
    while count < rank and 0 <= slots[count] < rank:
        count += 1
    return count


@kernel()
def _packed(order, count):  # type: ignore[no-untyped-def]
    code, mask = _ORDER, 0
    for position in range(count):
        code ^= (7 ^ order[position]) << 3 * position
        mask |= 7 << 3 * position
    return code | mask << _ORDER_BITS


@kernel()
def _in_effect(slots, own, dims, rank, order):  # type: ignore[no-untyped-def]
    """Write what is known of a layout, without dimensions of one element; returns their number."""
    count, wide = 0, 0
    for dim in range(rank):
        wide += dims[dim] > 1
    for slot in range(_n_named(slots, rank)):
        if dims[slots[slot]] > 1:
            count = _append(slots[slot], order, count)
    if wide - count > 1:
        agrees, position = True, 0
        for at in range(rank):
            if dims[own[at]] > 1 and position < count:
                agrees = agrees and order[position] == own[at]
                position += 1
        if not agrees:
            return count
        count = 0
    for at in range(rank):
        if dims[own[at]] > 1:
            count = _append(own[at], order, count)
    return count


@kernel()
def _orders(rows, owner, nodes, packed, strides):  # type: ignore[no-untyped-def]
    order = np.empty(8, np.int64)
    for row in range(len(rows)):
        node = owner[row]
        for role in range(3):
            slots, extents = rows[row, 6 * role : 6 * role + 6], nodes.dims[node, role]
            count = _in_effect(slots, nodes.own[node, role], extents, nodes.rank[node, role], order)
            packed[row, role] = _packed(order, count)
            step = 1
            for position in range(count):
                strides[row, role, order[position]] = step
                step *= extents[order[position]]
            for dim in range(8):
                if strides[row, role, dim] == 0:
                    strides[row, role, dim] = step


@kernel()
def _arrival(link, row, links, rows, nodes, own):  # type: ignore[no-untyped-def]
    """Order, packed, in which a row of a link's producer reaches the consumer; ``own`` : int64 (nodes, 3), packed."""
    producer, consumer, role = links.nodes[link, 0], links.nodes[link, 1], links.roles[link, 1]
    if rows.packed[row, 0] == own[producer, 0]:
        return own[consumer, role]
    named, come = np.empty(8, np.int64), np.empty(8, np.int64)
    size, extents = nodes.rank[producer, 0], nodes.dims[consumer, role]
    count, left = 0, 0
    for position in range(_n_named(rows.slots[row], size)):
        count = _append(rows.slots[row, position], named, count)
    for dim in range(size):
        left += nodes.dims[producer, 0, dim] > 1
    for position in range(count):
        left -= nodes.dims[producer, 0, named[position]] > 1
    # Dimensions that are not named follow in the graph's order where there is only one way.
    if left <= 1:
        for position in range(size):
            count = _append(nodes.own[producer, 0, position], named, count)
    reached = 0
    for position in range(count):
        dim = links.origin[link, named[position]]
        if dim != _NONE and extents[dim] > 1:
            reached = _append(dim, come, reached)
    if left <= 1:
        for position in range(nodes.rank[consumer, role]):
            dim = nodes.own[consumer, role, position]
            if extents[dim] > 1:
                reached = _append(dim, come, reached)
    return _packed(come, reached)


@kernel()
def _word(link, producer, consumer, come, links, rows):  # type: ignore[no-untyped-def]
    """What a link contributes where its nodes take two given rows, the first of which arrives as ``come``."""
    role = links.roles[link, 1]
    first, second, origin = rows.states[producer, links.roles[link, 0]], rows.states[consumer, role], links.origin[link]
    minor, next_minor, expected, next_expected = origin[first & 7], origin[first >> 3 & 7], second & 7, second >> 3 & 7
    soft = (minor != _NONE) & (expected != _NONE) & (minor != expected)
    differs = soft | (next_minor != _NONE) & (next_expected != _NONE) & (next_minor != next_expected)
    both = (first & second) >> 6
    word = np.int64(both & soft) | np.int64(both & differs) << _FIELD | np.int64(soft) << 2 * _FIELD
    if links.nodes[link, 0] != links.nodes[link, 1]:  # not inside a reshape
        known = (come >> _ORDER_BITS) & (rows.packed[consumer, role] >> _ORDER_BITS) & _ORDER
        if ((come ^ rows.packed[consumer, role]) & known) != 0:
            field = _N_KINDS - 1 + np.int64(rows.level[consumer, role, come & 7])
            word |= np.int64(rows.weight[consumer, role, come & 7] * _WEIGHT_UNITS) << _FIELD * _N_FIELDS
            word |= 1 << _FIELD * field
    return word


@kernel()
def _tabulate(by_node, first_row, links, rows, nodes, own, pairs):  # type: ignore[no-untyped-def]
    """Fill the table; ``by_node`` are row numbers node by node, those of a node from ``first_row[node]`` on."""
    for link in range(len(links.group)):
        at, producer, consumer = pairs.first[link], links.nodes[link, 0], links.nodes[link, 1]
        if at < pairs.first[link + 1]:
            for one in by_node[first_row[producer] : first_row[producer + 1]]:
                come = _arrival(link, one, links, rows, nodes, own)
                for two in by_node[first_row[consumer] : first_row[consumer + 1]]:
                    pairs.words[at] = _word(link, one, two, come, links, rows)
                    at += 1


@kernel()
def _transpose(codes, position, out):  # type: ignore[no-untyped-def]
    for node in range(codes.shape[1]):
        for config in range(len(codes)):
            out[node, config] = position[codes[config, node]]


@kernel()
def _add_up(codes, positions, links, rows, pairs, nodes, own, sums):  # type: ignore[no-untyped-def]
    """Add the links' words to ``sums``, float64 (groups, _N_SUMS, b), of configurations.

    Links of one group and size follow each other; until the last of them they are only counted.

    codes : uint32 (b, nodes); positions : uint8 (nodes, b), those of the rows among the rows of the node.
    """
    n_configs, n_links = len(codes), len(links.group)
    words, counts = np.zeros(n_configs, np.int64), np.zeros((_N_FIELDS + 1, n_configs), np.int64)
    waiting = 0
    for link in range(n_links):
        producer, consumer = links.nodes[link, 0], links.nodes[link, 1]
        first, last, width = pairs.first[link], pairs.first[link + 1], pairs.width[link]
        if first < last:
            one, two, table = positions[producer], positions[consumer], pairs.words[first:last]
            for config in range(n_configs):
                words[config] += table[one[config] * width + two[config]]
        else:
            for config in range(n_configs):
                come = _arrival(link, codes[config, producer], links, rows, nodes, own)
                words[config] += _word(link, codes[config, producer], codes[config, consumer], come, links, rows)
        waiting += 1
        group, nbytes, share, after = links.group[link], links.nbytes[link], links.share[link], link + 1
        ends = after == n_links or links.group[after] != group
        ends = ends or links.nbytes[after] != nbytes or links.share[after] != share
        if not ends and waiting < _MOST:
            continue
        for field in range(_N_FIELDS):
            for config in range(n_configs):
                counts[field, config] += words[config] >> _FIELD * field & _MOST
        for config in range(n_configs):
            counts[_N_FIELDS, config] += words[config] >> _FIELD * _N_FIELDS
        words[:] = 0
        waiting = 0
        if ends:
            added, part = sums[group], nbytes * share
            for kind in range(_N_KINDS):
                for config in range(n_configs):
                    added[kind, config] += counts[kind, config]
                    added[_N_KINDS + kind, config] += counts[kind, config] * nbytes
            for level in range(_N_LEVELS):
                bytes_of, copies_of = added[2 * _N_KINDS + level], added[2 * _N_KINDS + _N_LEVELS + level]
                for config in range(n_configs):
                    bytes_of[config] += counts[_N_KINDS + level, config] * part
                    copies_of[config] += counts[_N_KINDS + level, config] * share
            for config in range(n_configs):
                added[_N_SUMS - 1, config] += counts[_N_FIELDS, config] / _WEIGHT_UNITS * part
            counts[:] = 0


def orders(nodes: ConfigurableNodes, rows: IntArray, owner: IntArray) -> Orders:
    """Layouts in effect under rows, int64 (rows, 18), of the nodes ``owner``, int64 (rows,)."""
    packed, strides = np.zeros((len(rows), 3), np.int64), np.zeros((len(rows), 3, 8), np.int64)
    _orders(rows, owner, nodes, packed, strides)
    return Orders(packed, strides)


def levels(strides: IntArray) -> IntArray:
    """1 for a copy that keeps runs whole, and one more for each of :data:`STRIDES` that its stride exceeds."""
    return np.asarray(1 + sum((strides > stride).astype(np.int64) for stride in STRIDES), np.int64)


def weights(strides: IntArray) -> FloatArray:
    """Cost of a copied byte by the stride of the dimension that was contiguous, from 0.2 to 1."""
    return np.asarray(_LEAST + (1 - _LEAST) * np.clip((np.log2(strides) - _NEAR) / _REACH, 0.0, 1.0), np.float64)


class Copies:
    """Copies of one graph's coded configurations; extended as rows are discovered.

    Parameters
    ----------
    nodes : ConfigurableNodes
    links : Links

    Attributes
    ----------
    fed : bool (nodes, 3)
        Tensors that come from a configurable node.
    own : Orders
        The graph's own layouts.
    """

    def __init__(self, nodes: ConfigurableNodes, links: Links) -> None:
        unset = np.full((len(nodes.ids), len(LAYOUT_CONFIG)), -1, np.int64)
        self._nodes, self.links, self.own = nodes, links, orders(nodes, unset, np.arange(len(unset)))
        edges = links.group != INSIDE
        self.fed = np.zeros((len(unset), 3), np.bool_)
        self.fed[links.nodes[edges, 1], links.roles[edges, 1]] = True
        # Eight dimensions, so that "no dimension" maps to itself.
        origin = np.pad(links.origin, ((0, 0), (0, 8 - MAX_RANK)), constant_values=-1)
        self._links = links._replace(origin=np.where(origin < 0, _NONE, origin))
        member = links.group == np.arange(_N_GROUPS)[:, None]
        totals = np.stack([member.sum(axis=1), (member * links.nbytes).sum(axis=1)], axis=1).astype(np.float64)
        self._totals = np.concatenate([totals, totals.sum(axis=0, keepdims=True)])
        of_class = [nodes.nbytes[nodes.classes == number].sum() for number in range(_N_CLASSES)]
        self._own_totals = np.array([*of_class, nodes.nbytes.sum()])
        self._owner = np.zeros(0, np.int64)
        self._rows: _Rows | None = None

    def add(self, rows: IntArray, owner: IntArray, values: RowValues) -> tuple[Orders, FloatArray]:
        """Take in newly discovered rows, int64 (rows, 18), of the nodes ``owner``, int64 (rows,).

        Returns
        -------
        found : Orders
            Their layouts.
        copies : float64 (rows, N_OWN_COPIES)
            Their copies that concern no other node.
        """
        found = orders(self._nodes, rows, owner)
        minors = np.where(values.minors < 0, _NONE, values.minors)
        states = minors[:, :, 0] | minors[:, :, 1] << 3 | values.is_set.astype(np.int64) << 6
        level, weight = levels(found.strides).astype(np.int8), weights(found.strides).astype(np.float32)
        self._rows = grown(self._rows, _Rows(rows, states.astype(np.int32), found.packed, level, weight))
        self._owner = np.concatenate([self._owner, owner])
        self._known = self._rows, self._tabulated(self._rows)  # at once: other threads may be using the previous ones
        return found, self._own_copies(owner, found)

    def _tabulated(self, rows: _Rows) -> _Pairs:
        """Words of pairs of rows."""
        counts, by_node = (
            np.bincount(self._owner, minlength=len(self._nodes.ids)),
            np.argsort(self._owner, kind="stable"),
        )
        first_row = np.concatenate([[0], np.cumsum(counts)])
        position = positions_within_nodes(self._owner).astype(np.uint8)
        rows_of = counts[self._links.nodes]
        sizes = np.where((rows_of <= _MOST_ROWS).all(axis=1), rows_of.prod(axis=1), 0)
        order = np.argsort(sizes, kind="stable")
        sizes[order[np.cumsum(sizes[order]) > _MOST_PAIRS]] = 0
        first = np.concatenate([[0], np.cumsum(sizes)])
        pairs = _Pairs(position, first, rows_of[:, 1].copy(), np.empty(first[-1], np.int64))
        _tabulate(by_node, first_row, self._links, rows, self._nodes, self.own.packed, pairs)
        return pairs

    def _own_copies(self, owner: IntArray, found: Orders) -> FloatArray:
        """Copies of every row at its own node, float64 (rows, N_OWN_COPIES)."""
        nbytes = self._nodes.nbytes[owner]
        out = np.zeros((len(owner), N_OWN_COPIES))
        for number, (copied, strides) in enumerate(self.tensor_copies(owner, found)):
            level = levels(strides)
            for at in range(_N_LEVELS):
                out[:, _N_KIND * number + at] = np.where(copied & (level > at), nbytes, 0.0).sum(axis=1)
            out[:, _N_KIND * number + _N_LEVELS] = copied.sum(axis=1)
            out[:, -1] += np.where(copied, nbytes * weights(strides), 0.0).sum(axis=1)
        return out

    def tensor_copies(self, owner: IntArray, found: Orders) -> list[tuple[NDArray[np.bool_], IntArray]]:
        """Whether a tensor is copied at its own node, bool (rows, 3), and its stride in elements, int64 (rows, 3).

        ``found`` are the layouts of rows of the nodes ``owner``, int64 (rows,); an item for each of :data:`OWN_KINDS`.
        """
        own, own_strides = self.own.packed[owner], self.own.strides[owner]
        differs, output = found.packed != own, np.arange(3) == 0
        set_stride = np.take_along_axis(found.strides, (own & 7)[:, :, None], axis=2)[:, :, 0]
        back_stride = np.take_along_axis(own_strides, (found.packed & 7)[:, :, None], axis=2)[:, :, 0]
        operand = differs & ~output
        return [(differs & output, set_stride), (operand, back_stride), (operand & ~self.fed[owner], set_stride)]

    def write(self, codes: NDArray[np.uint32], own: FloatArray, out: Float32Array) -> None:
        """Write the block's columns, float32 (b, len(BLOCK)).

        Parameters
        ----------
        codes : uint32 (b, nodes)
            Of rows that have been added.
        own : float64 (b, classes, N_OWN_COPIES)
            Sums over nodes of what :meth:`add` returned.
        """
        sums = self._sums(codes, self._links, _N_GROUPS)
        every = np.concatenate([sums, sums.sum(axis=0, keepdims=True)])
        count, size = every[:, :_N_KINDS], every[:, _N_KINDS : 2 * _N_KINDS]
        totals = np.maximum(self._totals, 1.0)[:, :, None, None]
        disagreements = np.stack([count / totals[:, 0], size / totals[:, 1], np.log2(1.0 + size)], axis=2)

        levels_of, of_nodes = sums[:_N_CLASSES, 2 * _N_KINDS :], own.transpose(1, 2, 0)
        for level in range(_N_LEVELS - 2, -1, -1):  # bytes above a stride are those of all higher levels
            levels_of[:, level::_N_LEVELS][:, :2] += levels_of[:, level + 1 :: _N_LEVELS][:, :2]
        cost = of_nodes[:, -1:] + levels_of[:, -1:]
        values = np.empty((_N_CLASSES + 1, N_OWN_COPIES + _N_KIND, len(codes)))
        np.concatenate([of_nodes[:, :-1], levels_of[:, : _N_LEVELS + 1], cost], axis=1, out=values[:-1])
        values[:-1].sum(axis=0, out=values[-1])
        share = values[:, -1:] / np.maximum(self._own_totals, 1.0)[:, None, None]
        columns = np.concatenate([np.log2(1.0 + values), share], axis=1)
        copies = np.s_[_N_LEVELS:-2:_N_KIND]
        columns[:, copies] = values[:, copies.start : -1 : _N_KIND]
        rows = [part.reshape(-1, len(codes)) for part in (disagreements, columns)]
        out[:] = np.concatenate(rows, dtype=np.float32, casting="same_kind").T

    def by_link(self, codes: NDArray[np.uint32]) -> tuple[IntArray, NDArray[np.bool_]]:
        """Copies and disagreements link by link, in the order of :attr:`links`.

        Returns
        -------
        level : int64 (links, b)
            0 where nothing is copied, else as by :func:`levels`.
        differ : bool (links, b)
            Whether both layouts are set, and differ.
        """
        n_links = len(self._links.group)
        sums = self._sums(codes, self._links._replace(group=np.arange(n_links)), n_links)
        copied = sums[:, 2 * _N_KINDS + _N_LEVELS : -1] > 0
        return np.where(copied.any(axis=1), 1 + copied.argmax(axis=1), 0), sums[:, 1] > 0

    def _sums(self, codes: NDArray[np.unsignedinteger[Any]], links: Links, n_groups: int) -> FloatArray:
        rows, pairs = self._known
        positions = np.empty(codes.shape[::-1], np.uint8)
        _transpose(codes, pairs.position, positions)
        sums = np.zeros((n_groups, _N_SUMS, len(codes)))
        _add_up(codes, positions, links, rows, pairs, self._nodes, self.own.packed, sums)
        return sums

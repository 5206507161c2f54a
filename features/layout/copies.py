"""Copies that a configuration implies: where a producer's layout and its consumer's disagree, data must be moved.

Disagreements are looked for along every edge of the meta-graph, and between the two sides of a configurable reshape.
Partial layouts are compared as far as they go; a dimension that does not survive the path says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hlo import LAYOUT_CONFIG, MAX_RANK
from features.layout.metagraph import GROUPS, INSIDE, Links
from features.layout.nodes import NODE_CLASSES, ConfigurableNodes, RowValues
from features.schema import Block, Column, Float32Array

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Bits of a packed order below its mask, and all of them set.
ORDER_BITS: Final = 3 * MAX_RANK
ORDER: Final = (1 << ORDER_BITS) - 1
#: A stride up to 2**_NEAR elements costs no more than a copy of whole runs, one of 2**(_NEAR + _REACH) the most; the
#: cheapest copy costs _LEAST of the dearest.  Fitted to copies on server CPUs.
_NEAR: Final = 4.0
_REACH: Final = 3.5
_LEAST: Final = 0.2
#: Strides, in elements, above which copied bytes are counted by themselves.
STRIDES: Final = (1, 16, 100)
#: Kinds of copies that concern one node; a copy along an edge concerns two.
OWN_KINDS: Final = ("out", "back", "entry")
N_LEVELS: Final = len(STRIDES) + 2
#: Per kind of copy: bytes, bytes above each stride, copies; then the weighted bytes of all kinds.
N_OWN_COPIES: Final = N_LEVELS * len(OWN_KINDS) + 1


@kernel()
def _pack(named, n_named, own, dims, rank, order):  # type: ignore[no-untyped-def]
    """Pack an order; ``order`` receives its dimensions of more than one element, and their number is returned."""
    count, wide = 0, 0
    for dim in range(rank):
        wide += dims[dim] > 1
    for place in range(n_named):
        dim, seen = named[place], dims[named[place]] <= 1
        for earlier in range(count):
            seen = seen or order[earlier] == dim
        if not seen:
            order[count] = dim
            count += 1
    if wide - count > 1:
        agrees, place = True, 0
        for at in range(rank):
            if dims[own[at]] > 1 and place < count:
                agrees = agrees and order[place] == own[at]
                place += 1
        if not agrees:
            return count
        count = 0
    for at in range(rank):
        seen = dims[own[at]] <= 1
        for earlier in range(count):
            seen = seen or order[earlier] == own[at]
        if not seen:
            order[count] = own[at]
            count += 1
    return count


@kernel()
def _row_orders(rows, owner, dims, rank, own, packed, strides):  # type: ignore[no-untyped-def]
    order = np.empty(8, np.int64)
    for row in range(len(rows)):
        node = owner[row]
        for role in range(3):
            size = rank[node, role]
            named = 0
            while named < size and 0 <= rows[row, 6 * role + named] < size:
                named += 1
            slots = rows[row, 6 * role : 6 * role + 6]
            count = _pack(slots, named, own[node, role], dims[node, role], size, order)
            code, mask, step = ORDER, 0, 1
            for place in range(count):
                code ^= (7 ^ order[place]) << 3 * place
                mask |= 7 << 3 * place
                strides[row, role, order[place]] = step
                step *= dims[node, role, order[place]]
            packed[row, role] = code | mask << ORDER_BITS
            for dim in range(8):
                if strides[row, role, dim] == 0:
                    strides[row, role, dim] = step


@dataclass(frozen=True)
class Orders:
    """Layouts in effect, of rows or of the graph itself.

    Parameters
    ----------
    packed : int64 (rows, 3)
        Per tensor role; without a tensor, or one of a single element, no place is known.
    strides : int64 (rows, 3, 8)
        Elements between neighbours along each dimension; along one that is not named, the extent of all that are.
    """

    packed: IntArray
    strides: IntArray


def orders(nodes: ConfigurableNodes, rows: IntArray, owner: IntArray) -> Orders:
    """Layouts in effect under every row.

    Parameters
    ----------
    nodes : ConfigurableNodes
    rows : int64 (rows, 18)
    owner : int64 (rows,)
    """
    packed = np.zeros((len(rows), 3), np.int64)
    strides = np.zeros((len(rows), 3, 8), np.int64)
    _row_orders(rows, owner, nodes.dims, nodes.rank, nodes.own, packed, strides)
    return Orders(packed, strides)


def own_orders(nodes: ConfigurableNodes) -> Orders:
    """The graph's own layouts, one row per node."""
    return orders(nodes, np.full((len(nodes), len(LAYOUT_CONFIG)), -1, np.int64), np.arange(len(nodes)))


def levels(strides: IntArray) -> NDArray[np.int64]:
    """1 for a copy that keeps runs whole, and one more for each of :data:`STRIDES` that its stride exceeds."""
    return np.asarray(1 + sum((strides > stride).astype(np.int64) for stride in STRIDES), np.int64)


def weights(strides: IntArray) -> FloatArray:
    """Cost of a copied byte by the stride of the dimension that was contiguous, from 0.2 to 1."""
    return np.asarray(_LEAST + (1 - _LEAST) * np.clip((np.log2(strides) - _NEAR) / _REACH, 0.0, 1.0), np.float64)


def tensor_copies(
    owner: IntArray, of: Orders, own: Orders, fed: NDArray[np.bool_]
) -> list[tuple[NDArray[np.bool_], IntArray]]:
    """Copies of every row that concern its node alone, tensor by tensor, for each of :data:`OWN_KINDS`.

    Parameters
    ----------
    owner : int64 (rows,)
    of, own : Orders
        Of the rows, and of the graph itself.
    fed : bool (nodes, 3)
        Operands that come from a configurable node: their copies are told by :mod:`features.layout.copies`.

    Returns
    -------
    list of bool (rows, 3) and int64 (rows, 3)
        Whether the tensor is copied, and the stride of the copy in elements.
    """
    differs = of.packed != own.packed[owner]
    there = np.take_along_axis(of.strides, (own.packed[owner] & 7)[:, :, None], axis=2)[:, :, 0]
    back = np.take_along_axis(own.strides[owner], (of.packed & 7)[:, :, None], axis=2)[:, :, 0]
    output = np.arange(3) == 0
    return [(differs & output, there), (differs & ~output, back), (differs & ~output & ~fed[owner], there)]


def own_copies(
    nodes: ConfigurableNodes, owner: IntArray, of: Orders, own: Orders, fed: NDArray[np.bool_]
) -> FloatArray:
    """Copies of every row that concern its node alone, float64 (rows, N_OWN_COPIES).

    Parameters
    ----------
    nodes : ConfigurableNodes
    owner, of, own, fed
        As for :func:`tensor_copies`.
    """
    nbytes = nodes.nbytes[owner]
    out = np.zeros((len(owner), N_OWN_COPIES))
    for number, (copied, strides) in enumerate(tensor_copies(owner, of, own, fed)):
        level = levels(strides)
        first = N_LEVELS * number
        for place in range(N_LEVELS - 1):
            out[:, first + place] = np.where(copied & (level > place), nbytes, 0.0).sum(axis=1)
        out[:, first + N_LEVELS - 1] = copied.sum(axis=1)
        out[:, -1] += np.where(copied, nbytes * weights(strides), 0.0).sum(axis=1)
    return out


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


_KINDS: Final = {
    "out": "results, from the graph's layout to the one set",
    "back": "operands, from the layout set to the graph's",
    "entry": "operands that no configurable node feeds, from the graph's layout to the one set",
    "edge": "operands, from the layout of the configurable node that feeds them to the one set",
}
_GROUPS: Final = (*NODE_CLASSES, "all")
_N_CLASSES: Final = len(NODE_CLASSES)
#: Bits of a count of edges where those of all levels share a word, edges that it can count, and bits of all of these.
_FIELD: Final = 7
_MOST_ALIKE: Final = (1 << _FIELD) - 1
_FIELDS: Final = _FIELD * (N_LEVELS - 1)
#: Weights from 0.2 to 1 in single precision are whole multiples of 2**-26; sums of them in doubles are exact.
_WEIGHT_UNITS: Final = float(1 << 26)


def _columns() -> tuple[Column, ...]:
    found = []
    for group in _GROUPS:
        priced = group != "all"  # whose amounts are the sums of the others'
        for kind, doc in _KINDS.items():
            found.append(Column(f"{group}.{kind}.bytes", "log2", f"{group}: bytes copied of {doc}", priced))
            for stride in STRIDES:
                name = "strided" if stride == 1 else f"strided{stride}"
                found.append(
                    Column(
                        f"{group}.{kind}.{name}",
                        "log2",
                        f"{group}: bytes copied at strides above {stride} elements of {doc}",
                        priced,
                    )
                )
            found.append(Column(f"{group}.{kind}.copies", "count", f"{group}: copies of {doc}"))
        found.append(Column(f"{group}.cost", "log2", f"{group}: bytes of all copies, weighted by their stride"))
        found.append(
            Column(f"{group}.cost_share", "share", f"{group}: the same over the bytes of the configurable nodes")
        )
    return tuple(found)


COLUMNS: Final = _columns()


@kernel()
def _arrive(  # type: ignore[no-untyped-def]
    rows, owner, packed, first, edges, dims, rank, own, own_packed, consumer, role, origin, base, out
):
    """Pack the order in which every row's output reaches each operand that its node feeds."""
    named = np.empty(6, np.int64)
    come = np.empty(8, np.int64)
    order = np.empty(8, np.int64)
    for row in range(len(rows)):
        node = owner[row]
        size = rank[node, 0]
        for place in range(first[node], first[node + 1]):
            edge = edges[place]
            slot = base[row] + place - first[node]
            other, which = consumer[edge], role[edge]
            if packed[row, 0] == own_packed[node, 0]:
                out[slot] = own_packed[other, which]
                continue
            count = 0
            while count < size and 0 <= rows[row, count] < size:
                named[count] = rows[row, count]
                count += 1
            # What is not named lies in the graph's order, as far as there is but one way.
            left = 0
            for dim in range(size):
                known = dims[node, 0, dim] <= 1
                for earlier in range(count):
                    known = known or named[earlier] == dim
                left += not known
            whole = left <= 1
            if whole:
                for at in range(size):
                    known = False
                    for earlier in range(count):
                        known = known or named[earlier] == own[node, 0, at]
                    if not known and count < 6:
                        named[count] = own[node, 0, at]
                        count += 1
            reached = 0
            for at in range(count):
                dim = origin[edge, named[at]]
                if dim >= 0:
                    come[reached] = dim
                    reached += 1
            if whole:
                for at in range(rank[other, which]):
                    known = False
                    for earlier in range(reached):
                        known = known or come[earlier] == own[other, which, at]
                    if not known:
                        come[reached] = own[other, which, at]
                        reached += 1
            code, mask, kept = ORDER, 0, 0
            for at in range(reached):
                dim = come[at]
                known = dims[other, which, dim] <= 1
                for earlier in range(kept):
                    known = known or order[earlier] == dim
                if not known:
                    order[kept] = dim
                    code ^= (7 ^ dim) << 3 * kept
                    mask |= 7 << 3 * kept
                    kept += 1
            out[slot] = code | mask << ORDER_BITS


@kernel()
def _moved(come, want):  # type: ignore[no-untyped-def]
    """Whether an order that arrives is not the one wanted, as far as both are known."""
    return np.int64(((come ^ want) & (come >> ORDER_BITS) & (want >> ORDER_BITS) & ORDER) != 0)


@kernel()
def _edge_copies(  # type: ignore[no-untyped-def]
    columns, producer, consumer, role, group, slot, nbytes, share, base, arrivals, packed, level, weight, out
):
    """Add up copies along edges: per class and configuration, bytes and copies by level, and weighted bytes last.

    Edges of one size, which follow each other, are only counted until the last of them.
    """
    n_edges, n_configs = len(producer), columns.shape[1]
    alike = np.zeros((n_configs, N_LEVELS), np.int32)
    costs = np.zeros(n_configs)
    for edge in range(n_edges):
        makers, takers, place = columns[producer[edge]], columns[consumer[edge]], slot[edge]
        wanted, grade, cost = packed[role[edge]], level[role[edge]], weight[role[edge]]
        for config in range(n_configs):
            row = takers[config]
            come, want = arrivals[base[makers[config]] + place], wanted[row]
            differs, minor = _moved(come, want), come & 7
            alike[config, differs * grade[row, minor]] += 1
            costs[config] += differs * cost[row, minor]
        size, part, sums = nbytes[edge], share[edge], out[group[edge]]
        after = edge + 1
        if after == n_edges or group[after] != group[edge] or nbytes[after] != size or share[after] != part:
            for config in range(n_configs):
                for at in range(N_LEVELS):
                    sums[config, at] += alike[config, at] * size
                    sums[config, N_LEVELS + at] += alike[config, at] * part
                    alike[config, at] = 0
                sums[config, 2 * N_LEVELS] += costs[config] * size
                costs[config] = 0


@kernel()
def _tabulate_traffic(  # type: ignore[no-untyped-def]
    rows, of_node, producer, consumer, role, slot, base, arrivals, packed, level, weight, first, words
):
    """Tell all pairs of rows of every edge: the weight of the copy, and below it a field for each level above 0."""
    for edge in range(len(producer)):
        place = first[edge]
        wanted, grade, cost = packed[role[edge]], level[role[edge]], weight[role[edge]]
        for one in range(of_node[producer[edge]], of_node[producer[edge] + 1]):
            come = arrivals[base[rows[one]] + slot[edge]]
            for two in range(of_node[consumer[edge]], of_node[consumer[edge] + 1]):
                row, minor = rows[two], come & 7
                words[place] = 0
                if _moved(come, wanted[row]) > 0:
                    words[place] = np.int64(cost[row, minor] * _WEIGHT_UNITS) << _FIELDS
                    if grade[row, minor] > 0:
                        words[place] |= 1 << _FIELD * (np.int64(grade[row, minor]) - 1)
                place += 1


@kernel()
def _edge_pairs(  # type: ignore[no-untyped-def]
    places, producer, consumer, group, nbytes, share, first, width, words, out
):
    """Add up copies along edges as above, but by what is known of the pairs of rows; counts of level 0 stay out."""
    n_edges, n_configs = len(producer), places.shape[1]
    alike, waiting = np.zeros(n_configs, np.int64), 0
    levels = np.zeros((n_configs, N_LEVELS), np.int32)
    costs = np.zeros(n_configs, np.int64)
    for edge in range(n_edges):
        makers, takers, wide = places[producer[edge]], places[consumer[edge]], width[edge]
        told = words[first[edge] : first[edge + 1]]
        for config in range(n_configs):
            alike[config] += told[makers[config] * wide + takers[config]]
        waiting += 1
        size, part, sums, after = nbytes[edge], share[edge], out[group[edge]], edge + 1
        ends = after == n_edges or group[after] != group[edge] or nbytes[after] != size or share[after] != part
        if ends or waiting == _MOST_ALIKE:
            for config in range(n_configs):
                for at in range(1, N_LEVELS):
                    levels[config, at] += alike[config] >> _FIELD * (at - 1) & _MOST_ALIKE
                costs[config] += alike[config] >> _FIELDS
            alike[:] = 0
            waiting = 0
        if ends:
            for config in range(n_configs):
                for at in range(1, N_LEVELS):
                    sums[config, at] += levels[config, at] * size
                    sums[config, N_LEVELS + at] += levels[config, at] * part
                    levels[config, at] = 0
                sums[config, 2 * N_LEVELS] += costs[config] / _WEIGHT_UNITS * size
                costs[config] = 0


@kernel()
def _write_traffic(own, edges, totals, out):  # type: ignore[no-untyped-def]
    n_configs, n_classes = edges.shape[1], len(edges)
    n_own = own.shape[2]
    values = np.empty((n_classes + 1, n_own + N_LEVELS))
    for config in range(n_configs):
        values[:] = 0
        for number in range(n_classes):
            for place in range(n_own - 1):
                values[number, place] = own[config, number, place]
            copied, copies = 0.0, 0.0
            for level in range(N_LEVELS - 1, 0, -1):
                copied += edges[number, config, level]
                copies += edges[number, config, N_LEVELS + level]
                values[number, n_own - 2 + level] = copied
            values[number, n_own + N_LEVELS - 2] = copies
            values[number, n_own + N_LEVELS - 1] = own[config, number, n_own - 1] + edges[number, config, 2 * N_LEVELS]
            for place in range(n_own + N_LEVELS):
                values[n_classes, place] += values[number, place]
        slot = 0
        for number in range(n_classes + 1):
            for place in range(n_own + N_LEVELS - 1):
                value = values[number, place]
                out[config, slot] = value if place % N_LEVELS == N_LEVELS - 1 else np.log2(1.0 + value)
                slot += 1
            cost = values[number, n_own + N_LEVELS - 1]
            out[config, slot] = np.log2(1.0 + cost)
            out[config, slot + 1] = cost / max(totals[number], 1.0)
            slot += 2


@dataclass(frozen=True)
class EdgeCopies:
    """Copies along the meta-graph's edges.

    Parameters
    ----------
    producer, consumer : int64 (edges,)
        Positions among the configurable nodes.
    role : int64 (edges,)
        Operand of the consumer: 1 input, 2 kernel.
    nbytes : float64 (edges,)
        Bytes of the operand; of one that several nodes feed, their part.
    level : int64 (edges, b)
        0 where nothing is copied, else of :func:`features.layout.copies.levels`.
    """

    producer: IntArray
    consumer: IntArray
    role: IntArray
    nbytes: FloatArray
    level: IntArray


class Traffic:
    """Copies of one graph's coded configurations; grows as rows are discovered.

    Parameters
    ----------
    nodes : ConfigurableNodes
    of : Links
        Those inside a node are left out.

    Attributes
    ----------
    fed : bool (nodes, 3)
        Tensors that come from a configurable node.
    """

    def __init__(self, nodes: ConfigurableNodes, of: Links) -> None:
        self._nodes = nodes
        edges = of.group != INSIDE
        fed = np.zeros((len(nodes), 3), np.int64)
        np.add.at(fed, (of.nodes[edges, 1], of.roles[edges, 1]), 1)
        self.fed = fed > 0
        share = 1.0 / np.maximum(fed[of.nodes[:, 1], of.roles[:, 1]], 1)
        order = np.lexsort((share, of.nbytes, of.group))
        order = order[edges[order]]
        self._producer, self._consumer = of.nodes[order].T.copy()
        self._role = of.roles[order, 1]
        self._group = of.group[order]
        self._origin = of.origin[order]
        self._share = share[order]
        self._nbytes = of.nbytes[order] * self._share
        self._edges = np.argsort(self._producer, kind="stable")
        self._first = np.searchsorted(self._producer[self._edges], np.arange(len(nodes) + 1))
        self._slot = np.empty(len(self._producer), np.int64)
        self._slot[self._edges] = np.arange(len(self._edges)) - self._first[self._producer[self._edges]]
        of_class = [nodes.nbytes[nodes.classes == number].sum() for number in range(_N_CLASSES)]
        self._totals = np.array([*of_class, nodes.nbytes.sum()])
        self.own: Orders = own_orders(nodes)
        self._base = np.zeros(0, np.int64)
        self._arrivals = np.zeros(0, np.int64)
        self._packed = np.zeros((3, 0), np.int64)
        self._level = np.zeros((3, 0, 8), np.int8)
        self._weight = np.zeros((3, 0, 8), np.float32)

    def add(self, rows: IntArray, owner: IntArray) -> tuple[Orders, FloatArray]:
        """Take in newly discovered rows.

        Parameters
        ----------
        rows : int64 (rows, 18)
        owner : int64 (rows,)

        Returns
        -------
        of : Orders
            Their layouts.
        copies : float64 (rows, N_OWN_COPIES)
            Their copies that concern no other node.
        """
        nodes, of = self._nodes, orders(self._nodes, rows, owner)
        leaving = (self._first[1:] - self._first[:-1])[owner]
        ends = np.cumsum(leaving)
        come = np.empty(ends[-1] if len(ends) else 0, np.int64)
        base = ends - leaving
        _arrive(
            rows, owner, of.packed, self._first, self._edges, nodes.dims, nodes.rank, nodes.own, self.own.packed,
            self._consumer, self._role, self._origin, base, come,
        )  # fmt: skip
        self._base = np.concatenate([self._base, base + len(self._arrivals)])
        self._arrivals = np.concatenate([self._arrivals, come])
        self._packed = np.concatenate([self._packed, of.packed.T], axis=1)
        stretched = of.strides.transpose(1, 0, 2)
        self._level = np.concatenate([self._level, levels(stretched).astype(np.int8)], axis=1)
        self._weight = np.concatenate([self._weight, weights(stretched).astype(np.float32)], axis=1)
        return of, own_copies(nodes, owner, of, self.own, self.fed)

    def tabulate(self, places: Places) -> PairTable | None:
        """Work out the copies of every pair of the rows that are known so far, for :meth:`write_pairs`.

        Parameters
        ----------
        places : Places
        """
        found = places.pairs(np.stack([self._producer, self._consumer], axis=1))
        if found is not None:
            _tabulate_traffic(
                places.rows, places.first, self._producer, self._consumer, self._role, self._slot, self._base,
                self._arrivals, self._packed, self._level, self._weight, found.first, found.words,
            )  # fmt: skip
        return found

    def write(self, columns: NDArray[np.uint32], own: FloatArray, out: Float32Array) -> None:
        """Write :data:`COLUMNS`.

        Parameters
        ----------
        columns : uint32 (nodes, b)
            Coded configurations, C-contiguous.
        own : float64 (b, classes, N_OWN_COPIES)
            Sums over nodes of what :meth:`add` returned.
        out : float32 (b, len(COLUMNS))
        """
        _write_traffic(own, self._summed(columns, self._group, _N_CLASSES), self._totals, out)

    def write_pairs(self, turned: NDArray[np.uint8], told: PairTable, own: FloatArray, out: Float32Array) -> None:
        """Write :data:`COLUMNS` as :meth:`write` does, by what is known of pairs of rows.

        Parameters
        ----------
        turned : uint8 (nodes, b)
            Of :meth:`features.layout.copies.Places.turned`.
        told : PairTable
            Of :meth:`tabulate`.
        own, out
            As for :meth:`write`.
        """
        edges = np.zeros((_N_CLASSES, turned.shape[1], 2 * N_LEVELS + 1))
        _edge_pairs(
            turned, self._producer, self._consumer, self._group, self._nbytes, self._share, told.first, told.width,
            told.words, edges,
        )  # fmt: skip
        _write_traffic(own, edges, self._totals, out)

    def by_edge(self, columns: NDArray[np.uint32]) -> EdgeCopies:
        """Tell the copies along every edge by themselves.

        Parameters
        ----------
        columns : uint32 (nodes, b)
            Coded configurations, C-contiguous.
        """
        n_edges = len(self._producer)
        each = self._summed(columns, np.arange(n_edges), n_edges)
        counts = each[:, :, N_LEVELS : 2 * N_LEVELS]
        return EdgeCopies(self._producer, self._consumer, self._role, self._nbytes, counts.argmax(axis=2))

    def _summed(self, columns: NDArray[np.uint32], group: IntArray, n_groups: int) -> FloatArray:
        edges = np.zeros((n_groups, columns.shape[1], 2 * N_LEVELS + 1))
        _edge_copies(
            columns, self._producer, self._consumer, self._role, group, self._slot, self._nbytes, self._share,
            self._base, self._arrivals, self._packed, self._level, self._weight, edges,
        )  # fmt: skip
        return edges


#: Stands for "no dimension" where dimensions take three bits.
_NONE: Final = 7
#: Bits of a count of links where three of them share a word.
_LINK_BITS: Final = 21

KINDS: Final = (
    ("minor", "whose minor-most dimensions differ, both layouts set"),
    ("any", "whose layouts differ, both set"),
    ("soft", "whose minor-most dimensions differ, the graph's own layout standing in where none is set"),
)
_GROUP_DOC: Final = {
    "convolution": "tensors that feed a configurable convolution",
    "dot": "tensors that feed a configurable dot",
    "reshape": "tensors that feed a configurable reshape",
    "inside": "configurable reshapes, between input and output,",
    "all": "tensors between configurable nodes",
}

#: Columns of disagreements; those of :mod:`features.layout.copies` follow.
DISAGREEMENTS: Final = tuple(
    column
    for group in GROUPS
    for kind, doc in KINDS
    for column in (
        Column(f"{group}.{kind}.count", "share", f"Part of the {_GROUP_DOC[group]} {doc}"),
        Column(f"{group}.{kind}.share", "share", f"The same, by bytes: {_GROUP_DOC[group]} {doc}"),
        Column(f"{group}.{kind}.bytes", "log2", f"Bytes of the {_GROUP_DOC[group]} {doc}"),
    )
)
BLOCK: Final = Block(
    "copies",
    2,
    "Disagreements between the layouts of connected configurable nodes, and the copies that layouts cost.",
    (*DISAGREEMENTS, *COLUMNS),
    per_config=True,
)


@kernel()
def _write(counts, sizes, totals, out):  # type: ignore[no-untyped-def]
    n_groups, _, n_configs = counts.shape
    for config in range(n_configs):
        place = 0
        for number in range(n_groups + 1):
            for kind in range(3):
                amount, size = 0.0, 0.0
                if number < n_groups:
                    amount, size = np.float64(counts[number, kind, config]), sizes[number, kind, config]
                else:
                    for each in range(n_groups):
                        amount += counts[each, kind, config]
                        size += sizes[each, kind, config]
                out[config, place] = amount / max(totals[number, 0], 1.0)
                out[config, place + 1] = size / max(totals[number, 1], 1.0)
                out[config, place + 2] = np.log2(1.0 + size)
                place += 3


@kernel()
def _differences(first, second, origin):  # type: ignore[no-untyped-def]
    """Tell which of :data:`KINDS` of disagreement there are between two states.  Free of branches."""
    minor = (origin >> (np.int32(3) * (first & np.int32(7)))) & np.int32(7)
    next_minor = (origin >> (np.int32(3) * ((first >> np.int32(3)) & np.int32(7)))) & np.int32(7)
    wanted, next_wanted = second & np.int32(7), (second >> np.int32(3)) & np.int32(7)
    differs = np.int32((minor != 7) & (wanted != 7) & (minor != wanted))
    next_differs = np.int32((next_minor != 7) & (next_wanted != 7) & (next_minor != next_wanted))
    both = (first & second) >> np.int32(6)
    return both & differs, both & (differs | next_differs), differs


@kernel()
def _count_copies(  # type: ignore[no-untyped-def]
    columns, states, origins, pairs, roles, group, nbytes, totals, out
):
    """Count copies link by link; links of one size, which follow each other, are only counted until the last."""
    n_configs, n_links, n_groups = columns.shape[1], len(pairs), len(totals) - 1
    counts = np.zeros((n_groups, 3, n_configs), np.int32)
    sizes = np.zeros((n_groups, 3, n_configs))
    alike = np.zeros((3, n_configs), np.int32)
    for link in range(n_links):
        own, other, origin, size = roles[link, 0], roles[link, 1], origins[link], nbytes[link]
        producers, consumers = columns[pairs[link, 0]], columns[pairs[link, 1]]
        here, there = states[own], states[other]
        for config in range(n_configs):  # innermost, and free of branches: it becomes vector instructions
            strict, loose, differs = _differences(here[producers[config]], there[consumers[config]], origin)
            alike[0, config] += strict
            alike[1, config] += loose
            alike[2, config] += differs
        if link + 1 == n_links or group[link + 1] != group[link] or nbytes[link + 1] != size:
            for kind in range(3):
                for config in range(n_configs):
                    counts[group[link], kind, config] += alike[kind, config]
                    sizes[group[link], kind, config] += alike[kind, config] * size
                    alike[kind, config] = 0
    _write(counts, sizes, totals, out)


@kernel()
def _tabulate(rows, of_node, states, origins, pairs, roles, first, words):  # type: ignore[no-untyped-def]
    """Tell all pairs of rows of every link: the three kinds, one in every field of a word."""
    for link in range(len(pairs)):
        place = first[link]
        here, there = states[roles[link, 0]], states[roles[link, 1]]
        for one in range(of_node[pairs[link, 0]], of_node[pairs[link, 0] + 1]):
            for two in range(of_node[pairs[link, 1]], of_node[pairs[link, 1] + 1]):
                strict, loose, differs = _differences(here[rows[one]], there[rows[two]], origins[link])
                words[place] = np.int64(strict) | np.int64(loose) << _LINK_BITS | np.int64(differs) << 2 * _LINK_BITS
                place += 1


@kernel()
def _count_pairs(places, pairs, group, nbytes, totals, first, width, words, out):  # type: ignore[no-untyped-def]
    """Count copies as above, but by what is known of the pairs of rows."""
    n_configs, n_links, n_groups = places.shape[1], len(pairs), len(totals) - 1
    counts = np.zeros((n_groups, 3, n_configs), np.int32)
    sizes = np.zeros((n_groups, 3, n_configs))
    alike = np.zeros(n_configs, np.int64)
    for link in range(n_links):
        producers, consumers, wide = places[pairs[link, 0]], places[pairs[link, 1]], width[link]
        told = words[first[link] : first[link + 1]]
        for config in range(n_configs):
            alike[config] += told[producers[config] * wide + consumers[config]]
        size = nbytes[link]
        if link + 1 == n_links or group[link + 1] != group[link] or nbytes[link + 1] != size:
            for kind in range(3):
                for config in range(n_configs):
                    count = alike[config] >> kind * _LINK_BITS & (1 << _LINK_BITS) - 1
                    counts[group[link], kind, config] += count
                    sizes[group[link], kind, config] += count * size
            alike[:] = 0
    _write(counts, sizes, totals, out)


def order_states(values: RowValues) -> NDArray[np.int32]:
    """What the links ask of every row, int32 (3, rows).

    Three bits each for the minor-most and the second minor dimension (7: none), and one that says whether the tensor's
    layout is set.
    """
    minors = np.where(values.minors < 0, _NONE, values.minors)
    state = minors[:, :, 0] | minors[:, :, 1] << 3 | values.is_set.astype(np.int64) << 6
    return np.ascontiguousarray(state.T, np.int32)


class CopyCounter:
    """Counts the copies of coded configurations.

    Parameters
    ----------
    of : Links
    """

    def __init__(self, of: Links) -> None:
        order = np.lexsort((of.nbytes, of.group))
        self._links = of = Links(*(getattr(of, field.name)[order] for field in fields(of)))
        origin = np.where(of.origin < 0, _NONE, of.origin)
        dims = np.arange(MAX_RANK)
        # Seven dimensions of three bits each; the last stands for "no such dimension" and leads to itself.
        self._origins = ((origin << 3 * dims).sum(axis=1) | _NONE << 3 * _NONE).astype(np.int32)
        n_groups = len(GROUPS) - 1
        totals = np.zeros((n_groups + 1, 2))
        for number in range(n_groups):
            own = of.group == number
            totals[number] = own.sum(), of.nbytes[own].sum()
        totals[-1] = totals[:-1].sum(axis=0)
        self._totals = totals

    def count(self, columns: NDArray[np.uint32], states: NDArray[np.int32], out: Float32Array) -> None:
        """Write :data:`DISAGREEMENTS`.

        Parameters
        ----------
        columns : uint32 (nodes, b)
            Coded configurations, C-contiguous.
        states : int32 (3, rows)
            Of all rows, by :func:`order_states`.
        out : float32 (b, len(DISAGREEMENTS))
        """
        of = self._links
        _count_copies(columns, states, self._origins, of.nodes, of.roles, of.group, of.nbytes, self._totals, out)

    def tabulate(self, states: NDArray[np.int32], places: Places) -> PairTable | None:
        """Work out what links ask of every pair of the rows that are known so far, for :meth:`count_pairs`.

        Parameters
        ----------
        states : int32 (3, rows)
            Of all rows, by :func:`order_states`.
        places : Places
        """
        of = self._links
        found = places.pairs(of.nodes) if len(of.nodes) < 1 << _LINK_BITS else None
        if found is not None:
            _tabulate(places.rows, places.first, states, self._origins, of.nodes, of.roles, found.first, found.words)
        return found

    def count_pairs(self, turned: NDArray[np.uint8], told: PairTable, out: Float32Array) -> None:
        """Write :data:`DISAGREEMENTS` as :meth:`count` does, by what is known of pairs of rows.

        Parameters
        ----------
        turned : uint8 (nodes, b)
            Of :meth:`features.layout.copies.Places.turned`.
        told : PairTable
            Of :meth:`tabulate`.
        out : float32 (b, len(DISAGREEMENTS))
        """
        of = self._links
        _count_pairs(turned, of.nodes, of.group, of.nbytes, self._totals, told.first, told.width, told.words, out)

    def by_link(self, columns: NDArray[np.uint32], states: NDArray[np.int32]) -> tuple[Links, NDArray[np.bool_]]:
        """Tell for every link by itself which of :data:`KINDS` of disagreement there are.

        Parameters
        ----------
        columns, states
            As for :meth:`count`.

        Returns
        -------
        Links
            In the order of what follows.
        bool (links, b, len(KINDS))
        """
        of, n_links, n_kinds = self._links, len(self._links.nodes), len(KINDS)
        out = np.empty((columns.shape[1], (n_links + 1) * 3 * n_kinds), np.float32)
        one_each = np.ones((n_links + 1, 2))
        _count_copies(columns, states, self._origins, of.nodes, of.roles, np.arange(n_links), of.nbytes, one_each, out)
        counts = out.reshape(len(out), n_links + 1, n_kinds, 3)[:, :-1, :, 0]
        return of, np.ascontiguousarray(counts.transpose(1, 0, 2) > 0)

"""Copies by kind, stride and class, and what they cost: around single nodes, and along the meta-graph's edges.

A tensor is copied where an operation's result must leave in a layout of its own (*out*), where an operand must come in
one although the operation wants the graph's (*back*), where such an operand comes from outside (*entry*), and where the
layout that a configurable node hands on is not the one that the next asks for (*edge*).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.layout.links import INSIDE, Links
from features.layout.nodes import NODE_CLASSES, ConfigurableNodes
from features.layout.pairs import PairTable, Places
from features.layout.relayout import (
    N_LEVELS,
    ORDER,
    ORDER_BITS,
    STRIDES,
    Orders,
    levels,
    orders,
    own_copies,
    own_orders,
    weights,
)
from features.schema import Column, Float32Array

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

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
def _tabulate(  # type: ignore[no-untyped-def]
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
def _write(own, edges, totals, out):  # type: ignore[no-untyped-def]
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
        0 where nothing is copied, else of :func:`features.layout.relayout.levels`.
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
            _tabulate(
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
        _write(own, self._summed(columns, self._group, _N_CLASSES), self._totals, out)

    def write_pairs(self, turned: NDArray[np.uint8], told: PairTable, own: FloatArray, out: Float32Array) -> None:
        """Write :data:`COLUMNS` as :meth:`write` does, by what is known of pairs of rows.

        Parameters
        ----------
        turned : uint8 (nodes, b)
            Of :meth:`features.layout.pairs.Places.turned`.
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
        _write(own, edges, self._totals, out)

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

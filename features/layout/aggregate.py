"""Sums over the configurable nodes of what their rows are worth: the columns of the layout, types and reach blocks.

Nodes that are alike (one class, shape, layout and size) and take the same row add the same.  Such a (kind of node, row)
pair is a *term*: a configuration is counted into terms, one step per node, and then summed over terms.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hlo import LAYOUT_CONFIG
from features.layout.copies import N_OWN_COPIES
from features.layout.nodes import N_BINS, NODE_CLASSES, TENSOR_ROLES, VALUES, ConfigurableNodes, RowValues
from features.operations import KINDS
from features.schema import Block, Column, Float32Array

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

CONFIG: Final = Block(
    "config",
    1,
    "The configuration as it is given, pooled over the configurable nodes.",
    (
        *(
            Column(f"mean.{name}", "dimension", f"Mean of {name} over the nodes, -1 where unset")
            for name in LAYOUT_CONFIG
        ),
        *(Column(f"std.{name}", "dimension", f"Standard deviation of {name} over the nodes") for name in LAYOUT_CONFIG),
        Column("configured", "share", "Part of the nodes that have any layout set"),
        Column("is_default", "flag", "Whether every layout is left to the compiler"),
    ),
    per_config=True,
)


#: Whole numbers that a (node, row) pair adds to the pools: slots, their squares, and whether any slot is set.
N_POOLED: Final = 2 * len(LAYOUT_CONFIG) + 1


def pooled_values(rows: IntArray) -> NDArray[np.int32]:
    """What every row adds, int32 (rows, N_POOLED), of int64 (rows, 18)."""
    return np.concatenate([rows, rows * rows, (rows >= 0).any(axis=1, keepdims=True)], axis=1).astype(np.int32)


@kernel()
def _pool(totals, n_nodes, out):  # type: ignore[no-untyped-def]
    n_configs, width = len(totals), totals.shape[1] // 2
    for config in range(n_configs):
        for slot in range(width):
            mean = totals[config, slot] / n_nodes
            out[config, slot] = mean
            out[config, width + slot] = np.sqrt(max(totals[config, width + slot] / n_nodes - mean * mean, 0.0))
        out[config, 2 * width] = totals[config, 2 * width] / n_nodes
        out[config, 2 * width + 1] = totals[config, 2 * width] == 0


_Float = TypeVar("_Float", np.float32, np.float64)


@dataclass(frozen=True)
class Columns:
    """Columns of a table, of which each class of terms needs those only that differ and are not all zero.

    Parameters
    ----------
    kept : tuple of int64 (kept,)
        Per class.
    place : uint32 (classes, columns)
        Where each column is among those that are kept; ``width`` for zeros.
    width : int
        Most columns that a class keeps.
    """

    kept: tuple[IntArray, ...]
    place: NDArray[np.uint32]
    width: int

    @classmethod
    def of(cls, table: NDArray[np.floating], classes: IntArray, n_classes: int) -> Columns:
        """Tell the columns of a table (terms, columns) apart, whose rows are of ``classes``."""
        place = np.full((n_classes, table.shape[1]), -1, np.int64)
        kept = []
        for own in range(n_classes):
            columns = np.ascontiguousarray(table[classes == own].T)
            distinct: dict[bytes, int] = {}
            for number in np.flatnonzero(columns.any(axis=1)).tolist():
                place[own, number] = distinct.setdefault(columns[number].tobytes(), len(distinct))
            _, first = np.unique(place[own], return_index=True)
            kept.append(first[len(first) - len(distinct) :])
        width = max(map(len, kept))
        place[place < 0] = width
        return cls(tuple(kept), place.astype(np.uint32), width)

    def pick(self, table: NDArray[_Float], ends: IntArray) -> NDArray[_Float]:
        """What is kept of a table whose rows stand class by class, (terms, width)."""
        out = np.zeros((len(table), self.width), table.dtype)
        for own, kept in enumerate(self.kept):
            rows = slice(ends[own], ends[own + 1])
            out[rows, : len(kept)] = table[rows, kept]
        return out


N_WEIGHTS: Final = 3
N_SUMS: Final = 5
N_LARGEST: Final = 2
N_KINDS: Final = len(KINDS)
N_VALUES: Final = len(TENSOR_ROLES) * len(VALUES) * N_WEIGHTS
_N_CLASSES: Final = len(NODE_CLASSES)
#: What a term adds in single precision: values, and counts far below 2**24: pools, bins, whether its layout differs.
_FIRST_BIN: Final = N_VALUES + N_POOLED
_N_SINGLES: Final = _FIRST_BIN + 2 * N_BINS + 1
#: Values of all nodes that are ranked within the slate: how many outputs are set, and the bytes of those that are kept.
#: Their amounts are whole numbers and summed as such.  Shares, summed, would leave dust, and dust has an order.
_RANKED: Final = tuple(
    (TENSOR_ROLES.index("output") * len(VALUES) + [name for name, *_ in VALUES].index(value)) * N_WEIGHTS + weight
    for value, weight in (("set", 0), ("kept", 1))
)
_N_RANKED: Final = len(_RANKED)
_FIRST_RANKED: Final = N_SUMS + N_OWN_COPIES
#: What it adds in double precision: sums, copies, amounts that are ranked, operations with the padding of their output
#: by kind, of which all nodes are of one class.
_FIRST_KIND: Final = _FIRST_RANKED + _N_RANKED
_N_DOUBLES: Final = _FIRST_KIND + N_KINDS
#: Terms or nodes that are added at a time: sums go through memory.
_AT_ONCE: Final = 4
#: Configurations side by side, and nodes of them that are looked at together: what is read and written stays near.
_CONFIGS: Final = 128
_NODES: Final = 16


class _Ordered(NamedTuple):
    """Terms as they are summed: class by class, each class in a given order.

    Parameters
    ----------
    place_of : uint32 (rows,)
        Place of every row's term in this order.
    ends : int64 (classes + 1,)
        Where each class begins.
    singles, doubles : float32 (terms, kept), float64 (terms, kept)
        Of :meth:`features.layout.aggregate.Columns.pick`.
    single_of, double_of : uint32 (classes, columns)
        Where to find each column among those that are kept.
    widths : int64 (classes, 2)
        Columns that each class keeps, single and double.
    largest : float32 (terms, N_LARGEST)
    buckets : int64 (terms,)
    """

    place_of: NDArray[np.uint32]
    ends: IntArray
    singles: Float32Array
    single_of: NDArray[np.uint32]
    doubles: FloatArray
    double_of: NDArray[np.uint32]
    widths: IntArray
    largest: Float32Array
    buckets: IntArray


class _Totals(NamedTuple):
    """What sums are divided by.

    ratio : float32 (classes, N_VALUES), weight of each class within all nodes; whole : float64 (N_RANKED,), of outputs,
    their number and bytes; nodes : float64 (classes,); flops : float64 (N_KINDS,).
    """

    ratio: Float32Array
    whole: FloatArray
    nodes: FloatArray
    flops: FloatArray


class _Out(NamedTuple):
    """Columns by kind, a row per configuration: int32 pools, float32 columns of the blocks, float64 copies."""

    pooled: NDArray[np.int32]
    values: Float32Array
    sums: Float32Array
    largest: Float32Array
    bins: Float32Array
    computed: Float32Array
    types: Float32Array
    copies: FloatArray


@kernel()
def _settle(config, n_nodes, values, totals, tops, typed, scale, out):  # type: ignore[no-untyped-def]
    """Turn one configuration's sums into columns."""
    ratio, whole_of, n_nodes_of, flops_of = scale
    out_pooled, out_values, out_sums, out_largest, out_bins, out_computed, out_types, out_copies = out
    for place in range(N_POOLED):
        total = np.float32(0)
        for own in range(_N_CLASSES):
            total += values[own, N_VALUES + place]
        out_pooled[config, place] = np.int32(total)
    for kind in range(N_KINDS):
        heavy = 0.0
        for own in range(_N_CLASSES):
            heavy += totals[own, _FIRST_KIND + kind]
        out_computed[config, kind] = np.log2(heavy / flops_of[kind]) if flops_of[kind] > 0 else 0.0
    changed = np.float32(0)
    for own in range(_N_CLASSES):
        changed += values[own, _N_SINGLES - 1]
    out_computed[config, N_KINDS] = changed / np.float64(n_nodes)
    for place in range(len(typed)):
        out_types[config, place] = typed[place] / n_nodes
    for place in range(N_VALUES):
        out_values[config, _N_CLASSES * N_VALUES + place] = 0
    for own in range(_N_CLASSES):
        for place in range(2 * N_BINS):
            out_bins[config, 2 * N_BINS * own + place] = values[own, _FIRST_BIN + place] / n_nodes_of[own]
        for place in range(N_VALUES):
            out_values[config, own * N_VALUES + place] = values[own, place]
            out_values[config, _N_CLASSES * N_VALUES + place] += values[own, place] * ratio[own, place]
        for place in range(N_SUMS):
            out_sums[config, own * N_SUMS + place] = np.log2(1.0 + totals[own, place])
        for place in range(N_OWN_COPIES):
            out_copies[config, own, place] = totals[own, N_SUMS + place]
        for place in range(N_LARGEST):
            out_largest[config, own * N_LARGEST + place] = tops[own, place]
    for place in range(_N_RANKED):
        amount = 0.0
        for own in range(_N_CLASSES):
            amount += totals[own, _FIRST_RANKED + place]
        out_values[config, _N_CLASSES * N_VALUES + _RANKED[place]] = amount / whole_of[place]
    for place in range(N_SUMS):
        amount = 0.0
        for own in range(_N_CLASSES):
            amount += totals[own, place]
        out_sums[config, _N_CLASSES * N_SUMS + place] = np.log2(1.0 + amount)
    for place in range(N_LARGEST):
        top = np.float32(0)
        for own in range(_N_CLASSES):
            top = max(top, tops[own, place])
        out_largest[config, _N_CLASSES * N_LARGEST + place] = top


@kernel()
def _reach(codes, is_set, reached, out):  # type: ignore[no-untyped-def]
    """Add up, node by node, what is around those that are set, for many configurations side by side."""
    n_configs, n_nodes = codes.shape
    n_reached = reached.shape[1]
    flags = np.zeros((_NODES, _CONFIGS), np.float32)
    near = np.empty((n_reached, _CONFIGS), np.float32)
    for first in range(0, n_configs, _CONFIGS):
        count = min(_CONFIGS, n_configs - first)
        near[:] = 0
        for start in range(0, n_nodes, _NODES):
            here = min(_NODES, n_nodes - start)
            for config in range(count):
                for node in range(here):
                    flags[node, config] = is_set[codes[first + config, start + node]]
            flags[here:] = 0
            for node in range(0, here, _AT_ONCE):
                set_a, set_b, set_c, set_d = flags[node], flags[node + 1], flags[node + 2], flags[node + 3]
                for place in range(n_reached):
                    a, b = reached[start + node, place], reached[start + node + 1, place]
                    c, d = reached[start + node + 2, place], reached[start + node + 3, place]
                    total = near[place]
                    for config in range(count):
                        amount = (total[config] + set_a[config] * a) + set_b[config] * b
                        total[config] = (amount + set_c[config] * c) + set_d[config] * d
        for config in range(count):
            for place in range(n_reached):
                out[first + config, place] = near[place, config]


@kernel()
def _aggregate(codes, terms, scale, out):  # type: ignore[no-untyped-def]
    """Count configurations, uint32 (b, nodes), into terms, and write their sums as columns."""
    place_of, ends, singles, single_of, doubles, double_of, widths, largest, buckets = terms
    n_configs, n_nodes = codes.shape
    n_terms = len(singles)
    counts = np.zeros(n_terms, np.int32)
    found = np.empty(n_terms + _AT_ONCE, np.uint32)
    amounts = np.empty(n_terms + _AT_ONCE, np.int32)
    single, double = np.empty(singles.shape[1] + 1, np.float32), np.empty(doubles.shape[1] + 1)
    values = np.empty((_N_CLASSES, _N_SINGLES), np.float32)
    totals = np.empty((_N_CLASSES, _N_DOUBLES))
    tops = np.empty((_N_CLASSES, N_LARGEST), np.float32)
    typed = np.empty(out.types.shape[1], np.int32)
    for config in range(n_configs):
        for node in range(n_nodes):
            counts[place_of[codes[config, node]]] += 1
        tops[:] = 0
        typed[:] = 0
        for own in range(_N_CLASSES):
            n_found = 0
            for term in range(ends[own], ends[own + 1]):  # without branches, which nothing could foresee
                found[n_found] = term
                n_found += counts[term] > 0
            for place in range(n_found):
                term = found[place]
                count = counts[term]
                amounts[place] = count
                counts[term] = 0
                typed[buckets[term]] += count
                for slot in range(N_LARGEST):
                    tops[own, slot] = max(tops[own, slot], largest[term, slot])
            for place in range(n_found, n_found + _AT_ONCE):
                found[place], amounts[place] = ends[own], 0
            single[:] = 0
            double[:] = 0
            for place in range(0, n_found, _AT_ONCE):
                a, b, c, d = found[place], found[place + 1], found[place + 2], found[place + 3]
                of_a, of_b = np.float32(amounts[place]), np.float32(amounts[place + 1])
                of_c, of_d = np.float32(amounts[place + 2]), np.float32(amounts[place + 3])
                for slot in range(widths[own, 0]):
                    total = (single[slot] + of_a * singles[a, slot]) + of_b * singles[b, slot]
                    single[slot] = (total + of_c * singles[c, slot]) + of_d * singles[d, slot]
                for slot in range(widths[own, 1]):
                    amount = (double[slot] + amounts[place] * doubles[a, slot]) + amounts[place + 1] * doubles[b, slot]
                    amount = amount + amounts[place + 2] * doubles[c, slot]
                    double[slot] = amount + amounts[place + 3] * doubles[d, slot]
            for slot in range(_N_SINGLES):
                values[own, slot] = single[single_of[own, slot]]
            for slot in range(_N_DOUBLES):
                totals[own, slot] = double[double_of[own, slot]]
        _settle(config, n_nodes, values, totals, tops, typed, scale, out)


@kernel()
def _appearance(codes, term_of, place):  # type: ignore[no-untyped-def]
    count = 0
    for config in range(len(codes)):
        for node in range(codes.shape[1]):
            term = term_of[codes[config, node]]
            if place[term] < 0:
                place[term] = count
                count += 1
        if count == len(place):
            break
    return count


class Terms:
    """What every distinct (kind of node, row) adds; grows as rows are discovered.

    Parameters
    ----------
    nodes : ConfigurableNodes
    kinds : int64 (nodes,)
        Of :func:`features.operations.node_kinds`.
    fed : bool (nodes, 3)
        Tensors that come from a configurable node.
    reached : float32 (nodes, columns)
        What a node that is set adds to the reach block.
    """

    def __init__(
        self, nodes: ConfigurableNodes, kinds: IntArray, fed: NDArray[np.bool_], reached: Float32Array
    ) -> None:
        self._nodes = nodes
        self._kinds = kinds
        flops_of = np.bincount(kinds, nodes.flops, minlength=N_KINDS).astype(np.float64)
        self._reached = np.concatenate([reached, np.zeros((-len(reached) % _AT_ONCE, reached.shape[1]), np.float32)])
        self._there = nodes.rank >= 0
        weights = np.stack([self._there, nodes.nbytes, np.where(self._there, nodes.flops[:, None], 0.0)], axis=2)
        of_class = np.stack([weights[nodes.classes == number].sum(axis=0) for number in range(_N_CLASSES)])
        self._shares = weights / np.where(of_class > 0, of_class, 1.0)[nodes.classes]
        whole = of_class.sum(axis=0)
        ratio = of_class / np.where(whole > 0, whole, 1.0)
        ratio_of = _flat(np.repeat(ratio[:, :, None, :], len(VALUES), axis=2))
        whole_of = np.maximum(whole[0, :_N_RANKED], 1.0)  # of outputs: their number, and their bytes
        n_nodes_of = np.maximum(np.bincount(nodes.classes, minlength=_N_CLASSES), 1).astype(np.float64)
        self._scale = _Totals(ratio_of, whole_of, n_nodes_of, flops_of)
        alike = [
            nodes.classes[:, None], nodes.rank, nodes.dims, nodes.own, nodes.nbytes.view(np.int64),
            nodes.flops[:, None].view(np.int64), nodes.kind[:, None].view(np.int64), kinds[:, None], fed,
        ]  # fmt: skip
        flat = np.concatenate([values.reshape(len(nodes), -1) for values in alike], axis=1)
        self._kind = np.unique(flat, axis=0, return_inverse=True)[1].reshape(-1).tolist()
        self._number: dict[tuple[int, bytes], int] = {}
        self._term_of = np.zeros(0, np.int32)
        self._is_set = np.zeros(0, np.float32)
        self._classes = np.zeros(0, np.int64)
        self._singles = np.zeros((0, _N_SINGLES), np.float32)
        self._doubles = np.zeros((0, _N_DOUBLES))
        self._largest = np.zeros((0, N_LARGEST), np.float32)
        self._buckets = np.zeros(0, np.int64)

    def add(
        self, rows: IntArray, owner: IntArray, values: RowValues, differs: NDArray[np.bool_], copies: FloatArray
    ) -> None:
        """Take in newly discovered rows with what they mean.

        Parameters
        ----------
        rows : int64 (rows, 18)
        owner : int64 (rows,)
        values : RowValues
        differs : bool (rows,)
            Whether any layout in effect is not the graph's.
        copies : float64 (rows, N_OWN_COPIES)
            Of :func:`features.layout.copies.Copies.add`.
        """
        known = len(self._number)
        numbers: list[int] = []
        fresh: list[int] = []
        for place, (node, row) in enumerate(zip(owner.tolist(), rows, strict=True)):
            number = self._number.setdefault((self._kind[node], row.tobytes()), len(self._number))
            numbers.append(number)
            if number == known + len(fresh):
                fresh.append(place)
        self._term_of = np.concatenate([self._term_of, np.array(numbers, np.int32)])
        self._is_set = np.concatenate([self._is_set, values.is_set.any(axis=1).astype(np.float32)])
        if fresh:
            self._extend(rows[fresh], owner[fresh], values, np.array(fresh), differs[fresh], copies[fresh])
        # Last and at once: another thread may be counting what was known before.
        self._ordered = self._in_order(np.arange(len(self._classes)))

    def _extend(
        self,
        rows: IntArray,
        owner: IntArray,
        values: RowValues,
        at: IntArray,
        differs: NDArray[np.bool_],
        copies: FloatArray,
    ) -> None:
        nodes, of = self._nodes, values.values[at]
        kept, minor_kept, padding, jump = (of[:, :, place] for place in (1, 3, 8, 9))
        nbytes, here = nodes.nbytes[owner], self._there[owner]
        moved = np.where(here, 1 - kept, 0) * nbytes
        minor_moved = np.where(here, 1 - minor_kept, 0) * nbytes
        padded = np.where(here, (2.0**padding - 1) * nbytes, 0.0)
        computed = nodes.flops[owner] * 2.0 ** padding[:, 0]
        wasted = nodes.flops[owner] * (2.0 ** padding[:, 0] - 1)
        totals = [moved.sum(axis=1), minor_moved.sum(axis=1), (nbytes * jump).sum(axis=1), padded.sum(axis=1), wasted]
        ranked = np.stack([of[:, 0, 0] * here[:, 0], kept[:, 0] * nbytes[:, 0]], axis=1)
        of_kind = np.where(self._kinds[owner][:, None] == np.arange(N_KINDS), computed[:, None], 0.0)
        doubles = np.concatenate([np.stack(totals, axis=1), copies, ranked, of_kind], axis=1)
        largest = np.stack([padding.max(axis=1), np.log2(1 + moved.max(axis=1))], axis=1).astype(np.float32)
        weighted = _flat(of[:, :, :, None] * self._shares[owner][:, :, None, :])
        self._classes = np.concatenate([self._classes, nodes.classes[owner]])
        bins = (values.bins[at][:, :, None] == np.arange(N_BINS)).reshape(len(at), -1)
        singles = np.concatenate([weighted, pooled_values(rows), bins, differs[:, None]], axis=1).astype(np.float32)
        self._singles = np.concatenate([self._singles, singles])
        self._doubles = np.concatenate([self._doubles, doubles])
        self._largest = np.concatenate([self._largest, largest])
        self._buckets = np.concatenate([self._buckets, values.buckets[at]])
        self._single = Columns.of(self._singles, self._classes, _N_CLASSES)
        self._double = Columns.of(self._doubles, self._classes, _N_CLASSES)

    def _in_order(self, order: IntArray) -> _Ordered:
        """Terms class by class, each class in the order given."""
        order = order[np.argsort(self._classes[order], kind="stable")]
        ends = np.searchsorted(self._classes[order], np.arange(_N_CLASSES + 1))
        place = np.zeros(len(self._classes), np.uint32)
        place[order] = np.arange(len(order))
        return _Ordered(
            place[self._term_of],
            ends,
            self._single.pick(self._singles[order], ends),
            self._single.place,
            self._double.pick(self._doubles[order], ends),
            self._double.place,
            np.array([[len(kept) for kept in of.kept] for of in (self._single, self._double)]).T.copy(),
            self._largest[order],
            self._buckets[order],
        )

    def order(self, codes: NDArray[np.uint32]) -> IntArray:
        """Terms of a slate in order of appearance, int64 (terms,): the order of discovery, were there no other slate.

        Sums in this order round alike, whatever was seen before.

        Parameters
        ----------
        codes : uint32 (c, nodes)
        """
        place = np.full(len(self._classes), -1, np.int64)
        count = _appearance(codes, self._term_of, place)
        seen = np.flatnonzero(place >= 0)
        order = np.empty(count, np.int64)
        order[place[seen]] = seen
        return order

    def ordered(self, order: IntArray) -> Terms:
        """These terms alone, summed in this order; to be aggregated, not added to."""
        part = copy(self)
        part._ordered = self._in_order(order)
        return part

    def aggregate(
        self,
        codes: NDArray[np.uint32],
        config: Float32Array,
        layout: Float32Array,
        types: Float32Array,
        reach: Float32Array,
    ) -> FloatArray:
        """Fill in the columns of four blocks: their sections, float32 (b, columns), of a matrix.

        Returns
        -------
        float64 (b, classes, N_OWN_COPIES)
            Copies that concern single nodes, summed over the nodes of each class.
        """
        widths = (
            (_N_CLASSES + 1) * N_VALUES,
            (_N_CLASSES + 1) * N_SUMS,
            (_N_CLASSES + 1) * N_LARGEST,
            _N_CLASSES * 2 * N_BINS,
        )
        ends = np.cumsum(widths)
        pools = np.empty((len(codes), N_POOLED), np.int32)
        copies = np.empty((len(codes), _N_CLASSES, N_OWN_COPIES))
        _reach(codes, self._is_set, self._reached, reach)
        values, sums, largest, bins, computed = np.split(layout, ends, axis=1)
        _aggregate(codes, self._ordered, self._scale, _Out(pools, values, sums, largest, bins, computed, types, copies))
        _pool(pools, codes.shape[1], config)
        return copies


def _flat(values: FloatArray) -> Float32Array:
    return np.ascontiguousarray(values.reshape(len(values), -1), np.float32)

"""Sums of row values over the configurable nodes: the columns of the config, layout, types and reach blocks.

Nodes of equal class, shape, layout and size that take the same row contribute equal amounts.  Such a (kind of node,
row) pair is a *term*: the nodes of a configuration are counted per term, and the counts times the terms' values are
summed.
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
    "The configuration's slots, pooled over the configurable nodes.",
    (
        *(
            Column(f"mean.{name}", "dimension", f"Mean of {name} over the nodes, -1 where unset")
            for name in LAYOUT_CONFIG
        ),
        *(Column(f"std.{name}", "dimension", f"Standard deviation of {name} over the nodes") for name in LAYOUT_CONFIG),
        Column("configured", "share", "Share of the nodes that have any layout set"),
        Column("is_default", "flag", "Whether every layout is left to the compiler"),
    ),
    per_config=True,
)


#: Integers that a row adds to the pooled sums: slots, their squares, and whether any slot is set.
N_POOLED: Final = 2 * len(LAYOUT_CONFIG) + 1


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
class CompactColumns:
    """The distinct nonzero columns of a table, separately for each class of rows.

    Parameters
    ----------
    kept : tuple of int64 (kept,)
        Columns to store, per class.
    index : uint32 (classes, columns)
        Position of each column among the stored ones; ``width`` for a column of zeros.
    width : int
        Maximum number of stored columns of a class.
    """

    kept: tuple[IntArray, ...]
    index: NDArray[np.uint32]
    width: int

    @classmethod
    def of(cls, table: NDArray[np.floating], classes: IntArray, n_classes: int) -> CompactColumns:
        """Find the distinct nonzero columns of a table (rows, columns), given the class of each row."""
        index = np.full((n_classes, table.shape[1]), -1, np.int64)
        kept = []
        for group in range(n_classes):
            columns = np.ascontiguousarray(table[classes == group].T)
            distinct: dict[bytes, int] = {}
            for number in np.flatnonzero(columns.any(axis=1)).tolist():
                index[group, number] = distinct.setdefault(columns[number].tobytes(), len(distinct))
            _, first = np.unique(index[group], return_index=True)
            kept.append(first[len(first) - len(distinct) :])
        width = max(map(len, kept))
        index[index < 0] = width
        return cls(tuple(kept), index.astype(np.uint32), width)

    def pick(self, table: NDArray[_Float], ends: IntArray) -> NDArray[_Float]:
        """Stored columns, (rows, width), of a table with rows sorted by class; class k is ``ends[k]:ends[k + 1]``."""
        out = np.zeros((len(table), self.width), table.dtype)
        for group, kept in enumerate(self.kept):
            rows = slice(ends[group], ends[group + 1])
            out[rows, : len(kept)] = table[rows, kept]
        return out


N_WEIGHTS: Final = 3
N_SUMS: Final = 5
N_LARGEST: Final = 2
N_KINDS: Final = len(KINDS)
N_VALUES: Final = len(TENSOR_ROLES) * len(VALUES) * N_WEIGHTS
_N_CLASSES: Final = len(NODE_CLASSES)
#: Single-precision amounts per term: values, and counts below 2**24: pooled slots, bins, whether its layout differs.
_FIRST_BIN: Final = N_VALUES + N_POOLED
_N_SINGLES: Final = _FIRST_BIN + 2 * N_BINS + 1
#: Values of all nodes that are ranked within the group: number of outputs that are set, and bytes of those kept.
#: Integer amounts are summed: sums of shares would have rounding errors, which the ranks would reflect.
_RANKED: Final = tuple(
    (TENSOR_ROLES.index("output") * len(VALUES) + [name for name, *_ in VALUES].index(value)) * N_WEIGHTS + weight
    for value, weight in (("set", 0), ("kept", 1))
)
_N_RANKED: Final = len(_RANKED)
_FIRST_RANKED: Final = N_SUMS + N_OWN_COPIES
#: Double-precision amounts per term: sums, copies, ranked amounts, and operations times the padding of their output by
#: kind (all nodes of one kind are of one class).
_FIRST_KIND: Final = _FIRST_RANKED + _N_RANKED
_N_DOUBLES: Final = _FIRST_KIND + N_KINDS
#: Terms or nodes added per pass over the sums, which are kept in memory.
_UNROLL: Final = 4
#: Configurations and nodes per block, chosen so that a block stays in the cache.
_CONFIGS: Final = 128
_NODES: Final = 16


class _Ordered(NamedTuple):
    """Terms in order of summation: sorted by class, in a given order within each class.

    Parameters
    ----------
    position_of : uint32 (rows,)
        Position of each row's term in this order.
    ends : int64 (classes + 1,)
        First term of each class.
    singles, doubles : float32 (terms, kept), float64 (terms, kept)
        From :meth:`CompactColumns.pick`.
    single_of, double_of : uint32 (classes, columns)
        Position of each column among the stored ones.
    widths : int64 (classes, 2)
        Stored columns per class, single and double.
    largest : float32 (terms, N_LARGEST)
    buckets : int64 (terms,)
    """

    position_of: NDArray[np.uint32]
    ends: IntArray
    singles: Float32Array
    single_of: NDArray[np.uint32]
    doubles: FloatArray
    double_of: NDArray[np.uint32]
    widths: IntArray
    largest: Float32Array
    buckets: IntArray


class _Totals(NamedTuple):
    """Divisors of the sums.

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
def _write_columns(config, n_nodes, values, totals, tops, typed, scale, out):  # type: ignore[no-untyped-def]
    """Convert one configuration's sums to columns."""
    ratio, whole_of, n_nodes_of, flops_of = scale
    out_pooled, out_values, out_sums, out_largest, out_bins, out_computed, out_types, out_copies = out
    for index in range(N_POOLED):
        total = np.float32(0)
        for group in range(_N_CLASSES):
            total += values[group, N_VALUES + index]
        out_pooled[config, index] = np.int32(total)
    for kind in range(N_KINDS):
        padded_flops = 0.0
        for group in range(_N_CLASSES):
            padded_flops += totals[group, _FIRST_KIND + kind]
        out_computed[config, kind] = np.log2(padded_flops / flops_of[kind]) if flops_of[kind] > 0 else 0.0
    changed = np.float32(0)
    for group in range(_N_CLASSES):
        changed += values[group, _N_SINGLES - 1]
    out_computed[config, N_KINDS] = changed / np.float64(n_nodes)
    for index in range(len(typed)):
        out_types[config, index] = typed[index] / n_nodes
    for index in range(N_VALUES):
        out_values[config, _N_CLASSES * N_VALUES + index] = 0
    for group in range(_N_CLASSES):
        for index in range(2 * N_BINS):
            out_bins[config, 2 * N_BINS * group + index] = values[group, _FIRST_BIN + index] / n_nodes_of[group]
        for index in range(N_VALUES):
            out_values[config, group * N_VALUES + index] = values[group, index]
            out_values[config, _N_CLASSES * N_VALUES + index] += values[group, index] * ratio[group, index]
        for index in range(N_SUMS):
            out_sums[config, group * N_SUMS + index] = np.log2(1.0 + totals[group, index])
        for index in range(N_OWN_COPIES):
            out_copies[config, group, index] = totals[group, N_SUMS + index]
        for index in range(N_LARGEST):
            out_largest[config, group * N_LARGEST + index] = tops[group, index]
    for index in range(_N_RANKED):
        amount = 0.0
        for group in range(_N_CLASSES):
            amount += totals[group, _FIRST_RANKED + index]
        out_values[config, _N_CLASSES * N_VALUES + _RANKED[index]] = amount / whole_of[index]
    for index in range(N_SUMS):
        amount = 0.0
        for group in range(_N_CLASSES):
            amount += totals[group, index]
        out_sums[config, _N_CLASSES * N_SUMS + index] = np.log2(1.0 + amount)
    for index in range(N_LARGEST):
        top = np.float32(0)
        for group in range(_N_CLASSES):
            top = max(top, tops[group, index])
        out_largest[config, _N_CLASSES * N_LARGEST + index] = top


@kernel()
def _reach(codes, is_set, reached, out):  # type: ignore[no-untyped-def]
    """Sum the surroundings of the nodes that are set; configurations are the innermost loop."""
    n_configs, n_nodes = codes.shape
    n_reached = reached.shape[1]
    flags = np.zeros((_NODES, _CONFIGS), np.float32)
    near = np.empty((n_reached, _CONFIGS), np.float32)
    for first in range(0, n_configs, _CONFIGS):
        count = min(_CONFIGS, n_configs - first)
        near[:] = 0
        for start in range(0, n_nodes, _NODES):
            size = min(_NODES, n_nodes - start)
            for config in range(count):
                for node in range(size):
                    flags[node, config] = is_set[codes[first + config, start + node]]
            flags[size:] = 0
            for node in range(0, size, _UNROLL):
                set_a, set_b, set_c, set_d = flags[node], flags[node + 1], flags[node + 2], flags[node + 3]
                for index in range(n_reached):
                    a, b = reached[start + node, index], reached[start + node + 1, index]
                    c, d = reached[start + node + 2, index], reached[start + node + 3, index]
                    total = near[index]
                    for config in range(count):
                        amount = (total[config] + set_a[config] * a) + set_b[config] * b
                        total[config] = (amount + set_c[config] * c) + set_d[config] * d
        for config in range(count):
            for index in range(n_reached):
                out[first + config, index] = near[index, config]


@kernel()
def _aggregate(codes, terms, scale, out):  # type: ignore[no-untyped-def]
    """Count the terms of each configuration, uint32 (b, nodes), and write their sums as columns."""
    position_of, ends, singles, single_of, doubles, double_of, widths, largest, buckets = terms
    n_configs, n_nodes = codes.shape
    n_terms = len(singles)
    counts = np.zeros(n_terms, np.int32)
    found = np.empty(n_terms + _UNROLL, np.uint32)
    amounts = np.empty(n_terms + _UNROLL, np.int32)
    single, double = np.empty(singles.shape[1] + 1, np.float32), np.empty(doubles.shape[1] + 1)
    values = np.empty((_N_CLASSES, _N_SINGLES), np.float32)
    totals = np.empty((_N_CLASSES, _N_DOUBLES))
    tops = np.empty((_N_CLASSES, N_LARGEST), np.float32)
    typed = np.empty(out.types.shape[1], np.int32)
    for config in range(n_configs):
        for node in range(n_nodes):
            counts[position_of[codes[config, node]]] += 1
        tops[:] = 0
        typed[:] = 0
        for group in range(_N_CLASSES):
            n_found = 0
            for term in range(ends[group], ends[group + 1]):  # branchless: the branches would be unpredictable
                found[n_found] = term
                n_found += counts[term] > 0
            for index in range(n_found):
                term = found[index]
                count = counts[term]
                amounts[index] = count
                counts[term] = 0
                typed[buckets[term]] += count
                for slot in range(N_LARGEST):
                    tops[group, slot] = max(tops[group, slot], largest[term, slot])
            for index in range(n_found, n_found + _UNROLL):
                found[index], amounts[index] = ends[group], 0
            single[:] = 0
            double[:] = 0
            for index in range(0, n_found, _UNROLL):
                a, b, c, d = found[index], found[index + 1], found[index + 2], found[index + 3]
                of_a, of_b = np.float32(amounts[index]), np.float32(amounts[index + 1])
                of_c, of_d = np.float32(amounts[index + 2]), np.float32(amounts[index + 3])
                for slot in range(widths[group, 0]):
                    total = (single[slot] + of_a * singles[a, slot]) + of_b * singles[b, slot]
                    single[slot] = (total + of_c * singles[c, slot]) + of_d * singles[d, slot]
                for slot in range(widths[group, 1]):
                    amount = (double[slot] + amounts[index] * doubles[a, slot]) + amounts[index + 1] * doubles[b, slot]
                    amount = amount + amounts[index + 2] * doubles[c, slot]
                    double[slot] = amount + amounts[index + 3] * doubles[d, slot]
            for slot in range(_N_SINGLES):
                values[group, slot] = single[single_of[group, slot]]
            for slot in range(_N_DOUBLES):
                totals[group, slot] = double[double_of[group, slot]]
        _write_columns(config, n_nodes, values, totals, tops, typed, scale, out)


@kernel()
def _number_terms(codes, term_of, index):  # type: ignore[no-untyped-def]
    count = 0
    for config in range(len(codes)):
        for node in range(codes.shape[1]):
            term = term_of[codes[config, node]]
            if index[term] < 0:
                index[term] = count
                count += 1
        if count == len(index):
            break
    return count


class Terms:
    """Contributions of the distinct (kind of node, row) pairs; extended as rows are discovered.

    Parameters
    ----------
    nodes : ConfigurableNodes
    kinds : int64 (nodes,)
        From :func:`features.operations.node_kinds`.
    fed : bool (nodes, 3)
        Tensors that come from a configurable node.
    reached : float32 (nodes, columns)
        Contribution of each node, when set, to the reach block.
    """

    def __init__(
        self, nodes: ConfigurableNodes, kinds: IntArray, fed: NDArray[np.bool_], reached: Float32Array
    ) -> None:
        self._nodes = nodes
        self._kinds = kinds
        flops_of = np.bincount(kinds, nodes.flops, minlength=N_KINDS).astype(np.float64)
        self._reached = np.concatenate([reached, np.zeros((-len(reached) % _UNROLL, reached.shape[1]), np.float32)])
        self._exists = nodes.rank >= 0
        weights = np.stack([self._exists, nodes.nbytes, np.where(self._exists, nodes.flops[:, None], 0.0)], axis=2)
        of_class = np.stack([weights[nodes.classes == number].sum(axis=0) for number in range(_N_CLASSES)])
        self._shares = weights / np.where(of_class > 0, of_class, 1.0)[nodes.classes]
        whole = of_class.sum(axis=0)
        ratio = of_class / np.where(whole > 0, whole, 1.0)
        ratio_of = _flat(np.repeat(ratio[:, :, None, :], len(VALUES), axis=2))
        whole_of = np.maximum(whole[0, :_N_RANKED], 1.0)  # of outputs: their number, and their bytes
        n_nodes_of = np.maximum(np.bincount(nodes.classes, minlength=_N_CLASSES), 1).astype(np.float64)
        self._scale = _Totals(ratio_of, whole_of, n_nodes_of, flops_of)
        identity = [
            nodes.classes[:, None], nodes.rank, nodes.dims, nodes.own, nodes.nbytes.view(np.int64),
            nodes.flops[:, None].view(np.int64), nodes.kind[:, None].view(np.int64), kinds[:, None], fed,
        ]  # fmt: skip
        flat = np.concatenate([values.reshape(len(nodes), -1) for values in identity], axis=1)
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
        """Add newly discovered rows.

        Parameters
        ----------
        rows : int64 (rows, 18)
        owner : int64 (rows,)
        values : RowValues
        differs : bool (rows,)
            Whether any layout in effect differs from the graph's.
        copies : float64 (rows, N_OWN_COPIES)
            From :meth:`features.layout.copies.Copies.add`.
        """
        known = len(self._number)
        numbers: list[int] = []
        fresh: list[int] = []
        for index, (node, row) in enumerate(zip(owner.tolist(), rows, strict=True)):
            number = self._number.setdefault((self._kind[node], row.tobytes()), len(self._number))
            numbers.append(number)
            if number == known + len(fresh):
                fresh.append(index)
        self._term_of = np.concatenate([self._term_of, np.array(numbers, np.int32)])
        self._is_set = np.concatenate([self._is_set, values.is_set.any(axis=1).astype(np.float32)])
        if fresh:
            self._extend(rows[fresh], owner[fresh], values, np.array(fresh), differs[fresh], copies[fresh])
        # Replaced last and in one assignment: another thread may be using the previous terms.
        self._ordered = self._sorted(np.arange(len(self._classes)))

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
        kept, minor_kept, padding, jump = (of[:, :, index] for index in (1, 3, 8, 9))
        nbytes, exists = nodes.nbytes[owner], self._exists[owner]
        moved = np.where(exists, 1 - kept, 0) * nbytes
        minor_moved = np.where(exists, 1 - minor_kept, 0) * nbytes
        padded = np.where(exists, (2.0**padding - 1) * nbytes, 0.0)
        computed = nodes.flops[owner] * 2.0 ** padding[:, 0]
        wasted = nodes.flops[owner] * (2.0 ** padding[:, 0] - 1)
        totals = [moved.sum(axis=1), minor_moved.sum(axis=1), (nbytes * jump).sum(axis=1), padded.sum(axis=1), wasted]
        ranked = np.stack([of[:, 0, 0] * exists[:, 0], kept[:, 0] * nbytes[:, 0]], axis=1)
        of_kind = np.where(self._kinds[owner][:, None] == np.arange(N_KINDS), computed[:, None], 0.0)
        doubles = np.concatenate([np.stack(totals, axis=1), copies, ranked, of_kind], axis=1)
        largest = np.stack([padding.max(axis=1), np.log2(1 + moved.max(axis=1))], axis=1).astype(np.float32)
        weighted = _flat(of[:, :, :, None] * self._shares[owner][:, :, None, :])
        self._classes = np.concatenate([self._classes, nodes.classes[owner]])
        pooled = np.concatenate([rows, rows * rows, (rows >= 0).any(axis=1, keepdims=True)], axis=1)
        bins = (values.bins[at][:, :, None] == np.arange(N_BINS)).reshape(len(at), -1)
        singles = np.concatenate([weighted, pooled, bins, differs[:, None]], axis=1).astype(np.float32)
        self._singles = np.concatenate([self._singles, singles])
        self._doubles = np.concatenate([self._doubles, doubles])
        self._largest = np.concatenate([self._largest, largest])
        self._buckets = np.concatenate([self._buckets, values.buckets[at]])
        self._single = CompactColumns.of(self._singles, self._classes, _N_CLASSES)
        self._double = CompactColumns.of(self._doubles, self._classes, _N_CLASSES)

    def _sorted(self, order: IntArray) -> _Ordered:
        """Terms sorted by class, in the given order within each class."""
        order = order[np.argsort(self._classes[order], kind="stable")]
        ends = np.searchsorted(self._classes[order], np.arange(_N_CLASSES + 1))
        index = np.zeros(len(self._classes), np.uint32)
        index[order] = np.arange(len(order))
        return _Ordered(
            index[self._term_of],
            ends,
            self._single.pick(self._singles[order], ends),
            self._single.index,
            self._double.pick(self._doubles[order], ends),
            self._double.index,
            np.array([[len(kept) for kept in of.kept] for of in (self._single, self._double)]).T.copy(),
            self._largest[order],
            self._buckets[order],
        )

    def order(self, codes: NDArray[np.uint32]) -> IntArray:
        """Terms of a group in order of appearance, int64 (terms,).

        Sums in this order have the same rounding errors whichever groups were described before.

        Parameters
        ----------
        codes : uint32 (c, nodes)
        """
        index = np.full(len(self._classes), -1, np.int64)
        count = _number_terms(codes, self._term_of, index)
        seen = np.flatnonzero(index >= 0)
        order = np.empty(count, np.int64)
        order[index[seen]] = seen
        return order

    def ordered(self, order: IntArray) -> Terms:
        """A copy with these terms only, in this order; use it to aggregate, not to add rows."""
        part = copy(self)
        part._ordered = self._sorted(order)
        return part

    def aggregate(
        self,
        codes: NDArray[np.uint32],
        config: Float32Array,
        layout: Float32Array,
        types: Float32Array,
        reach: Float32Array,
    ) -> FloatArray:
        """Write the columns of four blocks, each a section, float32 (b, columns), of a matrix.

        Returns
        -------
        float64 (b, classes, N_OWN_COPIES)
            Copies at single nodes, summed over the nodes of each class.
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

"""Sums over the configurable nodes of what their rows are worth: the columns of the layout, types and reach blocks.

Nodes that are alike (one class, shape, layout and size) and take the same row add the same.  Such a (kind of node, row)
pair is a *term*: a configuration is counted into terms, one step per node, and then summed over terms.
"""

from __future__ import annotations

from copy import copy
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._jit import kernel
from features.conv_kinds import KINDS
from features.layout_config import N_POOLED, pooled_config, pooled_values
from features.layout_nodes import N_BINS, NODE_CLASSES, TENSOR_ROLES, VALUES, ConfigurableNodes, RowValues
from features.relayout import N_OWN_COPIES
from features.schema import Float32Array

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

N_WEIGHTS: Final = 3
N_SUMS: Final = 5
N_LARGEST: Final = 2
N_KINDS: Final = len(KINDS)
N_VALUES: Final = len(TENSOR_ROLES) * len(VALUES) * N_WEIGHTS
_N_CLASSES: Final = len(NODE_CLASSES)
#: What a term adds in single precision: values, pools (whole numbers far below 2**24), whether its layout differs.
_N_SINGLES: Final = N_VALUES + N_POOLED + 1
#: Values of all nodes that are ranked within the slate: how many outputs are set, and the bytes of those that are kept.
#: Their amounts are whole numbers and summed as such.  Shares, summed, would leave dust, and dust has an order.
_RANKED: Final = tuple(
    (TENSOR_ROLES.index("output") * len(VALUES) + [name for name, *_ in VALUES].index(value)) * N_WEIGHTS + weight
    for value, weight in (("set", 0), ("kept", 1))
)
_N_RANKED: Final = len(_RANKED)
_FIRST_RANKED: Final = N_SUMS + N_OWN_COPIES
#: What it adds in double precision: sums, copies, amounts that are ranked, operations with the padding of their output.
_N_DOUBLES: Final = _FIRST_RANKED + _N_RANKED + 1


@kernel()
def _settle(  # type: ignore[no-untyped-def]
    config, n_nodes, values, totals, tops, heavy, binned, typed, ratio, whole_of, n_nodes_of, flops_of, out_pooled,
    out_values, out_sums, out_largest, out_bins, out_computed, out_types, out_copies,
):  # fmt: skip
    """Turn one configuration's sums into columns."""
    for place in range(N_POOLED):
        total = np.float32(0)
        for own in range(_N_CLASSES):
            total += values[own, N_VALUES + place]
        out_pooled[config, place] = np.int32(total)
    for kind in range(N_KINDS):
        out_computed[config, kind] = np.log2(heavy[kind] / flops_of[kind]) if flops_of[kind] > 0 else 0.0
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
            out_bins[config, 2 * N_BINS * own + place] = binned[own, place] / n_nodes_of[own]
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
def _aggregate(  # type: ignore[no-untyped-def]
    codes, term_of, is_set, order, ends, kinds, singles, doubles, largest, bins, buckets, reached, ratio, whole_of,
    n_nodes_of, flops_of, out_pooled, out_values, out_sums, out_largest, out_bins, out_computed, out_types, out_reach,
    out_copies,
):  # fmt: skip
    n_configs, n_nodes = codes.shape
    n_terms, n_reached = len(singles), reached.shape[1]
    counts = np.zeros(n_terms, np.int32)
    found = np.empty(n_terms + 2, np.int64)
    values = np.empty((_N_CLASSES, _N_SINGLES), np.float32)
    totals = np.empty((_N_CLASSES, _N_DOUBLES))
    tops = np.empty((_N_CLASSES, N_LARGEST), np.float32)
    near = np.empty(n_reached, np.float32)
    binned = np.empty((_N_CLASSES, 2 * N_BINS), np.int32)
    typed = np.empty(out_types.shape[1], np.int32)
    heavy = np.empty(N_KINDS + 1)
    for config in range(n_configs):
        near[:] = 0
        for node in range(n_nodes):
            counts[term_of[codes[config, node]]] += 1
        whole = n_nodes - n_nodes % 4
        for node in range(0, whole, 4):  # four at once: sums go through memory
            a, b = is_set[codes[config, node]], is_set[codes[config, node + 1]]
            c, d = is_set[codes[config, node + 2]], is_set[codes[config, node + 3]]
            for place in range(n_reached):
                total = near[place] + a * reached[node, place]
                total = total + b * reached[node + 1, place]
                total = total + c * reached[node + 2, place]
                near[place] = total + d * reached[node + 3, place]
        for node in range(whole, n_nodes):
            flag = is_set[codes[config, node]]
            for place in range(n_reached):
                near[place] += flag * reached[node, place]
        for place in range(n_reached):
            out_reach[config, place] = near[place]
        values[:] = 0
        totals[:] = 0
        tops[:] = 0
        heavy[:] = 0
        binned[:] = 0
        typed[:] = 0
        for own in range(_N_CLASSES):
            n_found = 0
            for place in range(ends[own], ends[own + 1]):  # without branches, which nothing could foresee
                found[n_found] = order[place]
                n_found += counts[order[place]] > 0
            for place in range(n_found):
                term = found[place]
                count = counts[term]
                heavy[kinds[term]] += count * doubles[term, _N_DOUBLES - 1]
                binned[own, bins[term, 0]] += count
                binned[own, N_BINS + bins[term, 1]] += count
                typed[buckets[term]] += count
                for slot in range(N_LARGEST):
                    tops[own, slot] = max(tops[own, slot], largest[term, slot])
            single, double = values[own], totals[own]
            found[n_found] = found[max(n_found - 1, 0)] if n_found > 0 else 0
            for place in range(0, n_found, 2):
                first, second = found[place], found[place + 1]
                more = counts[second] if place + 1 < n_found else 0
                here, there = np.float32(counts[first]), np.float32(more)
                for slot in range(_N_SINGLES):
                    single[slot] = (single[slot] + here * singles[first, slot]) + there * singles[second, slot]
                for slot in range(_N_DOUBLES):
                    double[slot] = (double[slot] + counts[first] * doubles[first, slot]) + more * doubles[second, slot]
            for place in range(n_found):
                counts[found[place]] = 0
        _settle(
            config, n_nodes, values, totals, tops, heavy, binned, typed, ratio, whole_of, n_nodes_of, flops_of,
            out_pooled, out_values, out_sums, out_largest, out_bins, out_computed, out_types, out_copies,
        )  # fmt: skip


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
        Of :func:`features.conv_kinds.node_kinds`.
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
        self._flops_of = np.bincount(kinds, nodes.flops, minlength=N_KINDS)
        self._reached = reached
        self._there = nodes.rank >= 0
        weights = np.stack([self._there, nodes.nbytes, np.where(self._there, nodes.flops[:, None], 0.0)], axis=2)
        of_class = np.stack([weights[nodes.classes == number].sum(axis=0) for number in range(_N_CLASSES)])
        self._shares = weights / np.where(of_class > 0, of_class, 1.0)[nodes.classes]
        whole = of_class.sum(axis=0)
        ratio = of_class / np.where(whole > 0, whole, 1.0)
        self._ratio = _flat(np.repeat(ratio[:, :, None, :], len(VALUES), axis=2))
        self._whole_of = np.maximum(whole[0, :_N_RANKED], 1.0)  # of outputs: their number, and their bytes
        self._n_nodes_of = np.maximum(np.bincount(nodes.classes, minlength=_N_CLASSES), 1).astype(np.float64)
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
        self._kind_of = np.zeros(0, np.int64)
        self._by_class = np.zeros(0, np.int64), np.zeros(_N_CLASSES + 1, np.int64)
        self._singles = np.zeros((0, _N_SINGLES), np.float32)
        self._doubles = np.zeros((0, _N_DOUBLES))
        self._largest = np.zeros((0, N_LARGEST), np.float32)
        self._bins = np.zeros((0, 2), np.int64)
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
            Of :func:`features.relayout.own_copies`.
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
        doubles = np.concatenate([np.stack(totals, axis=1), copies, ranked, computed[:, None]], axis=1)
        largest = np.stack([padding.max(axis=1), np.log2(1 + moved.max(axis=1))], axis=1).astype(np.float32)
        weighted = _flat(of[:, :, :, None] * self._shares[owner][:, :, None, :])
        self._classes = np.concatenate([self._classes, nodes.classes[owner]])
        self._kind_of = np.concatenate([self._kind_of, self._kinds[owner]])
        singles = np.concatenate([weighted, pooled_values(rows), differs[:, None]], axis=1).astype(np.float32)
        self._singles = np.concatenate([self._singles, singles])
        self._doubles = np.concatenate([self._doubles, doubles])
        self._largest = np.concatenate([self._largest, largest])
        self._bins = np.concatenate([self._bins, values.bins[at]])
        self._buckets = np.concatenate([self._buckets, values.buckets[at]])
        # Last and at once: another thread may be counting what was known before.
        self._by_class = self._grouped(np.arange(len(self._classes)))

    def _grouped(self, order: IntArray) -> tuple[IntArray, IntArray]:
        """Terms class by class, each class in the order given, and where each class ends."""
        order = order[np.argsort(self._classes[order], kind="stable")]
        return order, np.searchsorted(self._classes[order], np.arange(_N_CLASSES + 1))

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
        part._by_class = self._grouped(order)
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
        order, ends_of = self._by_class
        _aggregate(
            codes, self._term_of, self._is_set, order, ends_of, self._kind_of, self._singles, self._doubles,
            self._largest, self._bins, self._buckets, self._reached, self._ratio, self._whole_of, self._n_nodes_of,
            self._flops_of, pools, layout[:, : ends[0]], layout[:, ends[0] : ends[1]], layout[:, ends[1] : ends[2]],
            layout[:, ends[2] : ends[3]], layout[:, ends[3] :], types, reach, copies,
        )  # fmt: skip
        pooled_config(pools, codes.shape[1], config)
        return copies


def _flat(values: FloatArray) -> Float32Array:
    return np.ascontiguousarray(values.reshape(len(values), -1), np.float32)

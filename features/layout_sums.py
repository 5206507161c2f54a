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
#: Attributes of :class:`Terms` with one entry per term.
_PER_TERM: Final = (
    "_classes", "_kind_of", "_weighted", "_pooled", "_sums", "_largest", "_bins", "_buckets", "_copies", "_computed",
    "_differs",
)  # fmt: skip


@kernel()
def _aggregate(  # type: ignore[no-untyped-def]
    codes, term_of, is_set, n_terms, classes, kinds, weighted, pooled, sums, largest, bins, buckets, copies, computed,
    differs, reached, ratio, n_nodes_of, flops_of, out_pooled, out_values, out_sums, out_largest, out_bins,
    out_computed, out_types, out_reach, out_copies,
):  # fmt: skip
    n_configs, n_nodes = codes.shape
    n_reached = reached.shape[1]
    counts = np.zeros(n_terms, np.int32)
    values = np.empty((_N_CLASSES, N_VALUES), np.float32)
    totals = np.empty((_N_CLASSES, N_SUMS))
    tops = np.empty((_N_CLASSES, N_LARGEST), np.float32)
    near = np.empty(n_reached, np.float32)
    pools = np.empty(N_POOLED, np.int32)
    heavy = np.empty(N_KINDS + 1)
    for config in range(n_configs):
        near[:] = 0
        for node in range(n_nodes):
            row = codes[config, node]
            counts[term_of[row]] += 1
            flag = is_set[row]
            for place in range(n_reached):
                near[place] += flag * reached[node, place]
        for place in range(n_reached):
            out_reach[config, place] = near[place]
        pools[:] = 0
        values[:] = 0
        totals[:] = 0
        tops[:] = 0
        heavy[:] = 0
        changed = 0
        for term in range(n_terms):
            count = counts[term]
            if count == 0:
                continue
            counts[term] = 0
            times = np.float32(count)
            own = classes[term]
            for place in range(N_VALUES):
                values[own, place] += times * weighted[term, place]
            for place in range(N_POOLED):
                pools[place] += count * pooled[term, place]
            for place in range(N_SUMS):
                totals[own, place] += count * sums[term, place]
            for place in range(N_LARGEST):
                tops[own, place] = max(tops[own, place], largest[term, place])
            for place in range(N_OWN_COPIES):
                out_copies[config, own, place] += count * copies[term, place]
            heavy[kinds[term]] += count * computed[term]
            changed += count * differs[term]
            step = np.float32(count / n_nodes_of[own])
            out_bins[config, 2 * N_BINS * own + bins[term, 0]] += step
            out_bins[config, 2 * N_BINS * own + N_BINS + bins[term, 1]] += step
            out_types[config, buckets[term]] += np.float32(count / n_nodes)
        for place in range(N_POOLED):
            out_pooled[config, place] = pools[place]
        for kind in range(N_KINDS):
            out_computed[config, kind] = np.log2(heavy[kind] / flops_of[kind]) if flops_of[kind] > 0 else 0.0
        out_computed[config, N_KINDS] = changed / n_nodes
        for own in range(_N_CLASSES):
            for place in range(N_VALUES):
                out_values[config, own * N_VALUES + place] = values[own, place]
                out_values[config, _N_CLASSES * N_VALUES + place] += values[own, place] * ratio[own, place]
            for place in range(N_SUMS):
                out_sums[config, own * N_SUMS + place] = np.log2(1.0 + totals[own, place])
            for place in range(N_LARGEST):
                out_largest[config, own * N_LARGEST + place] = tops[own, place]
        for place in range(N_SUMS):
            total = 0.0
            for own in range(_N_CLASSES):
                total += totals[own, place]
            out_sums[config, _N_CLASSES * N_SUMS + place] = np.log2(1.0 + total)
        for place in range(N_LARGEST):
            top = np.float32(0)
            for own in range(_N_CLASSES):
                top = max(top, tops[own, place])
            out_largest[config, _N_CLASSES * N_LARGEST + place] = top


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
        self._weighted = np.zeros((0, N_VALUES), np.float32)
        self._pooled = np.zeros((0, N_POOLED), np.int32)
        self._sums = np.zeros((0, N_SUMS))
        self._largest = np.zeros((0, N_LARGEST), np.float32)
        self._bins = np.zeros((0, 2), np.int64)
        self._buckets = np.zeros(0, np.int64)
        self._copies = np.zeros((0, N_OWN_COPIES))
        self._computed = np.zeros(0)
        self._differs = np.zeros(0, np.int64)

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
            self._extend(rows[fresh], owner[fresh], values, np.array(fresh))
            self._copies = np.concatenate([self._copies, copies[fresh]])
            self._differs = np.concatenate([self._differs, differs[fresh].astype(np.int64)])

    def _extend(self, rows: IntArray, owner: IntArray, values: RowValues, at: IntArray) -> None:
        nodes, of = self._nodes, values.values[at]
        kept, minor_kept, padding, jump = (of[:, :, place] for place in (1, 3, 8, 9))
        nbytes, here = nodes.nbytes[owner], self._there[owner]
        moved = np.where(here, 1 - kept, 0) * nbytes
        minor_moved = np.where(here, 1 - minor_kept, 0) * nbytes
        padded = np.where(here, (2.0**padding - 1) * nbytes, 0.0)
        computed = nodes.flops[owner] * (2.0 ** padding[:, 0] - 1)
        totals = [moved.sum(axis=1), minor_moved.sum(axis=1), (nbytes * jump).sum(axis=1), padded.sum(axis=1), computed]
        largest = np.stack([padding.max(axis=1), np.log2(1 + moved.max(axis=1))], axis=1).astype(np.float32)
        weighted = _flat(of[:, :, :, None] * self._shares[owner][:, :, None, :])
        self._classes = np.concatenate([self._classes, nodes.classes[owner]])
        self._kind_of = np.concatenate([self._kind_of, self._kinds[owner]])
        self._computed = np.concatenate([self._computed, nodes.flops[owner] * 2.0 ** padding[:, 0]])
        self._weighted = np.concatenate([self._weighted, weighted])
        self._pooled = np.concatenate([self._pooled, pooled_values(rows)])
        self._sums = np.concatenate([self._sums, np.stack(totals, axis=1)])
        self._largest = np.concatenate([self._largest, largest])
        self._bins = np.concatenate([self._bins, values.bins[at]])
        self._buckets = np.concatenate([self._buckets, values.buckets[at]])

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
        """These terms alone, in this order; to be aggregated, not added to."""
        if np.array_equal(order, np.arange(len(self._classes))):
            return self
        part = copy(self)
        place = np.zeros(len(self._classes), np.int32)
        place[order] = np.arange(len(order))
        part._term_of = place[self._term_of]
        for name in _PER_TERM:
            setattr(part, name, getattr(self, name)[order])
        return part

    def aggregate(
        self,
        codes: NDArray[np.uint32],
        config: Float32Array,
        layout: Float32Array,
        types: Float32Array,
        reach: Float32Array,
    ) -> FloatArray:
        """Fill in the columns of four blocks: their sections, float32 (b, columns), of a matrix of zeros.

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
        copies = np.zeros((len(codes), _N_CLASSES, N_OWN_COPIES))
        _aggregate(
            codes, self._term_of, self._is_set, len(self._classes), self._classes, self._kind_of, self._weighted,
            self._pooled, self._sums, self._largest, self._bins, self._buckets, self._copies, self._computed,
            self._differs, self._reached, self._ratio, self._n_nodes_of, self._flops_of, pools, layout[:, : ends[0]],
            layout[:, ends[0] : ends[1]], layout[:, ends[1] : ends[2]], layout[:, ends[2] : ends[3]],
            layout[:, ends[3] :], types, reach, copies,
        )  # fmt: skip
        pooled_config(pools, codes.shape[1], config)
        return copies


def _flat(values: FloatArray) -> Float32Array:
    return np.ascontiguousarray(values.reshape(len(values), -1), np.float32)

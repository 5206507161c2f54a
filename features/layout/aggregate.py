"""Sums of row values over the configurable nodes: the columns of the config, layout, types and reach blocks.

Nodes of equal class, shape, layout and size that take the same row contribute equal amounts.  Such a (kind of node,
row) pair is a *term*: the nodes of a configuration are counted per term, and the counts times the terms' amounts are
added up by class.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hlo import LAYOUT_CONFIG
from features.layout.copies import N_OWN_COPIES
from features.layout.nodes import N_BINS, N_BUCKETS, NODE_CLASSES, TENSOR_ROLES, VALUES, ConfigurableNodes, RowValues
from features.layout.rows import grown, picked
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


_N_CLASSES: Final = len(NODE_CLASSES)
_WIDTH: Final = len(LAYOUT_CONFIG)
#: Values of all nodes that are ranked within the group: number of outputs that are set, and bytes of those kept.
#: Integer amounts are summed: sums of shares would have rounding errors, which the ranks would reflect.
_RANKED: Final = [
    (TENSOR_ROLES.index("output") * len(VALUES) + [name for name, *_ in VALUES].index(value)) * 3 + weight
    for value, weight in (("set", 0), ("kept", 1))
]
#: Ends of a term's single-precision amounts: values by tensor, value and weight; and counts below 2**24: slots, their
#: squares, whether any slot is set, bins, whether its layout differs.
_SINGLES: Final = list(accumulate((len(TENSOR_ROLES) * len(VALUES) * 3, 2 * _WIDTH + 1, 2 * N_BINS)))
#: Ends of its double-precision amounts: sums, copies, ranked amounts, and operations times the padding of their output
#: by kind (all nodes of one kind are of one class).
_DOUBLES: Final = list(accumulate((5, N_OWN_COPIES, len(_RANKED))))


class _Terms(NamedTuple):
    """Amounts of terms."""

    classes: IntArray  # (terms,)
    buckets: IntArray  # (terms,)
    largest: Float32Array  # (terms, 2), padding and log2 bytes moved
    singles: Float32Array  # (terms, columns), as in _SINGLES
    doubles: FloatArray  # (terms, columns), as in _DOUBLES


@kernel()
def _reach(codes, is_set, reached, out):  # type: ignore[no-untyped-def]
    """Add the surroundings of the nodes that are set, float32 (nodes, columns), to ``out``, float32 (columns, b)."""
    flags = np.zeros((4, len(codes)), np.float32)
    for node in range(0, len(reached), 4):
        for config in range(len(codes)):
            for each in range(min(4, codes.shape[1] - node)):
                flags[each, config] = is_set[codes[config, node + each]]
        set_a, set_b, set_c, set_d = flags[0], flags[1], flags[2], flags[3]
        for column in range(reached.shape[1]):
            a, b = reached[node, column], reached[node + 1, column]
            c, d = reached[node + 2, column], reached[node + 3, column]
            for config in range(len(codes)):
                two = (out[column, config] + set_a[config] * a) + set_b[config] * b
                out[column, config] = (two + set_c[config] * c) + set_d[config] * d


@kernel()
def _add(terms, counts, table, total):  # type: ignore[no-untyped-def]
    """Write counts, float32 (terms + 3,) and 0 at the end, times rows of a table; four rows per pass over the sums."""
    total[:] = 0
    for index in range(0, len(terms) - 3, 4):
        a, b, c, d = table[terms[index]], table[terms[index + 1]], table[terms[index + 2]], table[terms[index + 3]]
        of_a, of_b, of_c, of_d = counts[index], counts[index + 1], counts[index + 2], counts[index + 3]
        for slot in range(len(total)):
            two = (total[slot] + of_a * a[slot]) + of_b * b[slot]
            total[slot] = (two + of_c * c[slot]) + of_d * d[slot]


@kernel()
def _add_up(codes, tables, ratio, buckets, largest, singles, doubles):  # type: ignore[no-untyped-def]
    """Add the amounts of configurations' terms by bucket, int32 (b, buckets), and by class, (b, classes + 1, columns).

    The last are those of all nodes: sums of singles times ``ratio``, float32 (classes, columns), and of doubles.
    """
    terms, ends = tables.terms, tables.ends
    counts = np.zeros(ends[-1], np.int32)
    found, amounts = np.empty(len(counts) + 3, np.uint32), np.empty(len(counts) + 3, np.float32)
    single, double = np.empty(terms.singles.shape[1], np.float32), np.empty(terms.doubles.shape[1])
    for config in range(len(codes)):
        for node in range(codes.shape[1]):
            counts[tables.term_of[codes[config, node]]] += 1
        for own in range(len(ends) - 1):
            n_found = 0
            for term in range(ends[own], ends[own + 1]):  # branchless: the branches would be unpredictable
                found[n_found] = term
                n_found += counts[term] > 0
            for index in range(n_found):
                term = found[index]
                amounts[index] = counts[term]
                buckets[config, terms.buckets[term]] += counts[term]
                for slot in range(2):
                    largest[config, own, slot] = max(largest[config, own, slot], terms.largest[term, slot])
                counts[term] = 0
            if n_found == 0:
                continue
            found[n_found : n_found + 3], amounts[n_found : n_found + 3] = 0, 0
            _add(found[: n_found + 3], amounts, terms.singles, single)
            _add(found[: n_found + 3], amounts, terms.doubles, double)
            for slot in range(singles.shape[2]):
                singles[config, own, slot] = single[tables.single_of[slot]]
                singles[config, -1, slot] += singles[config, own, slot] * ratio[own, slot]
            for slot in range(2):
                largest[config, -1, slot] = max(largest[config, -1, slot], largest[config, own, slot])
            for slot in range(doubles.shape[2]):
                doubles[config, own, slot] = double[tables.double_of[slot]]
                doubles[config, -1, slot] += doubles[config, own, slot]


@kernel()
def _first_appearance(codes, term_of, index):  # type: ignore[no-untyped-def]
    """Number the terms of a group in order of appearance; returns how many there are."""
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


class Prepared(NamedTuple):
    """Tables of known rows and terms."""

    term_of: IntArray  # (rows,)
    is_set: Float32Array  # (rows,)
    terms: _Terms  # sorted by class, with distinct columns only
    ends: IntArray  # (classes + 1,), first term of each class
    single_of: IntArray  # position of each column among those
    double_of: IntArray


def _distinct(table: NDArray[Any]) -> tuple[NDArray[Any], IntArray]:
    """The distinct columns of a table, and the position of each column among them."""
    numbers: dict[bytes, int] = {}
    index = [numbers.setdefault(column.tobytes(), len(numbers)) for column in np.ascontiguousarray(table.T)]
    return np.ascontiguousarray(table[:, np.unique(index, return_index=True)[1]]), np.array(index)


class Aggregate:
    """Sums of row values over the nodes of coded configurations; extended as rows are discovered.

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
        self._nodes, self._kinds = nodes, kinds
        self._reached = np.pad(reached, ((0, -len(reached) % 4), (0, 0)))  # four nodes are added at a time
        self._flops = np.bincount(kinds, nodes.flops, minlength=len(KINDS))[: len(KINDS)].astype(np.float64)
        exists = nodes.rank >= 0
        weights = np.stack([exists, nodes.nbytes, np.where(exists, nodes.flops[:, None], 0.0)], axis=2)
        of_class = np.stack([weights[nodes.classes == number].sum(axis=0) for number in range(_N_CLASSES)])
        self._shares = weights / np.where(of_class > 0, of_class, 1.0)[nodes.classes]
        whole = of_class.sum(axis=0)
        ratio = of_class / np.where(whole > 0, whole, 1.0)
        self._ratio = np.ones((_N_CLASSES, _SINGLES[-1] + 1), np.float32)  # weight of each class within all nodes
        self._ratio[:, : _SINGLES[0]] = _flat(np.repeat(ratio[:, :, None, :], len(VALUES), axis=2))
        self._outputs = np.maximum(whole[0, : len(_RANKED)], 1.0)  # their number, and their bytes
        self._n_nodes = np.maximum(np.bincount(nodes.classes, minlength=_N_CLASSES), 1)[:, None]
        identity = [
            nodes.classes[:, None], nodes.rank, nodes.dims, nodes.own, nodes.nbytes.view(np.int64),
            nodes.flops[:, None].view(np.int64), nodes.kind[:, None].view(np.int64), kinds[:, None], fed,
        ]  # fmt: skip
        flat = np.concatenate([values.reshape(len(nodes.ids), -1) for values in identity], axis=1)
        self._kind = np.unique(flat, axis=0, return_inverse=True)[1].reshape(-1).tolist()
        self._number: dict[tuple[int, bytes], int] = {}
        self._term_of, self._is_set = np.zeros(0, np.int64), np.zeros(0, np.float32)
        self._terms: _Terms | None = None

    def add(
        self, rows: IntArray, owner: IntArray, values: RowValues, differs: NDArray[np.bool_], copies: FloatArray
    ) -> None:
        """Add newly discovered rows, int64 (rows, 18), of the nodes ``owner``, int64 (rows,).

        ``differs``, bool (rows,), is whether any layout in effect differs from the graph's; ``copies``, float64 (rows,
        N_OWN_COPIES), are those of :meth:`features.layout.copies.Copies.add`.
        """
        numbers, fresh = [], []
        for index, (node, row) in enumerate(zip(owner.tolist(), rows, strict=True)):
            count = len(self._number)
            numbers.append(self._number.setdefault((self._kind[node], row.tobytes()), count))
            if len(self._number) > count:
                fresh.append(index)
        self._term_of = np.concatenate([self._term_of, numbers]).astype(np.int64)
        self._is_set = np.concatenate([self._is_set, values.is_set.any(axis=1).astype(np.float32)])
        if fresh:
            values = picked(values, fresh)
            terms = self._amounts(rows[fresh], owner[fresh], values, differs[fresh], copies[fresh])
            self._terms = grown(self._terms, terms)
            (singles, single_of), (doubles, double_of) = _distinct(self._terms.singles), _distinct(self._terms.doubles)
            self._compact = self._terms._replace(singles=singles, doubles=doubles), single_of, double_of

    def _amounts(
        self, rows: IntArray, owner: IntArray, found: RowValues, differs: NDArray[np.bool_], copies: FloatArray
    ) -> _Terms:
        """Amounts of the terms that some rows stand for."""
        nodes, values = self._nodes, found.values
        kept, minor_kept, padding, jump = (values[:, :, index] for index in (1, 3, 8, 9))
        nbytes, flops, exists = nodes.nbytes[owner], nodes.flops[owner], nodes.rank[owner] >= 0
        moved = np.where(exists, 1 - kept, 0) * nbytes
        minor_moved = np.where(exists, 1 - minor_kept, 0) * nbytes
        padded = np.where(exists, (2.0**padding - 1) * nbytes, 0.0)
        sums = [each.sum(axis=1) for each in (moved, minor_moved, nbytes * jump, padded)]
        ranked = [values[:, 0, 0] * exists[:, 0], kept[:, 0] * nbytes[:, 0]]
        of_kind = np.where(self._kinds[owner] == np.arange(len(KINDS))[:, None], flops * 2.0 ** padding[:, 0], 0.0)
        weighted = _flat(values[:, :, :, None] * self._shares[owner][:, :, None, :])
        bins = (found.bins[:, :, None] == np.arange(N_BINS)).reshape(len(rows), -1)
        return _Terms(
            classes=nodes.classes[owner],
            buckets=found.buckets,
            largest=np.column_stack([padding.max(axis=1), np.log2(1 + moved.max(axis=1))]).astype(np.float32),
            singles=np.column_stack([weighted, rows, rows * rows, (rows >= 0).any(axis=1), bins, differs]).astype(
                np.float32
            ),
            doubles=np.column_stack([*sums, flops * (2.0 ** padding[:, 0] - 1), copies, *ranked, *of_kind]),
        )

    def prepared(self, codes: NDArray[np.uint32] | None = None) -> Prepared:
        """Tables of all known terms for :meth:`write`.

        Parameters
        ----------
        codes : uint32 (c, nodes), optional
            A group: its terms only, in order of appearance.  Sums in this order have the same rounding errors whichever
            groups were described before.
        """
        terms, *columns = self._compact
        position, order = np.full(len(self._number), -1, np.int64), np.arange(len(self._number))
        if codes is not None:
            count = _first_appearance(codes, self._term_of, position)
            order = np.argsort(position)[len(position) - count :]
        order = order[np.argsort(terms.classes[order], kind="stable")]
        position[order] = np.arange(len(order))
        terms = picked(terms, order)
        ends = np.searchsorted(terms.classes, np.arange(_N_CLASSES + 1))
        return Prepared(position[self._term_of], self._is_set, terms, ends, *columns)

    def write(
        self,
        tables: Prepared,
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
        b, n_nodes = codes.shape
        near = np.zeros((self._reached.shape[1], b), np.float32)
        _reach(codes, tables.is_set, self._reached, near)
        reach[:] = near.T
        buckets, largest = np.zeros((b, N_BUCKETS), np.int32), np.zeros((b, _N_CLASSES + 1, 2), np.float32)
        singles = np.zeros((b, _N_CLASSES + 1, _SINGLES[-1] + 1), np.float32)
        doubles = np.zeros((b, _N_CLASSES + 1, _DOUBLES[-1] + len(KINDS)))
        _add_up(codes, tables, self._ratio, buckets, largest, singles, doubles)
        types[:] = buckets / n_nodes

        values, pooled, bins, differs = np.split(singles, _SINGLES, axis=2)
        slots = pooled[:, -1].astype(np.float64) / n_nodes
        config[:, :_WIDTH] = mean = slots[:, :_WIDTH]
        config[:, _WIDTH : 2 * _WIDTH] = np.sqrt(np.maximum(slots[:, _WIDTH : 2 * _WIDTH] - mean * mean, 0.0))
        config[:, -2], config[:, -1] = slots[:, -1], slots[:, -1] == 0

        sums, copies, ranked, padded = np.split(doubles, _DOUBLES, axis=2)
        values[:, -1, _RANKED] = ranked[:, -1] / self._outputs
        padding = np.divide(padded[:, -1], self._flops, where=self._flops > 0, out=np.ones((b, len(KINDS))))
        whole, rest = np.split(layout, [values[0].size], axis=1)
        whole.reshape(values.shape)[:] = values
        columns = np.log2(1.0 + sums), largest, bins[:, :-1] / self._n_nodes, np.log2(padding), differs[:, -1] / n_nodes
        np.concatenate([column.reshape(b, -1) for column in columns], axis=1, out=rest, casting="same_kind")
        return copies[:, :-1]


def _flat(values: FloatArray) -> Float32Array:
    return np.ascontiguousarray(values.reshape(len(values), -1), np.float32)

"""A configuration relative to the other configurations of its graph.

The search that made a ``default`` collection is genetic, so a row that many configurations share is probably good
(11th index of the Kaggle competition).  Frequencies, ranks and z-scores need the whole group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.layout.nodes import NODE_CLASSES, ConfigurableNodes
from features.operations import KINDS
from features.schema import Block, Column, Float32Array

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Aggregates that are ranked within the group, by full column name.
RANKED: Final = (
    "layout.all.output.set.count",
    "layout.all.output.kept.bytes",
    "layout.all.sum.moved",
    "layout.all.sum.minor_moved",
    "layout.all.sum.jumped",
    "layout.all.sum.padded",
    "layout.all.sum.computed_padded",
    "copies.all.minor.bytes",
    "copies.all.any.bytes",
    "copies.all.soft.bytes",
    "copies.all.cost",
    "slate.all.frequency.count",
)
#: Padding columns whose excess over the minimum of the group is a feature.
PADDED: Final = tuple(f"layout.{kind}.output_padding" for kind in KINDS)
#: Columns of other blocks that the relative columns are computed from; the last of RANKED is a frequency column.
INPUTS: Final = (*RANKED[:-1], *PADDED)
_GROUPS: Final = (*NODE_CLASSES, "all")
N_FREQUENCY: Final = 3 * len(_GROUPS) + 1

BLOCK: Final = Block(
    "slate",
    2,
    "The configuration relative to the other configurations of its graph.",
    (
        *(
            Column(f"{group}.{name}", unit, f"{group} nodes: {doc}")
            for group in _GROUPS
            for name, unit, doc in (
                ("frequency.count", "log2", "mean log share of the group that has the same row"),
                ("frequency.bytes", "log2", "the same, weighted by the nodes' bytes"),
                ("modal", "share", "share whose row is the group's most frequent"),
            )
        ),
        Column("rarest", "log2", "Log share of the group that has the rarest row of this configuration"),
        Column("duplicates", "log2", "Configurations of the group that are identical to this one"),
        Column("alike", "log2", "Configurations of the group with the same layouts in effect"),
        *(
            Column(f"{kind}.{name}", unit, f"{doc} of {name} within the group")
            for name in RANKED
            for kind, unit, doc in (("rank", "share", "Mean rank from 0 to 1"), ("z", "deviations", "Z-score"))
        ),
        *(Column(f"over_least.{name}", "log2", f"{name} minus the group's minimum") for name in PADDED),
    ),
    per_config=True,
)


def layout_marks(owner: IntArray, packed: IntArray) -> NDArray[np.uint64]:
    """Pseudo-random words, uint64 (rows,), equal for rows of a node with the same layouts in effect.

    ``owner``, int64 (rows,), are the nodes, and ``packed``, int64 (rows, 3), :class:`features.layout.copies.Orders`.
    """
    words = np.zeros(len(owner), np.uint64)
    for part in (owner, *packed.T):
        words = (words ^ part.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        words ^= words >> np.uint64(32)
    return words


@kernel()
def _add_frequencies(codes, classes, per_row, marks, sums, rarest, digests):  # type: ignore[no-untyped-def]
    for config in range(len(codes)):
        lowest, digest = 0.0, np.uint64(0)
        for node in range(codes.shape[1]):
            row, own = codes[config, node], classes[node]
            for kind in range(3):
                sums[config, own, kind] += per_row[row, kind]
            lowest = min(lowest, per_row[row, 3])
            digest += marks[row]
        rarest[config], digests[config] = lowest, digest


class Frequencies:
    """Frequency of every distinct row within the group.

    Parameters
    ----------
    counts, owner : int64 (rows,)
        Configurations that hold each row, and the row's node.
    marks : uint64 (rows,)
        From :func:`layout_marks`.
    nodes : ConfigurableNodes
    """

    def __init__(self, counts: IntArray, owner: IntArray, marks: NDArray[np.uint64], nodes: ConfigurableNodes) -> None:
        n_nodes, self._classes, self._marks = len(nodes.ids), nodes.classes, marks
        total, top = np.bincount(owner, counts, minlength=n_nodes), np.zeros(n_nodes, np.int64)
        np.maximum.at(top, owner, counts)
        weight = np.stack([np.ones(n_nodes), nodes.nbytes.sum(axis=1)], axis=1)
        of_class = np.stack([weight[nodes.classes == number].sum(axis=0) for number in range(len(NODE_CLASSES))])
        whole = of_class.sum(axis=0)
        share = np.log2(np.maximum(counts, 1) / total[owner])  # rows without configurations are never read
        within = (weight / np.where(of_class > 0, of_class, 1.0)[nodes.classes])[owner].T
        modal = np.where(counts == top[owner], within[0], 0.0)
        #: By row: log2 of the share of configurations that hold it, times the node's weight within its class by count
        #: and by bytes; that weight by count if no row of the node is more frequent; the unweighted log2.
        self._per_row = np.stack([share * within[0], share * within[1], modal, share], axis=1)
        #: Weight of each class within all nodes, for the first three.
        self._ratio = (of_class / np.where(whole > 0, whole, 1.0))[:, [0, 1, 0]]

    def columns(self, codes: NDArray[np.unsignedinteger[Any]]) -> tuple[Float32Array, NDArray[np.uint64]]:
        """Frequency columns of the block, and digests of the layouts in effect.

        Parameters
        ----------
        codes : uint16 or uint32 (b, nodes)

        Returns
        -------
        frequency : float32 (b, N_FREQUENCY)
        layouts : uint64 (b,)
            Equal for configurations with the same layouts in effect.
        """
        sums, rarest = np.zeros((len(codes), len(NODE_CLASSES), 3)), np.empty(len(codes))
        digests = np.empty(len(codes), np.uint64)
        with np.errstate(over="ignore"):  # the sum overflows; without the compiler NumPy would warn
            _add_frequencies(codes, self._classes, self._per_row, self._marks, sums, rarest, digests)
        every = (sums * self._ratio).sum(axis=1)
        return np.column_stack([sums.reshape(len(codes), -1), every, rarest]).astype(np.float32), digests


def slate_columns(
    own: Float32Array, frequency: Float32Array, layouts: NDArray[np.uint64], duplicate_of: IntArray
) -> Float32Array:
    """All columns of the block, float32 (c, len(BLOCK)).

    Parameters
    ----------
    own : float32 (c, len(INPUTS))
        Columns :data:`INPUTS` of the whole group.
    frequency : float32 (c, N_FREQUENCY)
    layouts : uint64 (c,)
        From :meth:`Frequencies.columns`.
    duplicate_of : int64 (c,)
        First identical configuration of each.
    """
    out = np.empty((len(own), len(BLOCK)), np.float32)
    out[:, :N_FREQUENCY] = frequency
    relative = relative_columns(own.T.__getitem__, frequency.T.__getitem__, layouts, duplicate_of)
    for index, column in enumerate(relative, N_FREQUENCY):
        out[:, index] = column
    return out


def relative_columns(
    own: Callable[[int], Float32Array],
    frequency: Callable[[int], Float32Array],
    layouts: NDArray[np.uint64],
    duplicate_of: IntArray,
) -> Iterator[NDArray[np.floating[Any]]]:
    """Columns of the block after the frequency columns, one at a time, so that one column is in memory at a time.

    ``own`` and ``frequency`` return a column of the arguments of :func:`slate_columns`, float32 (c,), by its index.
    """
    yield np.log2(np.bincount(duplicate_of, minlength=len(duplicate_of))[duplicate_of])
    _, group, sizes = np.unique(layouts, return_inverse=True, return_counts=True)
    yield np.log2(sizes[group.reshape(-1)])
    for index, name in enumerate(RANKED):
        column = own(index) if name in INPUTS else frequency(BLOCK.names.index(name))
        values = column.astype(np.float64)
        yield mean_ranks(values)
        spread = values.std()
        # Sums of equal terms in float32 have rounding errors; a spread that small counts as zero.
        scale = spread if spread > 1e-6 * max(1.0, float(np.abs(values).max(initial=0.0))) else np.inf
        yield (values - values.mean()) / scale
    for name in PADDED:
        padded = own(INPUTS.index(name))
        yield padded - padded.min()


def mean_ranks(values: FloatArray) -> FloatArray:
    """Ranks from 0 (smallest) to 1 (largest), float64 (c,); ties at their mean; 0.5 where all are equal."""
    if len(values) < 2:
        return np.full(len(values), 0.5)
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    after = np.append(first[1:], len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((first + after - 1) / 2, after - first)
    return ranks / (len(values) - 1)


#: Columns of the slate block that :func:`recomputed` returns, by full name.
RECOMPUTED: Final = (
    *(f"slate.{kind}.{name}" for name in RANKED[:-1] for kind in ("rank", "z")),
    *(f"slate.over_least.{name}" for name in PADDED),
)
_N_RANKED: Final = len(INPUTS) - len(PADDED)


def recomputed(own: Float32Array, row: int, values: Float32Array) -> Float32Array:
    """The columns :data:`RECOMPUTED`, float32 (b, len(RECOMPUTED)), of one configuration if its own columns changed.

    Equal to :func:`slate_columns` of the group with the replaced row, without a pass over the group for each value.

    Parameters
    ----------
    own : float32 (c, len(INPUTS))
        Columns :data:`INPUTS` of the whole group.
    row : int
        The configuration.
    values : float32 (b, len(INPUTS))
        Replacement values, evaluated independently of each other.
    """
    others = np.delete(own, row, axis=0).astype(np.float64)
    count = len(own)
    out = np.empty((len(values), len(RECOMPUTED)), np.float32)
    for index in range(_N_RANKED):
        rest, value = np.sort(others[:, index]), values[:, index].astype(np.float64)
        low, high = np.searchsorted(rest, value, "left"), np.searchsorted(rest, value, "right")
        out[:, 2 * index] = (low + high) / 2 / (count - 1) if count > 1 else 0.5
        level = rest.mean() if len(rest) else 0.0
        mean = (rest.sum() + value) / count
        squares = ((rest - level) ** 2).sum() + len(rest) * (level - mean) ** 2 + (value - mean) ** 2
        spread = np.sqrt(squares / count)
        largest = np.maximum(np.abs(rest).max(initial=0.0), np.abs(value))
        # A spread of rounding errors counts as zero, as in relative_columns.
        scale = np.where(spread > 1e-6 * np.maximum(1.0, largest), spread, np.inf)
        out[:, 2 * index + 1] = (value - mean) / scale
    minimum = others[:, _N_RANKED:].min(axis=0, initial=np.inf)
    out[:, 2 * _N_RANKED :] = values[:, _N_RANKED:] - np.minimum(minimum, values[:, _N_RANKED:])
    return out

"""A configuration relative to the other configurations of its graph.

The search that made a ``default`` collection is genetic, so a row that many configurations share is probably good
(11th place of the Kaggle competition).  Ranks and z-scores need the whole slate: the main aggregates are collected
while vectors are made, and filled in when all are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._jit import kernel
from features.layout_nodes import NODE_CLASSES
from features.layout_rows import Codes
from features.schema import Block, Column, Float32Array

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Aggregates that are ranked within the slate, by full column name.
MAIN: Final = (
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
    "slate.all.frequency.count",
)
_GROUPS: Final = (*NODE_CLASSES, "all")
_N_FREQUENCY: Final = 3 * len(_GROUPS) + 1

BLOCK: Final = Block(
    "slate",
    1,
    "The configuration relative to the other configurations of its graph.",
    (
        *(
            Column(f"{group}.{name}", unit, f"{group} nodes: {doc}")
            for group in _GROUPS
            for name, unit, doc in (
                ("frequency.count", "log2", "mean log share of the slate that has the same row"),
                ("frequency.bytes", "log2", "the same, weighted by the nodes' bytes"),
                ("modal", "share", "part whose row is the slate's most frequent"),
            )
        ),
        Column("rarest", "log2", "Log share of the slate that has the rarest row of this configuration"),
        Column("duplicates", "log2", "Configurations of the slate that are identical to this one"),
        *(
            Column(f"{kind}.{name}", unit, f"{doc} of {name} within the slate")
            for name in MAIN
            for kind, unit, doc in (("rank", "share", "Mean rank from 0 to 1"), ("z", "deviations", "Z-score"))
        ),
    ),
    per_config=True,
)


@dataclass(frozen=True)
class Frequencies:
    """How usual every distinct row is.

    Parameters
    ----------
    log_share : float64 (rows,)
        log2 of the share of configurations that hold the row.
    modal : bool (rows,)
        Whether no other row of the node is more frequent.
    weight : float64 (nodes, 2)
        Weight of each node within its class, by count and by bytes.
    ratio : float64 (classes, 2)
        Weight of each class within all nodes.
    """

    log_share: FloatArray
    modal: NDArray[np.bool_]
    weight: FloatArray
    ratio: FloatArray


def frequencies(counts: IntArray, owner: IntArray, nbytes: FloatArray, classes: IntArray) -> Frequencies:
    """Work out how usual every distinct row is.

    Parameters
    ----------
    counts, owner : int64 (rows,)
        Configurations that hold each row, and the row's node.
    nbytes : float64 (nodes,)
    classes : int64 (nodes,)
    """
    n_nodes = len(classes)
    total = np.bincount(owner, counts, minlength=n_nodes)
    top = np.zeros(n_nodes, np.int64)
    np.maximum.at(top, owner, counts)
    weight = np.stack([np.ones(n_nodes), nbytes], axis=1)
    of_class = np.stack([weight[classes == number].sum(axis=0) for number in range(len(NODE_CLASSES))])
    whole = of_class.sum(axis=0)
    return Frequencies(
        np.log2(counts / total[owner]),
        counts == top[owner],
        weight / np.where(of_class > 0, of_class, 1.0)[classes],
        of_class / np.where(whole > 0, whole, 1.0),
    )


@kernel()
def _row_frequencies(codes, offsets, classes, log_share, modal, weight, ratio, out):  # type: ignore[no-untyped-def]
    n_configs, n_nodes = codes.shape
    n_classes = len(ratio)
    for config in range(n_configs):
        rarest = 0.0
        for node in range(n_nodes):
            row = offsets[node] + codes[config, node]
            place = 3 * classes[node]
            out[config, place] += log_share[row] * weight[node, 0]
            out[config, place + 1] += log_share[row] * weight[node, 1]
            if modal[row]:
                out[config, place + 2] += weight[node, 0]
            rarest = min(rarest, log_share[row])
        for number in range(n_classes):
            for kind in range(3):
                share = ratio[number, 1 if kind == 1 else 0]
                out[config, 3 * n_classes + kind] += out[config, 3 * number + kind] * share
        out[config, 3 * n_classes + 3] = rarest


def row_frequencies(codes: Codes, offsets: IntArray, classes: IntArray, of: Frequencies, out: Float32Array) -> None:
    """Fill in the frequency columns of the block.

    Parameters
    ----------
    codes : uint16 (b, nodes)
    offsets : int64 (nodes + 1,)
    classes : int64 (nodes,)
    of : Frequencies
    out : float32 (b, len(BLOCK))
        The block's section of the feature matrix, zeros.
    """
    sums = np.zeros((len(codes), _N_FREQUENCY))
    _row_frequencies(codes, offsets, classes, of.log_share, of.modal, of.weight, of.ratio, sums)
    out[:, :_N_FREQUENCY] = sums


class SlateRanks:
    """Collects the main aggregates of a slate and fills in its ranks, z-scores and duplicate counts.

    Parameters
    ----------
    columns : tuple of str
        Full names of the feature matrix's columns.
    n_configs : int
        Configurations of the slate.
    """

    def __init__(self, columns: tuple[str, ...], n_configs: int) -> None:
        place = {name: number for number, name in enumerate(columns)}
        self._main = [place[name] for name in MAIN]
        self._first = place[BLOCK.names[_N_FREQUENCY]]
        self._values = np.zeros((n_configs, len(MAIN)), np.float32)
        self._filled: Float32Array | None = None

    def collect(self, first: int, rows: Float32Array) -> None:
        """Note the aggregates of a block of feature vectors that starts at row ``first``."""
        self._values[first : first + len(rows)] = rows[:, self._main]

    def close(self, duplicate_of: IntArray) -> None:
        """Work out the slate columns when all blocks are collected.

        Parameters
        ----------
        duplicate_of : int64 (c,)
            First identical configuration of each.
        """
        filled = np.empty((len(self._values), 1 + 2 * len(MAIN)), np.float32)
        filled[:, 0] = np.log2(np.bincount(duplicate_of, minlength=len(duplicate_of))[duplicate_of])
        for place in range(len(MAIN)):
            values = self._values[:, place].astype(np.float64)
            filled[:, 1 + 2 * place] = mean_ranks(values)
            spread = values.std()
            # Sums of equal terms in float32 leave dust; a spread that small is none.
            scale = spread if spread > 1e-6 * max(1.0, float(np.abs(values).max(initial=0.0))) else np.inf
            filled[:, 2 + 2 * place] = (values - values.mean()) / scale
        self._filled = filled

    def fill(self, first: int, rows: Float32Array) -> None:
        """Write the slate columns into a block of feature vectors that starts at row ``first``.

        Raises
        ------
        RuntimeError
            Before :meth:`close`.
        """
        if self._filled is None:
            raise RuntimeError("slate ranks are known only when the slate is closed")
        width = self._filled.shape[1]
        rows[:, self._first : self._first + width] = self._filled[first : first + len(rows)]


def mean_ranks(values: FloatArray) -> FloatArray:
    """Ranks from 0 (smallest) to 1 (largest), ties at their mean; 0.5 where all are equal.

    Parameters
    ----------
    values : float64 (c,)

    Returns
    -------
    float64 (c,)
    """
    if len(values) < 2:
        return np.full(len(values), 0.5)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - (counts + 1) / 2)[inverse]) / (len(values) - 1)

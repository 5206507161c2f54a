"""A configuration relative to the other configurations of its graph.

The search that made a ``default`` collection is genetic, so a row that many configurations share is probably good
(11th place of the Kaggle competition).  Frequencies, ranks and z-scores need the whole group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.layout.nodes import NODE_CLASSES
from features.layout.rows import random_words
from features.operations import KINDS
from features.schema import Block, Column, Float32Array

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Aggregates that are ranked within the group, by full column name.
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
    "copies.all.cost",
    "slate.all.frequency.count",
)
#: Padding that is compared with the least of the group.
PADDED: Final = tuple(f"layout.{kind}.output_padding" for kind in KINDS)
#: Columns of other blocks that are compared within the group; the last of MAIN comes with the frequencies.
COMPARED: Final = (*MAIN[:-1], *PADDED)
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
                ("modal", "share", "part whose row is the group's most frequent"),
            )
        ),
        Column("rarest", "log2", "Log share of the group that has the rarest row of this configuration"),
        Column("duplicates", "log2", "Configurations of the group that are identical to this one"),
        Column("alike", "log2", "Configurations of the slate with the same layouts in effect"),
        *(
            Column(f"{kind}.{name}", unit, f"{doc} of {name} within the group")
            for name in MAIN
            for kind, unit, doc in (("rank", "share", "Mean rank from 0 to 1"), ("z", "deviations", "Z-score"))
        ),
        *(Column(f"over_least.{name}", "log2", f"{name} over the group's least") for name in PADDED),
    ),
    per_config=True,
)


@dataclass(frozen=True)
class Frequencies:
    """How usual every distinct row is.

    Parameters
    ----------
    of_row : float64 (rows, 4)
        log2 of the share of configurations that hold the row, times the node's weight within its class by count and by
        bytes; the weight by count where no other row of the node is more frequent, else 0; the bare log2.
    ratio : float64 (classes, 2)
        Weight of each class within all nodes.
    marks : uint64 (rows,)
        Random words, the same for rows that come to the same layouts.
    """

    of_row: FloatArray
    ratio: FloatArray
    marks: NDArray[np.uint64]


def frequencies(
    counts: IntArray, owner: IntArray, same_as: IntArray, nbytes: FloatArray, classes: IntArray
) -> Frequencies:
    """Work out how usual every distinct row is.

    Parameters
    ----------
    counts, owner : int64 (rows,)
        Configurations that hold each row, and the row's node.
    same_as : int64 (rows,)
        First row of the node that comes to the same layouts.
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
    share = np.log2(np.maximum(counts, 1) / total[owner])  # no configuration asks for a row that none holds
    within = (weight / np.where(of_class > 0, of_class, 1.0)[classes])[owner]
    modal = np.where(counts == top[owner], within[:, 0], 0.0)
    return Frequencies(
        np.stack([share * within[:, 0], share * within[:, 1], modal, share], axis=1),
        of_class / np.where(whole > 0, whole, 1.0),
        random_words(len(counts), 0)[same_as],
    )


@kernel()
def _row_frequencies(codes, classes, of_row, ratio, marks, out, digests):  # type: ignore[no-untyped-def]
    n_configs, n_nodes = codes.shape
    n_classes = len(ratio)
    sums = np.empty((n_classes + 1, 3))
    for config in range(n_configs):
        rarest, digest = 0.0, np.uint64(0)
        sums[:] = 0
        for node in range(n_nodes):
            row, own = codes[config, node], classes[node]
            for kind in range(3):
                sums[own, kind] += of_row[row, kind]
            rarest = min(rarest, of_row[row, 3])
            digest += marks[row]
        for own in range(n_classes):
            for kind in range(3):
                sums[n_classes, kind] += sums[own, kind] * ratio[own, 1 if kind == 1 else 0]
        for own in range(n_classes + 1):
            for kind in range(3):
                out[config, 3 * own + kind] = sums[own, kind]
        out[config, 3 * n_classes + 3] = rarest
        digests[config] = digest


def row_frequencies(
    codes: NDArray[np.unsignedinteger[Any]], classes: IntArray, of: Frequencies
) -> tuple[Float32Array, NDArray[np.uint64]]:
    """Frequency columns of the block, and what tells which configurations come to the same layouts.

    Parameters
    ----------
    codes : uint16 or uint32 (b, nodes)
    classes : int64 (nodes,)
    of : Frequencies

    Returns
    -------
    frequency : float32 (b, N_FREQUENCY)
    alike : uint64 (b,)
        Equal for configurations that come to the same layouts.
    """
    out = np.empty((len(codes), N_FREQUENCY), np.float32)
    digests = np.empty(len(codes), np.uint64)
    with np.errstate(over="ignore"):  # the sum wraps round; without the compiler NumPy would warn of it
        _row_frequencies(codes, classes, of.of_row, of.ratio, of.marks, out, digests)
    return out, digests


def slate_columns(
    own: Float32Array, frequency: Float32Array, alike: NDArray[np.uint64], duplicate_of: IntArray
) -> Float32Array:
    """All columns of the block, float32 (c, len(BLOCK)).

    Parameters
    ----------
    own : float32 (c, len(COMPARED))
        Columns :data:`COMPARED` of the whole group.
    frequency : float32 (c, N_FREQUENCY)
    alike : uint64 (c,)
        Of :func:`row_frequencies`.
    duplicate_of : int64 (c,)
        First identical configuration of each.
    """
    out = np.empty((len(own), len(BLOCK)), np.float32)
    out[:, :N_FREQUENCY] = frequency
    relative = relative_columns(own.T.__getitem__, frequency.T.__getitem__, alike, duplicate_of)
    for place, column in enumerate(relative, N_FREQUENCY):
        out[:, place] = column
    return out


def relative_columns(
    own: Callable[[int], Float32Array],
    frequency: Callable[[int], Float32Array],
    alike: NDArray[np.uint64],
    duplicate_of: IntArray,
) -> Iterator[NDArray[np.floating[Any]]]:
    """Columns of the block after those of the frequencies, one by one: no more of the slate is needed at a time.

    Parameters
    ----------
    own, frequency : callable
        Gives a column of those that :func:`slate_columns` takes by its number, float32 (c,).
    alike, duplicate_of : uint64 (c,), int64 (c,)
        As :func:`slate_columns` takes them.
    """
    yield np.log2(np.bincount(duplicate_of, minlength=len(duplicate_of))[duplicate_of])
    _, group, sizes = np.unique(alike, return_inverse=True, return_counts=True)
    yield np.log2(sizes[group.reshape(-1)])
    for place, name in enumerate(MAIN):
        column = own(place) if name in COMPARED else frequency(BLOCK.names.index(name))
        values = column.astype(np.float64)
        yield mean_ranks(values)
        spread = values.std()
        # Sums of equal terms in float32 leave rounding errors; a spread that small is none.
        scale = spread if spread > 1e-6 * max(1.0, float(np.abs(values).max(initial=0.0))) else np.inf
        yield (values - values.mean()) / scale
    for name in PADDED:
        padded = own(COMPARED.index(name))
        yield padded - padded.min()


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
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    after = np.append(first[1:], len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((first + after - 1) / 2, after - first)
    return ranks / (len(values) - 1)


#: Columns of the slate block that :func:`replaced` gives, by full name.
REPLACED: Final = (
    *(f"slate.{kind}.{name}" for name in MAIN[:-1] for kind in ("rank", "z")),
    *(f"slate.over_least.{name}" for name in PADDED),
)
_RANKED: Final = len(COMPARED) - len(PADDED)


def replaced(own: Float32Array, row: int, values: Float32Array) -> Float32Array:
    """What :data:`REPLACED` would be for one configuration of a group, were its own columns others.

    As :func:`features.layout.slate.slate_columns` would say of the whole group, without going through it for each.

    Parameters
    ----------
    own : float32 (c, len(COMPARED))
        Columns :data:`features.layout.slate.COMPARED` of the whole group.
    row : int
        The configuration.
    values : float32 (b, len(COMPARED))
        What its columns might be, each by itself.

    Returns
    -------
    float32 (b, len(REPLACED))
    """
    others = np.delete(own, row, axis=0).astype(np.float64)
    count = len(own)
    out = np.empty((len(values), len(REPLACED)), np.float32)
    for place in range(_RANKED):
        rest, value = np.sort(others[:, place]), values[:, place].astype(np.float64)
        low, high = np.searchsorted(rest, value, "left"), np.searchsorted(rest, value, "right")
        out[:, 2 * place] = (low + high) / 2 / (count - 1) if count > 1 else 0.5
        level = rest.mean() if len(rest) else 0.0
        mean = (rest.sum() + value) / count
        squares = ((rest - level) ** 2).sum() + len(rest) * (level - mean) ** 2 + (value - mean) ** 2
        spread = np.sqrt(squares / count)
        largest = np.maximum(np.abs(rest).max(initial=0.0), np.abs(value))
        # A spread of rounding errors counts as none, as it does there.
        scale = np.where(spread > 1e-6 * np.maximum(1.0, largest), spread, np.inf)
        out[:, 2 * place + 1] = (value - mean) / scale
    least = others[:, _RANKED:].min(axis=0, initial=np.inf)
    out[:, 2 * _RANKED :] = values[:, _RANKED:] - np.minimum(least, values[:, _RANKED:])
    return out

"""k-hop neighbourhood summaries: what lies around chosen nodes."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features._numba import kernel
from features.cost import anchor_of, result_of
from features.graph import Program
from features.opcodes import CLASS_NAMES, CLASS_OF
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors

#: What is summarised of a neighbourhood, beside the counts by opcode class.
_TOTALS: Final = (
    ("bytes", "log2", "Bytes of all outputs"),
    ("largest", "log2", "Bytes of the largest output"),
)
_SEEDS: Final = (("root", "the result"), ("heavy", "the heaviest operation"))
_RADII: Final = (1, 2, 3)


def neighborhood_columns(seed: str, long: str, radius: int) -> tuple[Column, ...]:
    """Columns of one neighbourhood: counts by opcode class, then totals."""
    where = f"within {radius} edges of {long}"
    return (
        *(Column(f"{seed}.{radius}hop.{name}", "count", f"Nodes of class {name} {where}") for name in CLASS_NAMES),
        *(Column(f"{seed}.{radius}hop.{name}", unit, f"{doc} {where}") for name, unit, doc in _TOTALS),
    )


BLOCK: Final = Block(
    "neighborhood",
    2,
    "k-hop surroundings of the result and of the heaviest operation.",
    tuple(column for seed, long in _SEEDS for radius in _RADII for column in neighborhood_columns(seed, long, radius)),
    per_config=False,
)


def neighborhood(program: Program, tensors: Tensors, seeds: ArrayLike, radii: tuple[int, ...] = _RADII) -> Float32Array:
    """Summaries of what lies within each radius of ``seeds`` (edges taken in both directions).

    Returns
    -------
    float32 (len(radii), len(CLASS_NAMES) + 2)
        Counts by opcode class, log2(1 + bytes) of all outputs and of the largest.
    """
    distance = program.hops(seeds, max(radii))
    classes, nbytes = CLASS_OF[program.opcode], tensors.nbytes
    rows = []
    for radius in radii:
        near = (distance >= 0) & (distance <= radius)
        counts = np.bincount(classes[near], minlength=len(CLASS_NAMES))
        sizes = np.log2(1.0 + np.array([nbytes[near].sum(), nbytes[near].max(initial=0.0)]))
        rows.append(np.concatenate([counts, sizes]))
    return np.array(rows, np.float32)


@kernel()
def _each(indptr_a, items_a, indptr_b, items_b, classes, nbytes, seeds, radius, n_classes):  # type: ignore[no-untyped-def]
    n_nodes = len(classes)
    stamp = np.full(n_nodes, -1, np.int64)
    queue = np.empty(n_nodes, np.int64)
    out = np.zeros((len(seeds), radius, n_classes + 1))
    for number in range(len(seeds)):
        queue[0] = seeds[number]
        stamp[seeds[number]] = number
        head, tail = 0, 1
        for hop in range(-1, radius):
            if hop >= 0:
                end = tail
                while head < end:
                    node = queue[head]
                    head += 1
                    for slot in range(indptr_a[node], indptr_a[node + 1]):
                        if stamp[items_a[slot]] != number:
                            stamp[items_a[slot]] = number
                            queue[tail] = items_a[slot]
                            tail += 1
                    for slot in range(indptr_b[node], indptr_b[node + 1]):
                        if stamp[items_b[slot]] != number:
                            stamp[items_b[slot]] = number
                            queue[tail] = items_b[slot]
                            tail += 1
                for place in range(tail):
                    out[number, hop, classes[queue[place]]] += 1
                    out[number, hop, n_classes] += nbytes[queue[place]]
    return out


def neighborhood_each(program: Program, tensors: Tensors, seeds: ArrayLike, radius: int) -> NDArray[np.float64]:
    """Counts by opcode class and total bytes around each of ``seeds`` by itself.

    Returns
    -------
    float64 (seeds, radius, len(CLASS_NAMES) + 1)
        Within 1, 2 … ``radius`` edges.
    """
    start = np.asarray(seeds, np.int64).reshape(-1)
    operands, users = program.operands, program.users
    return np.asarray(
        _each(
            operands.indptr, operands.items, users.indptr, users.items, CLASS_OF[program.opcode], tensors.nbytes,
            start, radius, len(CLASS_NAMES),
        )
    )  # fmt: skip


def kernel_neighborhood(program: Program, tensors: Tensors) -> Float32Array:
    """The block's columns for a kernel, float32 (len(BLOCK),)."""
    seeds = (result_of(program, tensors), anchor_of(program, tensors))
    return np.concatenate([neighborhood(program, tensors, seed).reshape(-1) for seed in seeds])
